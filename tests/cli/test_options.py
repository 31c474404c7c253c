"""Shared options: which variables set them, and what the shell completes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from edgespec.cli.options import (
    SHARED,
    Shared,
    _complete_drafter,
    _complete_model,
    complete_alias,
    model_options,
    sampling_options,
)
from edgespec.drafters import KNOWN
from edgespec.hub.catalogue import entries


@click.command()
@model_options
@sampling_options
def command(**options: Any) -> None:
    raise AssertionError("only parsed")


CONTEXT = click.Context(command)
MODEL = next(one for one in command.params if one.name == "model")


def test_every_shared_option_is_known_by_its_name() -> None:
    names = {one.opts[-1].removeprefix("--") for one in command.params if isinstance(one, Shared)}
    assert names <= SHARED
    assert len(names) == len(command.params)


def test_an_option_has_a_variable_unless_it_may_be_repeated() -> None:
    for one in command.params:
        assert isinstance(one, click.Option)
        name = one.opts[-1].removeprefix("--").upper().replace("-", "_")
        assert one.envvar == (None if one.multiple else f"EDGESPEC_{name}")


def test_the_environment_counts_less_than_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPEC_TEMP", "0.7")
    monkeypatch.setenv("EDGESPEC_CTX", "64")
    params = command.make_context("test", ["--ctx", "128"]).params
    assert (params["temp"], params["ctx"]) == (0.7, 128)


@pytest.mark.parametrize("arguments", [["--temp", "warm"], ["--ctx", "1.5"], ["--top-k"], ["--nothing"], ["-n", ""]])
def test_what_cannot_be_parsed_is_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError) as refused:
        command.make_context("test", arguments)
    assert refused.value.exit_code == 2


def _values(items: list[Any]) -> list[str]:
    return [item.value for item in items if item.type != "file"]


def test_aliases_are_completed() -> None:
    assert _values(complete_alias(CONTEXT, MODEL, "")) == list(entries())
    assert _values(complete_alias(CONTEXT, MODEL, "smol")) == [name for name in entries() if name.startswith("smol")]
    assert _values(complete_alias(CONTEXT, MODEL, "zzz")) == []


def test_files_are_left_to_the_shell_and_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("smol.gguf", "smol.txt", "a[b].gguf"):
        (tmp_path / name).write_bytes(b"")
    first, *rest = _complete_model(CONTEXT, MODEL, "smol")
    assert (first.type, first.value) == ("file", "smol")
    assert "smol.gguf" in _values(rest)
    assert "smol.txt" not in _values(rest)
    assert _values(_complete_model(CONTEXT, MODEL, "a[")) == [], "where no name fits, the shell finds the files"


@pytest.mark.parametrize(
    ("begun", "there", "absent"),
    [
        ("", ["auto", "none", *KNOWN], []),
        ("su", ["suffix"], ["auto", "anpd"]),
        ("suffix+", ["suffix+anpd"], ["suffix+auto", "suffix+none", "anpd"]),
        ("suffix+a", ["suffix+anpd"], ["suffix+auto"]),
        ("x+y+an", ["x+y+anpd"], []),
    ],
)
def test_drafters_are_completed_behind_a_plus_too(begun: str, there: list[str], absent: list[str]) -> None:
    found = _values(_complete_drafter(CONTEXT, MODEL, begun))
    assert set(there) <= set(found)
    assert not set(absent) & set(found)


def test_files_behind_a_plus_are_ours_to_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zz.gguf").write_bytes(b"")
    assert _values(_complete_drafter(CONTEXT, MODEL, "suffix+zz")) == ["suffix+zz.gguf"]
