"""The command line as a person and as a script meet it: real processes, real model."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgespec
from edgespec.cli import main
from edgespec.cli.report import json_line
from edgespec.cli.terminal import redraw
from edgespec.engine.messages import conversation
from tests.present import present
from tests.rounding import assert_same_answer
from tests.terminal import Terminal, heeding_signals

pytestmark = pytest.mark.model

COMMAND = [sys.executable, "-m", "edgespec"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for the module: the model's trial load happens once."""
    return str(tmp_path_factory.mktemp("cli-cache"))


@pytest.fixture
def run(cache: str, smollm2: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, stdin: str = "", command: str = "generate") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, command, "--ctx", "1024", *arguments], input=stdin, capture_output=True, text=True, timeout=300,
            env={**os.environ, "XDG_CACHE_HOME": cache}, check=False,
        )  # fmt: skip

    return run


def test_streams_text_to_stdout_and_stats_to_stderr(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run("-p", "Count from 1 to 20.", "-n", "24", "--stats")
    assert result.returncode == 0
    assert result.stdout.strip()
    assert "tokens/s" in result.stderr and "first token" in result.stderr
    assert "llama" not in result.stderr


def test_the_decisions_are_told_block_by_block(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run("-p", "Count from 1 to 20.", "-n", "24", "--stats=full")
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert lines[0]["at"] == 0 and sum(line["tokens"] for line in lines) == 24
    assert [line["at"] for line in lines[1:]] == [
        sum(line["tokens"] for line in lines[:n]) for n in range(1, len(lines))
    ]
    assert all(line["why"] for line in lines) and any("promise" in reason for line in lines for reason in line["why"])
    assert "tokens/s" in result.stderr


def test_json_is_the_contract(run: Callable[..., subprocess.CompletedProcess[str]], cache: str) -> None:
    result = run("-p", "Count from 1 to 20.", "-n", "24", "--seed", "5", "--temp", "0.7", "--logprobs", "2", "--json")
    answer = json.loads(result.stdout)
    assert set(answer) >= {
        "text", "tokens", "finish_reason", "prompt_tokens", "cached_tokens", "model", "drafter", "seed", "timings"
    }  # fmt: skip
    assert set(answer["timings"]) == {
        "prompt_ms", "ttft_ms", "predicted_n", "predicted_ms", "predicted_per_second", "draft_n", "draft_n_accepted",
        "blocks", "mean_block_length",
    }  # fmt: skip
    assert answer["seed"] == 5 and answer["timings"]["predicted_n"] == len(answer["tokens"]) == len(answer["logprobs"])
    plain = json.loads(run("-p", "Count from 1 to 20.", "-n", "24", "--seed", "5", "--temp", "0.7", "--json", "-d", "none").stdout)  # fmt: skip # noqa: E501
    with edgespec.load(drafter="none", n_ctx=1024, cache_dir=Path(cache)) as engine:
        prompt = engine.tokenize(engine.model.render(conversation("Count from 1 to 20.", None)))
        sampling = edgespec.SamplingParams(temperature=0.7, seed=5)
        assert_same_answer(engine, prompt, plain["tokens"], answer["tokens"], sampling)


def test_a_prompt_comes_from_stdin_a_file_or_many(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Say hello.")
    many = tmp_path / "many.jsonl"
    many.write_text(
        json.dumps({"question_id": 7, "category": "qa", "turns": ["Say hello.", "Again."]}) + "\n\n"
        + json.dumps({"turns": ["Say goodbye."]}) + "\n"
    )  # fmt: skip
    plainly = ("-n", "8", "-d", "none")  # so that the same prompt is evaluated in the same way
    piped, read = run(*plainly, stdin="Say hello."), run(*plainly, "-f", str(file))
    assert piped.stdout == read.stdout != ""
    lines = [json.loads(line) for line in run(*plainly, "--prompts", str(many)).stdout.splitlines()]
    assert [(line.get("question_id"), line["turn"]) for line in lines] == [(7, 0), (7, 1), (None, 0)]
    assert lines[0]["text"] == piped.stdout.rstrip("\n")
    assert lines[1]["cached_tokens"] > 0


def test_a_grammar_and_a_schema_rule_the_answer(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    grammar = tmp_path / "yes.gbnf"
    grammar.write_text('root ::= "yes" | "no"')
    assert run("-p", "Is water wet?", "--grammar", str(grammar)).stdout.strip() in {"yes", "no"}
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    assert isinstance(json.loads(run("-p", "A number?", "--json-schema", str(schema)).stdout)["n"], int)


def test_raw_prompts_go_without_the_template(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert run("--raw", "-p", "1, 2, 3, 4, 5, 6, 7, 8,", "-n", "6").stdout.startswith(" 9, 10")


BAD = [
    (["-m", "/no/such.gguf", "-p", "x"], "no such file"),
    (["-m", "no-such-alias", "-p", "x"], "no-such-alias"),
    (["-m", "{junk}", "-p", "x"], "not a GGUF"),
    (["-d", "psychic", "-p", "x"], "psychic"),
    (["-p", "x", "--temp", "-1"], "temperature"),
    (["-p", "x", "--top-p", "7"], "top_p"),
    (["-p", "x", "-n", "0"], "max_tokens is 0"),
    (["-p", "x", "--logit-bias", "a=b"], "ID=NUMBER"),
    (["-p", "x", "--logit-bias", "99999999=1"], "vocabulary"),
    (["-p", "x", "--seed", "-3"], "seed"),
    (["-p", "x", "--threads", "0"], "threads"),
    (["-p", "x", "--grammar", "/no/such.gbnf"], "cannot read"),
    (["-p", "x", "--grammar", "{junk}"], "grammar"),
    (["-p", "x", "--json-schema", "{junk}"], "schema"),
    (["-f", "/no/such.txt"], "cannot read"),
    (["--prompts", "{junk}"], "line 1"),
    (["-p", "word " * 3000], "context"),
    (["--raw", "-p", ""], "empty"),
    (["-p", "x", "--stop", ""], "stop string"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[said + " " + args[0] for args, said in BAD])
def test_bad_input_gets_one_clear_line_and_status_1(
    arguments: list[str], said: str, cache: str, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    junk = tmp_path / "junk"
    junk.write_text("nothing of the kind")
    arguments = [argument.replace("{junk}", str(junk)) for argument in arguments]
    result = CliRunner().invoke(main, ["generate", "--ctx", "1024", *arguments])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("edgespec: ") and said in line


@pytest.mark.parametrize(
    "arguments", [["-p", "x", "--no-such"], ["-p", "x", "-f", "y"], ["-p", "x", "--grammar", "a", "--json-schema", "b"],
                  ["--prompts", "x", "--raw"], ["-n", "many", "-p", "x"]],
)  # fmt: skip
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["generate", *arguments]).exit_code == 2


def test_ctrl_c_ends_an_answer_with_what_there_is(cache: str, smollm2: Path) -> None:
    with heeding_signals():
        process = subprocess.Popen(
            [*COMMAND, "generate", "--ctx", "1024", "-n", "900", "-p", "Count to one thousand, one number a line."],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": cache},
        )  # fmt: skip
    first = present(process.stdout).read(10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first and out.endswith(b"\n")
    assert b"Traceback" not in err


def test_a_piped_chat_remembers(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run(
        "-n", "12", "--stats", stdin="My name is Ada.\nWhat is my name?\n/nonsense\n/exit\nnot said\n", command="chat"
    )
    assert result.returncode == 1  # one line was no command
    assert "edgespec: there is no command /nonsense: /help lists them" in result.stderr
    cached = [line for line in result.stderr.splitlines() if "cached)" in line]
    assert len(cached) == 2 and "0 cached" in cached[0] and " 0 cached" not in cached[1]


def test_a_chat_in_a_terminal_survives_ctrl_c(cache: str, smollm2: Path) -> None:
    env = {**os.environ, "XDG_CACHE_HOME": cache, "TERM": "xterm-256color"}
    terminal = Terminal([*COMMAND, "chat", "--ctx", "1024", "-n", "900"], env)
    terminal.wait_for(r"commands\..*>")
    terminal.type("Count to one thousand, one number a line.\r")
    terminal.wait_for(r"\?2004l\W*\w\w")  # line editing has ended, and an answer has begun
    terminal.type("\x03")
    terminal.wait_for(r"\[stopped\]")
    terminal.type("/exit\r")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.screen


def test_ctrl_d_leaves_a_chat(cache: str, smollm2: Path) -> None:
    terminal = Terminal([*COMMAND, "chat", "--ctx", "256"], {**os.environ, "XDG_CACHE_HOME": cache, "TERM": "xterm"})
    terminal.wait_for(r"commands\..*>")
    terminal.type("\x04")
    assert terminal.status() == 0


def terminal_of(cache: str, *arguments: str, shell: str | None = None, **env: str) -> Terminal:
    """A program in a terminal; `shell`: what a shell makes of it ("$@")."""
    command = [*COMMAND, *arguments]
    command = command if shell is None else ["sh", "-c", shell, "sh", *command]
    return Terminal(command, {**os.environ, "XDG_CACHE_HOME": cache, "TERM": "xterm-256color", **env})


def test_an_impatient_ctrl_c_leaves_the_chat_open(cache: str, smollm2: Path) -> None:
    terminal = terminal_of(cache, "chat", "--ctx", "1024", "-n", "900")
    terminal.wait_for(r"commands\..*>")
    for _ in range(3):
        terminal.type("Count to one thousand, one number a line.\r")
        terminal.wait_for(r"\?2004l\W*\w\w")
        terminal.type("\x03")
        time.sleep(0.004)  # long enough to be a second one, short enough to come during the same evaluation
        terminal.type("\x03")
        terminal.wait_for(r"\[stopped\].*>")
        terminal.type("/clear\r")  # else the next answer may be short
        terminal.wait_for(r"is empty.*>")
    terminal.type("/exit\r")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.screen


def test_a_window_that_is_closed_loses_nothing(cache: str, smollm2: Path, home: Path) -> None:
    terminal = terminal_of(cache, "chat", "--ctx", "1024", "-n", "900", "--session", "s", "--memory")
    terminal.wait_for(r"commands\..*>")
    terminal.type("Count to one thousand, one number a line.\r")
    terminal.wait_for(r"\?2004l\W*\w\w")
    terminal.hang_up()
    data = home / "data" / "edgespec"
    assert (data / "sessions" / "s.kv").exists() and len(list((data / "memory").iterdir())) == 1
    (asked, answer) = json.loads((data / "sessions" / "s.json").read_text())["messages"]
    assert asked["role"] == "user" and answer["content"]


def test_being_hung_up_on_is_status_129(cache: str, smollm2: Path) -> None:
    terminal = terminal_of(cache, "chat", "--ctx", "256")
    terminal.wait_for(r"commands\..*>")
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.status() == 129


def test_a_typed_chat_into_a_file_is_the_answers(cache: str, smollm2: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    shell = f'exec "$@" > {out}'
    terminal = terminal_of(cache, "chat", "--ctx", "256", "-n", "8", shell=shell)
    terminal.wait_for(r"commands\..*>")
    terminal.type("Say hello.\r")
    terminal.wait_for(r"context \d+ of.*>")
    terminal.type("/exit\r")
    assert terminal.status() == 0
    assert out.read_text().count("\n") == 1 and "\x1b" not in out.read_text() and ">" not in out.read_text()


@pytest.mark.parametrize(("env", "dim"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_colour_is_no_colour(cache: str, smollm2: Path, env: dict[str, str], dim: bool) -> None:
    terminal = terminal_of(cache, "generate", "--ctx", "256", "-n", "4", "-p", "Hello", "--stats", **env)
    assert terminal.status() == 0
    assert "tokens/s" in terminal.screen and ("\x1b[2m" in terminal.screen) == dim


def test_a_letter_that_the_terminal_lacks_is_no_error(cache: str, smollm2: Path, tmp_path: Path) -> None:
    grammar = tmp_path / "smile.gbnf"
    grammar.write_text('root ::= "\\U0001F642 é"')
    result = subprocess.run(
        [*COMMAND, "generate", "--ctx", "256", "-p", "Smile!", "--grammar", str(grammar)], capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": cache, "PYTHONIOENCODING": "latin-1"}, timeout=300, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, b"? \xe9\n"), result.stderr


def test_input_that_is_no_text_is_told_of(cache: str, smollm2: Path) -> None:
    inputs: list[tuple[list[str | bytes], bytes, bytes]] = [
        (["generate"], b"\xff", b"standard input is not UTF-8 text"),
        (["generate", "-p", b"\xff"], b"", b"the input is not UTF-8 text: byte 0xff of --prompt, after 0 characters"),
        (["chat"], b"\xff\n", b"the message is not UTF-8 text"),
    ]
    for arguments, stdin, said in inputs:
        result = subprocess.run(
            [*COMMAND, *arguments, "--ctx", "256"], input=stdin, capture_output=True, timeout=300, check=False,
            env={**os.environ, "XDG_CACHE_HOME": cache, "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert result.returncode == 1 and result.stderr.startswith(b"edgespec: " + said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_gets_one_line(cache: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "models", "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "XDG_CACHE_HOME": cache},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "edgespec: reading or writing: No space left on device\n"


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>&- <&-"])
def test_streams_that_are_closed_are_as_if_nobody_listened(closed: str, cache: str, smollm2: Path) -> None:
    command = f"{shlex.join([*COMMAND, 'generate', '-p', 'Hello', '-n', '3', '--stats'])} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "XDG_CACHE_HOME": cache},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() and "Traceback" not in done.stderr


def test_json_loses_no_letter_where_the_encoding_has_few() -> None:
    said = {"text": "d\u00e9j\u00e0 \u65e5\u672c"}
    for encoding, plain in (("utf-8", True), ("UTF-8", True), ("latin-1", False), ("ascii", False)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        line = json_line(said, stream)
        assert json.loads(line) == said and line.isascii() is not plain
        stream.write(line)


def test_a_line_that_is_drawn_over_and_over_is_no_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgespec.cli.terminal.columns", lambda: 20)
    redraw("x" * 30)
    redraw()
    assert capsys.readouterr().err == f"\r{'x' * 19}\r"  # the rest is for terminals only
