"""What edgespec costs: plain decoding against llama-cpp-python's own `Llama` on the same settings, in pairs.

    python -m benchmarks.overhead -m MODEL.gguf --prompts FILE.jsonl --pairs 5 --json benchmarks/results/overhead.json

Both are loaded once, each answers every prompt in turn (A B, then B A), and ratios are taken within a pair. `Llama`
decodes through its lowest public loop (`generate`), greedy, without making text; edgespec makes the text too.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import llama_cpp

from benchmarks.common import read_prompts, save, summary
from edgespec import Engine, load


def ours(engine: Engine, tokens: list[int], count: int) -> tuple[float, float, list[int]]:
    """Time to first token and time of the other tokens, in seconds, and the tokens."""
    engine.context.forget()
    begun = time.perf_counter()
    session = engine.session(list(tokens), max_tokens=count)
    blocks = session.stream()
    next(blocks)
    first = time.perf_counter()
    for _ in blocks:
        pass
    return first - begun, time.perf_counter() - first, session.emitted


def theirs(llama: llama_cpp.Llama, tokens: list[int], count: int) -> tuple[float, float, list[int]]:
    """The same of `Llama`."""
    llama.reset()
    emitted: list[int] = []
    begun = time.perf_counter()
    first = begun
    for token in llama.generate(tokens, temp=0.0, top_k=1, repeat_penalty=1.0):
        emitted.append(int(token))
        if len(emitted) == 1:
            first = time.perf_counter()
        if len(emitted) == count or llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), token):
            break
    return first - begun, time.perf_counter() - first, emitted


def start_up(model: str | None) -> float:
    """Seconds of `edgespec generate` for one token, warm: import, header check, load, prompt."""
    command = [
        sys.executable,
        "-m",
        "edgespec",
        "generate",
        "-n",
        "1",
        "-p",
        "Hello",
        *(["-m", model] if model else []),
    ]
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


@click.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=int, default=8, show_default=True)
@click.option("-n", "count", type=int, default=96, show_default=True)
@click.option("--pairs", type=int, default=5, show_default=True, help="Pairs a prompt.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: str | None, prompts: Path, limit: int, count: int, pairs: int, out: Path | None) -> None:
    """Plain decoding, ours against Llama's."""
    seconds = start_up(model)
    print(f"start-up with one token: {seconds:.2f} s (median of 5)")
    speed: list[float] = []
    first: list[float] = []
    equal = runs = 0
    with load(model, drafter="none", n_ctx=2048) as engine:
        llama = llama_cpp.Llama(
            str(engine.model.path), n_ctx=2048, n_threads=engine.context.threads,
            n_threads_batch=engine.context.threads, flash_attn=True, verbose=False,
        )  # fmt: skip
        for prompt in read_prompts(prompts)[:limit]:
            tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))[:1500]
            ours(engine, tokens, 8), theirs(llama, tokens, 8)  # warm-up
            for pair in range(pairs):
                if pair % 2:
                    b, a = theirs(llama, tokens, count), ours(engine, tokens, count)
                else:
                    a, b = ours(engine, tokens, count), theirs(llama, tokens, count)
                runs += 1
                equal += a[2] == b[2]
                first.append(a[0] / b[0])
                if min(len(a[2]), len(b[2])) > 8:
                    speed.append((len(a[2]) - 1) / a[1] / ((len(b[2]) - 1) / b[1]))
            print(f"{prompt['question_id']}: speed {statistics.median(speed[-pairs:]):.3f}, first token {statistics.median(first[-pairs:]):.3f}")  # fmt: skip # noqa: E501
        path = engine.model.path
    result = {
        "start_up_seconds": seconds, "decoding_speed_ratio": summary(speed), "first_token_time_ratio": summary(first),
        "equal_answers": [equal, runs],
    }  # fmt: skip
    print(result)
    save(out, "edgespec's plain decoding against llama-cpp-python's Llama", [path], result)


if __name__ == "__main__":
    main()
