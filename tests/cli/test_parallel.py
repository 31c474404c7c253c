"""Prompts of a file that are answered at once are printed in their order, and each is answered for itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.cli.report import DecisionLog
from edgespec.decode.session import Session
from tests.cli.test_generate_errors import TEMPLATE
from tests.gguf_files import tiny_model


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    model = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})

    def run(*arguments: str) -> Result:
        options = ["-m", str(model), "--threads", "1", "--ctx", "256", "-n", "20", "--logit-bias", "2=-99"]
        return CliRunner().invoke(main, ["generate", *options, *arguments])

    return run


@pytest.fixture(autouse=True)
def heeding_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def prompts(folder: Path, *conversations: list[str]) -> list[str]:
    lines = [json.dumps({"question_id": number, "turns": turns}) for number, turns in enumerate(conversations)]
    (folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return ["--prompts", str(folder / "prompts.jsonl")]


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_answers_are_printed_in_the_order_of_the_file(run: Callable[..., Result], tmp_path: Path) -> None:
    """Whichever ends first; the second turn of a conversation follows the first."""
    file = prompts(tmp_path, ["one", "and more", "and more"], ["two"], ["three", "and"], ["four"], ["five"])
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0)]
    result, alone = run(*file, "--parallel", "3", "--seed", "5"), run(*file, "--seed", "5")
    assert result.exit_code == 0, result.output
    for each in (result, alone):
        assert [(line["question_id"], line["turn"]) for line in objects(each)] == order
    for line, same in zip(objects(result), objects(alone), strict=True):
        assert (len(line["tokens"]), line["prompt_tokens"], line["seed"]) == (20, same["prompt_tokens"], 5)
        assert line["tokens"][:5] == same["tokens"][:5], "a later one may differ by rounding"


def test_one_prompt_that_cannot_be_answered_gets_a_line(run: Callable[..., Result], tmp_path: Path) -> None:
    file = prompts(tmp_path, ["one"], ["refused"], ["w300 " * 60], ["four", "refused", "never asked"], ["five"])
    result = run(*file, "--parallel", "4")
    assert result.exit_code == 1
    assert [(line["question_id"], line["turn"]) for line in objects(result)] == [(0, 0), (3, 0), (4, 0)]
    lines = result.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == [" prompt 1", " prompt 2", " prompt 3"]
    assert "and the context holds 256" in lines[1]


def test_a_grammar_that_cannot_be_used_concerns_all(run: Callable[..., Result], tmp_path: Path) -> None:
    file = prompts(tmp_path, ["one"], ["two"])
    result = run(*file, "--parallel", "2", "--grammar", "root ::= nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("edgespec:") == 1


def test_statistics_tell_the_answers_apart(run: Callable[..., Result], tmp_path: Path) -> None:
    file = prompts(tmp_path, ["one", "again"], ["two"])
    result = run(*file, "--parallel", "2", "--stats=full", "--logprobs", "1")
    decisions = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    for key in ((0, 0), (0, 1), (1, 0)):
        tokens = [line["tokens"] for line in decisions if (line["question_id"], line["turn"]) == key]
        assert sum(tokens) == 20
    assert result.stderr.count("finish reason length") == 3
    for heading in ("prompt 0, turn 0:", "prompt 0, turn 1:", "prompt 1, turn 0:"):
        assert heading in result.stderr
    assert all(len(line["logprobs"]) == 20 for line in objects(result))


def test_ctrl_c_prints_the_answers_as_far_as_they_are(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def print_block(self: DecisionLog, session: Session, block: object) -> None:
        if len(session.emitted) >= 9:
            monkeypatch.setattr(DecisionLog, "print_block", lambda *_: None)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DecisionLog, "print_block", print_block)
    result = run(*prompts(tmp_path, *([f"prompt {number}"] for number in range(9))), "--parallel", "3", "-d", "none")
    assert result.exit_code == 130
    lines = objects(result)
    assert [line["question_id"] for line in lines] == list(range(len(lines))) and 1 <= len(lines) < 9
    assert all(line["finish_reason"] == "cancelled" and len(line["tokens"]) <= 9 for line in lines)
    assert f"stopped; {9 - len(lines)} of 9 conversations were not begun" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-p", "x", "--parallel", "2"], "give them with --prompts FILE.jsonl"),
        (["--prompts", "x", "--parallel", "65"], "65 is not in the range 1<=x<=64"),
        (["--prompts", "x", "--parallel", "0"], "0 is not in the range 1<=x<=64"),
    ],
)
def test_wrong_usage(run: Callable[..., Result], arguments: list[str], reason: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and reason in result.stderr
