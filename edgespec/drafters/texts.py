"""What a drafter that learns from text has read: one text for each token sequence, over one index.

Several answers may take turns. Each sequence has a cursor, its text, so that a step costs what is new in its own
sequence, whatever the others did meanwhile.
"""

from __future__ import annotations

import itertools
import weakref
from array import array
from collections.abc import Sequence
from sys import getsizeof
from typing import Literal, Protocol

from edgespec.core import NO_MARK, Mark, TokenSequence, common_prefix, mark_of
from edgespec.errors import InvalidRequest

MAX_TOKENS = 65536
"""The default bound on tokens kept: the statistics of two long conversations."""

_TAIL = 32
"""Tokens compared to find the place in a sequence out of which earlier tokens were taken."""

_MOST_NEW = 64
"""Tokens that one decode step adds at most: so far from its end that place is looked for."""


_numbers = itertools.count(1)


class Text:
    """What was read of one sequence: `ids`, which begin at its token number `skipped` (below 0 after a shift).

    `states[k]` is the index's own state after k of them, where it keeps one, and `cursor` what else it keeps. `number`
    tells texts apart; `origins` are (number, length) of the texts that this one began as.
    """

    __slots__ = ("cursor", "ids", "mark", "number", "origins", "owner", "skipped", "states")

    def __init__(
        self, ids: list[int], states: array[int], skipped: int = 0, origins: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.number = next(_numbers)
        self.origins = origins
        self.cursor: object | None = None
        self.ids = ids
        self.states = states
        self.skipped = skipped
        self.mark: Mark = NO_MARK
        self.owner: weakref.ref[TokenSequence] | None = None

    @property
    def end(self) -> int:
        """The number of the sequence's first token that was not read."""
        return self.skipped + len(self.ids)

    @property
    def is_free(self) -> bool:
        """Whether no living sequence goes on with it."""
        return self.owner is None or self.owner() is None


class Index(Protocol):
    """What is learned from the texts."""

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        """Append `tokens` to the text and learn from them."""
        ...

    def first_states(self) -> array[int]:
        """The states of a text of which nothing was read."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class Texts:
    """The texts that an `index` was made from: at most `max_tokens`, then the older half is forgotten.

    A text that is known goes on where it was, by the sequence's identity, else by the longest common beginning with a
    known text: what answers have in common is read and counted once.
    """

    def __init__(self, index: Index, max_tokens: int = MAX_TOKENS) -> None:
        if max_tokens < 2:
            raise InvalidRequest(f"max_tokens is {max_tokens}; a drafter must keep at least 2 tokens")
        self._index = index
        self._max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._index.clear()
        self._texts: dict[Text, None] = {}  # that used last comes last
        self._of: weakref.WeakKeyDictionary[TokenSequence, Text] = weakref.WeakKeyDictionary()
        self._latest: Text | None = None
        self._count = 0  # tokens of all texts

    @property
    def memory_bytes(self) -> int:
        """Bytes held here; the token objects belong to the sequences."""
        return getsizeof(self._texts) + sum(getsizeof(text.ids) + getsizeof(text.states) for text in self._texts)

    def read(self, tokens: Sequence[int]) -> Text:
        """The text of `tokens`, after what is new in it was read."""
        try:
            text = self._text_of(tokens)
            fresh = tokens[text.end :]
            if self._count + len(fresh) > self._max_tokens:
                self._forget_older_half(text, fresh)
            else:
                self._index.read(text, fresh)
                self._count += len(fresh)
            text.mark = mark_of(tokens)
        except BaseException:  # after Ctrl-C, texts and index might not agree
            self.clear()
            raise
        if self._latest is not text:
            self._texts.pop(text, None)
            self._texts[text] = None
            self._latest = text
        return text

    def _text_of(self, tokens: Sequence[int]) -> Text:
        """The text to go on with."""
        if not isinstance(tokens, TokenSequence):
            return self._by_comparison(tokens)
        text = self._of.get(tokens)
        if text is None:
            text = self._by_comparison(tokens)
        else:
            same = tokens.unchanged(text.mark)
            if same >= text.mark.length:
                return text
            text.owner = None
            text = self._moved(text, tokens) or self._beginning(text, same - text.skipped)
        text.owner = weakref.ref(tokens)
        self._of[tokens] = text
        return text

    def _by_comparison(self, tokens: Sequence[int]) -> Text:
        shared, best = 0, None
        for text in self._texts:
            if text.ids and 0 <= text.skipped < len(tokens) and tokens[text.skipped] == text.ids[0]:
                length = common_prefix(text.ids, list(tokens[text.skipped : text.end]))
                if length > shared:
                    shared, best = length, text
        if best is None:
            return Text([], self._index.first_states())
        return best if shared == len(best.ids) and best.is_free else self._beginning(best, shared)

    def _beginning(self, text: Text, length: int) -> Text:
        """A text that begins as another one does."""
        if length <= 0:
            return Text([], self._index.first_states())
        self._count += length
        origins = tuple((number, min(shared, length)) for number, shared in (*text.origins, (text.number, length)))
        return Text(text.ids[:length], text.states[: length + 1], text.skipped, origins)

    def _moved(self, text: Text, tokens: TokenSequence) -> Text | None:
        """The same text, where tokens were taken out before its end, as a shift of a full context does."""
        tail = text.ids[-_TAIL:]
        for end in range(len(tokens), max(len(tail), len(tokens) - _MOST_NEW) - 1, -1):
            if len(tail) == _TAIL and tokens[end - _TAIL : end] == tail:
                text.skipped = end - len(text.ids)
                return text
        return None

    def _forget_older_half(self, latest: Text, fresh: Sequence[int]) -> None:
        """Read again what was used last, up to half of `max_tokens` with what is new in the `latest` text."""
        latest.ids += fresh
        self._texts.pop(latest, None)
        room = self._max_tokens // 2
        kept: list[tuple[Text, list[int]]] = []
        for text in (latest, *reversed(self._texts)):
            ids = text.ids[len(text.ids) - min(room, len(text.ids)) :]
            room -= len(ids)
            text.skipped = text.end - len(ids)
            text.ids, text.states, text.origins, text.cursor = [], self._index.first_states(), (), None
            kept.append((text, ids))
        self._index.clear()
        self._texts.clear()
        self._count = 0
        for text, ids in reversed(kept):
            if ids or not text.is_free:
                self._index.read(text, ids)
                self._count += len(ids)
                self._texts[text] = None
        self._latest = latest


Agreement = Literal["once", "split", "majority", "unanimous"]


def agreement(hits: int, total: int) -> Agreement:
    """How far `total` occurrences agree on their most frequent continuation, which `hits` of them have."""
    if total <= 1:
        return "once"
    if hits >= total:
        return "unanimous"
    return "majority" if 2 * hits > total else "split"
