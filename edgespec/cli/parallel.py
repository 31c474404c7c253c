"""`edgespec generate --prompts FILE --parallel N`: several conversations at once, printed in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from edgespec import Block, Engine, Session
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.report import DecisionLog
from edgespec.decode.group import Outcome
from edgespec.engine.many import conversation_work


def outcomes_in_order(
    engine: Engine,
    conversations: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    decisions: Callable[[int, int], DecisionLog],
    *,
    parallel: int,
) -> Iterator[tuple[int, int, Outcome]]:
    """The answers to the conversations in their order, each with the indexes of its conversation and its turn.

    `arguments` are those of `conversation_work`. `decisions(index, turn)` makes the log of one answer. The first Ctrl-C
    ends all answers: those in progress come out as far as they are.
    """
    works = [conversation_work(engine, conversation["turns"], **arguments) for conversation in conversations]
    found: list[list[Outcome]] = [[] for _ in works]
    logs: dict[int, tuple[Session, DecisionLog]] = {}

    def on_block(index: int, session: Session, block: Block) -> None:
        if index not in logs or logs[index][0] is not session:
            logs[index] = session, decisions(index, len(found[index]))
        logs[index][1].print_block(session, block)

    first = shown = 0  # the first conversation that is not over, and how many of its answers were shown
    with closing(engine.many(works, parallel=parallel, on_block=on_block)) as many, cancelled_by_ctrl_c(many):
        for outcome in many.outcomes():
            found[outcome.index].append(outcome)
            while first < len(works):
                yield from _from(first, shown, found[first])
                shown = len(found[first])
                if not _is_over(found[first], conversations[first]["turns"]):
                    break
                first, shown = first + 1, 0
    for index in range(first, len(works)):  # after Ctrl-C
        yield from _from(index, shown if index == first else 0, found[index])


def _from(index: int, begin: int, outcomes: Sequence[Outcome]) -> Iterator[tuple[int, int, Outcome]]:
    """The outcomes of a conversation from turn `begin` on."""
    return ((index, turn, outcomes[turn]) for turn in range(begin, len(outcomes)))


def _is_over(outcomes: Sequence[Outcome], turns: Sequence[str]) -> bool:
    return len(outcomes) >= len(turns) or any(outcome.error is not None for outcome in outcomes)
