"""A drafter against plain decoding and against llama-server's drafting, on a handful of prompts, interleaved.

    python benchmarks/eight.py -m MODEL.gguf --prompts FILE.jsonl --server PATH --json benchmarks/results/NAME.json
    python benchmarks/eight.py -m MODEL.gguf -d auto+SMALL.gguf --prompts FILE.jsonl --per-subtask 4 --server PATH \\
        --peer "draft-simple 3=--spec-type draft-simple -md FULL.gguf --spec-draft-n-max 3" --json ...

`auto` and plain decoding answer side by side: on a context each, in lockstep, whichever has fewer tokens makes the next
block. A busy moment of the machine then falls on both, and a ratio is worth far more than one between whole answers.
llama-server answers after each such pair, one server for each `--peer`. The speed is of the tokens after the first, the
server's by its own clock. Nobody profits from having seen an answer before: n-gram drafters and acceptance estimates
are new for each, drafter models have read nothing yet, and the server reads the prompt anew. What an evaluation costs
is remembered. A result file begun is gone on with.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from common import read_prompts, save, summary

from edgespec import Engine, Session, load
from edgespec.backend import LlamaContext
from edgespec.drafters import make_drafter, names_of
from edgespec.drafters.model import ModelDrafter
from edgespec.policy import AdaptivePolicy

WHAT = "a drafter against plain decoding and llama-server"
WARM_UP = 8
NGRAM_SIMPLE = "ngram-simple=--spec-type ngram-simple"


@contextlib.contextmanager
def llama_server(server: Path, model: Path, threads: int, arguments: list[str]) -> Iterator[str]:
    """A llama-server on the loopback interface; its base address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(server), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-c", "2048",
               "-t", str(threads), "-np", "1", "-fa", "auto", *arguments]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if process.poll() is not None:
                raise click.ClickException(f"llama-server ended with status {process.returncode}: {command}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def ask_server(address: str, tokens: list[int], count: int) -> tuple[float, list[int]]:
    """One greedy answer of a llama-server: tokens per second, and the tokens."""
    body = {"prompt": tokens, "n_predict": count, "temperature": 0.0, "cache_prompt": False, "return_tokens": True,
            "samplers": ["temperature"]}  # fmt: skip
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as response:
        answer = json.load(response)
    timings = answer["timings"]
    return (timings["predicted_n"] - 1) / timings["predicted_ms"] * 1e3, answer["tokens"]


def side_by_side(sessions: list[Session]) -> list[float]:
    """Make the answers in lockstep; each one's tokens per second after the first token."""
    for session in sessions:
        session.step()
    seconds = [0.0] * len(sessions)
    while behind := [place for place, session in enumerate(sessions) if not session.finished]:
        place = min(behind, key=lambda place: (len(sessions[place].emitted), seconds[place]))
        begun = time.perf_counter()
        sessions[place].step()
        seconds[place] += time.perf_counter() - begun
    return [(len(session.emitted) - 1) / spent for session, spent in zip(sessions, seconds, strict=True)]


class Pair:
    """A target with two contexts: one that drafts and one that decodes plainly, which share what is known of T(n)."""

    def __init__(self, auto: Engine, drafters: str, n_ctx: int) -> None:
        assert isinstance(auto.policy, AdaptivePolicy)
        self.auto = auto
        self._drafters = drafters
        self.cost = auto.policy.cost
        context = LlamaContext(auto.model, n_ctx=n_ctx, threads=auto.context.threads)
        self.plain = Engine(auto.model, context, AdaptivePolicy((), self.cost), drafter_name="none")

    def answer(self, tokens: list[int], count: int) -> tuple[list[float], list[Session]]:
        """One greedy answer each, the drafted one first: speeds and sessions."""
        models = {drafter.name: drafter for drafter in self.auto.drafters if isinstance(drafter, ModelDrafter)}
        for drafter in models.values():
            drafter.propose([0], 1)  # it forgets what it read
        named = (models.get(Path(name).stem) or make_drafter(name) for name in names_of(self._drafters))
        self.auto.policy = AdaptivePolicy(tuple(named), self.cost)
        sessions = [engine.session(list(tokens), max_tokens=count) for engine in (self.auto, self.plain)]
        return side_by_side(sessions), sessions


@click.command()
@click.option("-m", "--model", required=True)
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("-d", "--drafter", default="auto", show_default=True)
@click.option("--server", type=click.Path(path_type=Path, exists=True), help="A llama-server to compare with.")
@click.option("--peer", "peers", multiple=True, default=(NGRAM_SIMPLE,), show_default=True, metavar="NAME=ARGUMENTS")
@click.option("--per-subtask", type=int, help="So many prompts of each of Spec-Bench's subtasks. Default: all.")
@click.option("-n", "count", type=int, default=96, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--only", help="Question ids, comma-separated.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(**options: Any) -> None:
    """Speed by prompt, in rounds."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are ended too
    wanted = set(options["only"].split(",")) if options["only"] else None
    out: Path | None = options["out"]
    results: list[dict[str, Any]] = []
    if out and out.exists():
        results = json.loads(out.read_text(encoding="utf-8"))["prompts"]
    done = {result["question_id"] for result in results}
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(load(options["model"], drafter=options["drafter"], n_ctx=2048))
        pair = Pair(engine, options["drafter"], 2048)
        stack.callback(pair.plain.context.close)
        addresses: dict[str, str] = {}
        for peer in options["peers"] if options["server"] else ():
            name, _, arguments = peer.partition("=")
            server = llama_server(options["server"], engine.model.path, engine.context.threads, shlex.split(arguments))
            addresses[name] = stack.enter_context(server)
        for prompt in read_prompts(options["prompts"], options["per_subtask"]):
            if prompt["question_id"] in done or (wanted and str(prompt["question_id"]) not in wanted):
                continue
            tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))
            if len(tokens) + options["count"] > 2048:
                print(f"{prompt['question_id']}: {len(tokens)} tokens, too long", flush=True)
                continue
            told = {"question_id": prompt["question_id"], "category": prompt["category"]}
            results.append({**told, **measure(pair, addresses, tokens, options["count"], options["rounds"])})
            save(out, WHAT, [engine.model.path], {"drafter": named(options["drafter"]), "prompts": results}, quiet=True)
            show(results[-1])


def named(drafters: str) -> str:
    """The drafters without the folders of their files."""
    return "+".join(Path(name).name for name in drafters.split("+"))


def measure(pair: Pair, peers: dict[str, str], tokens: list[int], count: int, rounds: int) -> dict[str, Any]:
    """All of them on one prompt, which is read, and a few tokens made, before anything counts.

    A short answer is over in a moment, and a moment is noisy: it gets as many rounds as make `rounds` long ones.
    """
    answered(pair, peers, tokens, WARM_UP)
    speeds: dict[str, list[float]] = {name: [] for name in ("auto", "plain", *peers)}
    answers: dict[str, list[list[int]]] = {name: [] for name in speeds}
    blocks: list[float] = []
    while sum(map(len, answers["plain"])) < rounds * count:
        round_speeds, round_answers, block_length = answered(pair, peers, tokens, count)
        for name, speed, answer in zip(speeds, round_speeds, round_answers, strict=True):
            speeds[name].append(speed)
            answers[name].append(answer)
        blocks.append(block_length)
    return {
        "prompt_tokens": len(tokens),
        "tokens": len(answers["plain"][0]),
        "speeds": speeds,
        "mean_block_length": blocks,
        "ratios": {
            f"auto/{name}": summary([a / b for a, b in zip(speeds["auto"], speeds[name], strict=True)])
            for name in speeds
            if name != "auto"
        },
        "same_as_plain": {name: all(answer == answers["plain"][0] for answer in answers[name]) for name in speeds},
    }


def answered(
    pair: Pair, peers: dict[str, str], tokens: list[int], count: int
) -> tuple[list[float], list[list[int]], float]:
    """One round: speeds and answers of auto, plain decoding and the peers, and auto's mean block length."""
    speeds, sessions = pair.answer(tokens, count)
    answers = [session.emitted for session in sessions]
    for address in peers.values():
        speed, answer = ask_server(address, tokens, count)
        speeds.append(speed)
        answers.append(answer)
    return speeds, answers, sessions[0].tally.mean_block_length


def show(result: dict[str, Any]) -> None:
    """One line for people."""
    parts = [f"{name} {statistics.median(speeds):.2f}" for name, speeds in result["speeds"].items()]
    for name, ratio in result["ratios"].items():
        low, high = ratio["interval"]
        parts.append(f"{name} {ratio['median']:.3f} [{low:.3f}, {high:.3f}]")
    parts.append(f"block {statistics.median(result['mean_block_length']):.2f}")
    parts.append(f"same: {result['same_as_plain']}")
    print(f"{result['category']}: " + ", ".join(parts), flush=True)


if __name__ == "__main__":
    main()
