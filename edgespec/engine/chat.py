"""A conversation: its messages, and the token ids already known, so that each turn evaluates only what is new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from edgespec.backend import LlamaModel, Message
from edgespec.core import Context, TokenSequence, common_prefix
from edgespec.decode.detokenizer import continuation
from edgespec.decode.options import GenerationOptions
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Session
from edgespec.errors import ContextOverflow, InvalidRequest

_log = logging.getLogger("edgespec.engine.chat")


class Answerer(Protocol):
    """What a chat needs of an engine."""

    @property
    def model(self) -> LlamaModel: ...
    @property
    def context(self) -> Context: ...
    @property
    def lock(self) -> AbstractContextManager[object]: ...
    def tokenize(self, text: str) -> list[int]:
        """The ids of a whole prompt."""
        ...

    def system_length(self, tokens: Sequence[int], system: str | None) -> int:
        """How many leading tokens are the system prompt's."""
        ...

    def answer(
        self,
        tokens: Sequence[int],
        options: GenerationOptions,
        *,
        keep: int,
        skipped: int,
        on_prefill: Callable[[int, int], None] | None,
    ) -> Session:
        """An answer to prompt ids."""
        ...


class _Before(NamedTuple):
    """A conversation before a turn."""

    messages: int
    text: str
    tokens: int


class _State(NamedTuple):
    """A conversation: `tokens` stand for `text`, less the ids that shifts of the context dropped."""

    messages: list[Message]
    text: str
    tokens: TokenSequence
    dropped: int


def _moved(turns: list[_Before], keep: int, drop: int) -> list[_Before]:
    """Where turns begin when `drop` tokens are gone from after the first `keep`; those that are gone are left out."""
    return [one._replace(tokens=one.tokens - drop) for one in turns if one.tokens >= keep + drop] if drop else turns


