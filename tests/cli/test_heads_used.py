"""Answers of chats that heads learn from, as a person meets that: `chat --learn`, `train --from-use`, `forget`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.gguf.validate import read_header
from edgespec.heads.used import UsedAnswers, used_folder
from edgespec.system import cpu
from tests.heads.collecting import talker

TALKS = 60
"""So that some are held out."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model, and edgespec's folders in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    talker(tmp_path / "tiny.gguf")
    return tmp_path


def run(*arguments: str, input: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=input)


def chat(*arguments: str, talks: int = TALKS) -> Result:
    lines = "".join(f"say {number}\n/clear\n" for number in range(talks))
    return run(
        "chat", "-m", "tiny.gguf", "-n", "12", "--ctx", "128", "--temp", "1", "--seed", "1", *arguments, input=lines
    )


def kept(path: Path) -> UsedAnswers:
    header = read_header(path / "tiny.gguf")
    return UsedAnswers(used_folder(cpu.data_directory()), header.fingerprint, header.n_vocab)


def train(*arguments: str) -> Result:
    return run("heads", "train", "-m", "tiny.gguf", "--size", "64", "--threads", "1", "--epochs", "2", *arguments)


def test_nothing_is_kept_unasked(here: Path) -> None:
    assert chat(talks=1).exit_code == 0
    assert not kept(here).path.exists()
    private = chat("--private", "--learn", talks=1)
    assert private.exit_code == 2 and "--private keeps nothing: leave out --learn" in private.output


def test_from_chats_to_heads_and_forgotten(here: Path) -> None:
    pytest.importorskip("torch")
    talked = chat("--learn")
    assert talked.exit_code == 0, talked.output
    pairs = kept(here).pairs()
    assert len(pairs) == TALKS and {len(pair.answer) for pair in pairs} <= set(range(2, 13))
    result = train("--from-use", "--kind", "medusa", "-o", "first.gguf")
    assert result.exit_code == 0, result.output
    assert "60 of 60 answers read" in result.stderr and "mean acceptance length" in result.stdout
    again = train("--from-use", "--kind", "medusa", "-o", "second.gguf", "--start", "first.gguf")
    assert again.exit_code == 0, again.output
    assert [path.name for path in kept(here).path.parent.iterdir()] == [kept(here).path.name]
    assert run("heads", "forget").stdout.startswith("removed 0.0 MB")
    assert not kept(here).path.exists()
    missing = train("--from-use", "--kind", "medusa", "-o", "third.gguf")
    assert missing.exit_code == 1 and "edgespec chat --learn keeps them" in missing.stderr


def test_an_answer_is_what_the_chat_said(here: Path) -> None:
    options = ("-m", "tiny.gguf", "-n", "6", "--ctx", "128", "--temp", "0")
    said = run("chat", *options, "--learn", "--system", "be brief", input="say 1\n")
    assert said.exit_code == 0, said.output
    (pair,) = kept(here).pairs()
    answer = json.loads(run("generate", *options, "--json", "--system", "be brief", "say 1").stdout)
    assert (len(pair.tokens), pair.answer) == (answer["prompt_tokens"], answer["tokens"])


def test_either_a_folder_or_the_chats(here: Path) -> None:
    for arguments in ((), ("data", "--from-use")):
        result = train("--kind", "medusa", "-o", "m.gguf", *arguments)
        assert result.exit_code == 2 and "give either DATA" in result.stderr
