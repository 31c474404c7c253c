"""One answer: the loop of decode steps.

plan -> evaluate -> verify -> settle -> text. The sampler alone decides the text, the policy alone decides the speed;
neither knows the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from edgespec.core import (
    NOTHING,
    AnswerPolicy,
    Context,
    Drafter,
    Evaluation,
    Plan,
    PlanRequest,
    Policy,
    PromptStore,
    Sampler,
    TokenLogprob,
    TokenSequence,
    Verdict,
    Vocabulary,
)
from edgespec.decode.detokenizer import AnswerText
from edgespec.decode.options import GenerationOptions
from edgespec.decode.stats import Tally
from edgespec.decode.verification import children, verify
from edgespec.errors import ContextOverflow, InvalidRequest

FinishReason = Literal["stop", "length", "cancelled"]
"""`stop`: an end token or a stop string; `length`: max_tokens or the context is used up; `cancelled`."""


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens that one decode step adds to an answer.

    The draft of `drafter` had `drafted` tokens, of which the first `accepted` of `tokens` were accepted. `text` is what
    can be shown by now: a partial UTF-8 character or the start of a stop string waits for the next block. Its first
    `drafted_characters` come from draft tokens. `reasons` explain the size of the draft, where they were asked for.
    """

    tokens: tuple[int, ...]
    text: str
    drafted: int = 0
    accepted: int = 0
    drafter: str = "none"
    finish_reason: FinishReason | None = None
    drafted_characters: int = 0
    reasons: tuple[str, ...] = ()


def check_prompt(tokens: Sequence[int], n_ctx: int) -> None:
    """Raises InvalidRequest for an empty prompt, and ContextOverflow where the context has no room for an answer."""
    if not tokens:
        raise InvalidRequest("the prompt is empty: give the model something to answer")
    if len(tokens) >= n_ctx:
        raise ContextOverflow(
            f"the prompt has {len(tokens)} tokens and the context holds {n_ctx}, the answer included: "
            "shorten it or enlarge the context (--ctx)"
        )


