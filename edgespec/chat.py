"""A conversation: its messages, and the token ids already known, so that each turn evaluates only what is new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgespec.errors import ContextOverflow
from edgespec.sampling import SamplingParams
from edgespec.session import Overflow, Session
from edgespec.text import continuation

if TYPE_CHECKING:
    from edgespec.backend import Message
    from edgespec.engine import Engine

_log = logging.getLogger("edgespec.chat")


class Chat:
    """Turns of a user and the assistant. An answer joins the conversation as far as it was made, cancelled ones too.

    Generated ids are kept, never tokenized again; only text that the template adds, and the user's, is tokenized. Where
    the template rewrites history (it may drop an earlier answer's reasoning), `rewritten` counts the turns in which it
    did: then the whole text is tokenized, and the KV cache keeps what the ids still share.
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        self._engine = engine
        self._system = system
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._text = ""  # what the ids in _tokens stand for
        self._tokens: list[int] = []
        self._dropped = 0
        self._answer: Session | None = None
        self.rewritten = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, the answer in progress included."""
        self._take_answer()
        return list(self._messages)

    def stream(
        self,
        text: str,
        *,
        sampling: SamplingParams | None = None,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
        overflow: Overflow = "stop",
        on_prefill: Callable[[int, int], None] | None = None,
    ) -> Session:
        """Say `text` and get the answer to iterate; arguments as for `Engine.stream`.

        Raises ContextOverflow when the conversation is full (`overflow="shift"` drops its oldest part but the system
        prompt), and then the turn has not happened.
        """
        self._take_answer()
        messages = [*self._messages, {"role": "user", "content": text}]
        rendered = self._engine.model.render(messages)
        tokens = self._tokens_of(rendered)
        keep = 0
        if overflow == "shift":
            keep = self._engine.system_length(tokens, self._system)
            self._drop_oldest(tokens, keep, max_tokens)
        session = self._engine.session(
            tokens,
            sampling=sampling or SamplingParams(),
            max_tokens=max_tokens,
            stop=stop,
            overflow=overflow,
            keep=keep,
            skipped=self._dropped,
            on_prefill=on_prefill,
        )
        self._messages, self._text, self._tokens, self._answer = messages, rendered, tokens, session
        return session

    def _take_answer(self) -> None:
        """Make the last answer part of the conversation."""
        answer = self._answer
        if answer is None:
            return
        self._answer = None
        count, text = answer.whole_tokens()
        del self._tokens[len(self._tokens) - len(answer.emitted) + count :]  # the rest is not in the text
        self._text += text
        self._dropped += answer.tally.dropped_tokens
        self._messages.append({"role": "assistant", "content": answer.text})

    def _tokens_of(self, rendered: str) -> list[int]:
        added = continuation(self._text, rendered) if self._tokens else None
        if added is not None:
            return [*self._tokens, *self._engine.model.vocabulary.tokenize(added)]
        if self._tokens:
            self.rewritten += 1
            _log.info("the chat template rewrote earlier turns: the conversation is tokenized again")
        self._dropped = 0
        return self._engine.tokenize(rendered)

    def _drop_oldest(self, tokens: list[int], keep: int, max_tokens: int) -> None:
        """Make room for the prompt and an answer by forgetting the tokens after the system prompt."""
        context = self._engine.context
        room = min(max_tokens, context.n_ctx // 4)
        excess = len(tokens) + room - context.n_ctx
        if excess <= 0:
            return
        drop = max(excess, (context.n_ctx - keep) // 2)
        if keep + drop > context.cached(tokens):
            raise ContextOverflow(
                f"the conversation has {len(tokens)} tokens and the context holds {context.n_ctx}; what is new does "
                "not fit even without the earlier turns: begin a new chat or enlarge the context (--ctx)"
            )
        context.shift(keep, drop)
        del tokens[keep : keep + drop]
        self._dropped += drop
