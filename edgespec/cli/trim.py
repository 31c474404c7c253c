"""`edgespec trim`: cuts a drafter's vocabulary to the tokens that a target uses."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from edgespec.backend.load_check import check_loads
from edgespec.cli.terminal import echo
from edgespec.hub.resolve import keep_list_path, resolve
from edgespec.system import cpu
from edgespec.system.files import check_writable
from edgespec.vocabtrim.counts import load_counts
from edgespec.vocabtrim.keep_list import load_keep_list
from edgespec.vocabtrim.pipeline import Trimmed
from edgespec.vocabtrim.pipeline import trim as trim_model


def run(options: dict[str, Any]) -> None:
    """Trim, and print the result."""
    if (options["size"] is None) == (options["coverage"] is None):
        raise click.UsageError("give either --size K or --coverage F")
    if not options["counts"] and options["kept"] is None:
        raise click.UsageError("give --counts COUNTS.json (edgespec calibrate makes them), or --kept KEPT.json")
    cache = cpu.cache_directory()
    path = resolve(options["full"], cache_dir=cache)
    check_loads(path, cache_dir=cache)
    check_writable(options["out"], replace=options["force"])
    counts = [load_counts(path_of_counts) for path_of_counts in options["counts"]]
    keep_list = load_keep_list(keep_list_path(options["kept"])) if options["kept"] else None
    with contextlib.ExitStack() as bars:
        trimmed = trim_model(
            path, options["out"], counts, keep_list=keep_list, size=options["size"],
            wanted_coverage=options["coverage"], quantization=options["quantize"], progress=_TrimBars(bars),
        )  # fmt: skip
    echo(trim_report(trimmed))


class _TrimBars:
    """A progress bar for each stage. `bars` closes the last one."""

    def __init__(self, bars: contextlib.ExitStack) -> None:
        self._bars = bars
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.label != stage:
            self._bars.close()
            bar = click.progressbar(length=total, label=stage, file=sys.stderr, hidden=not sys.stderr.isatty())
            self._bar = self._bars.enter_context(bar)
        self._bar.update(done - self._bar.pos)


def trim_report(model: Trimmed) -> str:
    """Sizes, coverage and the equivalence check, in three lines."""
    return "\n".join(
        (
            f"{model.path}: {model.kept} of {model.full_vocab} tokens ({model.forced} of them kept whatever their "
            f"count), {model.size.bytes / 1e6:.0f} MB read for a token instead of {model.full_size.bytes / 1e6:.0f}",
            f"held-out text covered: {model.coverage:.2%} of {model.held_out_tokens} tokens"
            if model.held_out_tokens
            else "how much of the target's text that covers was not measured: it takes --counts of edgespec calibrate",
            f"proved: {model.proof.logits} logits identical to the full model's, after {model.proof.tokens} tokens, "
            f"{model.proof.dropped_tokens} of them without a row of their own",
        )
    )
