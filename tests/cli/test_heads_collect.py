"""`heads collect` as a person meets it, on a tiny target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.heads import self_prompts
from edgespec.heads.dataset import HeadData
from tests.heads.collecting import spelled, talker


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model that can be talked to, and prompts for it."""
    monkeypatch.chdir(tmp_path)
    talker(tmp_path / "tiny.gguf")
    prompts = [{"question_id": number, "turns": [f"prompt {number}", "more"]} for number in range(7)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def collect(*arguments: str) -> Result:
    return run("heads", "collect", "-m", "tiny.gguf", "--ctx", "128", "--threads", "1", "-o", "data", *arguments)


def test_prompts_of_a_file_and_the_targets_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_prompts, "_text", spelled)
    result = collect("--prompts", "p.jsonl", "--own-prompts", "3", "-n", "12", "--temp", "1")
    assert result.exit_code == 0, result.output
    assert "3 of 3 prompts" in result.stderr and "10 of 10 answers," in result.stderr
    assert "10 of 10 answers read" in result.stderr and result.stdout.startswith("data: 10 answers, ")
    again = collect("--prompts", "p.jsonl", "--own-prompts", "3", "-n", "12", "--temp", "1")
    assert again.exit_code == 0 and again.stdout == result.stdout
    assert sorted(answer.prompt for answer in HeadData(here / "data")) == list(range(10))
    other = collect("--prompts", "p.jsonl", "-n", "13", "--temp", "1")
    assert other.exit_code == 1 and "begun with max_tokens 12, and this is 13" in other.stderr


def test_a_stopped_run_says_how_to_go_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_progress: object, stage: str, done: int, *_: object) -> None:
        if (stage, done) == ("answers", 3):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgespec.cli.progress.AnswerProgress.__call__", stop)
        stopped = collect("--prompts", "p.jsonl", "-n", "8")
    assert stopped.exit_code == 130 and "stopped; the same command continues" in stopped.stderr
    result = collect("--prompts", "p.jsonl", "-n", "8")
    assert result.exit_code == 0 and result.stderr.startswith("3 of 7 answers"), result.output


def test_what_generate_printed(here: Path) -> None:
    printed = run("generate", "-m", "tiny.gguf", "-d", "none", "--threads", "1", "--ctx", "256", "-n", "6",
                  "--prompts", "p.jsonl")  # fmt: skip
    assert printed.exit_code == 0, printed.output
    (here / "a.jsonl").write_text(printed.stdout)
    result = collect("--answers", "a.jsonl", "--prompts", "p.jsonl")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("data: 14 answers, ")
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    for line, answer in zip(lines, HeadData(here / "data"), strict=True):
        assert answer.tokens[answer.is_answer].tolist() == line["tokens"] and answer.prompt == line["question_id"]
        if line["turn"] == 0:  # of later turns, the earlier answers are tokenized anew: these are no texts
            said = answer.top_ids[-len(line["tokens"]) - 1 : -1, 0].tolist()
            assert said == line["tokens"], "greedy, after the same prompt"
            assert len(answer.tokens) == line["prompt_tokens"] + len(line["tokens"])
    missing = collect("--answers", "a.jsonl")
    assert missing.exit_code == 1 and "line 1: it names no known prompt" in missing.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "give --prompts FILE, --own-prompts N or --answers FILE"),
    (("--answers", "a", "--own-prompts", "2"), "leave --own-prompts out"),
    (("--prompts", "p.jsonl", "--layers", "1,x"), "give numbers with commas"),
    (("--prompts", "p.jsonl", "--layers", "1,1"), "each layer once"),
])  # fmt: skip
def test_wrong_usage(here: Path, arguments: tuple[str, ...], message: str) -> None:
    result = collect(*arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert not (here / "data").exists()


def test_layers_that_are_not_there(here: Path) -> None:
    result = collect("--prompts", "p.jsonl", "--layers", "5")
    assert result.exit_code == 1 and "layer 5 has no input" in result.stderr
    assert collect("--prompts", "p.jsonl", "--layers", "none", "-n", "4").exit_code == 0
    assert HeadData(here / "data").states == ["last"]


def test_prompts_that_are_too_long(here: Path) -> None:
    (here / "p.jsonl").write_text(json.dumps({"turns": ["long " * 300]}) + '\n{"turns": ["short"]}\n')
    result = collect("--prompts", "p.jsonl", "-n", "4")
    assert result.exit_code == 0 and "1 prompt left out: too long for 128 tokens" in result.stderr, result.output
