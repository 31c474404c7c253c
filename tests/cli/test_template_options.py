"""--think, --no-think and --template-var: what the chat template is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgespec.cli import main
from edgespec.cli.build import template_variables_of
from edgespec.cli.options import sampling_options
from edgespec.errors import InvalidRequest
from tests.gguf_files import tiny_model
from tests.templates import CHATML


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": CHATML})


def run(command: str, model: Path, *arguments: str, **options: Any) -> Result:
    common = ["-m", str(model), "--threads", "1", "--ctx", "256", "-d", "none", "-n", "2"]
    return CliRunner().invoke(main, [command, *common, *arguments], **options)


def variables(*arguments: str) -> dict[str, Any]:
    @click.command()
    @sampling_options
    def command(**options: Any) -> None:
        raise AssertionError("only parsed")

    return template_variables_of(command.make_context("test", list(arguments)).params)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--think"], {"enable_thinking": True}),
        (["--no-think"], {"enable_thinking": False}),
        (["--template-var", 'a="b=c"', "--template-var", "d=[1, {}]"], {"a": "b=c", "d": [1, {}]}),
        (["--template-var", "enable_thinking=true", "--no-think"], {"enable_thinking": False}),
    ],
    ids=str,
)
def test_options_become_variables(arguments: list[str], expected: dict[str, Any]) -> None:
    assert variables(*arguments) == expected


@pytest.mark.parametrize("text", ["", "a", "=1", "a=", "a=b", "a={", "a='b'", "a=" + "[" * 100_000])
def test_a_variable_is_a_name_and_json(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^template variable .*: write NAME=JSON") as caught:
        variables("--template-var", text)
    assert len(str(caught.value)) < 200


def prompt_tokens(result: Result) -> int:
    assert result.exit_code == 0, result.stderr
    return int(json.loads(result.stdout)["prompt_tokens"])


def test_generate_tells_the_template(model: Path, tmp_path: Path) -> None:
    ask = ("-p", "w300", "--json")
    thinks, does_not = (prompt_tokens(run("generate", model, *ask, option)) for option in ("--think", "--no-think"))
    assert thinks == prompt_tokens(run("generate", model, *ask)) < does_not
    assert prompt_tokens(run("generate", model, *ask, "--template-var", "enable_thinking=false")) == does_not
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"turns": ["w300"]}\n')
    assert prompt_tokens(run("generate", model, "--prompts", str(prompts), "--no-think")) == does_not


def test_a_variable_that_the_template_does_not_read_is_refused(model: Path, tmp_path: Path) -> None:
    result = run("generate", model, "-p", "w300", "--template-var", "thinking=1")
    assert result.exit_code == 1
    assert result.stderr == (
        "edgespec: the chat template does not read the variable 'thinking'; it reads enable_thinking\n"
    )
    plain = tiny_model(tmp_path / "plain.gguf", metadata={"tokenizer.chat_template": "{{ messages[0].content }}"})
    for command in ("generate", "chat"):
        result = run(command, plain, "--think", input="w300\n")
        assert result.exit_code == 1 and "does not read the variable 'enable_thinking'; it reads none" in result.stderr


def test_a_raw_prompt_has_no_template(model: Path) -> None:
    raw = ("-p", "w300", "--raw", "--json")
    result = run("generate", model, *raw, "--no-think")
    assert result.exit_code == 1 and "a raw prompt has no chat template" in result.stderr
    assert prompt_tokens(run("generate", model, *raw, env={"EDGESPEC_THINK": "false"})) == prompt_tokens(
        run("generate", model, *raw)
    )


def test_a_chat_can_change_its_mind(model: Path, tmp_path: Path) -> None:
    plain = tiny_model(tmp_path / "plain.gguf", metadata={"tokenizer.chat_template": "{{ messages[0].content }}"})
    lines = ["w300", "/set think off", "w300", "/set think maybe", f"/model {plain}", "w301", "/set think on"]
    result = run("chat", model, "--stats", "--think", input="\n".join(lines))
    assert result.exit_code == 1, "piped lines with errors"
    assert "think 'maybe': write on or off" in result.stderr
    assert result.stderr.count("does not read the variable") == 1, "only /set think on, with the other model"
