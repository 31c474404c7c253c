"""`edgespec chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
from prompt_toolkit import PromptSession

from edgespec import Chat, Engine, SamplingParams
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.options import model_options, open_engine, sampling_of, sampling_options, stats_option
from edgespec.cli.report import PromptProgress, decisions_of, print_stats
from edgespec.errors import ContextOverflow


@click.command()
@model_options
@sampling_options
@stats_option
def chat(**options: Any) -> None:
    """Talk with a model. Ctrl-C stops an answer; /exit or Ctrl-D leaves."""
    sampling = sampling_of(options)
    with open_engine(options) as engine:
        conversation = engine.chat(options["system"])
        interactive = sys.stdin.isatty()
        if interactive:
            click.secho(f"{engine.model.name}, drafter {engine.drafter_name}. /exit or Ctrl-D leaves.", dim=True)
        for text in _typed_lines() if interactive else _piped_lines():
            if text == "/exit":
                break
            if text.startswith("/"):
                click.echo(f"no command {text.split()[0]}: there is /exit", err=True)
                continue
            _say(engine, conversation, text, sampling, options)


def _say(engine: Engine, conversation: Chat, text: str, sampling: SamplingParams, options: dict[str, Any]) -> None:
    """One turn, streamed to the terminal."""
    progress = PromptProgress()
    try:
        session = conversation.stream(
            text,
            sampling=sampling,
            max_tokens=options["max_tokens"],
            stop=options["stop"],
            overflow="shift" if options["context_shift"] else "stop",
            on_prefill=progress,
        )
    except ContextOverflow as error:  # the conversation is full; what was said stays on the screen
        click.echo(f"edgespec: {error}", err=True)
        return
    with cancelled_by_ctrl_c(session), decisions_of(engine, options["stats"]) as decisions:
        for block in session.stream():
            progress.clear()
            decisions.tell(session, block)
            click.echo(block.text, nl=False)
    click.echo(" [stopped]" if session.finish_reason == "cancelled" else "")
    if options["stats"]:
        print_stats(session, engine, sampling.seed)


def _typed_lines() -> Iterator[str]:
    prompt: Callable[[str], str] = PromptSession[str]().prompt
    while True:
        try:
            text = prompt("> ").strip()
        except KeyboardInterrupt:  # Ctrl-C on the line being typed clears it
            continue
        except EOFError:
            return
        if text:
            yield text


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin:
        if text := line.strip():
            yield text
