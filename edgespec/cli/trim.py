"""`edgespec trim`: a smaller drafter, which says what the full one says of the tokens it kept."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from edgespec import machine
from edgespec.backend import QUANTIZATIONS
from edgespec.catalogue import kept_list, resolve
from edgespec.vetting import vet
from edgespec.vocabtrim.counts import load_counts
from edgespec.vocabtrim.kept import load_kept
from edgespec.vocabtrim.make import Trimmed
from edgespec.vocabtrim.make import trim as make_trimmed


@click.command()
@click.argument("full", metavar="FULL.gguf")
@click.option("-o", "out", type=click.Path(path_type=Path), required=True, metavar="OUT.gguf", help="The new file.")
@click.option(
    "--counts",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="COUNTS.json",
    help="What edgespec calibrate counted. Repeatable: the counts are added up.",
)
@click.option(
    "--kept",
    type=click.Path(path_type=Path),
    metavar="KEPT.json",
    help="A list of tokens in the order of their worth instead: a file, or one that ships (qwen2.5).",
)
@click.option("--size", type=int, metavar="K", help="Keep K tokens. Multiples of 64 run fastest.")
@click.option("--coverage", type=float, metavar="F", help="Keep as many as make up this share of the counted ones.")
@click.option(
    "--quantize",
    type=click.Choice(list(QUANTIZATIONS)),
    help="Bring all weights to this type first. With q4_0 a drafter is fastest on most CPUs.",
)
def trim(**options: Any) -> None:
    """Keep only the vocabulary rows that a target really uses. The new file is proved against the full model."""
    if (options["size"] is None) == (options["coverage"] is None):
        raise click.UsageError("give either --size K or --coverage F")
    if not options["counts"] and options["kept"] is None:
        raise click.UsageError("give --counts COUNTS.json (edgespec calibrate makes them), or --kept KEPT.json")
    cache = machine.cache_directory()
    path = resolve(options["full"], cache_dir=cache)
    vet(path, cache_dir=cache)
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
