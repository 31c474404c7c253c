"""Several answers at once: their contexts share one memory, which holds what the largest of them need.

The engine's own context stays as it is, unless answers go one after the other: then it is used as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from edgespec.backend import LlamaContext, LlamaModel, Message, Prompt, evaluate_together, shared_contexts
from edgespec.core import MAX_ROWS, Draft, Evaluation, Policy
from edgespec.core.arguments import function, integer, shown
from edgespec.decode.group import Group, Outcome
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Block, Session, check_prompt
from edgespec.engine.asynchronous import Turns
from edgespec.engine.chat import Chat
from edgespec.engine.fit import Fit
from edgespec.engine.messages import conversation
from edgespec.errors import EdgespecError, InvalidRequest
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy

MOST_ANSWERS = 128
"""Answers to one prompt, at most: as many as OpenAI's API gives."""

_TURN_TOKENS = 16
"""Tokens that a template may put between an answer and the next turn."""


class ManyEngine(Protocol):
    """The part of an engine that is used here."""

    joint_latency: tuple[LatencyModel, LatencyModel] | None

    @property
    def model(self) -> LlamaModel: ...
    @property
    def context(self) -> LlamaContext: ...
    @property
    def latency(self) -> LatencyModel: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def lock(self) -> AbstractContextManager[object]: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def fit(self) -> Fit | None: ...
    @property
    def exact(self) -> bool: ...
    def check_length(self, text: str) -> None:
        """Raises ContextOverflow where a text cannot fit into the context."""
        ...

    def system_length(self, tokens: Sequence[int], system: str | None, variables: Mapping[str, Any]) -> int:
        """How many leading tokens are the system prompt's."""
        ...

    def read_prompt(
        self,
        prompt: str | Sequence[Message],
        system: str | None,
        template_variables: Mapping[str, Any] | None,
        *,
        raw: bool,
        shift: bool,
    ) -> tuple[list[int], int]:
        """The ids of a prompt, and the number of leading ones that a context shift keeps."""
        ...

    def many(self, works: Sequence[Work], *, parallel: int) -> ManyAnswers:
        """Answers that are decoded together."""
        ...

    def answer(
        self,
        tokens: Sequence[int],
        options: GenerationOptions,
        *,
        keep: int,
        skipped: int,
        on_prefill: Callable[[int, int], None] | None,
        place: Place | None,
    ) -> Session:
        """The session that answers the prompt ids `tokens` in that place."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session of several is decoded: its context, and the policy of them all. Implements `chat.ChatEngine`."""

    engine: ManyEngine
    context: LlamaContext
    policy: Policy

    @property
    def drafts(self) -> bool:
        """Whether answers may be drafted here: rejected tokens have to be taken back."""
        return self.context.can_cut

    @property
    def model(self) -> LlamaModel:
        return self.engine.model

    @property
    def lock(self) -> AbstractContextManager[object]:
        return self.engine.lock

    @property
    def turns(self) -> Turns:
        return self.engine.turns

    def check_length(self, text: str) -> None:
        """As the engine's."""
        self.engine.check_length(text)

    def system_length(self, tokens: Sequence[int], system: str | None, variables: Mapping[str, Any]) -> int:
        """As the engine's."""
        return self.engine.system_length(tokens, system, variables)

    def answer(
        self,
        tokens: Sequence[int],
        options: GenerationOptions,
        *,
        keep: int = 0,
        skipped: int = 0,
        on_prefill: Callable[[int, int], None] | None = None,
    ) -> Session:
        """The session that answers the prompt ids `tokens` here."""
        return self.engine.answer(
            tokens, options, keep=keep, skipped=skipped, on_prefill=on_prefill, place=self
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """A prompt or a conversation: `sessions` makes its answers one after the other, for which `tokens` are enough."""

    tokens: int
    sessions: Callable[[Place], Iterator[Session]]


class ManyAnswers:
    """Answers on one engine, at most `parallel` at once. Close it in the end.

    `on_block(index, session, block)` sees every block of the answer to `works[index]`. Raises UnsupportedModel where
    llama.cpp makes no context for so many.
    """

    def __init__(
        self,
        engine: ManyEngine,
        works: Sequence[Work],
        *,
        parallel: int,
        on_block: Callable[[int, Session, Block], None] = lambda index, session, block: None,
    ) -> None:
        self._engine, self._works = engine, works
        needs = sorted((work.tokens for work in works if work.tokens), reverse=True)[:parallel]
        self._joint = joint_group(engine, needs, on_block=on_block)

    def outcomes(self) -> Iterator[Outcome]:
        """The answers as they are finished."""
        return self._joint.group.run([self._job(work) for work in self._works])

    def _job(self, work: Work) -> Callable[[LlamaContext], Iterator[Session]]:
        return lambda context: work.sessions(Place(self._engine, context, self._joint.policy))

    def cancel(self) -> None:
        """End all answers after the forward pass in progress. May be called from any thread."""
        self._joint.group.cancel()

    def close(self) -> None:
        """Free the memory."""
        self._joint.close()


class Joint(NamedTuple):
    """A group with what its answers are decoded in. `contexts` share one memory; none where there is the engine's."""

    group: Group[LlamaContext]
    policy: Policy
    contexts: list[LlamaContext]

    def close(self) -> None:
        """Free the memory."""
        for context in self.contexts[:1]:
            context.close()


def joint_group(
    engine: ManyEngine,
    needs: Sequence[int],
    *,
    on_block: Callable[[int, Session, Block], None],
    serving: bool = False,
) -> Joint:
    """A group for as many answers at once as fit into memory, which need so many tokens each, the largest first.

    Where that is one, or the engine is exact, it uses the engine's own context. Raises UnsupportedModel.
    """
    own, policy = engine.context, engine.policy
    needs = needs[: _at_once(engine, needs)]
    if len(needs) < 2 or engine.exact or not isinstance(policy, AdaptivePolicy):
        group = Group([own], _evaluate_alone, on_block=on_block, lock=engine.lock, serving=serving)
        return Joint(group, policy, [])
    scaled = engine.model.n_ctx_before_scaling is not None
    contexts = shared_contexts(
        engine.model, len(needs), n_ctx=needs[0], total=max(sum(needs), own.n_ctx if scaled else 0),
        threads=own.threads, trees=own.trees, kv_type=own.kv_type, flash_attention=own.flash_attention,
    )  # fmt: skip
    if not contexts[0].can_cut:
        policy = AdaptivePolicy((), engine.latency)
    if engine.joint_latency is None:
        engine.joint_latency = _copied(engine.latency), _copied(engine.latency)
    of_drafts, of_passes = engine.joint_latency
    planning = policy.with_latency(of_drafts)
    group = Group(
        contexts, evaluate_together, planning, of_passes, on_block=on_block, lock=engine.lock,
        share=LlamaContext.share_prefix if engine.model.can_branch else None, serving=serving,
    )  # fmt: skip
    return Joint(group, planning, contexts)


def _at_once(engine: ManyEngine, needs: Sequence[int]) -> int:
    """How many answers may be in memory at once, where each needs that many tokens, the largest first.

    llama.cpp rotates keys by other factors where the whole memory is longer than some length: an answer would then be
    another one than alone.
    """
    first, own = engine.model.n_ctx_before_scaling, engine.context.n_ctx
    if first is not None and own <= first:
        needs = [need for need, total in zip(needs, accumulate(needs), strict=True) if total <= first]
    return len(needs) if engine.fit is None or len(needs) < 2 or engine.exact else engine.fit.at_once(needs)


def _evaluate_alone(requests: Sequence[tuple[LlamaContext, Sequence[int], Draft]]) -> list[Evaluation]:
    return [context.evaluate(tokens, draft) for context, tokens, draft in requests]


def _copied(latency: LatencyModel) -> LatencyModel:
    """A latency model that begins with what is known of an answer alone: rows of several answers take other times."""
    copy = LatencyModel(MAX_ROWS)
    copy.restore(latency.as_json())
    return copy


def as_completed(
    engine: ManyEngine, prompts: Iterable[str | Sequence[Message]], *, n: int = 1, parallel: int = 8, **arguments: Any
) -> Iterator[tuple[int, Session | EdgespecError]]:
    """The answers of `Engine.generate_as_completed`."""
    return _completed(engine, _prompt_works(engine, prompts, n, **arguments), _checked_parallel(parallel))


def in_order(
    engine: ManyEngine,
    prompts: Iterable[str | Sequence[Message]],
    *,
    raises: bool,
    n: int = 1,
    parallel: int = 8,
    **arguments: Any,
) -> list[Any]:
    """The answers of `Engine.generate_many`."""
    works, parallel = _prompt_works(engine, prompts, n, **arguments), _checked_parallel(parallel)
    _raise_first(works if raises else (), n)
    found = dict(_completed(engine, works, parallel))
    answers = [found[index] for index in range(len(works))]
    _raise_first(answers if raises else (), n)
    return answers


def _raise_first(found: Iterable[object], n: int) -> None:
    """Raise the first error, with the index of its prompt, to each of which there are `n` answers."""
    for index, error in enumerate(found):
        if isinstance(error, EdgespecError):
            raise type(error)(f"prompts[{index // n}]: {error}") from error


def _checked_parallel(parallel: int) -> int:
    return integer("parallel", parallel, 1, MAX_ROWS, "answers at once")


def _completed(
    engine: ManyEngine, works: Sequence[Work | EdgespecError], parallel: int
) -> Iterator[tuple[int, Session | EdgespecError]]:
    yield from ((index, error) for index, error in enumerate(works) if isinstance(error, EdgespecError))
    accepted = [(index, work) for index, work in enumerate(works) if isinstance(work, Work)]
    with closing(engine.many([work for _, work in accepted], parallel=parallel)) as many:
        for outcome in many.outcomes():
            answer = outcome.error or outcome.session
            assert answer is not None
            yield accepted[outcome.index][0], answer


def _prompt_works(
    engine: ManyEngine,
    prompts: Iterable[str | Sequence[Message]],
    n: int,
    *,
    system: str | None = None,
    raw: bool = False,
    template_variables: Mapping[str, Any] | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Work | EdgespecError]:
    """The works of `n` answers to each prompt, with seeds that count up; the error of a prompt that has one."""
    n = integer("n", n, 1, MOST_ANSWERS, "answers to each prompt")
    function("on_prefill", on_prefill)
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise InvalidRequest(f"prompts is {shown(prompts)}: it must be a list of prompts")
    generation = GenerationOptions(**options)
    works: list[Work | EdgespecError] = []
    with engine.lock:
        for prompt in prompts:
            shift = generation.overflow == "shift"
            try:
                tokens, keep = engine.read_prompt(prompt, system, template_variables, raw=raw, shift=shift)
                check_prompt(tokens, engine.context.n_ctx)
            except EdgespecError as error:
                works += [error] * n
            else:
                each = [_with_seed(generation, place) for place in range(n)]
                works += [_prompt_work(engine, tokens, keep, chosen, on_prefill) for chosen in each]
    return works


def _with_seed(options: GenerationOptions, place: int) -> GenerationOptions:
    """The options of answer number `place` of a prompt."""
    sampling = options.sampling
    return options.but(sampling=replace(sampling, seed=(sampling.seed + place) % 2**64)) if place else options


def _prompt_work(
    engine: ManyEngine,
    tokens: list[int],
    keep: int,
    options: GenerationOptions,
    on_prefill: Callable[[int, int], None] | None,
) -> Work:
    def sessions(place: Place) -> Iterator[Session]:
        yield place.answer(tokens, options, keep=keep, on_prefill=on_prefill)

    return Work(min(len(tokens) + options.max_tokens, engine.context.n_ctx), sessions)


def conversation_work(
    engine: ManyEngine,
    turns: Sequence[str],
    *,
    system: str | None,
    variables: Mapping[str, Any],
    max_tokens: int,
    **arguments: Any,
) -> Work:
    """A conversation with these turns of a user; `arguments` are those of `Chat.stream`."""

    def sessions(place: Place) -> Iterator[Session]:
        chat = Chat(place, system, variables)
        for text in turns:
            yield chat.stream(text, max_tokens=max_tokens, **arguments)

    tokens = -max_tokens  # an answer that is tokenized again, for the next turn, may have twice as many
    with engine.lock:
        for turn, text in enumerate(turns):
            try:
                engine.check_length(text)
                prompt = Prompt(engine.model, conversation(text, system), variables=variables).ids()
                if turn == 0:
                    check_prompt(prompt, engine.context.n_ctx)
            except EdgespecError as error:
                if turn == 0:
                    return _refused(error)
                break  # the answer to this turn will be that error
            tokens += len(prompt) + 2 * max_tokens + _TURN_TOKENS
    return Work(min(tokens, engine.context.n_ctx), sessions)


def _refused(error: EdgespecError) -> Work:
    """A conversation whose first prompt cannot be answered."""

    def sessions(place: Place) -> Iterator[Session]:
        raise error

    return Work(0, sessions)
