"""What a chat leaves for the next time: the conversation with its KV cache, and what the n-gram drafter learned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgespec import Chat, Engine
from edgespec.drafters.suffix import Suffix
from edgespec.errors import InvalidRequest, OutputError
from edgespec.gguf_header import read_header
from edgespec.kv_file import OtherKv, TornKv, read_kv, write_kv
from edgespec.store import read_json, write_json

_FORMAT = 1

_MOST_REMEMBERED = 32_768
"""Tokens of earlier chats; the oldest go first."""


def write_chat(path: Path, chat: Chat, engine: Engine) -> None:
    """Keep a conversation. Raises OutputError."""
    kept = {"format": _FORMAT, "model": _fingerprint(engine), "model_name": engine.model.path.name, **chat.as_json()}
    try:
        write_json(path, kept)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def read_chat(path: Path, chat: Chat, engine: Engine) -> bool:
    """Go on with a conversation that was kept; whether it was with this very model. Raises InvalidRequest."""
    if not path.exists():
        raise InvalidRequest(f"{path}: there is no such conversation")
    kept: Any = read_json(path)
    try:
        if kept["format"] != _FORMAT:
            raise ValueError(f"format {kept['format']!r}")
        same = kept["model"] == _fingerprint(engine)
        chat.restore(kept, same_model=same)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidRequest(f"{path}: it is no conversation that edgespec kept ({error!r})") from error
    return bool(same)


class Kept:
    """A conversation under a name: its texts and ids in one file, the KV cache in another."""

    def __init__(self, folder: Path, name: str) -> None:
        if not re.fullmatch(r"\w[\w. -]*", name):
            raise InvalidRequest(f"{name!r} cannot name a session: use letters, digits, dots, dashes and spaces")
        self._name = name
        self._chat, self._cache = folder / f"{name}.json", folder / f"{name}.kv"

    def restore(self, chat: Chat, engine: Engine) -> Iterator[str]:
        """Go on where the session ended; words to the person, one by one. What cannot be used is set aside."""
        if not self._chat.exists():
            yield f"session {self._name} begins"
            return
        same = read_chat(self._chat, chat, engine)
        turns = sum(message["role"] == "user" for message in chat.messages)
        yield f"session {self._name} goes on: {turns} turns so far" + ("" if same else ", with another model")
        try:
            tokens, data = read_kv(self._cache, _about(engine))
        except FileNotFoundError:
            return
        except OtherKv as error:
            yield f"its KV cache is left alone, {error}: the text is read again"
            return
        except (TornKv, OSError) as error:
            aside = self._cache.with_suffix(".kv.damaged")
            self._cache.replace(aside)
            yield f"its KV cache is damaged ({error}) and now {aside.name}: the text is read again"
            return
        if not engine.context.set_state(tokens, data):
            yield "its KV cache does not fit into this context: the text is read again"

    def save(self, chat: Chat, engine: Engine, *, cache: bool = False) -> None:
        """Keep the conversation, and with `cache` the keys and values of its tokens. Raises OutputError."""
        write_chat(self._chat, chat, engine)
        if not cache:
            return
        tokens, data = engine.context.state()
        try:
            write_kv(self._cache, _about(engine), tokens, data)
        except OSError as error:
            raise OutputError(f"{self._cache}: cannot be written: {error.strerror}") from error


class Memory:
    """Token ids of earlier chats, for the n-gram drafter to find what is said again. Ids are of one model."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def teach(self, engine: Engine) -> None:
        """Let the drafter read what was said."""
        for drafter in engine.drafters:
            if isinstance(drafter, Suffix):
                for tokens in self._chats(engine):
                    drafter.propose(tokens, 0)

    def add(self, chat: Chat, engine: Engine) -> None:
        """Remember this chat too, and forget the oldest beyond the bound. Raises OutputError."""
        tokens = chat.as_json()["tokens"][-_MOST_REMEMBERED:]
        chats = [*self._chats(engine), tokens] if tokens else self._chats(engine)
        while sum(map(len, chats)) > _MOST_REMEMBERED:
            chats.pop(0)
        try:
            write_json(self._path, {"format": _FORMAT, "model": _fingerprint(engine), "chats": chats})
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _chats(self, engine: Engine) -> list[list[int]]:
        kept: Any = read_json(self._path)
        size = engine.model.vocabulary.size
        try:
            if kept["model"] != _fingerprint(engine) or kept["format"] != _FORMAT:
                return []
            return [tokens for tokens in kept["chats"] if tokens and all(0 <= int(token) < size for token in tokens)]
        except (KeyError, TypeError, ValueError):
            return []


def _about(engine: Engine) -> dict[str, str]:
    return {"model": _fingerprint(engine), "settings": engine.context.settings}


def _fingerprint(engine: Engine) -> str:
    return read_header(engine.model.path).fingerprint
