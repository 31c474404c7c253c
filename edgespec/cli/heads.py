"""The commands `edgespec heads ...`. What a command does is in a module that is imported only when it runs."""

from __future__ import annotations

import click

from edgespec.cli.heads_collect import collect
from edgespec.cli.heads_files import assemble, convert, forget, info
from edgespec.cli.heads_train import evaluate, train


@click.group()
def heads() -> None:
    """Make heads that draft from a target's hidden states: collect answers, train, measure, assemble."""


heads.add_command(collect)
heads.add_command(train)
heads.add_command(evaluate)
heads.add_command(assemble)
heads.add_command(convert)
heads.add_command(info)
heads.add_command(forget)
