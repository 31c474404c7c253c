"""Defaults from the environment and from a file: who wins, and what is wrong is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edgespec.backend import QUANTIZATIONS
from edgespec.cli import main
from edgespec.cli.commands import generate, trim
from edgespec.cli.options import SHARED
from tests.gguf_files import tiny_model
from tests.vocabtrim.test_pipeline import TEMPLATE

ANSWER = ["generate", "-p", "w300", "--threads", "1", "--json"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model, in which the program runs."""
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    return tmp_path


def run(*arguments: str, **env: str) -> Result:
    return CliRunner(env=env).invoke(main, arguments)


def tokens(result: Result) -> int:
    assert result.exit_code == 0, result.output
    return len(json.loads(result.stdout)["tokens"])


def test_the_command_line_then_the_environment_then_the_file(here: Path, home: Path) -> None:
    config = home / "config" / "edgespec" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('model = "tiny.gguf"\nctx = 64\nmax-tokens = 9\n\n[chat]\nmax-tokens = 3\n')
    assert tokens(run(*ANSWER)) == 9
    assert tokens(run(*ANSWER, EDGESPEC_MAX_TOKENS="7")) == 7
    assert tokens(run(*ANSWER, "-n", "5", EDGESPEC_MAX_TOKENS="7")) == 5
    config.write_text('model = "tiny.gguf"\nmax-tokens = 9\n\n[generate]\nmax-tokens = 4\nstop = ["zzz"]\n')
    assert tokens(run(*ANSWER)) == 4


