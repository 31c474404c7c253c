"""`edgespec doctor`: what this machine makes of a model, and whether speculation can pay."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click

from edgespec.cli.build import open_engine
from edgespec.cli.terminal import redraw
from edgespec.doctor.report import report

_BAR = 32
_TABLE = 39
"""Columns of the table to the left of the bars."""


def run(options: dict[str, Any]) -> None:
    """Measure, and print what was found."""
    with open_engine(options) as engine:
        found = report(engine, _Progress)
    if options["as_object"]:
        click.echo(json.dumps(found))
    else:
        click.echo("\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"edgespec {found['edgespec']} on {found['cpu']}: {found['cores']} cores, {found['threads']} threads"
    yield from (f"GPU: {name}" for name in found["gpus"])
    yield found["build"]
    yield f"{found['model']}, {found['model_bytes'] / 1e6:.0f} MB of weights"
    yield ""
    yield f"T(n), the time of a forward pass of n tokens, after {found['context']} tokens of context:"
    yield f"{'n':>4} {'ms':>8} {'of T(1)':>8} {'best speed-up':>14}"
    widest = max(1, min(_BAR, shutil.get_terminal_size().columns - _TABLE - 1))
    longest = max(one["ratio"] for one in found["curve"])
    for one in found["curve"]:
        bar = "▇" * max(1, round(widest * one["ratio"] / longest))
        yield f"{one['n']:>4} {one['ms']:>8.1f} {one['ratio']:>8.2f} {one['best_speed_up']:>14.2f}  {bar}"
    yield ""
    for drafter in found["drafters"]:
        yield (
            f"{drafter['name']}: {drafter['ms']:.1f} ms a draft token, {drafter['reading_ms']:.0f} ms of prefill "
            "before the first"
        )
    exact = found["exact"]
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
    yield from found["advice"]


class _Progress:
    """A line on a terminal while something is measured."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            redraw(f"measuring {self._what}: {done} of {total}" if done < total else "")
