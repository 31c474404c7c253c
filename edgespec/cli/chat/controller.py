"""A conversation as a person leads it: the engine, the chat on it, and what was set."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from edgespec import Chat, Engine, Session
from edgespec.cli.build import open_engine, sampling_of
from edgespec.cli.chat.screen import Screen
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.report import Decisions, PromptProgress, print_stats
from edgespec.engine.saved_chats import ChatMemory, SavedChat
from edgespec.errors import ContextOverflow, UnsupportedModel


class Attached(NamedTuple):
    """A file that goes before the next message."""

    name: str
    text: str


class Controller:
    """Use it as a context manager: at the end, what is kept is written, and the engine closed.

    `options` are the command's; what is set later goes there too.
    """

    def __init__(
        self, options: dict[str, Any], screen: Screen, *, kept: SavedChat | None, memory: ChatMemory | None
    ) -> None:
        self.options = options
        self.screen = screen
        self.editor: Callable[[str], str | None] | None = None
        """Lets a person change a text, and returns None where they did not; there is none without a terminal."""
        self.last: Session | None = None
        self._plainly = False  # a person said so
        self.last_seed = 0
        """Which that answer was made with: `sampling` may have changed since."""
        self.attached: list[Attached] = []
        self._kept, self._memory = kept, memory
        self._name = kept.name if kept else f"/{secrets.token_hex(8)}"  # which no session can have
        self._progress = PromptProgress()
        self.sampling = sampling_of(options)
        self.engine: Engine = _open(options)
        try:
            self.chat: Chat = self.engine.chat(options["system"])
            if memory:
                memory.teach(self.engine)
            if kept:
                for word in kept.restore(self.chat, self.engine):
                    screen.note(word)
        except BaseException:
            self.engine.close()
            raise

    def say(self, text: str) -> None:
        """One turn, streamed to the terminal, what is attached before it. Raises EdgespecError.

        Where no answer can begin, the turn has not happened, and what is attached stays.
        """
        session = self._ask("\n\n".join([*(file.text for file in self.attached), text]))
        self.attached.clear()
        self._show(session)
        self._keep()

    def say_instead(self, text: str) -> None:
        """Take the last turn back and say `text`; where no answer begins, all is as it was. Raises EdgespecError."""
        before = self.chat.as_json()
        session = None
        try:
            self.chat.undo()
            session = self._ask(text)
            self._show(session)
        finally:
            if session is None or not session.emitted:
                self.chat.restore(before, same_model=True)
        self._keep()

    def _ask(self, message: str) -> Session:
        shifts = self.options["context_shift"]
        try:
            return self.chat.stream(
                message,
                sampling=self.sampling,
                max_tokens=self.options["max_tokens"],
                stop=self.options["stop"],
                overflow="shift" if shifts else "stop",
                on_prefill=self._progress,
                explain=self.options["stats"] == "full",
            )
        except ContextOverflow as error:
            undo = f"/undo (leaves {self.attached[-1].name} out)" if self.attached else "/undo"
            shift = "" if shifts else " or /set context-shift on"
            raise ContextOverflow(f"{error}; in this chat: {undo}, /clear{shift}") from error

    def _show(self, session: Session) -> None:
        """The answer, as it comes."""
        self.last, self.last_seed = session, self.sampling.seed
        decisions = Decisions(self.options["stats"])
        try:
            with cancelled_by_ctrl_c(session):
                for block in session.stream():
                    self._progress.clear()
                    decisions.tell(session, block)
                    self.screen.block(block)
        finally:
            self._progress.clear()
            self.screen.end_line()
        self.screen.end(session, self.engine, self.options["max_tokens"])
        if self.options["stats"]:
            print_stats(session, self.engine, self.last_seed)

    def _keep(self) -> None:
        if self._kept:
            self._kept.save(self.chat, self.engine)

    def set_sampling(self, name: str, value: Any) -> None:
        """Change an option of the sampling. Raises InvalidRequest; then it stays as it was."""
        self.sampling = sampling_of({**self.options, "seed": self.sampling.seed, name: value})
        self.options[name] = value

    @property
    def drafting(self) -> bool:
        """Whether drafts may come."""
        return self.engine.drafting

    def draft(self, on: bool) -> None:
        """Let the drafters draft, or decode plainly."""
        self._plainly = not on
        self.engine.drafting = on

    def change_drafter(self, drafter: str) -> None:
        """Go on with another drafter, drafting. Raises EdgespecError; then all is as it was."""
        self.engine.change_drafter(drafter)
        self.options = {**self.options, "drafter": drafter}
        self._plainly = False
        if self._memory:
            self._memory.teach(self.engine)

    def change_model(self, model: str) -> None:
        """Go on with another model. Raises EdgespecError.

        Where it does not come to that, for an error or Ctrl-C, all is as it was.
        """
        options = {**self.options, "model": model}
        engine = _open(options)
        try:
            chat = engine.chat()
            chat.restore(self.chat.as_json(), same_model=False)
            if self._memory:
                self._memory.teach(engine)
        except BaseException:
            engine.close()
            raise
        before = self.engine
        self.options, self.engine, self.chat = options, engine, chat
        self.draft(not self._plainly)
        before.close()

    def save(self) -> None:
        """Write what is kept, the KV cache too."""
        if self._kept:
            self._kept.save(self.chat, self.engine, cache=True)
        if self._memory:
            self._memory.add(self._name, self.chat, self.engine)

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self.engine.close()


def _open(options: dict[str, Any]) -> Engine:
    """The engine that the options ask for, if one can chat with it."""
    engine = open_engine(options)
    if engine.model.chat_template is None:
        engine.close()
        raise UnsupportedModel(f"{engine.model.path.name} has no chat template: use edgespec generate --raw")
    return engine
