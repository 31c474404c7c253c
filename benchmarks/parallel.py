"""Several answers at once against plain decoding one after the other, and the most that measured T(n) allows.

    python -m benchmarks.parallel -m TARGET.gguf --prompts benchmarks/prompts/completions.jsonl --json OUT.json

Nothing is drafted, no answer may end, and the time of the prefill is left out on both sides. In each round the prompts
are answered one after the other and with `--parallel` 2 to 8, forwards and backwards in turn, and ratios are taken
within a round. T(n) is the median time of a forward pass of n sequences, with every n in each turn, and T(1) that of
one in a context of its own: n T(1) / T(n) is what n at once could gain without any other work, and the largest of these
is what the answers are compared with.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import digest, read_prompts, save
from edgespec import Engine, SamplingParams, load
from edgespec.backend import evaluate_together, shared_contexts
from edgespec.bench.statistics import summary
from edgespec.core import NOTHING

WHAT = "several answers at once"
SEQUENCES = 8
PASSES = 24
"""Forward passes of each number of sequences."""


def pass_seconds(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[float]:
    """T(n) in seconds for n = 1 .. len(prompts)."""
    count, longest = len(prompts), max(map(len, prompts)) + PASSES * len(prompts)
    contexts = shared_contexts(
        engine.model, count, n_ctx=longest, threads=engine.context.threads, trees=True
    )  # fmt: skip
    texts, alone = [list(prompt) for prompt in prompts], [*prompts[0], prompts[0][-1]]
    engine.context.prefill(alone[:-1])
    for context, text in zip(contexts, texts, strict=True):
        context.prefill(text)
        text.append(text[-1])
    times: list[list[float]] = [[] for _ in prompts]
    for _ in range(PASSES):
        for n in range(1, count + 1):
            begun = time.perf_counter()
            if n == 1:
                engine.context.evaluate(alone, NOTHING)
            else:
                evaluate_together([(contexts[place], texts[place], NOTHING) for place in range(n)])
            times[n - 1].append(time.perf_counter() - begun)
            for text in [alone] if n == 1 else texts[:n]:
                text.append(text[-1])
    contexts[0].close()
    return [statistics.median(each) for each in times]


def decode_seconds(
    engine: Engine, prompts: Sequence[str], parallel: int, sampling: SamplingParams, count: int
) -> float:
    """The seconds that all answers take beside their prefill."""
    options: dict[str, Any] = {"sampling": sampling, "max_tokens": count}
    engine.context.forget()
    begun = time.perf_counter()
    if parallel == 1:
        sessions = [engine.generate(prompt, **options) for prompt in prompts]
    else:
        sessions = engine.generate_many(prompts, parallel=parallel, **options)
    seconds = time.perf_counter() - begun
    assert all(len(session.emitted) == count for session in sessions)
    return seconds - sum(session.tally.prompt_seconds for session in sessions)


@click.command()
@click.option("-m", "--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--prompts", "file", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-n", "--max-tokens", "count", default=64, show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--threads", type=int)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: Path, file: Path, count: int, rounds: int, threads: int | None, out: Path | None) -> None:
    """Print one line for each number of answers at once."""
    prompts = [str(prompt["turns"][0]) for prompt in read_prompts(file)][:SEQUENCES]
    with load(model, drafter="none", n_ctx=4096, threads=threads) as engine:
        vocabulary = engine.model.vocabulary
        ends = {token: -1e9 for token in range(vocabulary.size) if vocabulary.is_end(token)}
        sampling = SamplingParams(logit_bias=ends)
        times = pass_seconds(engine, [engine.read_prompt(p, None, None, raw=False, shift=False)[0] for p in prompts])
        bounds = [(n + 1) * times[0] / seconds for n, seconds in enumerate(times)]
        widths = range(1, len(prompts) + 1)
        found: list[dict[int, float]] = []
        decode_seconds(engine, prompts, len(prompts), sampling, 8)
        for turn in range(rounds):
            order = widths if turn % 2 == 0 else reversed(widths)
            found.append({n: decode_seconds(engine, prompts, n, sampling, count) for n in order})
    rows: list[dict[str, Any]] = []
    for n in widths:
        gain = summary([[each[1] / each[n] for each in found]])
        speed = statistics.median(len(prompts) * count / each[n] for each in found)
        rows.append({"at_once": n, "pass_ms": 1e3 * times[n - 1], "bound": bounds[n - 1], "gain": gain, "speed": speed})
        print(
            f"{n} at once: T({n}) {1e3 * times[n - 1]:.1f} ms, n T(1) / T(n) {bounds[n - 1]:.2f}; "
            f"{speed:.1f} tokens/s, {gain['median']:.2f} of one after the other",
            flush=True,
        )
    share = rows[-1]["gain"]["median"] / max(bounds)
    print(f"{len(prompts)} prompts: {share:.0%} of the largest n T(1) / T(n)")
    settings = {"prompts": digest(file), "max_tokens": count, "rounds": rounds, "threads": threads}
    save(out, WHAT, [model], {"settings": settings, "rows": rows, "share_of_largest": share})


if __name__ == "__main__":
    main()
