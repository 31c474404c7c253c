"""The report of `edgespec doctor`: T(n), the costs of drafters, the exact rows, and the cost of exact mode."""

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
"""Called with the name of a measurement; returns what is called with its finished forward passes and all."""

_EXACT_CONTEXT = 1024
"""Context length, in tokens, with which the cost of --exact is measured."""

_PREFILL_ROUNDS, _STEP_ROUNDS = 2, 12
"""How often a prefill and a decode step are timed for the cost of --exact."""


def report(engine: Engine, progress: ReportProgress) -> dict[str, Any]:
    """The report as JSON, times in milliseconds. The engine's latency models take over what was measured.

    `progress(what)(done, total)` counts forward passes. Raises UnsupportedModel for a model that cannot be drafted for.
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
        drafter_times, was_busy = timed(
            drafter.context,
            probe_tokens(drafter.n_inputs),
            depth=min(depth, drafter.context.n_ctx // 2),
            prefill=True,
            progress=progress(drafter.name),
        )
        if not was_busy:
            drafter.latency.measure(drafter_times)
        busy |= was_busy
        costs[drafter.name] = DrafterCost(drafter_times[1] / times[1], drafter.prefill_seconds(times[1]) / times[1])
    engine.context.forget()
    try:
        exact, was_busy = _exact_report(engine, tokens, progress)
        busy |= was_busy
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
                "ms": 1e3 * cost.draft_token * times[1],
                "of_t1": cost.draft_token,
                "reading_ms": 1e3 * cost.prefill * times[1],
                "pays_from": outlook(ratios, cost.draft_token).break_even,
            }
            for name, cost in costs.items()
        ],
        "exact": exact,
        "busy": busy,
        "advice": list(advice(ratios, costs, busy=busy)),
    }


def _exact_report(engine: Engine, tokens: list[int], progress: ReportProgress) -> tuple[dict[str, Any], bool]:
    """The exact rows, the cost of --exact, its best speed-up over plain decoding; and whether the machine was busy.

    Exact rows and latency model are stored for `load(exact=True)`.
    """
    threads, n_ctx = engine.context.threads, min(_EXACT_CONTEXT, engine.context.n_ctx)
    assert engine.profiles is not None
    profiles = engine.profiles.with_exact_keys()
    with (
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads)) as plain,
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads, kv_type=EXACT_KV)) as exact,
    ):
        rows = profiles.exact_rows(exact, engine.model.vocabulary.size, progress("which evaluations are exact"))
        depth = min(DEPTH, n_ctx // 2)
        prefill = _time_ratio(plain, exact, _PREFILL_ROUNDS, lambda context: _prefill_seconds(context, tokens[:depth]))
        single = _time_ratio(plain, exact, _STEP_ROUNDS, lambda context: _step_seconds(context, tokens[: depth + 1]))
        exact.max_rows = rows
        times, busy = timed(exact, tokens, depth=depth, progress=progress("exact evaluations"))
    if not busy:
        latency = profiles.latency(rows)
        latency.measure(times)
        profiles.save(latency)
    best = outlook({n: seconds / times[1] for n, seconds in times.items()}).best / single
    return {"rows": rows, "best_speed_up": best, "single": single, "reading": prefill}, busy


def _time_ratio(
    plain: LlamaContext, exact: LlamaContext, rounds: int, seconds_of: Callable[[LlamaContext], float]
) -> float:
    """The time with `exact` over that with `plain`, each the least of `rounds` rounds in turn."""
    times = [(seconds_of(plain), seconds_of(exact)) for _ in range(rounds)]
    return min(exact_time for _, exact_time in times) / min(plain_time for plain_time, _ in times)


def _prefill_seconds(context: LlamaContext, tokens: list[int]) -> float:
    """The seconds of a prefill of `tokens`."""
    context.forget()
    begun = time.perf_counter()
    context.prefill(tokens)
    return time.perf_counter() - begun


def _step_seconds(context: LlamaContext, tokens: list[int]) -> float:
    """The seconds of a forward pass of the last of `tokens`, after the others were prefilled."""
    begun = time.perf_counter()
    context.evaluate(tokens, NOTHING)
    return time.perf_counter() - begun
