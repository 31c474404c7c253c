"""The controller of a chat: the engine, the conversation, its settings, and what is saved of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edgespec import Chat, Engine, Session
from edgespec.cli.build import chosen_sampling, open_engine, sampling_of, template_variables_of
from edgespec.cli.chat.repetition import RepetitionWatch
from edgespec.cli.chat.screen import Screen
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.report import DecisionLog, PromptProgress, print_stats
from edgespec.engine.saved_chats import ChatMemory, SavedChat
from edgespec.errors import ContextOverflow, UnsupportedModel
from edgespec.heads.used import UsedAnswers


class Attached(NamedTuple):
    """A file that goes before the next message."""

    name: str
    text: str


class Controller:
    """The state of a chat in the terminal. As a context manager it saves the chat and closes the engine at the end.

    `options` are the command's; /set changes them. `learning`: the folder of answers that heads may learn from.
    """

    def __init__(
        self,
        options: dict[str, Any],
        screen: Screen,
        *,
        saved: SavedChat | None,
        memory: ChatMemory | None,
        learning: Path | None = None,
    ) -> None:
        self.options = options
        self.screen = screen
        self.editor: Callable[[str], str | None] | None = None
        """Lets the user edit a text, and returns None where it was not changed; None without a terminal."""
        self.last: Session | None = None
        self._drafting_off = False  # by /draft off
        self.last_seed = 0
        """The seed of the last answer; `sampling` may have changed since."""
        self.attached: list[Attached] = []
        self._saved, self._memory, self._learning = saved, memory, learning
        self._chat_name = saved.name if saved else f"/{secrets.token_hex(8)}"  # no name of a session
        self._progress = PromptProgress()
        sampling_of(options)  # a wrong value is an error before the model is loaded
        self._chosen = chosen_sampling(options)
        self.engine: Engine = _open(options)
        self.sampling = self.engine.chat_sampling(**self._chosen)
        try:
            variables = template_variables_of(options)
            self.chat: Chat = self.engine.chat(options["system"], template_variables=variables)
            if memory:
                memory.teach(self.engine)
            if saved:
                for message in saved.restore(self.chat, self.engine):
                    screen.note(message)
        except BaseException:
            self.engine.close()
            raise

    def say(self, text: str) -> None:
        """Answer `text`, with the attached files before it, and print the answer. Raises EdgespecError.

        Where no answer can start, the turn is not added, and the files stay attached.
        """
        session = self._start_answer("\n\n".join([*(file.text for file in self.attached), text]))
        self.attached.clear()
        self._print_answer(session)
        self._save_conversation()
        self._learn_from(session)

    def say_instead(self, text: str) -> None:
        """Replace the last turn by `text` and its answer; unchanged where no answer starts. Raises EdgespecError."""
        before = self.chat.as_json()
        session = None
        try:
            self.chat.undo()
            session = self._start_answer(text)
            self._print_answer(session)
        finally:
            if session is None or not session.emitted:
                self.chat.restore(before, same_model=True)
        self._save_conversation()
        self._learn_from(session)

    def _start_answer(self, message: str) -> Session:
        may_shift = self.options["context_shift"]
        try:
            return self.chat.stream(
                message,
                sampling=self.sampling,
                max_tokens=self.options["max_tokens"],
                stop=self.options["stop"],
                overflow="shift" if may_shift else "stop",
                on_prefill=self._progress,
                explain=self.options["stats"] == "full",
            )
        except ContextOverflow as error:
            undo_hint = f"/undo (leaves {self.attached[-1].name} out)" if self.attached else "/undo"
            shift_hint = "" if may_shift else " or /set context-shift on"
            raise ContextOverflow(f"{error}; in this chat: {undo_hint}, /clear{shift_hint}") from error

    def _print_answer(self, session: Session) -> None:
        """Print the answer block by block, then its statistics."""
        self.last, self.last_seed = session, self.sampling.seed
        decision_log, watch = DecisionLog(self.options["stats"]), RepetitionWatch()
        try:
            with cancelled_by_ctrl_c(session):
                for block in session.stream():
                    self._progress.clear()
                    decision_log.print_block(session, block)
                    self.screen.block(block)
                    if watch.notices(block.text):
                        self.screen.hint("[it repeats itself; Ctrl-C stops it]")
        finally:
            self._progress.clear()
            self.screen.end_line()
        self.screen.end(session, self.engine, self.options["max_tokens"])
        if self.options["stats"]:
            print_stats(session, self.engine, self.last_seed)

    def _learn_from(self, session: Session) -> None:
        """Keep an answer for heads to learn from."""
        if self._learning is not None and self.engine.fingerprint:
            tokens, count = list(session.tokens), len(session.emitted)
            used = UsedAnswers(self._learning, self.engine.fingerprint, self.engine.model.vocabulary.size)
            used.add(tokens[: len(tokens) - count], tokens[len(tokens) - count :])

    def _save_conversation(self) -> None:
        if self._saved:
            self._saved.save(self.chat, self.engine)

    def set_sampling(self, name: str, value: Any) -> None:
        """Change a sampling option. Raises InvalidRequest; then it has not changed."""
        chosen = chosen_sampling({**self.options, "seed": self.sampling.seed, name: value})
        self.sampling = self.engine.chat_sampling(**chosen)
        self._chosen = chosen
        self.options[name] = value

    def think(self, on: bool) -> None:
        """Let the model think first, or not. Raises InvalidRequest where its chat template does not offer that."""
        self.chat.template_variables = {**self.chat.template_variables, "enable_thinking": on}

    @property
    def sampling_in_words(self) -> str:
        """The sampling parameters in force, and where they come from."""
        return self.engine.sampling_defaults.describe(self._chosen)

    @property
    def drafting(self) -> bool:
        """Whether the engine drafts."""
        return self.engine.drafting

    def draft(self, on: bool) -> None:
        """Turn drafting on or off."""
        self._drafting_off = not on
        self.engine.drafting = on

    def change_drafter(self, drafter: str) -> None:
        """Draft with another drafter. Raises EdgespecError; then nothing has changed."""
        self.engine.change_drafter(drafter)
        self.options = {**self.options, "drafter": drafter}
        self._drafting_off = False
        if self._memory:
            self._memory.teach(self.engine)

    def change_model(self, model: str) -> None:
        """Continue the conversation with another model. Raises EdgespecError.

        After an error or Ctrl-C, nothing has changed.
        """
        options = {**self.options, "model": model}
        engine = _open(options)
        try:
            readable = engine.model.template_variables
            variables = {name: value for name, value in self.chat.template_variables.items() if name in readable}
            chat = engine.chat(template_variables=variables)
            chat.restore(self.chat.as_json(), same_model=False)
            if self._memory:
                self._memory.teach(engine)
        except BaseException:
            engine.close()
            raise
        before = self.engine
        self.options, self.engine, self.chat = options, engine, chat
        self.sampling = engine.chat_sampling(**self._chosen)
        self.draft(not self._drafting_off)
        before.close()

    def save(self) -> None:
        """Save the conversation with its KV cache, and its token ids for drafters."""
        if self._saved:
            self._saved.save(self.chat, self.engine, cache=True)
        if self._memory:
            self._memory.add(self._chat_name, self.chat, self.engine)

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self.engine.close()


def _open(options: dict[str, Any]) -> Engine:
    """Load an engine by the options. Raises UnsupportedModel where the model has no chat template."""
    engine = open_engine(options)
    if engine.model.chat_template is None:
        engine.close()
        raise UnsupportedModel(f"{engine.model.path.name} has no chat template: use edgespec generate --raw")
    return engine
