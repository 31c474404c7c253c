"""Where prompts, schemas and stop strings come from, and that nothing that was said is lost."""

from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edgespec import SamplingParams
from edgespec.cli import generate, main
from edgespec.cli.inputs import typed_text, unescaped
from edgespec.errors import InvalidRequest
from tests.gguf_files import tiny_model
from tests.vocabtrim.test_pipeline import TEMPLATE

SCHEMA = '{"type": "boolean"}'


class Asked:
    """Runs `edgespec generate` up to the answers, and keeps what was to be answered, and how."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.options: dict[str, Any] = {}
        self.sampling = SamplingParams()

    def answer(
        self, _engine: object, conversation: dict[str, Any], sampling: SamplingParams, options: dict[str, Any]
    ) -> None:
        self.turns.append(conversation["turns"])
        self.options, self.sampling = options, sampling

    def prompt(self, *arguments: str, stdin: str | bytes = "") -> str:
        """The one prompt that is asked."""
        self.turns.clear()
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, result.output
        ((prompt,),) = self.turns
        return prompt

    def refusal(self, *arguments: str, stdin: str | bytes = "", status: int = 1) -> str:
        """The last line of the refusal."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == status and result.stdout == "" and not self.turns
        lines = result.stderr.strip().splitlines()
        assert status == 2 or len(lines) == 1
        return lines[-1]

    def run(self, *arguments: str, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(main, ["generate", *arguments], input=stdin)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    asked = Asked()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "open_engine", lambda options: nullcontext())
    monkeypatch.setattr(generate, "_answer", asked.answer)
    monkeypatch.setattr("edgespec.cli.inputs.input_is_piped", lambda: True)  # CliRunner's input is no pipe
    return asked


def test_what_is_piped_in_goes_before_what_is_typed(asked: Asked) -> None:
    secret, question = "The secret word is ZEBRA.", "What is the secret word?"
    Path("question.txt").write_text(question + "\n")
    for arguments in (["-p", question], [question], question.split(), ["-f", "question.txt"]):
        assert asked.prompt(*arguments, stdin=secret) == f"{secret}\n\n{question}"
        assert asked.prompt(*arguments, stdin="") == question
        assert asked.prompt(*arguments, stdin=" \n") == question
    assert asked.prompt("--raw", "-p", question, stdin=secret + "\n") == f"{secret}\n{question}"
    assert asked.prompt("-p", "", stdin=secret) == secret


@pytest.mark.parametrize(
    ("stdin", "prompt", "raw"),
    [
        ("hi\n", "hi", "hi\n"),
        ("hi\r\n", "hi", "hi\r\n"),
        ("a\r\nb\n\n", "a\nb\n", "a\r\nb\n\n"),
        (codecs.BOM_UTF8 + b"hi", "hi", "hi"),
        (" hi ", " hi ", " hi "),
    ],
)
def test_one_line_end_belongs_to_the_pipe_or_file(asked: Asked, stdin: str | bytes, prompt: str, raw: str) -> None:
    Path("prompt.txt").write_bytes(stdin if isinstance(stdin, bytes) else stdin.encode())
    assert asked.prompt(stdin=stdin) == asked.prompt("-f", "-", stdin=stdin) == prompt
    assert asked.prompt("-f", "prompt.txt") == prompt
    assert asked.prompt("--raw", stdin=stdin) == asked.prompt("--raw", "-f", "prompt.txt") == raw
    assert asked.prompt("-p", "hi\n") == "hi\n"  # typed on purpose


def test_a_prompt_without_text_is_refused(asked: Asked) -> None:
    Path("empty.txt").touch()
    Path("mark.txt").write_bytes(codecs.BOM_UTF8)
    for arguments in ([], ["-p", ""], ["-p", " \n"], [""], ["-f", "empty.txt"], ["-f", "mark.txt"], ["--raw"]):
        assert "the prompt is empty: give one" in asked.refusal(*arguments)
        assert "the prompt is empty: give one" in asked.refusal(*arguments, stdin="" if "--raw" in arguments else "\n")
    assert asked.prompt("--raw", "-p", " ") == " "


def test_prompts_without_any(asked: Asked) -> None:
    Path("none.jsonl").write_text("\n")
    assert "none.jsonl: there are no prompts in it" in asked.refusal("--prompts", "none.jsonl")
    Path("mark.jsonl").write_bytes(codecs.BOM_UTF8 + b'{"turns": ["hi"]}\n')
    assert asked.prompt("--prompts", "mark.jsonl", stdin="not for them") == "hi"
    assert asked.prompt("--prompts", "-", stdin='{"turns": ["hi"]}\n') == "hi"


