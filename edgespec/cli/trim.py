"""`edgespec trim`: a smaller drafter, which says what the full one says of the tokens it kept."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from edgespec.backend.load_check import check_loads
from edgespec.hub.resolve import kept_list, resolve
from edgespec.system import cpu as machine
from edgespec.system.files import check_writable
from edgespec.vocabtrim.counts import load_counts
from edgespec.vocabtrim.keep_list import load_kept
from edgespec.vocabtrim.pipeline import Trimmed
from edgespec.vocabtrim.pipeline import trim as make_trimmed


def run(options: dict[str, Any]) -> None:
    """Trim, and say what came of it."""
    if (options["size"] is None) == (options["coverage"] is None):
        raise click.UsageError("give either --size K or --coverage F")
    if not options["counts"] and options["kept"] is None:
        raise click.UsageError("give --counts COUNTS.json (edgespec calibrate makes them), or --kept KEPT.json")
    cache = machine.cache_directory()
    path = resolve(options["full"], cache_dir=cache)
    check_loads(path, cache_dir=cache)
    check_writable(options["out"])
    counts = [load_counts(one) for one in options["counts"]]
    listed = load_kept(kept_list(options["kept"])) if options["kept"] else None
    with contextlib.ExitStack() as bars:
        made = make_trimmed(
            path, options["out"], counts, listed=listed, size=options["size"], wanted_coverage=options["coverage"],
            quantization=options["quantize"], progress=_Progress(bars),
        )  # fmt: skip
    click.echo(report(made))


class _Progress:
    """A bar for every stage, one below the other. `bars` closes the last."""

    def __init__(self, bars: contextlib.ExitStack) -> None:
        self._bars = bars
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.label != stage:
            self._bars.close()
            bar = click.progressbar(length=total, label=stage, file=sys.stderr, hidden=not sys.stderr.isatty())
            self._bar = self._bars.enter_context(bar)
        self._bar.update(done - self._bar.pos)


def report(made: Trimmed) -> str:
    """What was made, in three lines."""
    return "\n".join(
        (
            f"{made.path}: {made.kept} of {made.full_vocab} tokens ({made.forced} of them kept whatever their count), "
            f"{made.size.bytes / 1e6:.0f} MB read for a token instead of {made.full_size.bytes / 1e6:.0f}",
            f"held-out text covered: {made.coverage:.2%} of {made.held_out_tokens} tokens"
            if made.held_out_tokens
            else "how much of the target's text that covers was not measured: it takes --counts of edgespec calibrate",
            f"proved: {made.proof.logits} logits identical to the full model's, after {made.proof.tokens} tokens, "
            f"{made.proof.outside} of them without a row of their own",
        )
    )
