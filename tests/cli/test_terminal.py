"""What reaches a terminal: text without commands for it, and a line that is drawn over and over."""

from __future__ import annotations

import ast
import json
import os
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgespec.cli
from edgespec.cli import main, terminal
from edgespec.cli.report import json_line
from edgespec.cli.terminal import columns, echo, redraw, visible, write
from tests.gguf_files import tiny_model
from tests.terminal import Terminal

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\x00\x07\x08\t\n\r\x1b\x7f\x9b\u202e\u2066[]2J;")))
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\x9b31m"
SHOWN = "^[]0;owned^G^[[2J<U+202E>gnp.exe<U+009B>31m"


def obeyed(text: str) -> set[str]:
    """The characters of a text that a terminal would obey, or that change the order of what it shows."""
    bidirectional = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    controls = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))} - {"\n", "\t"}
    return set(text) & (controls | bidirectional)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode\t漢字 👩\u200d💻\n", "plain, ünïcode\t漢字 👩\u200d💻\n"),
        (HOSTILE, SHOWN),
        ("one\r\ntwo\rthree", "one\ntwo^Mthree"),
        ("\x00\x08\x0b\x7f", "^@^H^K^?"),
        ("\x85\u2069", "<U+0085><U+2069>"),
    ],
)
def test_control_characters_are_spelled(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@given(TEXTS, TEXTS)
def test_no_part_of_a_text_is_obeyed_wherever_it_is_cut(first: str, second: str) -> None:
    for text in (visible(first + second), visible(first) + visible(second), visible(first, one_line=True)):
        assert not obeyed(text)
    assert not {"\n", "\t"} & set(visible(first + second, one_line=True))
    clean = "".join(character for character in first if not obeyed(character))
    assert visible(clean) == clean


@given(TEXTS)
def test_json_of_any_text_is_obeyed_nowhere_and_says_the_same(text: str) -> None:
    stream = StringIO()
    line = json_line({"text": text}, SimpleNamespace(encoding="utf-8", write=stream.write))  # type: ignore[arg-type]
    assert not obeyed(line) and json.loads(line) == {"text": text}


@pytest.mark.parametrize("on_terminal", [False, True])
def test_results_are_unchanged_in_a_pipe_and_words_of_the_program_visible_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on_terminal: bool
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: on_terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    write(HOSTILE)
    assert capsys.readouterr().out == (SHOWN if on_terminal else HOSTILE)
    echo(HOSTILE)
    echo(HOSTILE, err=True, dim=True)
    redraw(HOSTILE + "\n")
    captured = capsys.readouterr()
    assert captured.out == f"{SHOWN}\n"
    assert captured.err.replace("\r\x1b[K", "\r") == f"{SHOWN}\n\r{SHOWN}^J"


@pytest.mark.parametrize("arguments", [["generate", "-p", "x", "-m"], ["models", "path"], ["--"], []])
def test_no_error_is_obeyed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, f"./{HOSTILE}.gguf"])
    told = capsys.readouterr()
    assert "owned" in told.err and not obeyed(told.out + told.err)


def test_nothing_else_prints() -> None:
    """One module decides what reaches a terminal, so that no text can be forgotten."""
    folder = Path(edgespec.cli.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name != "terminal.py":
                name = ast.unparse(node.func)
                printing = name in ("print", "click.echo", "click.secho") or name.endswith(
                    (".stdout.write", "err.write")
                )
                assert not printing, f"{path.name}:{node.lineno}: print by edgespec.cli.terminal"


def test_a_name_and_an_answer_full_of_commands_are_seen_and_not_obeyed(tmp_path: Path) -> None:
    """The model can say nothing but ESC, and its name is a whole sequence."""
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"general.name": HOSTILE, "tokenizer.chat_template": template})
    command = [sys.executable, "-m", "edgespec", "chat", "-m", str(path), "--threads", "1", "-n", "3"]
    escape = str(3 + 0x1B)  # the token of that byte
    with_home = {**os.environ, "TERM": "dumb", "NO_COLOR": "1"}
    chat = Terminal([*command, "--logit-bias", f"{escape}=100"], with_home)
    chat.wait_for(r"\^\[\]0;owned\^G\^\[\[2J<U\+202E>gnp.exe<U\+009B>31m, drafter")
    chat.type("w300\r")
    chat.wait_for(r"(\^\[){3}")
    chat.type("/exit\r")
    assert chat.status() == 0
    assert "\x1b]0;owned" not in chat.screen and "\x1b[2J" not in chat.screen


@pytest.mark.parametrize(
    ("line", "shown"),
    [("", ""), ("short", "short"), ("x" * 19, "x" * 19), ("x" * 20, "x" * 19), ("ü" * 50, "ü" * 19)],
)
def test_a_line_fits_into_the_terminal_or_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, shown: str
) -> None:
    """In the last column some terminals begin another line, which nothing would wipe."""
    monkeypatch.setattr(terminal, "columns", lambda: 20)
    redraw(line)
    captured = capsys.readouterr()
    assert captured.err == f"\r{shown}", "without the escape, since this is no terminal"
    assert captured.out == "", "what is piped on stays clean"


def test_the_width_is_that_of_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((33, 5)))
    assert columns() == 33
    sys.stderr.close()


@pytest.mark.parametrize("size", [OSError(25, "not a terminal"), ValueError("closed"), os.terminal_size((0, 0))])
def test_where_nothing_tells_the_width_it_is_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, size: os.terminal_size | Exception
) -> None:
    def get_terminal_size(descriptor: int) -> os.terminal_size:
        if isinstance(size, Exception):
            raise size
        return size

    monkeypatch.setattr(os, "get_terminal_size", get_terminal_size)
    monkeypatch.setenv("COLUMNS", "57")
    assert columns() == 57


@given(st.integers(1, 5))
def test_a_terminal_of_hardly_any_width_shows_what_fits(width: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(terminal, "columns", lambda: width)
        drawn: list[str] = []
        monkeypatch.setattr("click.echo", lambda text, **_: drawn.append(text))
        redraw("reading the prompt")
        assert drawn == [f"\r\x1b[K{'reading the prompt'[: width - 1]}"]
