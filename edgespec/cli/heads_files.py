"""The commands `edgespec heads info`, `assemble`, `convert` and `forget`. What they do is in `heads_filing`."""

# ruff: noqa: PLC0415 - imports where they are needed, as in edgespec.cli.commands
# fmt: off

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespec.cli.options import force_option, model_option

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("heads", type=_FILE, metavar="HEADS.gguf")
@click.option("-m", "--model", metavar="MODEL", help="Check that the heads belong to this target.")
@click.option("--json", "as_object", is_flag=True, help="Print one JSON object instead of text.")
def info(**options: Any) -> None:
    """Say what a file of heads holds: their kind, their target, and how they were trained."""
    from edgespec.cli.heads_filing import info as run

    run(options)


@click.command()
@click.argument("heads", type=_FILE, metavar="LEARNED.gguf")
@model_option
@click.option(
    "-o", "out", type=_FILE, metavar="OUT.gguf",
    help="Output file. Default: one in edgespec's data folder, named after the heads and their target.",
)
@force_option
@click.option(
    "--type", "kind", type=click.Choice(["q4_0", "q8_0", "f16"]), default="q4_0", show_default=True,
    help="Type of the rows of the LM head.",
)
def assemble(**options: Any) -> None:
    """Make heads that can run, from what was learned and the rows of MODEL's LM head."""
    from edgespec.cli.heads_filing import assemble as run

    run(options)


@click.command()
@click.argument("checkpoint", type=_FILE, metavar="CHECKPOINT")
@model_option
@click.option("-o", "out", type=_FILE, required=True, metavar="LEARNED.gguf", help="Output file.")
@force_option
@click.option(
    "--kind", type=click.Choice(["medusa", "hydra", "eagle3"]),
    help="Kind of heads. Default: by the names of the tensors.",
)
@click.option(
    "--kept", type=_FILE, metavar="KEPT.json",
    help="A list of tokens in the order of their use: a file, or a built-in list (qwen2.5). Default: by their ids.",
)
@click.option(
    "--size", type=click.IntRange(1), metavar="N",
    help="Number of tokens that the heads can draft. Default: all that EAGLE-3 has, 16384 of Medusa and Hydra.",
)
@click.option(
    "--type", "kind_of_matrices", type=click.Choice(["q8_0", "q4_0", "f16"]), default="q8_0", show_default=True,
    help="Type of the matrices in the file.",
)
def convert(**options: Any) -> None:
    """Make a learned part for MODEL from published heads: Medusa, Hydra or EAGLE-3.

    CHECKPOINT is a .safetensors or PyTorch file, or a folder of them with their config.json.
    """
    from edgespec.cli.heads_filing import convert as run

    run(options)


@click.command()
def forget() -> None:
    """Remove the answers that edgespec chat --learn kept, of all models."""
    from edgespec.cli.heads_filing import forget as run

    run()
