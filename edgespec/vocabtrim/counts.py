"""Token counts with their provenance, and held-out counts for measuring coverage."""

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

COUNTS_FORMAT = 1
"""Version of the counts files."""

CountSource = Literal["target", "answers", "text"]
"""`target`: the target answered prompts; `answers`: recorded answers; `text`: plain text."""

HELD_OUT_INTERVAL = 10
"""Texts for each one that is held out for measuring coverage."""


@dataclass(slots=True)
class Counts:
    """Token counts by id. `held_out` has the counts of the texts that `tokens` does not include."""

    source: CountSource
    tokenizer: str
    """Hash of the vocabulary of the ids."""
    tokens: Counter[int] = field(default_factory=Counter)
    held_out: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    origin: dict[str, Any] = field(default_factory=dict)
    """The model and the prompts, by name and hash."""

    def add(self, tokens: Iterable[int]) -> None:
        """Count one text; every HELD_OUT_INTERVAL-th is held out."""
        self.texts += 1
        (self.held_out if self.texts % HELD_OUT_INTERVAL == 0 else self.tokens).update(tokens)

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the counts and their totals, as a trimmed file stores them."""
        return {
            "source": self.source,
            "texts": self.texts,
            "tokens": self.tokens.total(),
            "distinct": len(self.tokens),
            "held_out_tokens": self.held_out.total(),
            **self.origin,
        }

    def save(self, path: Path) -> None:
        """Write the counts to `path`, whole or not at all. Raises OSError."""
        write_json(
            path,
            {
                "format": COUNTS_FORMAT,
                "tokenizer": self.tokenizer,
                **self.provenance,
                "counts": _by_frequency(self.tokens),
                "held_out": _by_frequency(self.held_out),
            },
        )


def load_counts(path: Path) -> Counts:
    """Read counts from a file. Raises InvalidRequest where it is missing or malformed."""
    if not path.is_file():
        raise InvalidRequest(f"{path}: no such file; make one with edgespec calibrate")
    data = read_json(path)
    try:
        if data["format"] != COUNTS_FORMAT or data["source"] not in ("target", "answers", "text"):
            raise ValueError("another format")
        field_names = {
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
            origin={key: value for key, value in data.items() if key not in field_names},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(f"{path}: no counts of edgespec calibrate ({error}); make them again") from error


def tokenizer_hash(part: Part) -> str:
    """A hash of a vocabulary: of the texts of all its tokens, in order, without padding at the end."""
    return hashlib.sha256(b"\0".join(unpadded(strings(part, "tokenizer.ggml.tokens")))).hexdigest()[:32]


def merged(counts: Sequence[Counts]) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """Counts of models' answers, of plain text, and of what was held out: of answers, else of plain text."""
    answer_counts: Counter[int] = Counter()
    text_counts: Counter[int] = Counter()
    held_out_by_plain: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    for part in counts:
        plain = part.source == "text"
        (text_counts if plain else answer_counts).update(part.tokens)
        held_out_by_plain[plain].update(part.held_out)
    return answer_counts, text_counts, held_out_by_plain[False] or held_out_by_plain[True]


def _by_frequency(counts: Counter[int]) -> dict[str, int]:
    return {str(token): count for token, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))}


def _counter(table: Mapping[str, Any]) -> Counter[int]:
    counts = Counter({int(token): int(count) for token, count in table.items()})
    if any(token < 0 or count < 0 for token, count in counts.items()):
        raise ValueError("a negative number")
    return counts
