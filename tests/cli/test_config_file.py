"""Which keys of a configuration file count for which command, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from edgespec.cli.config import defaults_for
from edgespec.cli.options import SHARED, Shared
from edgespec.errors import InvalidRequest

COMMANDS = ("generate", "chat", "bench")


@click.command()
@click.option("-m", "--model", cls=Shared)
@click.option("-n", "--max-tokens", cls=Shared, type=int)
@click.option("--temp", type=float)
@click.argument("file", required=False)
def command(**options: Any) -> None:
    raise AssertionError("only looked at")


def _defaults(folder: Path, text: str, name: str = "chat") -> dict[str, Any]:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return defaults_for(path, name, command, COMMANDS)


@pytest.mark.parametrize(
    ("text", "defaults"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ('model = "größe"', {"model": "größe"}),
        ("max-tokens = 9", {"max_tokens": 9}),
        ("ctx = 64", {}),  # shared, and this command has none
        ("temp = 0.5", {}),  # this command's own --temp does not mean the same
        ("[chat]\ntemp = 0.5", {"temp": 0.5}),
        ("max-tokens = 9\n[chat]\nmax-tokens = 3", {"max_tokens": 3}),
        ("max-tokens = 9\n[generate]\nmax-tokens = 3", {"max_tokens": 9}),
        ("[generate]\nnothing-of-ours = 1", {}),  # whoever runs that command is told
        ("[chat]", {}),
    ],
)
def test_keys_that_count(tmp_path: Path, text: str, defaults: dict[str, Any]) -> None:
    assert _defaults(tmp_path, text) == defaults


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("modell = 1", "unknown key 'modell': did you mean 'model'"),
        ("zzzzzz = 1", "unknown key 'zzzzzz': there are .*ctx, drafter"),
        ("max_tokens = 1", "unknown key 'max_tokens': did you mean 'max-tokens'"),
        ("[chatt]", "unknown table 'chatt': did you mean 'chat'"),
        ("[zzzzz]", "unknown table 'zzzzz': there are bench, chat, generate"),
        ("[chat]\ntempp = 1", r"unknown key in \[chat\] 'tempp': did you mean 'temp'"),
        ("[chat]\nctx = 1", r"unknown key in \[chat\] 'ctx': there are max-tokens, model, temp"),
        ("[chat]\nfile = 1", r"unknown key in \[chat\] 'file'"),  # an argument is no option
        ("model = 1\nmodel = 2", "config.toml: "),
        ("model", "config.toml: "),
        ("[chat", "config.toml: "),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_there_is(tmp_path: Path, text: str, says: str) -> None:
    assert "ctx" in SHARED
    with pytest.raises(InvalidRequest, match=says) as refused:
        _defaults(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path))


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot read"):
        defaults_for(tmp_path / "nothing", "chat", command, COMMANDS)
    (tmp_path / "latin").write_bytes('model = "größe"'.encode("latin-1"))
    with pytest.raises(InvalidRequest, match="is not UTF-8 text"):
        defaults_for(tmp_path / "latin", "chat", command, COMMANDS)
