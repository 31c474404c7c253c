"""The vocabulary map: how a drafter model reads the target's tokens, and what its rows are in the target's vocabulary.

Two models of one family often have one vocabulary, padded to different sizes. Others share most token texts. What
counts is the text of each token, not the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

LEAST_OVERLAP = 0.6
"""The share of the smaller vocabulary that both must have; below, most guesses could not even be spelled."""


@dataclass(frozen=True, slots=True)
class Match:
    """Two vocabularies: `to_drafter[id of the target]` and `to_target[id of the drafter]`, -1 where there is none."""

    to_drafter: npt.NDArray[np.int32]
    to_target: npt.NDArray[np.int32]

    @property
    def overlap(self) -> float:
        """The share of the smaller vocabulary that has a counterpart in the other."""
        smaller = min(len(self.to_drafter), len(self.to_target))
        return float((self.to_drafter >= 0).sum()) / smaller if smaller else 0.0


def match_texts(target: Sequence[bytes], drafter: Sequence[bytes]) -> Match:
    """Match tokens with equal texts; a text that stands for several tokens of one vocabulary matches none."""
    places = _unambiguous(drafter)
    to_drafter = np.full(len(target), -1, np.int32)
    to_target = np.full(len(drafter), -1, np.int32)
    for text, token in _unambiguous(target).items():
        place = places.get(text)
        if place is not None:
            to_drafter[token], to_target[place] = place, token
    return Match(to_drafter, to_target)


def _unambiguous(texts: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    twice: set[bytes] = set()
    for token, text in enumerate(texts):
        if text in found:
            twice.add(text)
        found[text] = token
    return {text: token for text, token in found.items() if text not in twice}


class MatchedVocabulary:
    """Different ids: a `TokenMap` by a `Match`. A token that the drafter lacks is read as the tokens of its text."""

    def __init__(self, match: Match, target: Spelling, drafter: Spelling) -> None:
        self.row_to_target: npt.NDArray[np.int32] | None = match.to_target
        self._to_drafter = match.to_drafter
        self._target, self._drafter = target, drafter
        self._spellings: dict[int, list[int]] = {}  # a text is read anew for every price and every draft

    def read(self, tokens: Sequence[int]) -> list[int]:
        ids = self._to_drafter[np.asarray(tokens, np.int64)].tolist()
        if -1 not in ids:
            return list(ids)
        read: list[int] = []
        for token, known in zip(tokens, ids, strict=True):
            read += [known] if known >= 0 else self._spelled(token)
        return read

    def _spelled(self, token: int) -> list[int]:
        known = self._spellings.get(token)
        if known is None:
            piece = self._target.piece(token).decode(errors="replace")
            known = self._spellings[token] = self._drafter.tokenize(piece)
        return known


class Spelling(Protocol):
    """A vocabulary's tokens and texts."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token as they appear in text."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text."""
        ...


class TokenMap(Protocol):
    """How a drafter sees the target's tokens."""

    def read(self, tokens: Sequence[int]) -> list[int]:
        """The drafter's ids for target ids; where one of these is unknown to it, several may stand for it."""
        ...

    @property
    def row_to_target(self) -> npt.NDArray[np.int32] | None:
        """The target's id for each of the drafter's rows, negative where it has none; None: they are the same."""
        ...


class SameVocabulary:
    """Equal ids. `row_to_target`: the ids of a trimmed drafter's rows; it reads all tokens all the same.

    `size`: the number of tokens that the drafter can read, where the target's vocabulary is padded to more; padding
    never occurs in text, so it does not matter as what it is read.
    """

    def __init__(self, row_to_target: npt.NDArray[np.int32] | None = None, size: int | None = None) -> None:
        self.row_to_target = row_to_target
        self._size = size

    def read(self, tokens: Sequence[int]) -> list[int]:
        if self._size is None:
            return list(tokens)
        return [token if token < self._size else 0 for token in tokens]
