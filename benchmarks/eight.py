"""`auto` against plain decoding and against llama-server's n-gram drafting, on a handful of prompts, interleaved.

    python benchmarks/eight.py -m MODEL.gguf --prompts FILE.jsonl --server PATH --json benchmarks/results/NAME.json

Every round answers a prompt once with each configuration, in alternating order, with the prompt already in the KV
cache: the speed is of the tokens after the first, by each program's own clock. Ratios are taken within a round.
Drafters and acceptance estimates are new for every answer, so that none profits from having seen it before.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from common import read_prompts, save, summary

from edgespec import Engine, load
from edgespec.drafters import make_drafters
from edgespec.policy import AdaptivePolicy, Policy

Answer = tuple[float, list[int]]
"""Tokens per second, and the tokens."""


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


def ask_server(address: str, tokens: list[int], count: int) -> Answer:
    """One greedy answer of a llama-server."""
    body = {"prompt": tokens, "n_predict": count, "temperature": 0.0, "cache_prompt": True, "return_tokens": True,
            "samplers": ["temperature"]}  # fmt: skip
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as response:
        answer = json.load(response)
    timings = answer["timings"]
    return (timings["predicted_n"] - 1) / timings["predicted_ms"] * 1e3, answer["tokens"]


def ask_engine(engine: Engine, policy: Policy, tokens: list[int], count: int) -> Answer:
    """One greedy answer of ours."""
    engine.policy = policy
    session = engine.session(list(tokens), max_tokens=count)
    for _ in session.stream():
        pass
    return session.tally.tokens_per_second, session.emitted


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
    results: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(load(model, n_ctx=2048))
        assert isinstance(engine.policy, AdaptivePolicy)
        cost = engine.policy.cost
        ask: dict[str, Callable[[list[int]], Answer]] = {
            "plain": lambda tokens: ask_engine(engine, AdaptivePolicy((), cost), tokens, count),
            "auto": lambda tokens: ask_engine(engine, AdaptivePolicy(make_drafters("auto"), cost), tokens, count),
        }
        if server:
            address = stack.enter_context(
                llama_server(server, engine.model.path, engine.context.threads, ["--spec-type", "ngram-simple"])
            )
            ask["ngram-simple"] = lambda tokens: ask_server(address, tokens, count)
        for prompt in read_prompts(prompts):
            if wanted and str(prompt["question_id"]) not in wanted:
                continue
            tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))
            results.append(measure(prompt, tokens, ask, rounds))
        path = engine.model.path
    save(out, "auto against plain decoding and llama-server ngram-simple", [path], {"prompts": results})
    if min(len(result["speeds"]["plain"]) for result in results) < 1:
        sys.exit(1)


def measure(prompt: dict[str, Any], tokens: list[int], ask: dict[str, Callable[[list[int]], Answer]], rounds: int) -> dict[str, Any]:  # fmt: skip # noqa: E501
    """All configurations on one prompt."""
    for one in ask.values():
        one(tokens)  # warm-up: the prompt goes into each cache
    speeds: dict[str, list[float]] = {name: [] for name in ask}
    answers: dict[str, list[list[int]]] = {name: [] for name in ask}
    for turn in range(rounds):
        for name in list(ask) if turn % 2 == 0 else list(reversed(ask)):
            speed, answer = ask[name](tokens)
            answers[name].append(answer)
            speeds[name].append(speed)
    ratios = {
        f"auto/{name}": summary([a / b for a, b in zip(speeds["auto"], speeds[name], strict=True)])
        for name in ask
        if name != "auto"
    }
    same = {name: all(answer == answers["plain"][0] for answer in answers[name]) for name in ask}
    medians = {name: round(statistics.median(values), 2) for name, values in speeds.items()}
    print(prompt["category"], medians, {k: (round(v["median"], 3), [round(x, 3) for x in v["interval"]]) for k, v in ratios.items()}, same, flush=True)  # fmt: skip # noqa: E501
    return {
        "question_id": prompt["question_id"], "category": prompt["category"], "prompt_tokens": len(tokens),
        "speeds": speeds, "ratios": ratios, "same_as_plain": same,
    }  # fmt: skip


if __name__ == "__main__":
    main()
