"""What was said before an error is printed, and one prompt's error costs no other prompt its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgespec.backend import native
from edgespec.cli import main
from edgespec.errors import EvaluationError
from tests.gguf_files import tiny_model

TEMPLATE = (
    "{% if messages[-1].content == 'refused' %}{{ raise_exception('no') }}{% endif %}"
    "{% for message in messages %}{{ message.content }} {% endfor %}"
)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    model = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})

    def run(*arguments: str) -> Result:
        options = [
            "-m",
            str(model),
            "--threads",
            "1",
            "--ctx",
            "256",
            "-d",
            "none",
            "-n",
            "20",
            "--logit-bias",
            "2=-99",
        ]
        return CliRunner().invoke(main, ["generate", *options, *arguments])

    return run


@pytest.fixture
def failing_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets llama.cpp fail at one forward pass, by its number."""

    def fail_at(number: int) -> None:
        decode, calls = native.decode, [0]

        def failing(context: Any, batch: Any) -> None:
            calls[0] += 1
            if calls[0] == number:
                raise EvaluationError("llama.cpp could not evaluate 1 tokens (status -3: made up)")
            decode(context, batch)

        monkeypatch.setattr(native, "decode", failing)

    return fail_at


def test_text_before_an_error_is_printed(run: Callable[..., Result], failing_pass: Callable[[int], None]) -> None:
    whole = run("-p", "hello").stdout
    failing_pass(10)
    result = run("-p", "hello")
    assert result.exit_code == 1
    assert len(result.stdout) > 5
    assert whole.startswith(result.stdout.rstrip("\n"))
    assert result.stderr == "edgespec: llama.cpp could not evaluate 1 tokens (status -3: made up)\n"


def test_text_that_a_stop_string_held_back_is_printed(
    run: Callable[..., Result], failing_pass: Callable[[int], None]
) -> None:
    failing_pass(10)
    free = run("-p", "hello").stdout.rstrip("\n")
    failing_pass(10)
    assert run("-p", "hello", "--stop", f"{free[-3:]}\u2205").stdout.rstrip("\n") == free


def test_the_object_of_an_answer_that_failed_is_printed(
    run: Callable[..., Result], failing_pass: Callable[[int], None]
) -> None:
    failing_pass(10)
    result = run("-p", "hello", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["finish_reason"], len(answer["tokens"])) == (1, "cancelled", 9)


def test_an_answer_that_did_not_begin_has_no_object(
    run: Callable[..., Result], failing_pass: Callable[[int], None]
) -> None:
    failing_pass(1)
    result = run("-p", "hello", "--json")
    assert (result.exit_code, result.stdout) == (1, "")


def _prompts(path: Path, *prompts: str) -> str:
    lines = [json.dumps({"question_id": number, "turns": [text]}) for number, text in enumerate(prompts)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("refused", "refuses this conversation"), ("too long " * 200, "the context holds 256")],
)
def test_an_error_of_one_prompt_costs_no_other_its_answer(
    run: Callable[..., Result], tmp_path: Path, prompt: str, reason: str
) -> None:
    result = run("--prompts", _prompts(tmp_path / "prompts.jsonl", "one", prompt, "three"))
    assert [json.loads(line)["question_id"] for line in result.stdout.splitlines()] == [0, 2]
    assert result.exit_code == 1
    assert result.stderr.startswith("edgespec: prompt 1: ")
    assert reason in result.stderr


def test_a_prompt_without_an_id_is_named_by_its_line(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"turns": ["one"]}\n\n{"turns": ["refused"]}\n')
    assert run("--prompts", str(tmp_path / "prompts.jsonl")).stderr.startswith("edgespec: line 3: ")


@pytest.mark.parametrize("parallel", ["1", "3"])
def test_a_line_that_is_no_prompt_costs_no_other_its_answer(
    run: Callable[..., Result], tmp_path: Path, parallel: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"turns": ["one"]}\n{"turns": 3}\n{"turns\n\n{"turns": ["refused"]}\n{"turns": ["five"]}\n')
    result = run("--prompts", str(path), "--parallel", parallel)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2)
    first, second, third = result.stderr.splitlines()
    assert "line 2: it must be an object with" in first and first.endswith("; the other prompts are answered")
    assert "line 3: not JSON" in second and third.startswith("edgespec: line 5: ")


def test_a_failing_pass_costs_no_other_prompt_its_answer(
    run: Callable[..., Result], tmp_path: Path, failing_pass: Callable[[int], None]
) -> None:
    failing_pass(30)
    result = run("--prompts", _prompts(tmp_path / "prompts.jsonl", "one", "two", "three"))
    reasons = [json.loads(line)["finish_reason"] for line in result.stdout.splitlines()]
    assert reasons == ["length", "cancelled", "length"]
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_grammar_that_does_not_parse_is_said_once(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text("no grammar")
    prompts = _prompts(tmp_path / "prompts.jsonl", "one", "two")
    result = run("--prompts", prompts, "--grammar", str(tmp_path / "g.gbnf"))
    assert (result.exit_code, result.stdout, result.stderr.count("edgespec:")) == (1, "", 1)


def test_a_model_that_cannot_shift_answers_beyond_its_context(tmp_path: Path) -> None:
    """M-RoPE: llama.cpp has no shift for positions of several dimensions."""
    model = tiny_model(tmp_path / "vl.gguf", architecture="qwen2vl", metadata={"tokenizer.chat_template": TEMPLATE})
    options = [
        "-m",
        str(model),
        "--threads",
        "1",
        "--ctx",
        "256",
        "--context-shift",
        "-n",
        "400",
        "--logit-bias",
        "2=-99",
    ]
    result = CliRunner().invoke(main, ["generate", *options, "--json", "-p", "twenty characters.."])
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["finish_reason"], len(answer["tokens"])) == (0, "length", 400)
    result = CliRunner().invoke(
        main, ["generate", *options, "--prompts", _prompts(tmp_path / "prompts.jsonl", "one", "two")]
    )
    assert [json.loads(line)["finish_reason"] for line in result.stdout.splitlines()] == ["length"] * 2
