"""What the `recycle` drafter costs: microseconds to find the largest of a row of logits, and to draft a tree.

    python -m benchmarks.recycling_time [--json benchmarks/results/recycling-time.json]

The logits are normally distributed, those of a vocabulary of 49k, 152k and 262k tokens. Beside `largest`, numpy's own
ways are timed: `argpartition` for the largest ones, `argmax` for the largest one, and the exact normaliser of a
softmax. Of many runs the fastest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import save
from edgespec.core import NOTHING, Evaluation, Row, Verdict
from edgespec.drafters.recycling import SUCCESSORS, Recycle, largest

VOCABULARIES = (49_152, 151_936, 262_144)
NODES = (8, 16, 32, 48)
RUNS = 300
SPREAD = 3.0
"""The standard deviation of the logits."""


def fastest(work: Callable[[], object]) -> float:
    """The microseconds of the fastest run."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return 1e6 * min(times)


def of_a_row(row: Row) -> dict[str, float]:
    """What can be done with one row."""
    drafter = Recycle()
    evaluation, verdict = Evaluation([0], 1, NOTHING, row[None]), Verdict((), (0,))
    return {
        "observe": fastest(lambda: drafter.observe(evaluation, verdict)),
        "largest": fastest(lambda: largest(row)),
        "argpartition": fastest(lambda: np.argpartition(row, -SUCCESSORS)),
        "argmax": fastest(row.argmax),
        "normaliser": fastest(lambda: np.exp(row - row.max()).sum()),
    }


def of_a_tree(vocabulary: int, nodes: int) -> tuple[int, float]:
    """The nodes of a draft after a token whose successors, and theirs, are all as likely, and its time."""
    drafter = Recycle()
    generator = np.random.default_rng(0)
    for token in range(SUCCESSORS**2):
        row = np.zeros(vocabulary, np.float32)
        row[generator.permutation(SUCCESSORS**2)[:SUCCESSORS]] = np.linspace(20.0, 19.9, SUCCESSORS)
        drafter.observe(Evaluation([token], 1, NOTHING, row[None]), Verdict((), (0,)))
    return len(drafter.propose([0], nodes)), fastest(lambda: drafter.propose([0], nodes))


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """One line for each vocabulary, and one for each number of nodes."""
    rows: list[dict[str, Any]] = []
    for vocabulary in VOCABULARIES:
        logits = (SPREAD * np.random.default_rng(0).standard_normal(vocabulary)).astype(np.float32)
        rows.append({"vocabulary": vocabulary, **of_a_row(logits)})
        print(", ".join(f"{name} {value:.0f}" for name, value in rows[-1].items()) + " us")
    trees = []
    for nodes in NODES:
        drafted, microseconds = of_a_tree(VOCABULARIES[0], nodes)
        trees.append({"nodes": drafted, "propose": microseconds})
        print(f"{drafted} nodes: propose {microseconds:.0f} us")
    save(out, "microseconds of the recycle drafter", [], {"runs": RUNS, "rows": rows, "trees": trees})


if __name__ == "__main__":
    main()
