"""A plot of a training: loss and acceptance by epoch. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from edgespec.errors import OutputError
from edgespec.heads.train import Epoch
from edgespec.system.files import replacing

_DPI = 120


def draw(history: Sequence[Epoch], path: Path, title: str) -> None:
    """Write the plot of a training's epochs to `path`, whole or not at all; its suffix says the format."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(9.0, 3.5), layout="constrained")
    losses, lengths, rates = figure.subplots(1, 3)
    losses.plot(epochs, [epoch.loss for epoch in history], marker="o", markersize=3)
    losses.set_title("loss in training", loc="left", fontsize="medium")
    lengths.plot(epochs, [epoch.mean_length for epoch in history], marker="o", markersize=3)
    lengths.set_title("mean acceptance length, held out", loc="left", fontsize="medium")
    for position in range(len(history[0].rates) if history else 0):
        values = [epoch.rates[position] for epoch in history]
        rates.plot(epochs, values, marker="o", markersize=3, label=f"position {position + 1}")
    rates.set_title("accepted, given those before", loc="left", fontsize="medium")
    rates.legend(fontsize="x-small", frameon=False)
    for axes in (losses, lengths, rates):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, format=path.suffix.removeprefix("."))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