def test_a_temperature_for_answers_is_none_for_a_benchmark(
    here: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person wants of every answer must not change what is measured or counted."""
    (here / "mine.toml").write_text('model = "tiny.gguf"\ntemp = 0.7\ndrafter = "none"\n\n[bench]\nrounds = 2\n')
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("edgespec.cli.bench.run", asked.append)
    run("--config", "mine.toml", "bench", "--prompts", "x.jsonl")
    (options,) = asked
    assert (options["model"], options["temp"], options["drafters"], options["rounds"]) == ("tiny.gguf", 0.0, "auto", 2)


def test_another_file(here: Path) -> None:
    (here / "mine.toml").write_text('model = "tiny.gguf"\nmax-tokens = 2\n')
    assert tokens(run("--config", "mine.toml", *ANSWER)) == 2
    assert tokens(run(*ANSWER, EDGESPEC_CONFIG="mine.toml")) == 2
    assert tokens(run(*ANSWER, "-n", "1", EDGESPEC_MODEL="tiny.gguf")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'x'", "unknown key 'modle': did you mean 'model'?"),
        ("[generat]\ntemp = 1", "unknown table 'generat': did you mean 'generate'?"),
        ("[generate]\ntmp = 1", "unknown key in [generate] 'tmp': did you mean 'temp'?"),
        ("qqq = 1", "there are"),
        ("temp = ", "config.toml: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(here: Path, home: Path, text: str, message: str) -> None:
    config = home / "config" / "edgespec" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    result = run(*ANSWER)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_was_named_has_to_exist(here: Path) -> None:
    result = run("--config", "no.toml", *ANSWER)
    assert result.exit_code == 1 and "cannot read no.toml" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 3.7", "seed is 3.7: it must be a whole number"),
        ("seed = true", "seed is true: it must be a whole number"),
        ("temp = true", "temp is true: it must be a number"),
        ("temp = 2026-11-30", 'temp is "2026-11-30": it must be a number'),
        ('temp = "warm"', "temp is \"warm\": 'warm' is not a valid float."),
        ('seed = "3.7"', "seed is \"3.7\": '3.7' is not a valid integer."),
        ("temp = [0.5]", "temp is [0.5]: it must be a number"),
        ("model = 3", "model is 3: it must be a text"),
        ('system = ["a", "b"]', 'system is ["a", "b"]: it must be a text'),
        ("exact = 1", "exact is 1: it must be true or false"),
        ('exact = "perhaps"', "exact is \"perhaps\": 'perhaps' is not a valid boolean."),
        ("think = 0", "think is 0: it must be true or false"),
        ("stats = true", "stats is true: it must be a text"),
        ('stats = "long"', "stats is \"long\": 'long' is not one of 'short', 'full'."),
        ("stop = 3", "stop is 3: it must be a text"),
        ('stop = ["END", 3]', "stop is 3: it must be a text"),
        ('stop = [["END"]]', 'stop is ["END"]: it must be a text'),
        ("[generate]\nseed = 3.7", "seed in [generate] is 3.7: it must be a whole number"),
        ("[generate]\nraw = 0", "raw in [generate] is 0: it must be true or false"),
    ],
)
def test_a_value_of_the_wrong_type(here: Path, text: str, message: str) -> None:
    (here / "mine.toml").write_text(text)
    result = run("--config", "mine.toml", *ANSWER)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"edgespec: mine.toml: {message}")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('stop = "END"', "stop", ("END",)),
        ('stop = ["END", "STOP"]', "stop", ("END", "STOP")),
        ("stop = []", "stop", ()),
        ('logit-bias = "42=-5"', "logit_bias", ("42=-5",)),
        ("temp = 1", "temp", 1.0),
        ('temp = "0.5"', "temp", 0.5),
        ('seed = "5"', "seed", 5),
        ("exact = true", "exact", True),
        ('exact = "no"', "exact", False),
        ("think = false", "think", False),
        ("[generate]\nlogprobs = 2", "logprobs", 2),
        ("\ufeffseed = 5", "seed", 5),
    ],
)
def test_a_value_of_the_right_type(
    here: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, value: Any
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("edgespec.cli.generate.run", asked.append)
    (here / "mine.toml").write_text(text)
    assert run("--config", "mine.toml", "generate").exit_code == 0
    assert asked[0][name] == value and type(asked[0][name]) is type(value)


def test_a_range_of_a_benchmark(here: Path) -> None:
    (here / "mine.toml").write_text("[bench]\nrounds = 0\n")
    result = run("--config", "mine.toml", "bench", "--prompts", "x.jsonl")
    assert result.stderr == "edgespec: mine.toml: rounds in [bench] is 0: 0 is not in the range x>=1.\n"


def test_a_system_prompt_of_the_file_is_for_conversations(here: Path, home: Path) -> None:
    config = home / "config" / "edgespec" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('model = "tiny.gguf"\nctx = 64\nmax-tokens = 3\nsystem = "w5"\n')
    assert tokens(run(*ANSWER)) == tokens(run(*ANSWER, "--raw")) == 3
    assert tokens(run(*ANSWER, "--raw", EDGESPEC_SYSTEM="w6")) == 3
    both = run(*ANSWER, "--raw", "--system", "w7")
    assert both.exit_code == 1 and "without a system prompt" in both.stderr


def test_what_may_be_repeated_alone_has_no_variable() -> None:
    """As docs/cli.md says."""
    shared = {
        option.opts[-1]: option.envvar for option in generate.params if option.opts[-1].removeprefix("--") in SHARED
    }
    assert {name for name, variable in shared.items() if variable is None} == {
        "--stop",
        "--logit-bias",
        "--template-var",
    }
    assert shared["--max-tokens"] == "EDGESPEC_MAX_TOKENS"


def test_what_trim_offers_is_what_there_is() -> None:
    quantize = next(option for option in trim.params if option.name == "quantize")
    assert isinstance(quantize.type, click.Choice) and list(quantize.type.choices) == list(QUANTIZATIONS)


def completed(line: str) -> list[str]:
    """What the program tells bash of a line that ends in what is to be completed."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_EDGESPEC_COMPLETE": "bash_complete"}
    return CliRunner(env=words).invoke(main, prog_name="edgespec").stdout.split()


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("edgespec generate -m qwen2.5-coder-0", ["file,qwen2.5-coder-0", "plain,qwen2.5-coder-0.5b"]),
        ("edgespec bench --model models/x", ["file,models/x"]),
        ("edgespec chat -d s", ["file,s", "plain,suffix", "plain,smollm2-135m"]),
        ("edgespec chat -d no", ["file,no", "plain,none"]),
        ("edgespec chat -d suffix+no", ["file,suffix+no"]),
        ("edgespec chat -d suffix+an", ["file,suffix+an", "plain,suffix+anpd"]),
        ("edgespec chat -d suffix+ti", ["file,suffix+ti", "plain,suffix+tiny.gguf"]),
    ],
)
def test_the_shell_completes_models_and_drafters(here: Path, line: str, completions: list[str]) -> None:
    """Files first: bash forgets what came before them."""
    assert completed(line) == completions


def test_files_that_begin_like_a_name_are_completed_too(here: Path) -> None:
    (here / "suffix-of-mine.gguf").touch()
    assert completed("edgespec chat -d suf") == ["file,suf", "plain,suffix", "plain,suffix-of-mine.gguf"]


def test_kept_conversations_are_completed(here: Path, home: Path) -> None:
    folder = home / "data" / "edgespec" / "sessions"
    folder.mkdir(parents=True)
    for name in ("tea.json", "tea.kv", "work.json"):
        (folder / name).touch()
    assert completed("edgespec chat --session t") == ["plain,tea"]


@pytest.mark.parametrize(
    ("line", "env"),
    [
        ("--help", {}),
        ("bench --help", {}),
        ("", {"COMP_WORDS": "edgespec chat -d t", "COMP_CWORD": "3", "_EDGESPEC_COMPLETE": "bash_complete"}),
    ],
)
def test_help_and_completion_do_not_wait_for_llama_cpp(line: str, env: dict[str, str]) -> None:
    program = (
        "import sys\nfrom edgespec.cli import main\n"
        "try: main(sys.argv[1:], prog_name='edgespec')\n"
        "except SystemExit: print({'llama_cpp', 'prompt_toolkit', 'ssl'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env})
    assert done.stdout.splitlines()[-1] == "set()"
    assert len(done.stdout.splitlines()) > 1
