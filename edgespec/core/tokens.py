"""A token list with an identity, so that its new tokens are found without comparing long lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

_next_id = itertools.count(1).__next__


class Mark(NamedTuple):
    """The state of a token sequence at some time: `TokenSequence.unchanged` says how much of it still holds."""

    id: int
    version: int
    length: int


NO_MARK = Mark(0, 0, 0)
"""The mark of no sequence."""


class TokenSequence(Sequence[int]):
    """An append-only list of token ids with an `id`, and a `version` that grows when it is cut.

    `unchanged(mark)` returns, for an earlier `mark()`, how many leading tokens are still the same, in O(1).
    """

    __slots__ = ("__weakref__", "_cuts", "id", "ids")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.id = _next_id()
        self.ids: list[int] = list(ids)
        """The tokens. Appending to this list is safe; every other change has to go through `cut`."""
        self._cuts: list[int] = []  # the length that each cut left unchanged

    @property
    def version(self) -> int:
        """The number of cuts so far."""
        return len(self._cuts)

    def append(self, token: int) -> None:
        """Add one token."""
        self.ids.append(token)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens."""
        self.ids.extend(tokens)

    def cut(self, begin: int, end: int | None = None) -> None:
        """Remove the tokens from `begin` to before `end`; without `end`, all from `begin` on."""
        self._cuts.append(begin)  # first: after an interrupt, too few tokens count as unchanged, never too many
        del self.ids[begin:end]

    def mark(self) -> Mark:
        """The present state of this sequence."""
        return Mark(self.id, len(self._cuts), len(self.ids))

    def unchanged(self, mark: Mark) -> int:
        """The number of leading tokens that are the same as at `mark`; 0 for a mark of another sequence."""
        if mark.id != self.id:
            return 0
        if mark.version == len(self._cuts):
            return mark.length
        return min(mark.length, *self._cuts[mark.version :])

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self.ids[index]

    def __repr__(self) -> str:
        return f"TokenSequence(id={self.id}, version={self.version}, {len(self.ids)} tokens)"


def unchanged(tokens: Sequence[int], mark: Mark) -> int:
    """`tokens.unchanged(mark)`; 0 for a plain list, which has no identity."""
    return tokens.unchanged(mark) if isinstance(tokens, TokenSequence) else 0


def mark_of(tokens: Sequence[int]) -> Mark:
    """`tokens.mark()`; `NO_MARK` for a plain list."""
    return tokens.mark() if isinstance(tokens, TokenSequence) else NO_MARK


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """The number of leading entries that two lists share."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    low, high = 0, shorter  # left[:low] == right[:low], and left[:high] != right[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
