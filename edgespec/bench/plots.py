"""Plots of a benchmark result. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edgespec.bench import metrics
from edgespec.bench.contestants import PLAIN
from edgespec.bench.report import plot_files
from edgespec.system.files import replacing

_DPI = 120
_POSITIONS_PLOTTED = 16
_NO_RATIO: dict[str, Any] = {"median": 0.0, "interval": (0.0, 0.0)}


def draw(result: dict[str, Any], folder: Path, stem: str) -> dict[str, str]:
    """Write the plots to `folder`; their titles and file names."""
    if not result["prompts"]:
        return {}
    drawn: dict[str, str] = {}
    for name, title, paint, size in (
        ("speed-up", "Speed over plain decoding, by subtask", _speed_ups, (9.0, 4.5)),
        ("curve", "T(n): the time of an evaluation of n tokens", _latency_curve, (6.0, 4.0)),
        ("acceptance", "Acceptance by place in the draft", _acceptance, (6.0, 4.0)),
    ):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
        if paint(axes, result):
            figure.legend(loc="outside lower center", ncols=4, fontsize="x-small", frameon=False)
            file = plot_files(folder, stem)[name]
            drawn[title] = file.name
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=_DPI)
    return drawn


def _speed_ups(axes: Axes, result: dict[str, Any]) -> bool:
    """Bars by subtask, whiskers for the 95% interval of the median."""
    groups = metrics.groups(result["prompts"])
    names = metrics.contestants(result)[1:]
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        ratios = [metrics.median_ratio(group, name, PLAIN) or _NO_RATIO for group in groups.values()]
        medians = [ratio["median"] for ratio in ratios]
        whiskers = [
            [ratio["median"] - ratio["interval"][0] for ratio in ratios],
            [ratio["interval"][1] - ratio["median"] for ratio in ratios],
        ]
        centres = [number - 0.4 + width * (index + 0.5) for number in range(len(groups))]
        axes.bar(centres, medians, width, yerr=whiskers, label=name, error_kw={"elinewidth": 0.8})
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=20, ha="right", fontsize="small")
    axes.set_ylabel("times plain decoding")
    return True


def _latency_curve(axes: Axes, result: dict[str, Any]) -> bool:
    """T(n)/T(1), and n as the line of tokens that are evaluated one by one."""
    if "curve" not in result:
        return False
    times = {int(n): value for n, value in result["curve"]["ms"].items()}
    axes.plot(list(times), [value / times[1] for value in times.values()], marker="o", markersize=3, label="together")
    axes.plot(list(times), list(times), color="gray", linewidth=0.8, linestyle="--", label="one by one")
    axes.set_xlabel("n, tokens of an evaluation")
    axes.set_ylabel("T(n) / T(1)")
    axes.set_ylim(0, 1.3 * max(value / times[1] for value in times.values()))
    return True


def _acceptance(axes: Axes, result: dict[str, Any]) -> bool:
    """Acceptance rate by position in the draft, a line for each drafter of each contestant."""
    for name in result["settings"]["drafters"]:
        for drafter, positions in metrics.acceptance_by_position(result["prompts"], name).items():
            shown = [
                (position, n_accepted / judged)
                for position, (n_accepted, judged) in enumerate(positions[:_POSITIONS_PLOTTED], 1)
                if judged >= metrics.MIN_JUDGED
            ]
            if shown:
                label = drafter if drafter == name else f"{name}: {drafter}"
                axes.plot(*zip(*shown, strict=True), marker="o", markersize=3, label=label)
    if not axes.lines:
        return False
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("place in the draft")
    axes.set_ylabel("right, if those before it were")
    return True
