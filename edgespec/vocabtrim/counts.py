"""How often each token occurs, where that was counted, and what was set aside to judge the choice by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgespec.errors import InvalidRequest
from edgespec.gguf.metadata import strings, unpadded
from edgespec.gguf.reader import Part
from edgespec.system.files import read_json, write_json

FORMAT = 1
Source = Literal["target", "answers", "text"]
"""`target`: the target answered prompts; `answers`: recorded answers; `text`: plain text."""

HELD_OUT_EVERY = 10
"""One text of so many is not counted but kept to measure coverage on."""


@dataclass(slots=True)
class Counts:
    """Token counts by id. `held_out` are those of texts that `tokens` does not include."""

    source: Source
    tokenizer: str
    """Hash of the vocabulary that the ids belong to."""
    tokens: Counter[int] = field(default_factory=Counter)
    held_out: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    origin: dict[str, Any] = field(default_factory=dict)
    """Which model and which prompts, by name and hash."""

    def add(self, tokens: Iterable[int]) -> None:
        """Count one text; every tenth is held out."""
        self.texts += 1
        (self.held_out if self.texts % HELD_OUT_EVERY == 0 else self.tokens).update(tokens)

    @property
    def told(self) -> dict[str, Any]:
        """Where the counts come from, without the counts: what a trimmed file carries."""
        return {
            "source": self.source,
            "texts": self.texts,
            "tokens": self.tokens.total(),
            "distinct": len(self.tokens),
            "held_out_tokens": self.held_out.total(),
            **self.origin,
        }

    def save(self, path: Path) -> None:
        """Write them, whole or not at all. Raises OSError."""
        write_json(
            path,
            {
                "format": FORMAT,
                "tokenizer": self.tokenizer,
                **self.told,
                "counts": _by_frequency(self.tokens),
                "held_out": _by_frequency(self.held_out),
            },
        )


def load_counts(path: Path) -> Counts:
    """Counts from a file. Raises InvalidRequest where there is none or it is something else."""
    if not path.is_file():
        raise InvalidRequest(f"{path}: no such file; make one with edgespec calibrate")
    data = read_json(path)
    try:
        if data["format"] != FORMAT or data["source"] not in ("target", "answers", "text"):
            raise ValueError("another format")
        known = {
            "format",
            "tokenizer",
            "counts",
            "held_out",
            "source",
            "texts",
            "tokens",
            "distinct",
            "held_out_tokens",
        }
        return Counts(
            source=data["source"],
            tokenizer=str(data["tokenizer"]),
            tokens=_counter(data["counts"]),
            held_out=_counter(data["held_out"]),
            texts=int(data["texts"]),
            origin={key: value for key, value in data.items() if key not in known},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{path}: no counts of edgespec calibrate ({error}); make them again") from error


def tokenizer_hash(part: Part) -> str:
    """What tells one vocabulary from another: the texts of all its tokens, in order, without padding at the end."""
    return hashlib.sha256(b"\0".join(unpadded(strings(part, "tokenizer.ggml.tokens")))).hexdigest()[:32]


def merged(counts: Sequence[Counts]) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """What models said, what plain text holds, and what was held out of the former (of the latter, if that is all)."""
    said: Counter[int] = Counter()
    read: Counter[int] = Counter()
    held: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for one in counts:
        plain = one.source == "text"
        (read if plain else said).update(one.tokens)
        held[plain].update(one.held_out)
    return said, read, held[False] or held[True]


def _by_frequency(counts: Counter[int]) -> dict[str, int]:
    return {str(token): count for token, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))}


def _counter(table: Mapping[str, Any]) -> Counter[int]:
    counts = Counter({int(token): int(count) for token, count in table.items()})
    if any(token < 0 or count < 0 for token, count in counts.items()):
        raise ValueError("a negative number")
    return counts
