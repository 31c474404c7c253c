"""What the benchmarks share: prompts and result files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from edgespec.bench import results, statistics
from edgespec.errors import EdgespecError
from edgespec.system import prompts
from edgespec.system.prompts import subtask

__all__ = ["begun", "digest", "read_prompts", "save", "subtask", "summary"]


def read_prompts(path: Path, per_subtask: int | None = None) -> list[dict[str, Any]]:
    """Prompts in Spec-Bench's form, evenly spread over each subtask when only some are wanted."""
    read = prompts.identified(prompts.read_prompts(path))
    return prompts.spread(read, per_subtask) if per_subtask else read


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median and interval of the ratios of one text."""
    return statistics.summary([ratios])


def begun(
    path: Path | None, what: str, models: Iterable[Path], settings: dict[str, Any], *, holds: str
) -> dict[str, Any]:
    """What an earlier run with the same settings left in `path`, under `holds`; nothing where there is none.

    Ends the program where `path` holds anything else: other settings, model files, code, or another machine's figures.
    """
    try:
        fresh = {**results.origin(what, models, ["python", *sys.argv]), "settings": settings}
        return (results.resumed(path, fresh, holds=holds) if path else None) or {}
    except EdgespecError as error:
        raise click.ClickException(str(error)) from error


def digest(path: Path) -> str:
    """A file's content, as a setting."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def save(path: Path | None, what: str, models: Iterable[Path], result: dict[str, Any], *, quiet: bool = False) -> None:
    """Write a result file, or nothing when no path was given."""
    if path is None:
        return
    results.write(path, {**results.origin(what, models, ["python", *sys.argv]), **result})
    if not quiet:
        print(f"written: {path}")
