"""Saved chats: conversations with their KV caches, and the token ids that n-gram drafters learn from.

All files are readable by their owner alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgespec.backend import Message, Prompt
from edgespec.engine.chat import Chat
from edgespec.engine.engine import Engine
from edgespec.engine.kv_file import DamagedKvFile, ForeignKvFile, read_kv, write_kv
from edgespec.errors import InvalidRequest, OutputError
from edgespec.system.files import locked, private_folder, read_json, write_json
from edgespec.system.jsonl import read_value
from edgespec.system.texts import counted

_CHAT_FORMAT = 1

_MEMORY_FORMAT = 2
"""In format 1 chats had no names; its files are ignored."""

_SAVED_CHAT_START = re.compile(rb'\{"format":\d+,"model":"[^"]*","model_name":')
"""How each file of `write_chat` starts."""

_MAX_TOKENS = 32_768
"""Tokens of earlier chats that are stored for a model; the oldest chats are dropped first."""

_MAX_MODELS = 8
"""Models whose chats are stored: those used last."""


def write_chat(path: Path, chat: Chat, engine: Engine) -> None:
    """Save a conversation to `path`. Raises OutputError."""
    saved = {
        "format": _CHAT_FORMAT,
        "model": engine.fingerprint,
        "model_name": engine.model.path.name,
        **chat.as_json(),
    }
    try:
        write_json(path, saved, private=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def is_chat(path: Path) -> bool:
    """Whether `write_chat` wrote this file, by its first bytes: it may be of any size. Raises OSError."""
    with path.open("rb") as file:
        return _SAVED_CHAT_START.match(file.read(512)) is not None


def read_chat(path: Path, chat: Chat, engine: Engine) -> bool:
    """Restore a saved conversation; returns whether it was with this very model. Raises InvalidRequest."""
    if not path.exists():
        raise InvalidRequest(f"{path}: there is no such conversation")
    saved = read_value(path)
    try:
        same_model: bool = saved["model"] == engine.fingerprint
        if saved["format"] != _CHAT_FORMAT:
            raise ValueError(f"format {saved['format']!r}")
        chat.restore(saved, same_model=same_model)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidRequest(f"{path}: it is not a conversation that this version of edgespec saved") from error
    return same_model


class SavedChat:
    """A conversation saved under a name: texts and ids in one file, the KV cache in another.

    As a context manager it holds a lock, so that no other process uses it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not re.fullmatch(r"\w[\w. -]*", name):
            raise InvalidRequest(f"{name!r} cannot name a session: use letters, digits, dots, dashes and spaces")
        self.name = name
        self._folder = folder
        self._chat_path, self._kv_path = folder / f"{name}.json", folder / f"{name}.kv"
        self._lock = -1
        self._unread: list[Message] | None = None  # messages whose KV cache this engine could not restore

    def __enter__(self) -> SavedChat:
        private_folder(self._folder)
        path = self._folder / f"{self.name}.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not locked(self._lock, path):
            os.close(self._lock)
            raise InvalidRequest(f"session {self.name} is open in another terminal: close it there, or choose another")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)  # the file stays: removing it could let two waiting processes in

    def restore(self, chat: Chat, engine: Engine) -> Iterator[str]:
        """Restore the conversation and its KV cache; yields messages for the user. A damaged KV cache is renamed."""
        if not self._chat_path.exists():
            yield f"session {self.name} is new"
            return
        try:
            same_model = read_chat(self._chat_path, chat, engine)
        except InvalidRequest as error:
            raise InvalidRequest(f"{error}; move it away to start a new one") from error
        turns = sum(message["role"] == "user" for message in chat.messages)
        model = "" if same_model else ", with another model"
        yield f"session {self.name} continues: {counted(turns, 'turn')} so far{model}"
        try:
            tokens, data = read_kv(self._kv_path, _kv_origin(engine))
        except FileNotFoundError:
            return
        except ForeignKvFile as error:
            self._unread = chat.messages
            yield f"its KV cache is left alone, {error}: the text is read again"
            return
        except (DamagedKvFile, OSError) as error:
            aside = self._kv_path.with_suffix(".kv.damaged")
            self._kv_path.replace(aside)
            yield f"its KV cache is damaged ({error}) and now {aside.name}: the text is read again"
            return
        if not engine.context.set_state(tokens, data):
            self._unread = chat.messages
            yield "its KV cache does not fit into this context: the text is read again"

    def save(self, chat: Chat, engine: Engine, *, cache: bool = False) -> None:
        """Save the conversation, and with `cache` its KV cache too. Raises OutputError."""
        write_chat(self._chat_path, chat, engine)
        if not cache:
            return
        engine.context.rewind(engine.context.cached(_ids(chat, engine)))  # tokens of a removed turn are not saved
        tokens, data = engine.context.state()
        try:
            if tokens:
                write_kv(self._kv_path, _kv_origin(engine), tokens, data)
            elif chat.messages != self._unread:
                self._kv_path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._kv_path}: cannot be written: {error.strerror}") from error


class ChatMemory:
    """Token ids of earlier chats by name, which n-gram drafters learn from; one file for each model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def teach(self, engine: Engine) -> None:
        """Let the n-gram drafters read what was said."""
        for drafter in engine.drafters:
            for tokens in self._chats(engine).values():
                drafter.teach(tokens)

    def add(self, name: str, chat: Chat, engine: Engine) -> None:
        """Store the token ids of a chat, and drop the oldest chats and models beyond the limits. Raises OutputError."""
        has_messages = any(message["role"] == "user" for message in chat.messages)
        chats = self._chats(engine)
        if not (chats.pop(name, None) or has_messages):
            return
        if has_messages:
            chats[name] = _ids(chat, engine)[-_MAX_TOKENS:]
        while sum(map(len, chats.values())) > _MAX_TOKENS:
            del chats[next(iter(chats))]
        path = self._file(engine.fingerprint)
        try:
            private_folder(self._folder)
            write_json(path, {"format": _MEMORY_FORMAT, "model": engine.fingerprint, "chats": chats}, private=True)
            for old in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)[:-_MAX_MODELS]:
                old.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def _chats(self, engine: Engine) -> dict[str, list[int]]:
        """The stored chats of the engine's model, the oldest first; none where the file is malformed."""
        saved: Any = read_json(self._file(engine.fingerprint))
        size = engine.model.vocabulary.size
        try:
            if saved["model"] != engine.fingerprint or saved["format"] != _MEMORY_FORMAT:
                return {}
            return {
                name: tokens
                for name, tokens in saved["chats"].items()
                if tokens and all(0 <= int(token) < size for token in tokens)
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}

    def _file(self, model: str) -> Path:
        return self._folder / f"{model}.json"


def _ids(chat: Chat, engine: Engine) -> list[int]:
    """The token ids of the conversation; empty where the template cannot render it."""
    tokens: list[int] = chat.as_json()["tokens"]
    if tokens or not chat.messages:
        return tokens
    try:
        return Prompt(engine.model, chat.messages, reply=False, variables=chat.template_variables).ids()
    except InvalidRequest:  # the template wants other messages
        return []


def _kv_origin(engine: Engine) -> dict[str, str]:
    return {"model": engine.fingerprint, "settings": engine.context.settings}
