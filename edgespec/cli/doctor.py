"""`edgespec doctor`: what this machine makes of a model, and whether speculation can pay."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import click

from edgespec import Engine, __version__, machine
from edgespec.backend import EXACT_KV, LlamaContext, build_name, gpus
from edgespec.cli.asked import open_engine
from edgespec.core import NOTHING
from edgespec.doctor import DEPTH, advice, outlook, speed_up, timed
from edgespec.drafters.model import ModelDrafter
from edgespec.errors import UnsupportedModel
from edgespec.exact import sample
from edgespec.gguf_header import read_header
from edgespec.measured import Measured
from edgespec.policy import AdaptivePolicy

_BAR = 32

_LONGEST = 1024
"""Tokens of the contexts that the price of --exact is found with."""

_READINGS, _SINGLES = 2, 12
"""How often each is timed for that."""


def run(options: dict[str, Any]) -> None:
    """Measure, and print what was found."""
    with open_engine(options) as engine:
        found = examine(engine, options["gpu_layers"])
    if options["as_object"]:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(_lines(found)))


def examine(engine: Engine, gpu_layers: int) -> dict[str, Any]:
    """Everything that is printed; times in milliseconds. Raises UnsupportedModel where nothing can be drafted."""
    if not engine.model.can_rewind:
        raise UnsupportedModel(
            f"{engine.model.path}: speculation cannot pay: this model cannot take tokens back (recurrent memory), so "
            "edgespec decodes it plainly"
        )
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
            assert isinstance(drafter.context, LlamaContext)
            own, also_busy = timed(
                drafter.context,
                sample(drafter.context.input_size),
                depth=min(depth, drafter.context.n_ctx // 2),
                progress=_Progress(drafter.name),
            )
            if not also_busy:
                drafter.cost.measure(own)
            busy |= also_busy
            prices[drafter.name] = own[1] / times[1]
    engine.context.forget()
    exact, also_busy = _exact(engine, tokens, gpu_layers)
    busy |= also_busy
    return {
        "edgespec": __version__,
        "cpu": machine.cpu_name(),
        "gpus": list(gpus()),
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
        "exact": exact,
        "busy": busy,
        "advice": list(advice(ratios, prices, busy=busy)),
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"edgespec {found['edgespec']} on {found['cpu']}, {found['threads']} threads"
    yield from (f"GPU: {name}" for name in found["gpus"])
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
    yield (
        f"Its price: a single token takes {exact['single']:.2f} times as long as without it, reading a prompt "
        f"{exact['reading']:.2f} times."
    )
    yield from found["advice"]


def _exact(engine: Engine, tokens: list[int], gpu_layers: int) -> tuple[dict[str, Any], bool]:
    """The widths that --exact keeps to, its price, and the best it can bring over plain decoding without it.

    With it, whether the machine was busy. What is found is remembered for `load(exact=True)`.
    """
    threads, n_ctx = engine.context.threads, min(_LONGEST, engine.context.n_ctx)
    fingerprint = read_header(engine.model.path).fingerprint
    measured = Measured(machine.cache_directory(), fingerprint, threads, gpu_layers, EXACT_KV, "auto")
    with (
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads)) as plain,
        closing(LlamaContext(engine.model, n_ctx=n_ctx, threads=threads, kv_type=EXACT_KV)) as exact,
    ):
        rows = measured.exact_rows(exact, engine.model.vocabulary.size, _Progress("which evaluations are exact"))
        depth = min(DEPTH, n_ctx // 2)
        reading = _price(plain, exact, _READINGS, lambda context: _reading(context, tokens[:depth]))
        single = _price(plain, exact, _SINGLES, lambda context: _single(context, tokens[: depth + 1]))
        exact.max_rows = rows
        times, busy = timed(exact, tokens, depth=depth, progress=_Progress("exact evaluations"))
    if not busy:
        cost = measured.cost(rows)
        cost.measure(times)
        measured.remember(cost)
    best = max(n * times[1] / seconds for n, seconds in times.items()) / single
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


class _Progress:
    """A line on a terminal while something is measured."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[Kmeasuring {self._what}: {done} of {total}", nl=False, err=True)
            if done == total:
                click.echo("\r\x1b[K", nl=False, err=True)
