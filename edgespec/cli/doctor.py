"""`edgespec doctor`: measures a model on this machine, and says whether drafting can pay."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from edgespec.cli.build import open_engine
from edgespec.cli.report import json_line
from edgespec.cli.terminal import echo, redraw
from edgespec.doctor.report import report
from edgespec.engine.fit import size_text
from edgespec.engine.options import EngineOptions
from edgespec.engine.plan import LoadPlan, plan_load

_MAX_BAR = 32
"""The longest bar, in columns."""
_TABLE_COLUMNS = 39
"""The width of the table to the left of the bars, in columns."""


def run(options: dict[str, Any]) -> None:
    """Measure, and print the report."""
    plan = plan_load(
        EngineOptions(
            options["model"], options["drafter"], options["ctx"], options["threads"], options["gpu_layers"],
            exact=options["exact"],
        )
    )  # fmt: skip
    with open_engine(options) as engine:
        results = {**report(engine, _MeasurementProgress), "memory": _memory(plan)}
    if options["as_object"]:
        echo(json_line(results, sys.stdout))
    else:
        echo("\n".join(_lines(results)))


def _lines(results: dict[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    yield f"edgespec {results['edgespec']} on {results['cpu']}: {results['cores']} cores, {results['threads']} threads"
    yield from (f"GPU: {name}" for name in results["gpus"])
    yield results["build"]
    yield f"{results['model']}, {results['model_bytes'] / 1e6:.0f} MB of weights"
    if memory := results["memory"]:
        longest, free = memory["longest_context"], memory["free"]
        yield (
            f"Memory: about {size_text(memory['total'])} with --ctx {memory['context']} (weights "
            f"{size_text(memory['weights'])}, KV cache {size_text(memory['kv_cache'])}), and "
            f"{'an unknown amount is' if free is None else f'{size_text(free)} were'} free before the load; "
            + (f"up to --ctx {longest} fits" if longest else "no context fits without swapping")
        )
    yield ""
    yield f"T(n), the time of a forward pass of n tokens, after {results['context']} tokens of context:"
    yield f"{'n':>4} {'ms':>8} {'of T(1)':>8} {'best speed-up':>14}"
    widest = max(1, min(_MAX_BAR, shutil.get_terminal_size().columns - _TABLE_COLUMNS - 1))
    longest = max(point["ratio"] for point in results["curve"])
    for point in results["curve"]:
        bar = "▇" * max(1, round(widest * point["ratio"] / longest))
        yield f"{point['n']:>4} {point['ms']:>8.1f} {point['ratio']:>8.2f} {point['best_speed_up']:>14.2f}  {bar}"
    yield ""
    for drafter in results["drafters"]:
        yield (
            f"{drafter['name']}: {drafter['ms']:.1f} ms a draft token, {drafter['reading_ms']:.0f} ms of prefill "
            "before the first"
        )
    exact = results["exact"]
    if "hindrance" in exact:
        yield f"--exact is not possible here: {exact['hindrance']}"
    elif exact["rows"] == 1:
        yield "--exact: no forward pass of several tokens is exact to the bit here, so nothing would be drafted."
    else:
        yield (
            f"--exact: forward passes of up to {exact['rows']} tokens are exact to the bit; text can come at most "
            f"{exact['best_speed_up']:.2f} times as fast."
        )
    if "hindrance" not in exact:
        yield (
            f"With --exact a single token takes {exact['single']:.2f} times as long, and reading a prompt "
            f"{exact['reading']:.2f} times."
        )
    yield from results["advice"]


def _memory(plan: LoadPlan) -> dict[str, Any] | None:
    """The memory that the load takes, in bytes, and the longest context that fits and that the model was trained for.

    `free` is null where the system does not tell; all of it where GPUs take part.
    """
    fit = plan.fit
    if fit is None:
        return None
    free = fit.free.available
    return {
        "weights": fit.weights,
        "kv_cache": fit.kv_cache,
        "buffers": fit.buffers,
        "total": fit.total,
        "context": fit.n_ctx,
        "free": None if math.isinf(free) else int(free),
        "longest_context": fit.longest(max(fit.n_ctx, fit.models[0].n_ctx_scaled)),
    }


class _MeasurementProgress:
    """A line on a terminal with the progress of one measurement."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            redraw(f"measuring {self._what}: {done} of {total}" if done < total else "")
