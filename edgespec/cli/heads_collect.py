"""The command `edgespec heads collect`. What it does is in `heads_collecting`, imported when it runs."""

# ruff: noqa: PLC0415 - imports where they are needed, as in edgespec.cli.commands
# fmt: off

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespec.cli.options import gpu_layers_option, model_option, threads_option

_FILE = click.Path(path_type=Path)


@click.command()
@model_option
@click.option("-o", "out", type=_FILE, required=True, metavar="DIR", help="Folder of the data set.")
@click.option("--prompts", type=_FILE, metavar="FILE", help="Prompts for the target to answer.")
@click.option(
    "--own-prompts", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="Let the target write N prompts of its own, and answer them too.",
)
@click.option(
    "--answers", type=_FILE, metavar="FILE",
    help='Recorded answers, as generate --prompts prints them: only the states are collected. Their prompts are those '
    'of --prompts with their question_id, or a text "prompt" in each line.',
)
@click.option(
    "-n", "--max-tokens", type=click.IntRange(1), default=256, show_default=True, metavar="N",
    help="Longest answer, in tokens.",
)
@click.option("--raw", is_flag=True, help="Use the prompts as they are, without the chat template.")
@click.option(
    "--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F",
    help="Temperature of the answers; 0 always takes the likeliest token.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed.")
@click.option(
    "--limit-tokens", type=click.IntRange(1), metavar="N",
    help="Begin no answer once the answers have N tokens. A larger N continues.",
)
@click.option(
    "--layers", metavar="L,L,L",
    help="Layers whose inputs are collected, with the last state; none: the last state alone. Default: a low, a middle "
    "and a high one, where llama.cpp publishes them.",
)
@click.option(
    "--top", type=click.IntRange(1, 128), default=16, show_default=True, metavar="K",
    help="Number of likeliest next tokens to keep for each token.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=32, show_default=True, metavar="N",
    help="Number of answers decoded together.",
)
@click.option(
    "--ctx", type=click.IntRange(64), default=1024, show_default=True, metavar="N",
    help="Longest prompt with its answer, in tokens.",
)
@threads_option
@gpu_layers_option
def collect(**options: Any) -> None:
    """Collect what heads learn from: answers of MODEL, the target, with its hidden states.

    edgespec heads train reads them. Ctrl-C stops; the same command continues. Never train on what you measure with:
    leave prompts of benchmarks out.
    """
    from edgespec.cli.heads_collecting import run

    run(options)
