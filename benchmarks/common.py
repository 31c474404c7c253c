"""What the benchmarks share: prompts and result files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgespec.bench import prompts, results, statistics
from edgespec.bench.prompts import subtask

__all__ = ["read_prompts", "save", "subtask", "summary"]


def read_prompts(path: Path, per_subtask: int | None = None) -> list[dict[str, Any]]:
    """Prompts in Spec-Bench's form, evenly spread over each subtask when only some are wanted."""
    read = prompts.identified(prompts.read_prompts(path))
    return prompts.spread(read, per_subtask) if per_subtask else read


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, interval and spread of the ratios of one text."""
    return statistics.summary([ratios])


def save(path: Path | None, what: str, models: Iterable[Path], result: dict[str, Any], *, quiet: bool = False) -> None:
    """Write a result file, or nothing when no path was given."""
    if path is None:
        return
    results.write(path, {**results.origin(what, models, ["python", *sys.argv]), **result})
    if not quiet:
        print(f"written: {path}")
