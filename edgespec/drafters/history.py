"""What a drafter that learns from the conversation has read so far, and what is new to it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import getsizeof
from typing import Literal, NamedTuple

from edgespec.core import common_prefix
from edgespec.errors import InvalidRequest

MAX_TOKENS = 65536
"""The default bound on tokens kept: the statistics of two long conversations."""

_TAIL = 32
"""The number of tokens compared where reading stopped, and about the number sampled before that."""


class News(NamedTuple):
    """Tokens to read, in order; a negative one is a break, never seen before, that no n-gram may span.

    When `restart` is set, the history was cut: forget everything, then read.
    """

    tokens: Sequence[int]
    restart: bool = False


class History:
    """Turns the whole token list of every call into the part that is still to be read.

    A list that extends the last one costs a few short comparisons and yields what was added. Any other list (a
    step back, another conversation) begins a new stretch: a break, `overlap` tokens that the two lists share, so
    that there is a context to match, and what is new. At most `max_tokens` are kept; then the older half goes.
    """

    __slots__ = ("_breaks", "_log", "_max_tokens", "_overlap", "_seen", "_skipped")

    def __init__(self, max_tokens: int = MAX_TOKENS, overlap: int = 0) -> None:
        if max_tokens < 2:
            raise InvalidRequest(f"max_tokens is {max_tokens}; a drafter must keep at least 2 tokens")
        self._max_tokens = max_tokens
        self._overlap = min(overlap, max_tokens // 4)
        self.forget()

    def forget(self) -> None:
        """Have everything read again."""
        self._breaks = 0
        self._log = array("i")  # all that was read, breaks included: what a restart reads again
        self._seen: list[int] = []  # the list of the last call, without its first `_skipped` tokens
        self._skipped = 0

    def news(self, tokens: Sequence[int]) -> News:
        """What to read before drafting after `tokens`."""
        fresh = self._added(tokens) if self._is_extended_by(tokens) else self._departed(tokens)
        restart = len(self._log) + len(fresh) > self._max_tokens
        self._log.extend(fresh)
        if restart:
            self._log = self._log[-(self._max_tokens // 2) :]
            return News(self._log, restart=True)
        return News(fresh)

    @property
    def read(self) -> Sequence[int]:
        """All that was read since the last restart; a break between texts is negative."""
        return self._log

    @property
    def memory_bytes(self) -> int:
        """Bytes held here; the token objects belong to the caller's list."""
        return getsizeof(self._log) + getsizeof(self._seen)

    def _is_extended_by(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` begins with what was seen, by its last tokens and a sample of the earlier ones.

        The sample keeps apart prompts of one length that end in the same words.
        """
        seen, skipped = self._seen, self._skipped
        end = skipped + len(seen)
        if len(tokens) < end or seen[-_TAIL:] != list(tokens[max(skipped, end - _TAIL) : end]):
            return False
        stride = len(seen) // _TAIL + 1
        return seen[::stride] == list(tokens[skipped:end:stride])

    def _added(self, tokens: Sequence[int]) -> list[int]:
        fresh = list(tokens[self._skipped + len(self._seen) :])
        self._seen.extend(fresh)
        if len(self._seen) > 2 * self._max_tokens:
            surplus = len(self._seen) - self._max_tokens
            del self._seen[:surplus]
            self._skipped += surplus
        return fresh

    def _departed(self, tokens: Sequence[int]) -> list[int]:
        shared = common_prefix(self._seen, list(tokens[self._skipped :]))
        if shared:
            shared += self._skipped
        self._skipped = max(0, len(tokens) - self._max_tokens)
        self._seen = list(tokens[self._skipped :])
        self._breaks += 1
        return [-self._breaks, *tokens[max(0, shared - self._overlap) :]]


Agreement = Literal["once", "split", "majority", "unanimous"]


def agreement(hits: int, total: int) -> Agreement:
    """How far `total` occurrences agree on their most frequent continuation, which `hits` of them have."""
    if total <= 1:
        return "once"
    if hits >= total:
        return "unanimous"
    return "majority" if 2 * hits > total else "split"
