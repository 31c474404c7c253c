"""Several answers at once: sessions whose decode steps share forward passes.

A forward pass reads the weights once, however many sequences have rows in it, so that k answers together may take much
less time than one after the other. By how much is measured: the number of sequences that are stepped together is the k
of the largest k / T(k), so that fewer go together where that is faster. Where more than k are in progress, those that
are least far are stepped, so that in the end none is left to go alone. Sequences that begin alike share cells of the KV
cache, so that what they have in common is prefilled once.

A group that serves has no end: answers are added while others are decoded. Each begins as soon as a context is free.
They take turns where not all go into a pass, and free contexts keep their cells for prompts that begin alike.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgespec.core import Context, Draft, Evaluation, GroupPolicy, Plan, common_prefix
from edgespec.decode.session import Block, Session
from edgespec.errors import EdgespecError
from edgespec.latency.model import LatencyModel

C = TypeVar("C", bound=Context)

Job = Callable[[C], Iterator[Session]]
"""Makes the sessions of one prompt or conversation, each when the one before it is over, in the context it is given."""

Evaluate = Callable[[Sequence[tuple[C, Sequence[int], Draft]]], Sequence[Evaluation]]
"""One forward pass for the last of each's tokens and its draft."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer of job number `index` that is over, or the error that ended the job; both where it came meanwhile."""

    index: int
    session: Session | None = None
    error: EdgespecError | None = None


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[C]):
    """A job that has not begun. `tokens`: those of its first prompt, where they are known."""

    index: int
    job: Job[C]
    tokens: Sequence[int] = ()


@dataclass(slots=True)
class _Slot(Generic[C]):
    """A job in progress. `stepped`: the number of the last pass that it took part in."""

    index: int
    context: C
    sessions: Iterator[Session]
    session: Session
    error: EdgespecError | None = None
    stepped: int = 0


def _no_block(index: int, session: Session, block: Block) -> None:
    """Nobody wants to see each block."""