class Session:
    """One answer of a target, decoded block by block: iterate over `stream()`, or call `step()` until `finished`.

    `tokens` (the prompt, not empty) grows in place with the emitted tokens: the caller's sequence is the conversation.
    `drafters` are this answer's own, beside the policy's.
    A context shift keeps the first `keep` tokens. `prompt_store` keeps what is read of the prompt. `lock` is held
    during each step, so that sessions that share a context take turns. Not thread-safe, except for `cancel`.
    """

    def __init__(
        self,
        target: Context,
        vocabulary: Vocabulary,
        sampler: Sampler,
        policy: Policy,
        tokens: TokenSequence,
        options: GenerationOptions,
        *,
        drafters: Sequence[Drafter] = (),
        keep: int = 0,
        on_prefill: Callable[[int, int], None] | None = None,
        prompt_store: PromptStore | None = None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        check_prompt(tokens, target.n_ctx)
        self._target = target
        self._vocabulary = vocabulary
        self._sampler = sampler
        self._shared_policy = policy
        self._drafters = drafters
        self._policy: AnswerPolicy | None = None  # from the first step on
        self._tokens = tokens
        self._options = options
        self._keep = keep
        self._on_prefill = on_prefill
        self._prompt_store = prompt_store
        self._prompt_taken = False
        self._prefill_seconds = 0.0
        self._off_trunk = 0  # accepted tokens of the last pass that the next one may evaluate again
        self._lock = lock or nullcontext()
        self._cancelled = threading.Event()
        self._started = 0.0
        self._text = AnswerText(vocabulary, options.stop)
        self.emitted: list[int] = []
        self.tally = Tally(prompt_tokens=len(tokens))
        self.finish_reason: FinishReason | None = None

    @property
    def tokens(self) -> TokenSequence:
        """The prompt, and the answer so far."""
        return self._tokens

    @property
    def shifts(self) -> bool:
        """Whether a full context drops its oldest tokens."""
        return self._options.overflow == "shift"

    @property
    def text(self) -> str:
        """The text of the answer so far."""
        return self._text.text

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        """One entry for each token of `emitted`, where the sampling parameters ask for them."""
        return self._sampler.logprobs[: len(self.emitted)]  # a stop string may have cut the last block

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def whole_tokens(self) -> tuple[int, str]:
        """The number of leading tokens of `emitted` that `text` holds in full, and their text. End tokens have none."""
        return self._text.whole_tokens(len(self.emitted))

    @property
    def dropped_tokens(self) -> int:
        """The number of tokens that context shifts removed from the sequence."""
        return self.tally.prompt_tokens + len(self.emitted) - len(self._tokens)

    @property
    def lossy(self) -> bool:
        """Whether draft tokens are taken that the target would not have drawn: typical acceptance."""
        return self._options.sampling.acceptance == "typical"

    def cancel(self) -> None:
        """End the answer after the forward pass in progress. May be called from any thread."""
        self._cancelled.set()

    def stream(self) -> Iterator[Block]:
        """The blocks of the answer. After an exception, even KeyboardInterrupt, context and text are consistent."""
        while not self.finished:
            try:
                block = self.step()
            except BaseException:
                self.abandon()
                raise
            if block.tokens or block.text or block.finish_reason:
                yield block

    def step(self) -> Block:
        """The next block: the first comes from the prefill, each further one from one decode step."""
        with self._lock:
            block = self.before_pass()
            if block is None:
                plan = self.plan(self._target.max_rows)
                begun = time.perf_counter()
                evaluation = self._target.evaluate(self._tokens, plan.draft)
                block = self.settle(plan, evaluation, time.perf_counter() - begun)
            return block

    def before_pass(self) -> Block | None:
        """The first block, or the last one of an answer that is cancelled or out of room; None where a pass is due.

        `step` is this, and where a pass is due `plan`, the forward pass and `settle`: several sessions may share it.
        """
        if self.finished:
            raise InvalidRequest("the answer is finished")
        if self._started:
            self._take_prompt()  # from the second step on: the first token did not wait for the copy
            if self._cancelled.is_set():
                return self._finish("cancelled")
            if not self._make_room():
                return self._finish("length")
        if self._policy is None:
            return self._prefill_prompt()
        return None if self._prefill_missing() else self._finish("cancelled")

    def request(self) -> PlanRequest:
        """What a policy needs to plan the next decode step: alone, or with other sessions in one forward pass."""
        assert self._policy is not None
        room = min(self._budget - 1, self._target.n_ctx - len(self._tokens))
        return PlanRequest(self._policy, self._tokens, room, self._sampler.noise)

    def plan(self, rows: int) -> Plan:
        """The plan of a decode step, for a forward pass of at most `rows` rows."""
        begun, request = time.perf_counter(), self.request()
        plan = request.answer.plan(request.tokens, request.room, request.noise, explain=self._options.explain)
        if len(plan.draft) >= rows:
            plan = replace(plan, draft=plan.draft.first(rows - 1))
        self.tally.planning_seconds += time.perf_counter() - begun
        return plan

    def settle(self, plan: Plan, evaluation: Evaluation, seconds: float | None) -> Block:
        """The block by a forward pass that took `seconds`; None where other sessions had rows in it.

        Raises what the sampler raises, GrammarError say; then nothing is emitted.
        """
        assert self._policy is not None
        evaluated = time.perf_counter()
        rows = evaluation.rows
        choose: Callable[[int], int] = lambda row: self._sampler.choose(rows[row])  # noqa: E731
        if self.lossy:
            drafted = children(plan.draft)
            choose = lambda row: self._sampler.choose(rows[row], drafted.get(row - 1, ()))  # noqa: E731
        verdict = verify(plan.draft, choose, self._vocabulary.is_end, self._budget)
        chosen = time.perf_counter()
        self._policy.settle(plan, evaluation, verdict, seconds)
        self._off_trunk = verdict.off_trunk
        block = self._emit(plan, verdict)
        self.tally.count(plan, verdict, emitted=len(block.tokens))
        ended = time.perf_counter()
        self.tally.planning_seconds += ended - chosen
        self.tally.sampling_seconds += chosen - evaluated
        self.tally.decode_seconds = ended - self._started - self.tally.first_token_seconds
        if self.finished:
            self._leave()
        return block

    def abandon(self) -> None:
        """End the answer after an error: what was emitted stays."""
        self.finish_reason = "cancelled"
        self._text.finish()

    @property
    def _budget(self) -> int:
        """The tokens that may still be emitted."""
        return self._options.max_tokens - len(self.emitted)

    def _take_prompt(self) -> None:
        if self._prompt_store is not None and not self._prompt_taken:
            self._prompt_taken = True
            self._prompt_store.take(self._prefill_seconds)

    def _leave(self) -> None:
        """After the last pass: leave the KV cache as plain decoding does, which never evaluates the last token."""
        last = len(self._tokens) - 1
        if self._target.cached(self._tokens) >= last:
            self._target.rewind(last)  # the next prefill must be split alike
        self._store_prompt()

    def _store_prompt(self) -> None:
        """The answer is over: store what is kept of its prompt."""
        if self._prompt_store is not None:
            self._take_prompt()
            self._prompt_store.write()

    def _prefill_prompt(self) -> Block:
        """The first block: the prefill of the prompt, and the token that follows it."""
        self._started = time.perf_counter()
        if self._prompt_store is not None:
            self._prompt_store.restore()
        begun = time.perf_counter()
        self.tally.cached_tokens = min(self._target.cached(self._tokens), len(self._tokens) - 1)
        row = self._target.prefill(self._tokens, self._proceed)
        ended = time.perf_counter()
        self._prefill_seconds, self.tally.prompt_seconds = ended - begun, ended - self._started
        if row is None:
            return self._finish("cancelled")
        states = self._target.prompt_states
        hidden, earlier = (None, None) if states is None else (states[-1:], states[:-1])
        evaluation = Evaluation(self._tokens, len(self._tokens), NOTHING, row[None], hidden, prefilled=earlier)
        verdict = Verdict((), (self._sampler.choose(row),))
        self._policy = self._shared_policy.begin(self._drafters)
        self._policy.prefilled(evaluation, verdict, cached=self.tally.cached_tokens, seconds=self._prefill_seconds)
        block = self._emit(Plan(), verdict)
        self.tally.tokens += len(block.tokens)
        self.tally.first_token_seconds = time.perf_counter() - self._started
        if self.finished:
            self._leave()
        return block

    def _prefill_missing(self) -> bool:
        """Prefill what another session removed from the KV cache, outside the timed pass; False where cancelled.

        The path that the last tree ended with may be missing: the pass itself evaluates it again.
        """
        earlier = len(self._tokens) - 1
        if self._target.cached(self._tokens) >= earlier - self._off_trunk:
            return True
        return self._target.prefill(self._tokens[:earlier], self._proceed) is not None

    def _emit(self, plan: Plan, verdict: Verdict) -> Block:
        """Append the emitted tokens, up to an end token or the end of a stop string, and return their block."""
        text = ""
        n_emitted = drafted_characters = 0
        for token in verdict.emitted:
            piece, stopped = self._text.push(token)
            text += piece
            n_emitted += 1
            if n_emitted <= len(verdict.accepted):
                drafted_characters = len(text)
            if stopped or self._vocabulary.is_end(token):
                self.finish_reason = "stop"
                break
        emitted = verdict.emitted[:n_emitted]
        ids = self._tokens.ids
        sequence_end, emitted_end = slice(len(ids), None), slice(len(self.emitted), None)
        ids[sequence_end], self.emitted[emitted_end] = emitted, emitted  # both or neither: Ctrl-C may come at any time
        if self.finish_reason is None and len(self.emitted) >= self._options.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._text.finish()
        accepted = min(n_emitted, len(verdict.accepted))
        draft = plan.draft
        return Block(
            emitted, text, len(draft), accepted, draft.drafter, self.finish_reason, drafted_characters, plan.reasons
        )  # fmt: skip

    def _finish(self, reason: FinishReason) -> Block:
        self.finish_reason = reason
        block = Block((), self._text.finish(), finish_reason=reason)
        self._store_prompt()
        return block

    def _proceed(self, done: int, total: int) -> bool:
        if self._prompt_store is not None and self._policy is None:
            self._prompt_store.before_chunk(done)
        if self._on_prefill is not None:
            self._on_prefill(done, total)
        return not self._cancelled.is_set()

    def _make_room(self) -> bool:
        """Whether the last token fits into the context, after a shift where the options allow one."""
        if len(self._tokens) <= self._target.n_ctx:
            return True
        drop = (self._target.n_ctx - self._keep) // 2
        if self._options.overflow != "shift" or drop < 1:
            return False
        if self._target.cached(self._tokens) >= self._keep + drop:  # else the cache holds another session's tokens
            self._target.shift(self._keep, drop)
        self._tokens.cut(self._keep, self._keep + drop)
        self.tally.dropped_tokens = self.dropped_tokens
        return True
