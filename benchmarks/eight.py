"""`auto` against plain decoding and against llama-server's n-gram drafting, on a handful of prompts, interleaved.

    python benchmarks/eight.py -m MODEL.gguf --prompts FILE.jsonl --server PATH --json benchmarks/results/NAME.json

`auto` and plain decoding answer side by side: on a context each, in lockstep, whichever has fewer tokens makes the next
block. A busy moment of the machine then falls on both, and a ratio is worth far more than one between whole answers.
llama-server answers after each such pair. Every prompt is in its KV cache already: the speed is of the tokens after the
first, the server's by its own clock. Drafters and acceptance estimates are new for every answer, so that none profits
from having seen it before; what an evaluation costs is remembered. A result file begun is gone on with.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from common import read_prompts, save, summary

from edgespec import Engine, Session, load
from edgespec.backend import LlamaContext
from edgespec.drafters import make_drafters
from edgespec.policy import AdaptivePolicy

WHAT = "auto against plain decoding and llama-server ngram-simple"


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
    body = {"prompt": tokens, "n_predict": count, "temperature": 0.0, "cache_prompt": True, "return_tokens": True,
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

    def __init__(self, auto: Engine, n_ctx: int) -> None:
        assert isinstance(auto.policy, AdaptivePolicy)
        self.auto = auto
        self.cost = auto.policy.cost
        context = LlamaContext(auto.model, n_ctx=n_ctx, threads=auto.context.threads)
        self.plain = Engine(auto.model, context, AdaptivePolicy((), self.cost), drafter_name="none")

    def answer(self, tokens: list[int], count: int) -> tuple[list[float], list[Session]]:
        """One greedy answer each, the drafted one first: speeds and sessions."""
        self.auto.policy = AdaptivePolicy(make_drafters("auto"), self.cost)
        sessions = [engine.session(list(tokens), max_tokens=count) for engine in (self.auto, self.plain)]
        return side_by_side(sessions), sessions


@click.command()
@click.option("-m", "--model", required=True)
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("--server", type=click.Path(path_type=Path, exists=True), help="A llama-server to compare with.")
@click.option("-n", "count", type=int, default=96, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--only", help="Question ids, comma-separated.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: str, prompts: Path, server: Path | None, count: int, rounds: int, only: str | None, out: Path | None) -> None:  # fmt: skip # noqa: E501
    """Speed by prompt, in rounds."""
    wanted = set(only.split(",")) if only else None
    results: list[dict[str, Any]] = (
        json.loads(out.read_text(encoding="utf-8"))["prompts"] if out and out.exists() else []
    )
    done = {result["question_id"] for result in results}
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(load(model, n_ctx=2048))
        pair = Pair(engine, 2048)
        stack.callback(pair.plain.context.close)
        address = None
        if server:
            address = stack.enter_context(
                llama_server(server, engine.model.path, engine.context.threads, ["--spec-type", "ngram-simple"])
            )
        for prompt in read_prompts(prompts):
            if prompt["question_id"] in done or (wanted and str(prompt["question_id"]) not in wanted):
                continue
            tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))
            result = measure(pair, address, tokens, count, rounds)
            results.append({"question_id": prompt["question_id"], "category": prompt["category"], **result})
            save(out, WHAT, [engine.model.path], {"prompts": results}, quiet=True)
            show(results[-1])


def measure(pair: Pair, address: str | None, tokens: list[int], count: int, rounds: int) -> dict[str, Any]:
    """All three on one prompt; the first round warms up and is not counted."""
    speeds: dict[str, list[float]] = {"auto": [], "plain": []} | ({"ngram-simple": []} if address else {})
    answers: dict[str, list[list[int]]] = {name: [] for name in speeds}
    blocks: list[float] = []
    for turn in range(rounds + 1):
        pair_speeds, sessions = pair.answer(tokens, count)
        round_speeds = list(pair_speeds)
        round_answers = [session.emitted for session in sessions]
        if address:
            speed, answer = ask_server(address, tokens, count)
            round_speeds.append(speed)
            round_answers.append(answer)
        if turn == 0:
            continue
        for name, speed, answer in zip(speeds, round_speeds, round_answers, strict=True):
            speeds[name].append(speed)
            answers[name].append(answer)
        blocks.append(sessions[0].tally.mean_block_length)
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
