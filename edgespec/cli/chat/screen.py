"""The output of a chat: answers on standard output, everything else on standard error.

Markdown is printed as it is: it stays readable, and code can be copied.
"""

from __future__ import annotations

import sys
from typing import Any

from edgespec import Block, Engine, Session
from edgespec.cli.report import speed_up
from edgespec.cli.terminal import echo, write

_DRAFTED: dict[str, Any] = {"fg": "green"}


class Screen:
    """`colour`: show which tokens were drafted; `footer`: a line of figures after each answer."""

    def __init__(self, *, footer: bool) -> None:
        self.colour = False
        self.footer = footer

    def block(self, block: Block) -> None:
        """Print a block of the answer."""
        drafted = block.text[: block.drafted_characters]
        if drafted:
            write(drafted, **(_DRAFTED if self.colour else {}))
        write(block.text[block.drafted_characters :])

    def end_line(self) -> None:
        """End the line of the answer."""
        echo()

    def end(self, session: Session, engine: Engine, max_tokens: int) -> None:
        """Print why an answer ended, and the footer."""
        if note := ending(session, max_tokens):
            self.note(note)
        if self.footer and session.emitted:
            self.note(footer(session, engine))

    def note(self, text: str) -> None:
        """Print a note of the program."""
        echo(text, err=True, dim=True)

    def hint(self, text: str) -> None:
        """Print a note in the midst of an answer, on a line of its own; only for a person at a terminal."""
        if sys.stderr.isatty():
            if sys.stdout.isatty():
                echo()
            self.note(text)

    def error(self, text: str) -> None:
        """Print an error."""
        echo(f"edgespec: {text}", err=True)


def ending(session: Session, max_tokens: int) -> str | None:
    """Why an answer was cut, and how to get more; None where the model ended it."""
    if session.finish_reason == "cancelled":
        return "[stopped]"
    if session.finish_reason != "length":
        return None
    if len(session.emitted) >= max_tokens:
        return f"[cut after {max_tokens} tokens: /set max-tokens {2 * max_tokens} allows more]"
    return "[the context is full: /undo, /clear, or /set context-shift on]"


def footer(session: Session, engine: Engine) -> str:
    """Speed, speed-up over plain decoding by T(1), mean acceptance length, context used."""
    tally = session.tally
    used = tally.prompt_tokens + len(session.emitted) - tally.dropped_tokens
    parts = [f"{tally.tokens_per_second:.1f} tokens/s"]
    if ratio := speed_up(session, engine, used):
        parts.append(f"{ratio:.2f} times plain decoding")
    parts += [f"{tally.mean_block_length:.2f} tokens a block", f"context {used} of {engine.context.n_ctx}"]
    return ", ".join(parts)
