"""The engine: a loaded target with its KV cache and drafters, which decodes answers and chats."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

from edgespec.backend import NO_VARIABLES, LlamaContext, LlamaModel, LlamaSampler, Message, Prompt
from edgespec.core import Drafter, Policy, TokenSequence, arguments, common_prefix
from edgespec.core.arguments import choice
from edgespec.decode.options import GenerationOptions
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Block, Session
from edgespec.drafters.grammar import GrammarDrafters
from edgespec.engine.asynchronous import Turns
from edgespec.engine.chat import Chat
from edgespec.engine.drafter_set import DrafterSet, OpenedDrafter, close_all
from edgespec.engine.fit import Fit
from edgespec.engine.many import ManyAnswers, Place, Work, as_completed, in_order
from edgespec.engine.messages import conversation, template_variables_of
from edgespec.engine.prefix_cache import PrefixCache
from edgespec.engine.profile_store import ProfileStore
from edgespec.engine.sampling_defaults import SamplingDefaults
from edgespec.errors import ContextOverflow, EdgespecError, InvalidRequest
from edgespec.gguf.metadata import strings
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy

_CHECKED_FROM = 16
"""Characters for each token of the context beyond which a text is checked before it is tokenized.

The check reads the vocabulary, which takes longer than tokenizing a shorter text.
"""

_MARKER = "\ue000"
"""A user's message that shows where a template puts it: a private-use character that no template contains."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""All engines of this process."""