class Chat:
    """Turns of a user and the assistant. An answer joins the conversation as far as it was made, cancelled ones too.

    Generated ids are kept, never tokenized again; only text that the template adds, and the user's, is tokenized. Where
    that cannot be, since the template rewrites history (it may drop an earlier answer's reasoning) or the tokenizer
    spells the added text in another way by itself, the whole text is tokenized, and the KV cache keeps what the ids
    still share: `rewritten` counts these turns.
    """

    def __init__(self, engine: Answerer, system: str | None = None) -> None:
        self._engine = engine
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._text = ""  # what the ids in _tokens stand for
        self._tokens = TokenSequence()
        self._dropped = 0
        self._answer: Session | None = None
        self._turns: list[_Before] = []
        self._keep = 0  # leading tokens that a shift of the last answer spared
        self.rewritten = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, the answer in progress included; another thread waits for its evaluation."""
        with self._engine.lock:
            return self._state().messages

    @property
    def system(self) -> str | None:
        """The system prompt. Another one counts from the next turn on, for all of the conversation."""
        return next((message["content"] for message in self._messages if message["role"] == "system"), None)

    @system.setter
    def system(self, text: str | None) -> None:
        self._take_answer()
        turns = [message for message in self._messages if message["role"] != "system"]
        self._begin(turns if text is None else [{"role": "system", "content": text}, *turns])

    def clear(self) -> None:
        """Forget what was said, but not the system prompt."""
        self._take_answer()
        self._begin([message for message in self._messages if message["role"] == "system"])

    def undo(self) -> str | None:
        """Take the last turn back, and return what the user said; None where there is none.

        The ids of what was said before stay, so that nothing of it is evaluated again.
        """
        self._take_answer()
        asked = next(
            (place for place in reversed(range(len(self._messages))) if self._messages[place]["role"] == "user"), None
        )
        if asked is None:
            return None
        text, messages = self._messages[asked]["content"], self._messages[:asked]
        if self._turns and self._turns[-1].messages == asked:
            *turns, before = self._turns
            self._be(_State(messages, before.text, TokenSequence(self._tokens[: before.tokens]), self._dropped), turns)
        else:  # what the ids were is not known any more
            self._begin(messages)
        return text

    def as_json(self) -> dict[str, Any]:
        """All that `restore` needs, its ids included."""
        with self._engine.lock:
            state = self._state()
            return {**state._asdict(), "tokens": list(state.tokens)}

    def restore(self, kept: Mapping[str, Any], *, same_model: bool) -> None:
        """Go on with a conversation that `as_json` told; of another model, with its texts and not its ids.

        Raises KeyError, TypeError or ValueError on nonsense; then nothing has changed.
        """
        messages: list[Message] = [
            {"role": str(message["role"]), "content": str(message["content"])} for message in kept["messages"]
        ]
        tokens, text, dropped = [int(token) for token in kept["tokens"]], str(kept["text"]), int(kept["dropped"])
        size = self._engine.model.vocabulary.size
        if same_model and not all(0 <= token < size for token in tokens):
            raise ValueError("ids that the vocabulary does not have")
        self._take_answer()
        if same_model:
            self._be(_State(messages, text, TokenSequence(tokens), dropped), [])
        else:
            self._begin(messages)

    def _begin(self, messages: list[Message]) -> None:
        """With these messages, which will be tokenized as a whole."""
        self._be(_State(messages, "", TokenSequence(), 0), [])

    def stream(self, text: str, *, on_prefill: Callable[[int, int], None] | None = None, **options: Any) -> Session:
        """Say `text` and get the answer to iterate; arguments as for `Engine.stream`.

        Raises ContextOverflow when the conversation is full (`overflow="shift"` drops its oldest part but the system
        prompt), and then the turn has not happened.
        """
        generation = GenerationOptions(**{"sampling": SamplingParams(), **options})
        self._take_answer()
        with self._engine.lock:
            messages: list[Message] = [*self._messages, {"role": "user", "content": text}]
            rendered = self._engine.model.render(messages)
            turns = [*self._turns, _Before(len(self._messages), self._text, len(self._tokens))]
            known, dropped = self._continued(rendered), self._dropped
            continued = known is not None
            if known is None:
                known, dropped = self._engine.tokenize(rendered), 0
                turns = [] if self._tokens else turns
            tokens = TokenSequence(known)
            keep = drop = 0
            if generation.overflow == "shift":
                keep = self._engine.system_length(tokens, self.system)
                drop = self._drop_oldest(tokens, keep, generation.max_tokens, continued=continued)
            session = self._engine.answer(tokens, generation, keep=keep, skipped=dropped + drop, on_prefill=on_prefill)
            if self._tokens and not continued:
                self.rewritten += 1
                _log.info("what was added could not be tokenized by itself: the whole conversation was, again")
            self._be(_State(messages, rendered, tokens, dropped + drop), _moved(turns, keep, drop), session, keep)
            return session

    def _state(self) -> _State:
        """The conversation with the last answer as far as it was made, which goes on undisturbed. Under the lock."""
        answer = self._answer
        if answer is None:
            return _State(list(self._messages), self._text, TokenSequence(self._tokens), self._dropped)
        count, text = answer.whole_tokens()
        return _State(
            [*self._messages, {"role": "assistant", "content": answer.text}],
            self._text + text,
            TokenSequence(self._tokens[: len(self._tokens) - len(answer.emitted) + count]),  # the rest has no text
            self._dropped + answer.dropped_tokens,
        )

    def _take_answer(self) -> None:
        """Make the last answer part of the conversation. One in progress ends there: its list of ids is left to it."""
        answer = self._answer
        if answer is None:
            return
        if not answer.finished:
            answer.cancel()
        with self._engine.lock:  # where another thread makes it, after the evaluation in progress
            self._be(self._state(), _moved(self._turns, self._keep, answer.dropped_tokens))

    def _be(self, state: _State, turns: list[_Before], answer: Session | None = None, keep: int = 0) -> None:
        """Become this conversation. In one statement, so that Ctrl-C finds either the one or the other."""
        messages, text, tokens, dropped = state
        self._messages, self._text, self._tokens, self._dropped, self._turns, self._answer, self._keep = (
            messages, text, tokens, dropped, turns, answer, keep,
        )  # fmt: skip

    def _continued(self, rendered: str) -> list[int] | None:
        """The ids of a conversation that goes on from the ids at hand; None where it does not.

        Nor where the tokenizer puts a space before a text of its own, as SentencePiece does: no id may stand for it.
        """
        added = continuation(self._text, rendered) if self._tokens else None
        if added is None:
            return None
        vocabulary = self._engine.model.vocabulary
        ids = vocabulary.tokenize(added)
        spelled = vocabulary.spelled(ids).replace("\u2581".encode(), b" ")  # a vocabulary may have its space as bytes
        return None if spelled == b" " + added.encode() else [*self._tokens, *ids]

    def _drop_oldest(self, tokens: TokenSequence, keep: int, max_tokens: int, *, continued: bool) -> int:
        """Make room for the prompt and an answer by forgetting tokens after the system prompt; how many went.

        `continued`: the ids of earlier turns stand before those of this one.
        """
        context = self._engine.context
        room = min(max_tokens, context.n_ctx // 4)
        excess = len(tokens) + room - context.n_ctx
        if excess <= 0:
            return 0
        earlier = len(self._tokens) if continued else self._earlier(tokens)
        most = max(0, earlier - keep)
        if len(tokens) - most >= context.n_ctx:
            raise ContextOverflow(
                f"the conversation has {len(tokens)} tokens and the context holds {context.n_ctx}; what is new does "
                "not fit even without the earlier turns: begin a new chat or enlarge the context (--ctx)"
            )
        drop = min(most, max(excess, (context.n_ctx - keep) // 2))  # more than is needed: not every turn
        if drop and keep + drop <= context.cached(tokens):
            context.shift(keep, drop)
        tokens.cut(keep, keep + drop)  # of a cache that does not hold them, what comes after is evaluated anew
        return drop

    def _earlier(self, tokens: Sequence[int]) -> int:
        """How many of a whole conversation's tokens stand for earlier turns."""
        try:
            return common_prefix(self._engine.tokenize(self._engine.model.render(self._messages, reply=False)), tokens)
        except InvalidRequest:  # a template that wants a user's turn
            return 0
