"""`edgespec doctor`: what this machine makes of a model, and whether speculation can pay."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from edgespec import Engine, __version__, machine
from edgespec.backend import EXACT_KV, LlamaContext, build_name
from edgespec.cli.options import model_options, open_engine
from edgespec.doctor import DEPTH, advice, outlook, speed_up, timed
from edgespec.drafters.model import ModelDrafter
from edgespec.exact import exact_rows, sample
from edgespec.policy import AdaptivePolicy

_BAR = 32


@click.command()
@model_options
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead.")
def doctor(**options: Any) -> None:
    """Measure what evaluations of several tokens cost here, and say whether speculation can pay.

    What is measured is remembered, so that answers start from it. Let nothing else run meanwhile.
    """
    with open_engine(options) as engine:
        found = examine(engine)
    if options["as_object"]:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(_lines(found)))


def examine(engine: Engine) -> dict[str, Any]:
    """Everything that is printed; times in milliseconds."""
    tokens = sample(engine.model.vocabulary.size)
    depth = min(DEPTH, engine.context.n_ctx // 2)
    times, busy = timed(engine.context, tokens, depth=depth, progress=_Progress("target"))
    ratios = {n: seconds / times[1] for n, seconds in times.items()}
    assert isinstance(engine.policy, AdaptivePolicy)
    if not busy:
        engine.policy.cost.measure(times)
    prices: dict[str, float] = {}
    for drafter in engine.drafters:
        if isinstance(drafter, ModelDrafter):
            own_depth = min(depth, drafter.context.n_ctx // 2)
            own, also_busy = timed(drafter.context, tokens, depth=own_depth, progress=_Progress(drafter.name))
            if not also_busy:
                drafter.cost.measure(own)
            busy |= also_busy
            prices[drafter.name] = own[1] / times[1]
    engine.context.forget()
    return {
        "edgespec": __version__,
        "cpu": machine.cpu_name(),
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
            {"name": name, "ms": 1e3 * price * times[1], "of_t1": price, "pays_from": outlook(ratios, price).break_even}
            for name, price in prices.items()
        ],
        "exact": _exact(engine, tokens, times[1]),
        "busy": busy,
        "advice": list(advice(ratios, prices, busy=busy)),
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"edgespec {found['edgespec']} on {found['cpu']}, {found['threads']} threads"
    yield found["build"]
    yield f"{found['model']}, {found['model_bytes'] / 1e6:.0f} MB of weights"
    yield ""
    yield f"T(n), the time of an evaluation of n tokens after {found['context']} tokens of context:"
    yield f"{'n':>4} {'ms':>8} {'of T(1)':>8} {'best speed-up':>14}"
    longest = max(one["ratio"] for one in found["curve"])
    for one in found["curve"]:
        bar = "▇" * max(1, round(_BAR * one["ratio"] / longest))
        yield f"{one['n']:>4} {one['ms']:>8.1f} {one['ratio']:>8.2f} {one['best_speed_up']:>14.2f}  {bar}"
    yield ""
    for drafter in found["drafters"]:
        yield f"{drafter['name']}: {drafter['ms']:.1f} ms a guess"
    exact = found["exact"]
    if exact["rows"] == 1:
        yield "--exact: no evaluation of several tokens is exact to the bit here, so nothing would be drafted."
    else:
        yield (
            f"--exact: evaluations of up to {exact['rows']} tokens are exact to the bit, so text can come "
            f"{exact['best_speed_up']:.2f} times as fast at best."
        )
    yield from found["advice"]


def _exact(engine: Engine, tokens: list[int], single: float) -> dict[str, Any]:
    """The widths that --exact keeps to, and the best it can then bring over plain decoding without it."""
    context = LlamaContext(
        engine.model, n_ctx=min(1024, engine.context.n_ctx), threads=engine.context.threads, kv_type=EXACT_KV
    )
    try:
        rows = exact_rows(context, tokens)
        context.max_rows = rows
        times, _ = timed(context, tokens, depth=min(DEPTH, context.n_ctx // 2), progress=_Progress("exact evaluations"))
    finally:
        context.close()
    return {"rows": rows, "best_speed_up": max(n * single / seconds for n, seconds in times.items())}


class _Progress:
    """A line on a terminal while something is measured."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[Kmeasuring {self._what}: {done} of {total}", nl=False, err=True)
            if done == total:
                click.echo("\r\x1b[K", nl=False, err=True)