def test_a_schema_and_a_grammar_from_standard_input_or_in_place(asked: Asked) -> None:
    Path("s.json").write_bytes(codecs.BOM_UTF8 + SCHEMA.encode())
    asked.prompt("hi", "--json-schema", "s.json")
    from_file = asked.sampling.grammar
    assert from_file and "true" in from_file
    assert asked.prompt("hi", "--json-schema", "-", stdin=SCHEMA) == "hi"
    assert asked.sampling.grammar == from_file
    asked.prompt("hi", "--json-schema", f"\n {SCHEMA}")
    assert asked.sampling.grammar == from_file
    grammar = 'root ::= "ja" | "nein"'
    Path("g.gbnf").write_bytes(codecs.BOM_UTF8 + grammar.encode())
    for arguments, stdin in ((["g.gbnf"], ""), ([grammar], ""), (["-"], grammar)):
        asked.prompt("hi", "--grammar", *arguments, stdin=stdin)
        assert asked.sampling.grammar == grammar
    asked.prompt("hi", "--json-schema", "true")
    assert asked.sampling.grammar


@pytest.mark.parametrize(("option", "value"), [("--json-schema", "[1"), ("--grammar", 'root = "ja"')])
def test_what_is_neither_a_file_nor_its_text(asked: Asked, option: str, value: str) -> None:
    refusal = asked.refusal("hi", option, value)
    assert f"cannot read {value}: No such file or directory; typed in place, a " in refusal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "-", "--json-schema", "-"], "--file - and --json-schema -: standard input can be read only once"),
        (["--prompts", "-", "--grammar", "-"], "--prompts - and --grammar -: standard input can be read only once"),
        (["hi", "-p", "ho"], "'hi' would be the prompt, and --prompt gives one too"),
        (["-n", "5", "6", "-f", "x"], "'6' would be the prompt, and --file gives one too"),
        (["-p", "hi", "-f", "x"], "--prompt and --file exclude each other; to ask about a file, pipe it in"),
    ],
)
def test_what_is_given_twice_is_refused(asked: Asked, arguments: list[str], message: str) -> None:
    assert message in asked.refusal(*arguments, status=2)


def test_log_probabilities_are_for_json(asked: Asked) -> None:
    assert "--logprobs is shown in JSON only: add --json" in asked.refusal("hi", "--logprobs", "2", status=2)
    Path("p.jsonl").write_text('{"turns": ["hi"]}\n')
    Path("c.toml").write_text("[generate]\nlogprobs = 3\n")
    for arguments, wanted in ((["hi", "--json"], 2), (["--prompts", "p.jsonl"], 2)):
        asked.prompt(*arguments, "--logprobs", "2")
        assert asked.sampling.logprobs == wanted
    for arguments, kept in ((["hi"], None), (["hi", "--json"], 3)):
        assert CliRunner().invoke(main, ["--config", "c.toml", "generate", *arguments]).exit_code == 0
        assert asked.sampling.logprobs == kept


def test_a_chat_needs_its_standard_input() -> None:
    result = CliRunner().invoke(main, ["chat", "--json-schema", "-"], input=SCHEMA)
    assert result.exit_code == 2 and "--json-schema -: a chat reads what you say" in result.stderr


def test_escapes_in_a_stop_string(asked: Asked) -> None:
    asked.prompt("hi", "--stop", r"\n", "--stop", r"a\tb\\n\d", "--stop", "\n\n")
    assert asked.options["stop"] == ("\n", "a\tb\\n\\d", "\n\n")
    Path("c.toml").write_text("stop = ['\\n', \"\\n\"]\n")
    CliRunner().invoke(main, ["--config", "c.toml", "generate", "hi"])
    assert asked.options["stop"] == ("\n", "\n")


@given(st.text(st.sampled_from("\\nrtdx\n\t ä")))
def test_every_text_can_be_written_with_escapes(text: str) -> None:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t")
    assert unescaped(escaped) == text


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=4))
def test_a_text_is_read_in_any_locale(text: str, more: bytes) -> None:
    """Python keeps each byte that the locale cannot decode as half a surrogate pair."""
    assert typed_text(text.encode().decode("ascii", "surrogateescape"), "it") == text
    data = text.encode() + b"\xff" + more
    with pytest.raises(InvalidRequest, match=f"byte 0xff of it, after {len(text)} characters"):
        typed_text(os.fsdecode(data), "it")


def _program(env: dict[str, str], *arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "edgespec", "generate", "-m", "tiny.gguf", "--threads", "1", "-n", "2", *arguments],
        input=stdin, capture_output=True, timeout=120, check=False, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize("env", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"LC_ALL": "C.UTF-8"}])
def test_letters_that_the_locale_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    piped, typed = (
        json.loads(_program(env, "--raw", "--json", *arguments, stdin=stdin).stdout)
        for arguments, stdin in ((["-f", "-"], "Größe".encode()), (["-p", "Größe"], b""))
    )
    assert piped["prompt_tokens"] == typed["prompt_tokens"] and piped["tokens"] == typed["tokens"]
    (tmp_path / "größe.json").write_text(SCHEMA)
    done = _program(env, "Hi", "--json-schema", "größe.json", "-n", "4")
    assert done.returncode == 0 and done.stdout.strip() in (b"true", b"false"), done.stderr
    refused = _program(env, "-p", "Größe".encode() + b"\xff!")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr == b"edgespec: the input is not UTF-8 text: byte 0xff of --prompt, after 5 characters\n"
