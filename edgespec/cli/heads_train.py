"""The commands `edgespec heads train` and `evaluate`. What they do is in `heads_training`, imported when they run."""

# ruff: noqa: PLC0415 - imports where they are needed, as in edgespec.cli.commands
# fmt: off

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgespec.cli.options import force_option, model_option, threads_option

_FILE = click.Path(path_type=Path)


def _device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--device", type=click.Choice(["cpu", "cuda"]), help="Where to compute. Default: a GPU if PyTorch finds one.",
    )(command)


@click.command()
@click.argument("data", type=_FILE, metavar="[DATA]", required=False)
@model_option
@click.option("--from-use", is_flag=True, help="Train on the answers that edgespec chat --learn kept, instead of DATA.")
@click.option(
    "--kind", type=click.Choice(["medusa", "hydra", "hydra++", "eagle3"]), required=True, help="Kind of heads.",
)
@click.option("-o", "out", type=_FILE, required=True, metavar="LEARNED.gguf", help="Output file.")
@force_option
@click.option(
    "--size", type=click.IntRange(1), default=16384, show_default=True, metavar="N",
    help="Number of tokens that the heads can draft: those most frequent in the answers.",
)
@click.option(
    "--kept", type=_FILE, metavar="KEPT.json",
    help="A list of tokens in the order of their use, instead of the answers: a file, or a built-in list (qwen2.5).",
)
@click.option(
    "--count", type=click.IntRange(1, 8), default=4, show_default=True, metavar="N",
    help="Number of tokens that are drafted in a row.",
)
@click.option("--tokens", type=click.IntRange(1), metavar="N", help="Train on so many answer tokens. Default: all.")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="Most passes over the answers. Default: by kind.")
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), metavar="F",
              help="Highest learning rate. Default: by kind.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Answer tokens of a step. Default: 512.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Random seed.")
@click.option(
    "--type", type=click.Choice(["q8_0", "q4_0", "f16"]), default="q8_0", show_default=True,
    help="Type of the matrices in the file.",
)
@click.option("--start", type=_FILE, metavar="HEADS.gguf", help="Go on from these heads and their tokens.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw loss and acceptance by epoch: .png, .svg or .pdf.")
@_device_option
@threads_option
def train(**options: Any) -> None:
    """Train heads for MODEL on DATA, the answers that edgespec heads collect recorded.

    The answers to a twentieth of the prompts are held out to measure by. Ctrl-C stops; the same command continues.
    With --from-use, --start names the heads that learn more.
    """
    from edgespec.cli.heads_training import train as run

    run(options)


@click.command()
@click.argument("heads", type=_FILE, metavar="HEADS.gguf")
@click.argument("data", type=_FILE, metavar="DATA")
@model_option
@click.option(
    "--nodes", type=click.IntRange(1, 64), metavar="N", help="Replay with draft trees of N nodes, too.",
)
@click.option(
    "--all", "every", is_flag=True, help="Replay all answers, not only the held-out ones: the heads never saw DATA.",
)
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of text.")
@_device_option
@threads_option
def evaluate(**options: Any) -> None:
    """Replay the held-out answers of DATA with heads of MODEL: how many draft tokens would have been accepted."""
    from edgespec.cli.heads_training import evaluate as run

    run(options)