class Engine:
    """A loaded target with its KV cache and drafters. Use it as a context manager, or call `close()`.

    Sessions and chats on one engine take turns on its KV cache. Each stays correct whatever the others do; a session
    that steps twice in a row needs no prefill in between.
    """

    def __init__(
        self,
        model: LlamaModel,
        context: LlamaContext,
        *,
        latency: LatencyModel,
        drafters: Sequence[OpenedDrafter] = (),
        drafter_name: str,
        profiles: ProfileStore | None = None,
        drafter_set: DrafterSet | None = None,
        fingerprint: str = "",
        prefix_cache: PrefixCache | None = None,
        fit: Fit | None = None,
    ) -> None:
        self.model = model
        self.context = context
        self.latency = latency
        """The latency model T(n) of the target."""
        self.joint_latency: tuple[LatencyModel, LatencyModel] | None = None
        """T(n) of passes of several answers, as their policy and as their group learn it; None before the first."""
        self.profiles = profiles
        """The stored profiles of the model; None where none are kept."""
        self.fingerprint = fingerprint
        """Identifies the model's file; empty where it is not known."""
        self.prefix_cache = prefix_cache
        """What was read of prompts, on disk; None where it is off."""
        self.fit = fit
        """The memory that the model takes; None where GPUs take part."""
        self.lock = threading.RLock()
        """Held during each forward pass, and while the KV cache or the vocabulary is read."""
        _engines.add(self)
        self.sampling_defaults = SamplingDefaults(model)
        """The sampling parameters that are recommended for the model in a chat."""
        self.turns = Turns()
        """Runs the answers of `astream` and `agenerate`."""
        self._many: weakref.WeakSet[ManyAnswers] = weakref.WeakSet()
        self._drafter_set = drafter_set
        self._save: Callable[[], object] = lambda: None
        self._grammar_drafters = GrammarDrafters(model.vocabulary)
        self._draft_with(drafters, drafter_name)

    def _draft_with(self, drafters: Sequence[OpenedDrafter], name: str) -> None:
        """Set the drafters, load their acceptance rates, and have these saved when the engine ends."""
        self.drafters, self.drafter_name = tuple(drafters), name
        policy = AdaptivePolicy([opened.drafter for opened in drafters], self.latency, trees=self.context.trees)
        self.policy: Policy = policy
        self._adaptive = policy
        if self.profiles is not None:
            models = {opened.name: opened.fingerprint for opened in drafters if opened.fingerprint}
            for drafter, fingerprint in models.items():
                self.profiles.load_acceptance(policy.acceptance, drafter, fingerprint)
            self._save = weakref.finalize(self, _save, self.profiles, policy, models)

    @property
    def exact(self) -> bool:
        """Whether drafts are confined to what a self-test found exact to the bit."""
        return self._drafter_set is not None and self._drafter_set.exact

    @property
    def drafting(self) -> bool:
        """Whether the engine drafts. False means plain decoding, from the next answer on."""
        return bool(self.drafters) and self.policy is self._adaptive

    @drafting.setter
    def drafting(self, on: bool) -> None:
        self.policy = self._adaptive if arguments.switch("drafting", on) else AdaptivePolicy((), self.latency)

    def change_drafter(self, drafter: str | Path | Drafter) -> None:
        """Draft with another drafter, as `load` takes it, from the next answer on.

        The target stays loaded, and its KV cache stays too, unless the self-test of `exact` has yet to run. No answer
        may be in progress. Raises UnknownDrafter and ModelError; then the drafter has not changed.
        """
        with self.lock:
            if self._drafter_set is None or self.profiles is None:
                raise InvalidRequest("this engine was put together without load, and cannot find other drafters")
            before, save = self.drafters, self._save
            drafters, name = self._drafter_set.open(drafter, before)
            save()  # first: a model that stays starts with its stored acceptance rates
            if self.latency.rows != self.context.max_rows:
                self.latency = self.profiles.latency(self.context.max_rows)
            self._draft_with(drafters, name)
            still_used = {id(opened.drafter) for opened in drafters}
            close_all(opened for opened in before if id(opened.drafter) not in still_used)

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        raw: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Session:
        """The session of an answer: `for block in engine.stream("...").stream(): print(block.text)`.

        `prompt`: a user's message, or a conversation of {"role", "content"}; rendered by the model's chat template.
        `raw`: use the text without the chat template. `system`: the system prompt. `template_variables`: what else the
        template reads (`{"enable_thinking": False}`). `on_prefill(done, total)`: called before every chunk of the
        prefill, with numbers of tokens. `options` are those of `GenerationOptions`: sampling, max_tokens, stop,
        overflow, explain, schema.
        Raises InvalidRequest, ContextOverflow.
        """
        arguments.function("on_prefill", on_prefill)
        generation = GenerationOptions(**options)
        with self.lock:
            tokens, keep = self.read_prompt(
                prompt, system, template_variables, raw=raw, shift=generation.overflow == "shift"
            )
            return self.answer(tokens, generation, keep=keep, on_prefill=on_prefill)

    def read_prompt(
        self,
        prompt: str | Sequence[Message],
        system: str | None,
        template_variables: Mapping[str, Any] | None,
        *,
        raw: bool,
        shift: bool,
    ) -> tuple[list[int], int]:
        """The ids of a prompt, and the number of leading ones that a context shift keeps. It needs the lock."""
        raw = arguments.switch("raw", raw)
        if raw and (not isinstance(prompt, str) or system is not None):
            raise InvalidRequest("a raw prompt is one text, without a system prompt")
        variables = template_variables_of(template_variables)
        if raw and variables:
            raise InvalidRequest("a raw prompt has no chat template that could read variables")
        if raw:
            self.check_length(str(prompt))
            tokens = self.tokenize(str(prompt))
        else:
            rendered = Prompt(self.model, conversation(prompt, system), variables=variables)
            self.check_length(rendered.text)
            tokens = rendered.ids()
        keep = 0
        if shift:
            keep = len(self.tokenize("")) if raw else self.system_length(tokens, system, variables)
        return tokens, keep

    def generate(
        self, prompt: str | Sequence[Message], *, system: str | None = None, raw: bool = False, **options: Any
    ) -> Session:
        """The finished answer: `.text`, `.emitted` (ids), `.finish_reason`, `.tally`. Arguments as for `stream`."""
        session = self.stream(prompt, system=system, raw=raw, **options)
        for _ in session.stream():
            pass
        return session

    @overload
    def generate_many(
        self, prompts: Iterable[str | Sequence[Message]], *, errors: Literal["raise"] = ..., **arguments: Any
    ) -> list[Session]: ...
    @overload
    def generate_many(
        self, prompts: Iterable[str | Sequence[Message]], *, errors: Literal["return"], **arguments: Any
    ) -> list[Session | EdgespecError]: ...
    def generate_many(
        self, prompts: Iterable[str | Sequence[Message]], *, errors: str = "raise", **arguments: Any
    ) -> list[Session] | list[Session | EdgespecError]:
        """The finished answers to several prompts, in their order; arguments as for `generate_as_completed`.

        With n > 1, the answers to a prompt follow each other. `errors`: `raise` raises the first error, that of a
        prompt before anything is decoded; `return` puts each error in the place of its answer.
        """
        return in_order(self, prompts, raises=choice("errors", errors, ("raise", "return")) == "raise", **arguments)

    def generate_as_completed(
        self, prompts: Iterable[str | Sequence[Message]], *, n: int = 1, parallel: int = 8, **arguments: Any
    ) -> Iterator[tuple[int, Session | EdgespecError]]:
        """The answers to several prompts as they are finished, each with its index, or its error.

        At most `parallel` (up to 64) are decoded at once: their sequences share forward passes, and fewer at once where
        that is faster. Prompts that begin alike are read once as far as they do. `n` answers to each prompt have the
        indexes from n times that of the prompt on, and seeds that count up; n is at most 128. Other arguments are
        those of `generate`.

        Each text is the one that its prompt gives alone, but for rounding (docs/exactness.md).
        With `exact` the answers come one after the other. The KV cache of the answers is beside the engine's own, for
        the `parallel` longest prompts and their `max_tokens`: where memory is short, there are fewer at once, with a
        warning. Raises InvalidRequest for arguments that cannot be used.
        """
        return as_completed(self, prompts, n=n, parallel=parallel, **arguments)

    def many(self, works: Sequence[Work], **arguments: Any) -> ManyAnswers:
        """Answers that are decoded together; arguments as for `ManyAnswers`."""
        many = ManyAnswers(self, works, **arguments)
        self._many.add(many)
        return many

    def astream(self, prompt: str | Sequence[Message], **arguments: Any) -> AsyncGenerator[Block, None]:
        """The blocks of an answer, for asyncio: `async for block in engine.astream("..."): print(block.text)`.

        Arguments as for `stream`; `on_prefill` is called in another thread. Several answers at once take turns. A task
        that is cancelled ends its answer after the forward pass in progress.
        """
        return self.turns.answer(partial(self.stream, prompt, **arguments))

    async def agenerate(self, prompt: str | Sequence[Message], **arguments: Any) -> Session:
        """The finished answer, for asyncio. Arguments and cancellation as for `astream`."""
        session = await self.turns.begin(partial(self.stream, prompt, **arguments))
        async for _ in self.turns.blocks(session):
            pass
        return session

    def chat(self, system: str | None = None, *, template_variables: Mapping[str, Any] | None = None) -> Chat:
        """A conversation that keeps its token ids, so that each turn prefills only its new tokens."""
        return Chat(self, system, template_variables)

    def chat_sampling(self, **chosen: Any) -> SamplingParams:
        """The sampling parameters for a chat: those given, else what is recommended for the model.

        `generate`, `stream` and `Chat.stream` take them as `sampling`; without it they decode greedily.
        """
        return self.sampling_defaults.sampling(chosen)

    def tokenize(self, text: str) -> list[int]:
        """The ids of a raw prompt: control tokens are recognised, and BOS is added where the model wants it."""
        return self.model.vocabulary.tokenize_prompt(text)

    def check_length(self, text: str) -> None:
        """Refuse a text that cannot fit into the context whatever its tokens are: it would take seconds to tokenize.

        Raises ContextOverflow.
        """
        n_ctx = self.context.n_ctx
        if len(text) > _CHECKED_FROM * n_ctx and (least := len(text) // self.longest_piece) >= n_ctx:
            raise ContextOverflow(
                f"the prompt has {len(text)} characters, so at least {least} tokens, and the context holds {n_ctx}, "
                "the answer included: shorten it or enlarge the context (--ctx)"
            )

    @functools.cached_property
    def longest_piece(self) -> int:
        """No token stands for more bytes of text than this."""
        return max(map(len, strings(self.model.part, "tokenizer.ggml.tokens")))

    def system_length(
        self, tokens: Sequence[int], system: str | None, variables: Mapping[str, Any] = NO_VARIABLES
    ) -> int:
        """The number of leading tokens that belong to the system prompt: a context shift keeps them."""
        try:
            head, end = Prompt(self.model, conversation([], system), reply=False, variables=variables), None
        except InvalidRequest:
            head, end = None, None
        if head is None or (system or "").strip() not in head.text:  # it wants a user's turn, to write the prompt into
            head = Prompt(self.model, conversation(_MARKER, system), reply=False, variables=variables)
            end = head.text.find(_MARKER) if _MARKER in head.text else None
        return common_prefix(head.ids(end=end), list(tokens))

    def session(self, tokens: Sequence[int], **options: Any) -> Session:
        """The session that answers prompt ids; `options` are those of `GenerationOptions`."""
        generation = GenerationOptions(**options)
        if not isinstance(tokens, TokenSequence):
            tokens = arguments.token_ids("tokens", tokens, self.context.input_size)
        return self.answer(tokens, generation)

    def answer(
        self,
        tokens: Sequence[int],
        options: GenerationOptions,
        *,
        keep: int = 0,
        skipped: int = 0,
        on_prefill: Callable[[int, int], None] | None = None,
        place: Place | None = None,
    ) -> Session:
        """The session that answers prompt ids. A `TokenSequence` grows with the emitted tokens; a list is copied.

        `skipped` tokens were dropped before them, which counts for the noise of the draws. A context shift keeps the
        first `keep` tokens. `place`: where it is decoded, if it is one of several; else in the engine's own context.
        """
        if self.exact and options.sampling.acceptance != "lossless":
            raise InvalidRequest("typical acceptance is lossy, and exact mode is not: leave one of them out")
        tokens = tokens if isinstance(tokens, TokenSequence) else TokenSequence(tokens)
        vocabulary = self.model.vocabulary
        sampler = LlamaSampler(vocabulary, options.sampling, history=tokens, position=len(tokens) + skipped)
        grammar = options.sampling.grammar if self.drafting and (place is None or place.drafts) else None
        context, policy = (place.context, place.policy) if place else (self.context, self.policy)
        stores = self.prefix_cache is not None and context is self.context
        return Session(
            context, vocabulary, sampler, policy, tokens, options,
            drafters=[self._grammar_drafters.drafter(grammar)] if grammar else (),
            keep=keep, on_prefill=on_prefill, lock=self.lock,
            prompt_store=self.prefix_cache.answer(tokens) if self.prefix_cache and stores else None,
        )  # fmt: skip

    def close(self) -> None:
        """Save what was learned, and free the memory, after the forward pass in progress.

        Raises InvalidRequest when called during that pass, from `on_prefill` or a signal handler.
        """
        if self.lock._is_owned():  # type: ignore[attr-defined] # as threading.Condition asks
            raise InvalidRequest("an answer is being made: end it (session.cancel()), and close the engine then")
        with self.lock:
            self._save()
            close_all(self.drafters)
            for many in self._many:
                many.close()
            self.context.close()
            self.model.close()
        if self.prefix_cache is not None:
            self.prefix_cache.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _save(profiles: ProfileStore, policy: AdaptivePolicy, models: Mapping[str, str]) -> None:
    """Save the target's latency model, and the acceptance rates of drafter `models` (name to fingerprint)."""
    profiles.save(policy.latency)
    for name, fingerprint in models.items():
        profiles.save_acceptance(policy.acceptance, name, fingerprint)


def _free_locks() -> None:
    """In a forked child: free the locks that threads of the parent held. No thread of the child would ever do it."""
    for engine in _engines:
        engine.lock._at_fork_reinit()  # type: ignore[attr-defined] # as logging does
        engine.turns = Turns()  # its thread stayed with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
