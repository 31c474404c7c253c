"""What the benchmarks share: prompts, medians and their uncertainty, result files that say where they come from."""

from __future__ import annotations

import datetime
import json
import platform
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgespec
from edgespec.backend import build_name
from edgespec.machine import cpu_name, default_threads
from edgespec.store import replacing

MULTI_TURN = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def subtask(category: str) -> str:
    """Spec-Bench's name for a category: its eight 10-question ones together are `multi-turn`."""
    return "multi-turn" if category in MULTI_TURN else category


def read_prompts(path: Path, per_subtask: int | None = None) -> list[dict[str, Any]]:
    """Prompts in Spec-Bench's form, evenly spread over each subtask when only some are wanted."""
    prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if per_subtask is None:
        return prompts
    groups: dict[str, list[dict[str, Any]]] = {}
    for prompt in prompts:
        groups.setdefault(subtask(prompt["category"]), []).append(prompt)
    return [
        group[place * len(group) // per_subtask]
        for group in groups.values()
        for place in range(min(per_subtask, len(group)))
    ]


def bootstrap(values: Sequence[float], statistic: Callable[..., Any] = np.median, rounds: int = 4000) -> list[float]:
    """The 95% interval of a statistic by resampling."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (rounds, len(values)))
    low, high = np.percentile(statistic(drawn, axis=1), [2.5, 97.5])
    return [float(low), float(high)]


def summary(ratios: Sequence[float]) -> dict[str, Any]:
    """Median, spread and interval of paired ratios."""
    return {
        "median": statistics.median(ratios),
        "interval": bootstrap(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "pairs": len(ratios),
    }


def without_folders(word: str) -> str:
    """An argument with the paths in it that lead out of the project cut down to their last part."""
    return re.sub(r"(^|[\s+=,])(?:\.\.)?/[^\s+,]*?([^/\s+,]+)(?=$|[\s+,])", r"\1\2", word)


def save(path: Path | None, what: str, models: Iterable[Path], result: dict[str, Any], *, quiet: bool = False) -> None:
    """Write a result file, or nothing when no path was given."""
    if path is None:
        return
    origin = {
        "what": what,
        "command": shlex.join(["python", *(without_folders(word) for word in sys.argv)]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {"cpu": cpu_name(), "cores": default_threads(), "system": platform.platform()},
        "versions": {"edgespec": edgespec.__version__, "llama.cpp": build_name(), "python": platform.python_version()},
        "models": [{"file": model.name, "bytes": model.stat().st_size} for model in models],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({**origin, **result}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not quiet:
        print(f"written: {path}")
