"""A conversation: its messages and its token ids, so that each turn prefills only its new tokens."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, Protocol

from edgespec.backend import LlamaModel, Message, Prompt
from edgespec.core import Context, TokenSequence, arguments, common_prefix
from edgespec.decode.detokenizer import continuation
from edgespec.decode.options import GenerationOptions
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Block, Session
from edgespec.engine.asynchronous import Turns
from edgespec.engine.messages import ROLES, template_variables_of
from edgespec.errors import ContextOverflow, InvalidRequest

_log = logging.getLogger("edgespec.engine.chat")


class ChatEngine(Protocol):
    """The part of an engine that a chat uses."""

    @property
    def model(self) -> LlamaModel: ...
    @property
    def context(self) -> Context: ...
    @property
    def lock(self) -> AbstractContextManager[object]: ...
    @property
    def turns(self) -> Turns: ...
    def check_length(self, text: str) -> None:
        """Raises ContextOverflow where a text cannot fit into the context."""
        ...

    def system_length(self, tokens: Sequence[int], system: str | None, variables: Mapping[str, Any]) -> int:
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
        """The session that answers the prompt ids `tokens`; `skipped` tokens were dropped before them."""
        ...


class _TurnStart(NamedTuple):
    """The numbers of messages and tokens before a turn, and the text of these tokens."""

    messages: int
    text: str
    tokens: int


class _State(NamedTuple):
    """A conversation. `tokens` are the ids of `text`, without the `dropped` ones that context shifts removed."""

    messages: list[Message]
    text: str
    tokens: TokenSequence
    dropped: int


def _shifted_turns(turns: list[_TurnStart], keep: int, drop: int) -> list[_TurnStart]:
    """The turns that start after a shift that dropped `drop` tokens behind the first `keep`, at their new positions."""
    if not drop:
        return turns
    return [turn._replace(tokens=turn.tokens - drop) for turn in turns if turn.tokens >= keep + drop]


def _with_system(system: str | None, messages: list[Message]) -> list[Message]:
    """The messages after the system prompt, where there is one. Raises InvalidRequest where that is no text."""
    return messages if system is None else [{"role": "system", "content": arguments.text("system", system)}, *messages]


class Chat:
    """Turns of a user and the assistant. Each answer is added as far as it was decoded, a cancelled one too.

    Generated ids are never tokenized again; only the template's and the user's new text is. Two cases need the whole
    text tokenized: a template that rewrites history (it may drop an earlier answer's reasoning), and a tokenizer that
    gives the new text other ids when it stands alone. The KV cache then keeps the prefix that the ids still share;
    `rewritten` counts these turns. `template_variables` are what else the template reads (`enable_thinking`, say).
    """

    def __init__(
        self, engine: ChatEngine, system: str | None = None, template_variables: Mapping[str, Any] | None = None
    ) -> None:
        self._engine = engine
        self.template_variables = template_variables
        self._messages: list[Message] = _with_system(system, [])
        self._text = ""  # the text of the ids in _tokens
        self._tokens = TokenSequence()
        self._dropped = 0
        self._answer: Session | None = None
        self._turns: list[_TurnStart] = []
        self._keep = 0  # leading tokens that no shift of the last answer drops
        self.rewritten = 0

    @property
    def messages(self) -> list[Message]:
        """The messages so far, the answer in progress included. From another thread, this waits for a forward pass."""
        with self._engine.lock:
            return self._state().messages

    @property
    def template_variables(self) -> Mapping[str, Any]:
        """The template's variables. New ones take effect with the next turn, for the whole conversation."""
        return self._variables

    @template_variables.setter
    def template_variables(self, variables: Mapping[str, Any] | None) -> None:
        checked = template_variables_of(variables)
        if checked:
            self._engine.model.check_variables(checked)
        self._variables = checked

    @property
    def system(self) -> str | None:
        """The system prompt, or None. A new one takes effect with the next turn, for the whole conversation."""
        return next((message["content"] for message in self._messages if message["role"] == "system"), None)

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None:
            arguments.text("system", text)
        self._take_answer()
        self._restart_with(_with_system(text, [message for message in self._messages if message["role"] != "system"]))

    def clear(self) -> None:
        """Remove all messages but the system prompt."""
        self._take_answer()
        self._restart_with([message for message in self._messages if message["role"] == "system"])

    def undo(self) -> str | None:
        """Remove the last turn and return the user's message; None where there is no turn.

        The ids of earlier turns stay, so that they need no prefill.
        """
        self._take_answer()
        indices = reversed(range(len(self._messages)))
        user_index = next((index for index in indices if self._messages[index]["role"] == "user"), None)
        if user_index is None:
            return None
        text, messages = self._messages[user_index]["content"], self._messages[:user_index]
        if self._turns and self._turns[-1].messages == user_index:
            *turns, before = self._turns
            self._set_state(
                _State(messages, before.text, TokenSequence(self._tokens[: before.tokens]), self._dropped), turns
            )
        else:  # the ids before that turn are no longer known
            self._restart_with(messages)
        return text

    def as_json(self) -> dict[str, Any]:
        """The conversation with its token ids, as `restore` takes it."""
        with self._engine.lock:
            state = self._state()
            return {**state._asdict(), "tokens": list(state.tokens)}

    def restore(self, saved: Mapping[str, Any], *, same_model: bool) -> None:
        """Continue a conversation that `as_json` returned; one of another model without its token ids.

        Raises KeyError, TypeError or ValueError where `saved` is malformed; then nothing has changed.
        """
        messages: list[Message] = [
            {"role": str(message["role"]), "content": str(message["content"])} for message in saved["messages"]
        ]
        if not all(message["role"] in ROLES for message in messages):
            raise ValueError("a role that no template knows")
        tokens, text, dropped = [int(token) for token in saved["tokens"]], str(saved["text"]), int(saved["dropped"])
        size = self._engine.model.vocabulary.size
        if same_model and not all(0 <= token < size for token in tokens):
            raise ValueError("ids that the vocabulary does not have")
        self._take_answer()
        if same_model:
            self._set_state(_State(messages, text, TokenSequence(tokens), dropped), [])
        else:
            self._restart_with(messages)

    def _restart_with(self, messages: list[Message]) -> None:
        """Start over with `messages`, which the next turn tokenizes as a whole."""
        self._set_state(_State(messages, "", TokenSequence(), 0), [])

    def stream(self, text: str, *, on_prefill: Callable[[int, int], None] | None = None, **options: Any) -> Session:
        """The session that answers the user's message `text`; arguments as for `Engine.stream`.

        Raises ContextOverflow when the conversation does not fit; then the turn is not added. With `overflow="shift"`
        the oldest tokens after the system prompt are dropped instead.
        """
        text = arguments.text("the message", text)
        arguments.function("on_prefill", on_prefill)
        generation = GenerationOptions(**{"sampling": SamplingParams(), **options})
        self._take_answer()
        with self._engine.lock:
            self._engine.check_length(text)
            messages: list[Message] = [*self._messages, {"role": "user", "content": text}]
            prompt = Prompt(self._engine.model, messages, variables=self._variables)
            turns = [*self._turns, _TurnStart(len(self._messages), self._text, len(self._tokens))]
            known, dropped = self._continued(prompt), self._dropped
            continued = known is not None
            if known is None:
                known, dropped = prompt.ids(), 0
                turns = [] if self._tokens else turns
            tokens = TokenSequence(known)
            keep = drop = 0
            if generation.overflow == "shift":
                keep = self._engine.system_length(tokens, self.system, self._variables)
                drop = self._drop_oldest(tokens, keep, generation.max_tokens, continued=continued)
            session = self._engine.answer(tokens, generation, keep=keep, skipped=dropped + drop, on_prefill=on_prefill)
            if self._tokens and not continued:
                self.rewritten += 1
                _log.info("what was added could not be tokenized by itself: the whole conversation was, again")
            self._set_state(
                _State(messages, prompt.text, tokens, dropped + drop), _shifted_turns(turns, keep, drop), session, keep
            )
            return session

    def astream(self, text: str, **arguments: Any) -> AsyncGenerator[Block, None]:
        """The blocks of the answer to `text`, for asyncio; arguments as for `stream`, else as `Engine.astream`."""
        return self._engine.turns.answer(partial(self.stream, text, **arguments))

    def _state(self) -> _State:
        """The conversation with the last answer as far as it was decoded. It needs the lock; the answer goes on."""
        answer = self._answer
        if answer is None:
            return _State(list(self._messages), self._text, TokenSequence(self._tokens), self._dropped)
        count, text = answer.whole_tokens()  # later tokens have no complete text
        return _State(
            [*self._messages, {"role": "assistant", "content": answer.text}],
            self._text + text,
            TokenSequence(self._tokens[: len(self._tokens) - len(answer.emitted) + count]),
            self._dropped + answer.dropped_tokens,
        )

    def _take_answer(self) -> None:
        """Add the last answer to the conversation. One in progress is cancelled, and keeps its own list of ids."""
        answer = self._answer
        if answer is None:
            return
        if not answer.finished:
            answer.cancel()
        with self._engine.lock:  # another thread may be decoding it: wait for its forward pass
            self._set_state(self._state(), _shifted_turns(self._turns, self._keep, answer.dropped_tokens))

    def _set_state(self, state: _State, turns: list[_TurnStart], answer: Session | None = None, keep: int = 0) -> None:
        """Replace the conversation, in one statement: Ctrl-C finds either the old or the new one."""
        messages, text, tokens, dropped = state
        self._messages, self._text, self._tokens, self._dropped, self._turns, self._answer, self._keep = (
            messages, text, tokens, dropped, turns, answer, keep,
        )  # fmt: skip

    def _continued(self, prompt: Prompt) -> list[int] | None:
        """The known ids followed by those of the text that `prompt` adds; None where it does not continue them.

        Also None where the tokenizer puts a space before the added text, as SentencePiece does.
        """
        added = continuation(self._text, prompt.text) if self._tokens else None
        if added is None:
            return None
        vocabulary = self._engine.model.vocabulary
        ids = prompt.ids(len(self._text)) if added else []
        spelled = vocabulary.spelled(ids).replace("\u2581".encode(), b" ")  # a vocabulary may have its space as bytes
        return None if spelled == b" " + added.encode() else [*self._tokens, *ids]

    def _drop_oldest(self, tokens: TokenSequence, keep: int, max_tokens: int, *, continued: bool) -> int:
        """Drop tokens after the first `keep`, so that prompt and answer fit; returns how many were dropped.

        `continued`: `tokens` begin with the known ids of earlier turns.
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
        drop = min(most, max(excess, (context.n_ctx - keep) // 2))  # more than needed, so that not every turn shifts
        if drop and keep + drop <= context.cached(tokens):
            context.shift(keep, drop)
        tokens.cut(keep, keep + drop)  # a cache without them needs a prefill of what follows
        return drop

    def _earlier(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens of a whole conversation that belong to earlier turns."""
        try:
            earlier = Prompt(self._engine.model, self._messages, reply=False, variables=self._variables)
            return common_prefix(earlier.ids(), tokens)
        except InvalidRequest:  # a template that wants a user's turn
            return 0
