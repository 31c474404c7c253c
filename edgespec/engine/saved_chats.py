"""What a chat leaves for the next time: the conversation with its KV cache, and what n-gram drafters learned.

All of it is for the eyes of its owner alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgespec.backend import Message
from edgespec.engine.chat import Chat
from edgespec.engine.engine import Engine
from edgespec.engine.kv_file import OtherKv, TornKv, read_kv, write_kv
from edgespec.errors import InvalidRequest, OutputError
from edgespec.system.files import locked, private_folder, read_json, write_json

_FORMAT = 1

_MEMORY_FORMAT = 2
"""Before, chats had no names, and one that changed was there twice."""

_BEGINNING = re.compile(rb'\{"format":\d+,"model":"[^"]*","model_name":')
"""Of what `write_chat` writes."""

_MOST_REMEMBERED = 32_768
"""Tokens of earlier chats with a model; the oldest go first."""

_MOST_MODELS = 8
"""Models whose chats are remembered: those used last."""


def write_chat(path: Path, chat: Chat, engine: Engine) -> None:
    """Keep a conversation. Raises OutputError."""
    kept = {"format": _FORMAT, "model": engine.fingerprint, "model_name": engine.model.path.name, **chat.as_json()}
    try:
        write_json(path, kept, private=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def is_chat(path: Path) -> bool:
    """Whether `write_chat` made this file, by how it begins: it may be of any size. Raises OSError."""
    with path.open("rb") as file:
        return _BEGINNING.match(file.read(512)) is not None


def read_chat(path: Path, chat: Chat, engine: Engine) -> bool:
    """Go on with a conversation that was kept; whether it was with this very model. Raises InvalidRequest."""
    if not path.exists():
        raise InvalidRequest(f"{path}: there is no such conversation")
    kept: Any = read_json(path)
    if not isinstance(kept, dict):
        raise InvalidRequest(f"{path}: it is damaged or cannot be read")
    same = kept.get("model") == engine.fingerprint
    try:
        if kept["format"] != _FORMAT:
            raise ValueError(f"format {kept['format']!r}")
        chat.restore(kept, same_model=same)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidRequest(f"{path}: it is not a conversation that this version of edgespec saved") from error
    return same


class Kept:
    """A conversation under a name: its texts and ids in one file, the KV cache in another.

    As a context manager it is nobody else's meanwhile.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not re.fullmatch(r"\w[\w. -]*", name):
            raise InvalidRequest(f"{name!r} cannot name a session: use letters, digits, dots, dashes and spaces")
        self.name = name
        self._folder = folder
        self._chat, self._cache = folder / f"{name}.json", folder / f"{name}.kv"
        self._lock = -1
        self._unread: list[Message] | None = None  # of a conversation whose cache this engine could not take

    def __enter__(self) -> Kept:
        private_folder(self._folder)
        path = self._folder / f"{self.name}.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(self._lock, path):
            os.close(self._lock)
            raise InvalidRequest(f"session {self.name} is open in another terminal: close it there, or choose another")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)  # the file stays: to remove it could let in two who waited for it

    def restore(self, chat: Chat, engine: Engine) -> Iterator[str]:
        """Go on where the session ended; words to the person, one by one. What cannot be used is set aside."""
        if not self._chat.exists():
            yield f"session {self.name} is new"
            return
        try:
            same = read_chat(self._chat, chat, engine)
        except InvalidRequest as error:
            raise InvalidRequest(f"{error}; move it away to start a new one") from error
        turns = sum(message["role"] == "user" for message in chat.messages)
        yield f"session {self.name} continues: {turns} turns so far" + ("" if same else ", with another model")
        try:
            tokens, data = read_kv(self._cache, _about(engine))
        except FileNotFoundError:
            return
        except OtherKv as error:
            self._unread = chat.messages
            yield f"its KV cache is left alone, {error}: the text is read again"
            return
        except (TornKv, OSError) as error:
            aside = self._cache.with_suffix(".kv.damaged")
            self._cache.replace(aside)
            yield f"its KV cache is damaged ({error}) and now {aside.name}: the text is read again"
            return
        if not engine.context.set_state(tokens, data):
            self._unread = chat.messages
            yield "its KV cache does not fit into this context: the text is read again"

    def save(self, chat: Chat, engine: Engine, *, cache: bool = False) -> None:
        """Keep the conversation, and with `cache` the keys and values of its tokens. Raises OutputError."""
        write_chat(self._chat, chat, engine)
        if not cache:
            return
        engine.context.rewind(engine.context.cached(_ids(chat, engine)))  # nothing is kept of what was taken back
        tokens, data = engine.context.state()
        try:
            if tokens:
                write_kv(self._cache, _about(engine), tokens, data)
            elif chat.messages != self._unread:
                self._cache.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._cache}: cannot be written: {error.strerror}") from error


class Memory:
    """Token ids of earlier chats by name, for n-gram drafters to find what is said again. Each model's have a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def teach(self, engine: Engine) -> None:
        """Let the n-gram drafters read what was said."""
        for drafter in engine.drafters:
            for tokens in self._chats(engine).values():
                drafter.teach(tokens)

    def add(self, name: str, chat: Chat, engine: Engine) -> None:
        """Remember this chat as it is now, and forget the oldest beyond the bounds. Raises OutputError."""
        said = any(message["role"] == "user" for message in chat.messages)
        chats = self._chats(engine)
        if not (chats.pop(name, None) or said):
            return
        if said:
            chats[name] = _ids(chat, engine)[-_MOST_REMEMBERED:]
        while sum(map(len, chats.values())) > _MOST_REMEMBERED:
            del chats[next(iter(chats))]
        path = self._file(engine.fingerprint)
        try:
            private_folder(self._folder)
            write_json(path, {"format": _MEMORY_FORMAT, "model": engine.fingerprint, "chats": chats}, private=True)
            for old in sorted(self._folder.glob("*.json"), key=lambda one: one.stat().st_mtime_ns)[:-_MOST_MODELS]:
                old.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def _chats(self, engine: Engine) -> dict[str, list[int]]:
        """The oldest first."""
        kept: Any = read_json(self._file(engine.fingerprint))
        size = engine.model.vocabulary.size
        try:
            if kept["model"] != engine.fingerprint or kept["format"] != _MEMORY_FORMAT:
                return {}
            return {
                name: tokens
                for name, tokens in kept["chats"].items()
                if tokens and all(0 <= int(token) < size for token in tokens)
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}

    def _file(self, model: str) -> Path:
        return self._folder / f"{model}.json"


def _ids(chat: Chat, engine: Engine) -> list[int]:
    """What the conversation is to the model, as far as that is known."""
    tokens: list[int] = chat.as_json()["tokens"]
    if tokens or not chat.messages:
        return tokens
    try:
        return engine.tokenize(engine.model.render(chat.messages, reply=False))
    except InvalidRequest:  # the template wants other messages
        return []


def _about(engine: Engine) -> dict[str, str]:
    return {"model": engine.fingerprint, "settings": engine.context.settings}
