"""A conversation as a person leads it: the engine, the chat on it, and what was set."""

from __future__ import annotations

from typing import Any, Protocol

from edgespec import Chat, Engine, Session
from edgespec.cli.chat.keeping import Kept, Memory
from edgespec.cli.chat.screen import Screen
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.options import open_engine, sampling_of
from edgespec.cli.report import PromptProgress, decisions_of, print_stats
from edgespec.policy import AdaptivePolicy


class Lines(Protocol):
    """Where messages come from."""

    interactive: bool

    def next(self, default: str = "") -> str | None:
        """The next one, begun as `default` where a person types; None at the end."""
        ...


class Talk:
    """Use it as a context manager: at the end, what is kept is written, and the engine closed.

    `options` are the command's; what is set later goes there too.
    """

    def __init__(self, options: dict[str, Any], screen: Screen, *, kept: Kept | None, memory: Memory | None) -> None:
        self.options = options
        self.screen = screen
        self.lines: Lines | None = None
        self.last: Session | None = None
        self.attached: list[str] = []
        """Texts of files that go before the next message."""
        self._kept, self._memory = kept, memory
        self._drafting_policy: AdaptivePolicy | None = None
        self.engine: Engine = open_engine(options)
        self.chat: Chat = self.engine.chat(options["system"])
        self.sampling = sampling_of(options)
        if memory:
            memory.teach(self.engine)
        if kept:
            for word in kept.restore(self.chat, self.engine):
                screen.note(word)

    def say(self, text: str) -> None:
        """One turn, streamed to the terminal. Raises EdgespecError; then it has not happened."""
        message = "\n\n".join([*self.attached, text])
        progress = PromptProgress()
        session = self.chat.stream(
            message,
            sampling=self.sampling,
            max_tokens=self.options["max_tokens"],
            stop=self.options["stop"],
            overflow="shift" if self.options["context_shift"] else "stop",
            on_prefill=progress,
        )
        self.attached.clear()
        self.last = session
        with cancelled_by_ctrl_c(session), decisions_of(self.engine, self.options["stats"]) as decisions:
            for block in session.stream():
                progress.clear()
                decisions.tell(session, block)
                self.screen.block(block)
        progress.clear()
        self.screen.end(session, self.engine)
        if self.options["stats"]:
            print_stats(session, self.engine, self.sampling.seed)
        if self._kept:
            self._kept.save(self.chat, self.engine)

    def set_sampling(self, name: str, value: Any) -> None:
        """Change an option of the sampling. Raises InvalidRequest; then it stays as it was."""
        self.sampling = sampling_of({**self.options, "seed": self.sampling.seed, name: value})
        self.options[name] = value

    @property
    def drafting(self) -> bool:
        return self._drafting_policy is None

    def draft(self, on: bool) -> None:
        """Let the drafters draft, or decode plainly."""
        policy = self.engine.policy
        if on and self._drafting_policy is not None:
            self.engine.policy, self._drafting_policy = self._drafting_policy, None
        elif not on and self._drafting_policy is None and isinstance(policy, AdaptivePolicy):
            self._drafting_policy = policy
            self.engine.policy = AdaptivePolicy((), policy.cost)

    def reopen(self, *, model: str | None = None, drafter: str | None = None) -> None:
        """Go on with another model or drafter. Raises EdgespecError; then all is as it was."""
        self.draft(True)
        options = {
            **self.options,
            "model": model or self.options["model"],
            "drafter": drafter or self.options["drafter"],
        }
        engine = open_engine(options)
        chat = engine.chat()
        chat.restore(self.chat.as_json(), same_model=model is None)
        if model is None:
            engine.context.set_state(*self.engine.context.state())
        if self._memory:
            self._memory.teach(engine)
        self.engine.close()
        self.options, self.engine, self.chat = options, engine, chat

    def save(self) -> None:
        """Write what is kept, the KV cache too."""
        self.draft(True)
        if self._kept:
            self._kept.save(self.chat, self.engine, cache=True)
        if self._memory:
            self._memory.add(self.chat, self.engine)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self.engine.close()