class Group(Generic[C]):
    """Decodes answers in `contexts`, which share one memory, in joint passes by `evaluate`.

    The sessions are of `policy`, which plans the drafts of a pass together. `latency` is T(n) of n rows with the cells
    of all answers beside them, learned here. One context needs neither: its sessions plan for themselves.
    `share(context, other, length)` lets a context begin with the first tokens of another one; None where the model
    cannot do that. `on_block(index, session, block)` sees every block. `lock` is held during each step. `serving`: it
    has no end, see above. Not thread-safe, except for `add` and `cancel`.
    """

    def __init__(
        self,
        contexts: Sequence[C],
        evaluate: Evaluate[C],
        policy: GroupPolicy | None = None,
        latency: LatencyModel | None = None,
        *,
        share: Callable[[C, C, int], None] | None = None,
        on_block: Callable[[int, Session, Block], None] = _no_block,
        lock: AbstractContextManager[object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        serving: bool = False,
    ) -> None:
        self._free = list(contexts)
        self._serving = serving
        self._waiting: deque[_Waiting[C]] = deque()
        self._indexes = itertools.count()
        self._passes = 0
        self._evaluate = evaluate
        self._policy = policy
        self._latency = latency
        self._share = share
        self._on_block = on_block
        self._lock = lock or nullcontext()
        self._clock = clock
        self._active: list[_Slot[C]] = []
        self._left: list[tuple[C, Sequence[int]]] = []  # tokens that free contexts still hold
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End all answers in progress, and begin no other. May be called from any thread."""
        self._cancelled.set()
        for slot in list(self._active):
            slot.session.cancel()

    def run(self, jobs: Iterable[Job[C]]) -> Iterator[Outcome]:
        """The answers in the order in which they end. An error ends its own job only."""
        for job in jobs:
            self.add(job)
        try:
            while True:
                yield from self.step()
                if not self._active and (not self._waiting or self._cancelled.is_set()):
                    return
        finally:
            self.abandon()

    def add(self, job: Job[C], tokens: Sequence[int] = ()) -> int:
        """Let a job begin when there is room for it; returns its index. May be called from any thread.

        `tokens`: those of its first prompt; a context that holds most of them takes it.
        """
        index = next(self._indexes)
        self._waiting.append(_Waiting(index, job, tokens))
        return index

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._active and not self._waiting

    def step(self) -> list[Outcome]:
        """Begin what there is time and room for, and step some sessions together once."""
        with self._lock:
            return self._round()

    def abandon(self) -> None:
        """End the answers in progress, after an exception that nobody here expects: KeyboardInterrupt, say."""
        for slot in self._active:
            if not slot.session.finished:
                slot.session.abandon()

    def _round(self) -> list[Outcome]:
        waiting = self._waiting
        width = self._width(len(self._active) + min(len(waiting), len(self._free)))
        outcomes: list[Outcome] = []
        while waiting and self._free and not self._cancelled.is_set():
            full = len(self._active) >= width and len(waiting) > len(self._free)  # the last ones begin together
            if full and not self._serving:
                break
            outcomes += self._begin(waiting.popleft())
        if self._cancelled.is_set():
            width = len(self._active)  # none of them needs a pass
        due = [slot for slot in self._in_turn()[:width] if not slot.session.finished and self._is_due(slot)]
        if due:
            self._passes += 1
            for slot in due:
                slot.stepped = self._passes
            self._pass(due)
        for slot in [slot for slot in self._active if slot.session.finished]:
            outcomes += self._next_session(slot)
        if self._active and not waiting and not self._serving:
            self._forget_left()
        return outcomes

    def _in_turn(self) -> list[_Slot[C]]:
        """The jobs in progress, those first that a pass is for: the least far, or who was stepped longest ago."""
        return sorted(self._active, key=lambda slot: slot.stepped if self._serving else len(slot.session.emitted))

    def _width(self, most: int) -> int:
        """How many sequences to step together: the k of the largest k / T(k), where T(k) is known, or may be as small.

        T(1) has to be known for that: it is, after a pass of one.
        """
        cost = self._curve
        if cost is None or not cost.known or cost.needs_remeasure:
            return 1
        times = cost.optimistic()
        return max(range(1, most + 1), key=lambda count: count / times[count - 1], default=1)

    @property
    def _curve(self) -> LatencyModel | None:
        if self._latency is None:
            return None
        return self._latency.for_context(sum(len(slot.session.tokens) for slot in self._active))

    def _begin(self, waiting: _Waiting[C]) -> list[Outcome]:
        """Begin a job in a free context; an outcome where that fails."""
        index, context = waiting.index, self._free.pop(self._place_for(waiting.tokens))
        try:
            sessions = waiting.job(context)
            session = next(sessions)
        except EdgespecError as error:
            self._free.insert(0, context)
            return [Outcome(index, error=error)]
        if not session.shifts:  # which moves cells, and not for one sequence alone
            self._share_prefix(context, session.tokens)
        self._left = [(other, tokens) for other, tokens in self._left if other is not context]
        self._active.append(slot := _Slot(index, context, sessions, session, stepped=self._passes))
        if self._cancelled.is_set():
            session.cancel()
        self._is_due(slot)  # its prefill comes first, so that the next one finds what they have in common
        return []

    def _place_for(self, tokens: Sequence[int]) -> int:
        """Which of the free contexts to take: one whose text goes on with `tokens`, else the one free for longest."""
        best, place = 0, 0
        for index, context in enumerate(self._free):
            held = next((held for other, held in self._left if other is context), ())
            known = min(common_prefix(held, tokens), context.cached(held))
            if known > best and 2 * known >= len(held):  # else most of an earlier text would go
                best, place = known, index
        return place

    def _share_prefix(self, context: C, tokens: Sequence[int]) -> None:
        """Begin with the cells of the sequence that has most of `tokens` in front."""
        if self._share is None:
            return
        held = [(slot.context, slot.session.tokens) for slot in self._active] + self._left
        best, source = context.cached(tokens), None
        for other, others_tokens in held:
            if other is not context:
                known = common_prefix(others_tokens[: other.cached(others_tokens)], tokens)
                if known > best:
                    best, source = known, other
        if source is not None:
            self._share(context, source, best)

    def _is_due(self, slot: _Slot[C]) -> bool:
        """Whether a session waits for a forward pass, after what comes before that: its prefill, say."""
        try:
            block = slot.session.before_pass()
        except EdgespecError as error:
            self._fail(slot, error)
            return False
        if block is not None:
            self._on_block(slot.index, slot.session, block)
        return block is None

    def _pass(self, due: Sequence[_Slot[C]]) -> None:
        """One forward pass for all that are due."""
        try:
            plans = self._plans(due)
            begun = self._clock()
            evaluations = self._evaluate(
                [(slot.context, slot.session.tokens, plan.draft) for slot, plan in zip(due, plans, strict=True)]
            )
            seconds = self._clock() - begun
        except EdgespecError as error:
            if len(due) == 1:
                self._fail(due[0], error)
            else:
                for slot in due:  # one of them failed: alone it fails again, and the others do not
                    self._pass([slot])
            return
        rows = sum(len(evaluation.rows) + evaluation.reevaluated for evaluation in evaluations)
        if self._curve is not None:
            self._curve.observe(rows, seconds)
        if len(due) > 1 and self._policy is not None:
            self._policy.passed([len(slot.session.tokens) for slot in due], rows, seconds)
        for slot, plan, evaluation in zip(due, plans, evaluations, strict=True):
            try:
                block = slot.session.settle(plan, evaluation, seconds if len(due) == 1 else None)
            except EdgespecError as error:
                self._fail(slot, error)
            else:
                self._on_block(slot.index, slot.session, block)

    def _plans(self, due: Sequence[_Slot[C]]) -> list[Plan]:
        if len(due) > 1 and self._policy is not None:
            return self._policy.plan_many([slot.session.request() for slot in due])
        if self._curve is not None and (self._curve.needs_remeasure or not self._curve.known):
            return [Plan()]
        return [due[0].session.plan(due[0].context.max_rows)]  # its drafters may take time: nobody waits for them

    def _fail(self, slot: _Slot[C], error: EdgespecError) -> None:
        slot.error = error
        slot.session.abandon()

    def _next_session(self, slot: _Slot[C]) -> list[Outcome]:
        """The outcome of a session that is over. Its job goes on with the next one, or leaves its context."""
        outcomes = [Outcome(slot.index, slot.session, slot.error)]
        tokens = slot.session.tokens
        if slot.error is None and not self._cancelled.is_set():
            try:
                slot.session = next(slot.sessions)
            except StopIteration:
                pass
            except EdgespecError as error:
                outcomes.append(Outcome(slot.index, error=error))
            else:
                return outcomes
        self._active.remove(slot)
        self._free.append(slot.context)
        self._left.append((slot.context, tokens))
        return outcomes

    def _forget_left(self) -> None:
        """Empty the contexts that nobody will use any more: passes look at fewer cells."""
        for context, _ in self._left:
            with suppress(EdgespecError):  # closed meanwhile
                context.rewind(0)
        self._left.clear()
