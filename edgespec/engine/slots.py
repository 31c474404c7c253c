"""Answers that come and go, decoded together in a thread of their own: continuous batching, for a server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from edgespec.backend import LlamaContext
from edgespec.decode.group import Outcome
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Block, Session, check_prompt
from edgespec.engine.many import ManyEngine, Place, joint_group
from edgespec.errors import EdgespecError, EvaluationError, InvalidRequest, TooBusy

_log = logging.getLogger("edgespec")


@dataclass(slots=True, eq=False)
class Answering:
    """An answer that was asked for. The functions are called in the thread that decodes, and must not wait.

    `on_end` gets the error that ended the answer, or None; of an answer that had begun, `session` is there.
    """

    tokens: list[int]
    options: GenerationOptions
    on_block: Callable[[Session, Block], None]
    on_end: Callable[[Session | None, EdgespecError | None], None]
    on_prefill: Callable[[int, int], None] | None = None
    keep: int = 0
    session: Session | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End it after the forward pass in progress, or before it begins. May be called from any thread."""
        self._cancelled.set()
        if self.session is not None:
            self.session.cancel()

    def begin(self, place: Place) -> Session:
        """Its session, in that place."""
        self.session = place.answer(self.tokens, self.options, keep=self.keep, on_prefill=self.on_prefill)
        if self._cancelled.is_set():
            self.session.cancel()
        return self.session


class Slots:
    """Decodes at most `count` answers at once, each of at most `n_ctx` tokens with its prompt; others wait.

    `most_waiting`: how many may wait. Where memory is short, fewer are decoded at once. Close it before the engine.
    Raises UnsupportedModel where llama.cpp makes no context for so many.
    """

    def __init__(self, engine: ManyEngine, *, count: int, n_ctx: int, most_waiting: int) -> None:
        self._engine = engine
        self._joint = joint_group(engine, [n_ctx] * count, on_block=self._block, serving=True)
        self.count = max(1, len(self._joint.contexts))
        self.n_ctx = n_ctx if self._joint.contexts else engine.context.n_ctx
        self._most_waiting = most_waiting
        self._answers: dict[int, Answering] = {}
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._decode, name="edgespec-slots", daemon=True)
        self._thread.start()

    def begin(self, answering: Answering) -> None:
        """Answer when there is room. Raises InvalidRequest, ContextOverflow; TooBusy where too many wait."""
        check_prompt(answering.tokens, self.n_ctx)
        with self._changed:
            if self._ending:
                raise InvalidRequest("the server is stopping: ask again when it is up")
            if len(self._answers) >= self.count + self._most_waiting:
                raise TooBusy(f"{len(self._answers)} answers are asked for already: ask again later")
            index = self._joint.group.add(self._job(answering), answering.tokens)
            self._answers[index] = answering
            self._changed.notify()

    @property
    def active(self) -> list[Answering]:
        """The answers in progress, and those that wait."""
        with self._changed:
            return list(self._answers.values())

    def close(self, *, finish: bool = False) -> None:
        """End the answers, or let them `finish`, and free the memory. No other begins."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if not finish:
            for answering in self.active:
                answering.cancel()
        self._thread.join()
        self._joint.close()

    def _job(self, answering: Answering) -> Callable[[LlamaContext], Iterator[Session]]:
        def sessions(context: LlamaContext) -> Iterator[Session]:
            yield answering.begin(Place(self._engine, context, self._joint.policy))

        return sessions

    def _decode(self) -> None:
        group = self._joint.group
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or not group.idle)
                if group.idle:
                    return
            try:
                outcomes: Sequence[Outcome] = group.step()
            except Exception as error:
                _log.exception("the answers in progress are lost")
                group.abandon()
                outcomes = [Outcome(index, error=_lost(error)) for index in self._answers]
            for outcome in outcomes:
                self._end(outcome)

    def _block(self, index: int, session: Session, block: Block) -> None:
        self._answers[index].on_block(session, block)

    def _end(self, outcome: Outcome) -> None:
        with self._changed:
            answering = self._answers.pop(outcome.index, None)
        if answering is not None:
            answering.on_end(outcome.session, outcome.error)


def _lost(error: Exception) -> EdgespecError:
    return EvaluationError(f"the answer was lost to an error that nobody expected: {error!r}")
