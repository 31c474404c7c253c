"""Answers that heads may go on learning from: what a target said in chats whose user asked for that.

Only token ids are kept: a prefill of them gives the hidden states again, when there is time for training. The last
states of a prompt's tokens could not be kept anyway: collecting them changes the rounding of the answer.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest, OutputError
from edgespec.heads.collect import Pair
from edgespec.system.files import owner_only, private_folder, replacing

MOST_BYTES = 8 << 20
"""Size of a target's file, more than a million tokens. The oldest answers are dropped first."""

_LEFT = 0.75
"""The share of the largest size that stays when answers are dropped, so that not every answer drops some."""

_LEAST = 2
"""Tokens of an answer that something can be learned from."""


def used_folder(data: Path) -> Path:
    """Where the answers of all targets are, in edgespec's data folder `data`."""
    return data / "used"


class UsedAnswers:
    """The answers of one target, by the fingerprint of its file; `size` is its vocabulary's."""

    def __init__(self, folder: Path, fingerprint: str, size: int) -> None:
        self.path = folder / f"{fingerprint}.jsonl"
        self._size = size

    def add(self, tokens: Sequence[int], answer: Sequence[int]) -> None:
        """Keep an answer, with the tokens before it. Raises OutputError."""
        if len(answer) < _LEAST:
            return
        line = json.dumps({"prompt": list(tokens), "answer": list(answer)}, separators=(",", ":")).encode() + b"\n"
        try:
            private_folder(self.path.parent)
            with open(self.path, "ab", buffering=0, opener=owner_only) as file:
                before = file.tell()
                if file.write(line) < len(line):  # a full disk takes a part, and says so only at the next write
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.path.stat().st_size > MOST_BYTES:
                self._drop_oldest()
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def states_of(self, pairs: Sequence[Pair]) -> Path:
        """The folder for the hidden states of these pairs, while heads are trained on them; those of others go.

        A training that was stopped finds them again, unless another answer was kept since.
        """
        text = json.dumps([(pair.prompt, pair.answer) for pair in pairs]).encode()
        folder = self.path.with_name(f"{self.path.stem}-{zlib.crc32(text):08x}.states")
        self._remove(keep=folder)
        return folder

    def remove_states(self) -> None:
        """Remove the hidden states, which a prefill gives again. Raises OutputError."""
        self._remove(keep=None)

    def _remove(self, keep: Path | None) -> None:
        for folder in self.path.parent.glob(f"{self.path.stem}-*.states"):
            if folder != keep:
                _remove_tree(folder)

    def pairs(self) -> list[Pair]:
        """The answers with their prompts, the oldest first. Raises InvalidRequest where there are none."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise InvalidRequest(
                "no answer of this model was kept for learning: edgespec chat --learn keeps them"
            ) from None
        except OSError as error:
            raise InvalidRequest(f"{self.path}: cannot be read: {error.strerror}") from error
        found = (self._pair(line) for line in data.splitlines())
        return [pair for pair in found if pair is not None]

    def _pair(self, line: bytes) -> Pair | None:
        """The pair of a line; None for one that a crash or a full disk cut short.

        What is held out follows from the index of a prompt, so it follows from the prompt alone.
        """
        try:
            value: Any = json.loads(line)
            prompt, answer = ([self._token(token) for token in value[name]] for name in ("prompt", "answer"))
        except (ValueError, KeyError, TypeError):
            return None
        index = zlib.crc32(json.dumps(prompt).encode()) >> 1
        return Pair(index, prompt, answer) if prompt and len(answer) >= _LEAST else None

    def _token(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value < self._size:
            raise ValueError("no id of this vocabulary")
        return value

    def _drop_oldest(self) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        left = sum(map(len, lines))
        while left > _LEFT * MOST_BYTES:
            left -= len(lines.pop(0))
        with replacing(self.path) as temporary, open(temporary, "xb", opener=owner_only) as file:
            file.writelines(lines)


def forget(folder: Path) -> int:
    """Remove what was kept of all targets, and what a stopped training made of it; returns the bytes of it all.

    Raises OutputError.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if folder.exists():
        _remove_tree(folder)
    return size


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
