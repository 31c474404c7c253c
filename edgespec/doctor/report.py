"""All that `edgespec doctor` finds out: T(n), what drafters cost, which evaluations are exact and at what price."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from edgespec import __version__
from edgespec.backend import EXACT_KV, LlamaContext, build_name, gpus
from edgespec.core import NOTHING
from edgespec.doctor.measure import DEPTH, DrafterCost, advice, outlook, speed_up, timed
from edgespec.engine.engine import Engine
from edgespec.engine.exact import probe_tokens
from edgespec.errors import UnsupportedModel
from edgespec.system import cpu

ReportProgress = Callable[[str], Callable[[int, int], None]]
"""What is measured now, to whom the evaluations done and all of them are told."""

_LONGEST = 1024
"""Tokens of the contexts that the price of --exact is found with."""

_READINGS, _SINGLES = 2, 12
"""How often each is timed for that."""


def report(engine: Engine, progress: ReportProgress) -> dict[str, Any]:
    """What `edgespec doctor` says, times in milliseconds. The engine remembers what was measured.

    `progress(what)(done, total)` counts evaluations. Raises UnsupportedModel where nothing can be drafted.
    """
    if not engine.model.can_rewind:
        raise UnsupportedModel(
            f"{engine.model.path}: speculation cannot pay: this model cannot take tokens back (recurrent memory), so "
            "edgespec decodes it plainly"
        )
    tokens = probe_tokens(engine.model.vocabulary.size)
    depth = min(DEPTH, engine.context.n_ctx // 2)
    times, busy = timed(engine.context, tokens, depth=depth, progress=progress("target"))
    ratios = {n: seconds / times[1] for n, seconds in times.items()}
    if not busy:
        engine.latency.measure(times)
    costs: dict[str, DrafterCost] = {}
    for drafter in engine.drafters:
        if drafter.context is None or drafter.latency is None:
            continue
        own, also_busy = timed(
            drafter.context,
            probe_tokens(drafter.n_inputs),
            depth=min(depth, drafter.context.n_ctx // 2),
            reading=True,
            progress=progress(drafter.name),
        )
        if not also_busy:
            drafter.latency.measure(own)
        busy |= also_busy
        costs[drafter.name] = DrafterCost(own[1] / times[1], drafter.prefill_seconds(times[1]) / times[1])
    engine.context.forget()
    try:
        exact, also_busy = _exact(engine, tokens, progress)
        busy |= also_busy
    except UnsupportedModel as error:  # a GPU without its types of keys and values
        exact = {"rows": 1, "hindrance": str(error)}
    return {
        "edgespec": __version__,
        "cpu": cpu.cpu_name(),
        "gpus": list(gpus()),
        "cores": cpu.cores(),
        "threads": engine.context.threads,
        "build": build_name(),
        "model": engine.model.path.name,
        "model_bytes": engine.model.size_bytes,
        "context": depth,
        "curve": [
            {"n": n, "ms": 1e3 * times[n], "ratio": ratio, "best_speed_up": speed_up(n - 1, 1.0, ratio, 0.0)}
            for n, ratio in ratios.items()
        ],
        "drafters": [
            {
                "name": name,
                "ms": 1e3 * price.guess * times[1],
                "of_t1": price.guess,
                "reading_ms": 1e3 * price.reading * times[1],
                "pays_from": outlook(ratios, price.guess).break_even,
            }
            for name, price in costs.items()
        ],
        "exact": exact,
        "busy": busy,
        "advice": list(advice(ratios, costs, busy=busy)),
    }


def _exact(engine: Engine, tokens: list[int], progress: ReportProgress) -> tuple[dict[str, Any], bool]:
    """The widths that --exact keeps to, its price, and the best it can bring over plain decoding without it.

    With it, whether the machine was busy. What is found is remembered for `load(exact=True)`.
    """
    threads, n_ctx = engine.context.threads, min(_LONGEST, engine.context.n_ctx)
    assert engine.profiles is not None
    profiles = engine.profiles.with_exact_keys()
    with (
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads)) as plain,
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads, kv_type=EXACT_KV)) as exact,
    ):
        rows = profiles.exact_rows(exact, engine.model.vocabulary.size, progress("which evaluations are exact"))
        depth = min(DEPTH, n_ctx // 2)
        reading = _price(plain, exact, _READINGS, lambda context: _reading(context, tokens[:depth]))
        single = _price(plain, exact, _SINGLES, lambda context: _single(context, tokens[: depth + 1]))
        exact.max_rows = rows
        times, busy = timed(exact, tokens, depth=depth, progress=progress("exact evaluations"))
    if not busy:
        latency = profiles.latency(rows)
        latency.measure(times)
        profiles.save(latency)
    best = outlook({n: seconds / times[1] for n, seconds in times.items()}).best / single
    return {"rows": rows, "best_speed_up": best, "single": single, "reading": reading}, busy


def _price(plain: LlamaContext, exact: LlamaContext, rounds: int, seconds_of: Callable[[LlamaContext], float]) -> float:
    """How many times as long something takes with `exact`: the least of several rounds in turn, for a busy moment."""
    pairs = [(seconds_of(plain), seconds_of(exact)) for _ in range(rounds)]
    return min(with_it for _, with_it in pairs) / min(without for without, _ in pairs)


def _reading(context: LlamaContext, tokens: list[int]) -> float:
    """The seconds that reading `tokens` takes."""
    context.forget()
    begun = time.perf_counter()
    context.prefill(tokens)
    return time.perf_counter() - begun


def _single(context: LlamaContext, tokens: list[int]) -> float:
    """The seconds that the last of `tokens` takes, after the others were read."""
    begun = time.perf_counter()
    context.evaluate(tokens, NOTHING)
    return time.perf_counter() - begun
