"""`edgespec cache`, and what generate and chat store: prompts where that is wanted, and nothing with --private."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.cli.cache import _ago
from edgespec.engine import prefix_cache, prefix_files
from edgespec.system.cpu import cache_directory
from tests.gguf_files import tiny_model

TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
PROMPT = "What is said here is long enough to be stored. " * 4


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prefix_cache, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(prefix_cache, "DISK_SPEED", 1e15)
    return tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})


def run(*arguments: str, text: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=text)
    assert result.exit_code == 0, result.output
    return result


def options(model: Path, *more: str) -> list[str]:
    return ["-m", str(model), "--threads", "1", "-d", "none", "-n", "2", *more]


def cached(model: Path, *more: str, prompt: str = PROMPT) -> int:
    result = run("generate", *options(model, "-p", prompt, "--json", *more))
    tokens: int = json.loads(result.stdout)["cached_tokens"]
    return tokens


def files() -> list[Path]:
    return sorted((cache_directory() / prefix_files.FOLDER).rglob("*.kv"))


def test_a_prompt_is_read_once(model: Path) -> None:
    assert cached(model) == 0
    assert cached(model) > 150
    assert cached(model, prompt=PROMPT + "And a question?") > 150
    assert cached(model, "--system", "Other") == 0


def test_private_neither_writes_nor_uses(model: Path) -> None:
    assert cached(model, "--private") == 0
    assert files() == []
    cached(model)
    used = files()[0].stat().st_mtime_ns
    assert cached(model, "--private") == 0
    assert files()[0].stat().st_mtime_ns == used


@pytest.mark.parametrize("where", ["option", "variable", "file"])
def test_it_can_be_turned_off(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text("prefix-cache = 0\n" if where == "file" else "")
    if where == "variable":
        monkeypatch.setenv("EDGESPEC_PREFIX_CACHE", "0")
    more = ["--prefix-cache", "0"] if where == "option" else []
    run("--config", str(config), "generate", *options(model, "-p", PROMPT, *more))
    assert files() == []


@pytest.mark.parametrize("private", [[], ["--private"]])
def test_a_chat_stores_what_it_read(model: Path, private: list[str]) -> None:
    run("chat", *options(model, "--system", PROMPT, *private), text="Hi\n")
    assert len(files()) == (not private)
    assert (cached(model, "--system", PROMPT, prompt="Hi") > 150) == (not private)


def test_list_and_clear(model: Path) -> None:
    assert run("cache", "list").stdout.splitlines()[0] == "0 prefixes, 0.0 MB"
    cached(model)
    listed = run("cache", "list").stdout.splitlines()
    assert listed[0].startswith("1 prefix, 0.")
    assert listed[1].split()[:3] == ["tiny.gguf", listed[1].split()[1], "tokens"]
    assert listed[1].endswith("used just now")
    (prefix,) = json.loads(run("cache", "list", "--json").stdout)["prefixes"]
    assert prefix["model"] == "tiny.gguf"
    assert Path(prefix["path"]) == files()[0]
    assert prefix["bytes"] == files()[0].stat().st_size
    cleared = run("cache", "clear").stdout.splitlines()
    assert cleared[0].startswith("removed 1 prefix, 0.")
    assert "profiles stay" in cleared[1]
    assert files() == []


def test_profiles_are_cleared_by_name(home: Path) -> None:
    for folder in ("costs", "exact", "acceptance"):
        path = cache_directory() / folder / "a.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    other = cache_directory() / "vetted.json"
    other.write_text("{}")
    profiles = json.loads(run("cache", "list", "--json").stdout)["profiles"]
    assert [(each["files"], each["bytes"]) for each in profiles] == [(1, 2)] * 3
    assert run("cache", "clear", "profiles").stdout == "removed 3 profiles\n"
    assert run("cache", "list").stdout.splitlines()[1] == "0 profiles"
    assert other.exists()
    assert CliRunner().invoke(main, ["cache", "clear", "models"]).exit_code == 2


def test_a_folder_that_cannot_be_cleared_gets_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(model)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    result = CliRunner().invoke(main, ["cache", "clear"])
    assert result.exit_code == 1
    assert result.stderr == f"edgespec: {files()[0]}: cannot be removed: Permission denied\n"


def test_names_of_models_move_no_cursor(tmp_path: Path) -> None:
    folder = prefix_files.PrefixFolder(cache_directory() / prefix_files.FOLDER, {}, "\x1b[2Jtiny\nx")
    folder.write(list(range(40)), b"", 1.0, replaces=True, limit=1 << 30)
    assert "^[[2Jtiny^Jx" in run("cache", "list").stdout


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "just now"), (65, "1 minute ago"), (3 * 3600, "3 hours ago"), (3e5, "3 days ago"), (-100, "just now")],
)
def test_last_uses_are_told_roughly(seconds: float, said: str) -> None:
    assert _ago(time.time() - seconds) == f"used {said}"
