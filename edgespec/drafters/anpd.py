"""ANPD: drafts from n-gram tables of several levels that adapt to the conversation (arXiv 2404.08698, section 3)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from sys import getsizeof

from edgespec.core import NOTHING, Draft, Evaluation, Verdict
from edgespec.drafters.texts import MAX_TOKENS, Agreement, Text, Texts, agreement
from edgespec.errors import InvalidRequest

_BITS = 32
"""A context is one integer, the latest token in its lowest bits: half the size of a tuple, and never two alike."""

_PRIOR: dict[Agreement, tuple[float, ...]] = {
    "once": (0.25, 0.52, 0.61, 0.85),
    "split": (0.14, 0.17, 0.18, 0.22),
    "majority": (0.33, 0.42, 0.42, 0.46),
    "unanimous": (0.55, 0.74, 0.80, 0.95),
}
"""How often guesses of levels 2, 3, 4, and 5 or more are right, measured as for the suffix drafter."""


class _Followers:
    """What followed a context that occurred more than once."""

    __slots__ = ("best", "best_count", "counts", "total")

    def __init__(self, token: int) -> None:
        self.best = token  # the most frequent; of equals, the latest
        self.best_count = self.total = 1
        self.counts = {token: 1}

    def add(self, token: int) -> None:
        count = self.counts[token] = self.counts.get(token, 0) + 1
        self.total += 1
        if count >= self.best_count:
            self.best, self.best_count = token, count


class _Level:
    """What followed every context of `size` tokens: a token where there is one occurrence, else `_Followers`."""

    __slots__ = ("mask", "size", "table")

    def __init__(self, size: int) -> None:
        self.size = size
        self.mask = (1 << size * _BITS) - 1
        self.table: dict[int, int | _Followers] = {}

    def add(self, context: int, token: int) -> None:
        key = context & self.mask
        known = self.table.get(key)
        if known is None:
            self.table[key] = token
            return
        if isinstance(known, int):
            known = self.table[key] = _Followers(known)
        known.add(token)

    @property
    def memory_bytes(self) -> int:
        several = [known for known in self.table.values() if isinstance(known, _Followers)]
        own = getsizeof(self.table) + len(self.table) * getsizeof(self.mask)
        return own + sum(getsizeof(known) + getsizeof(known.counts) for known in several)


class Anpd:
    """The adaptive n-gram drafter: level i maps the last i - 1 tokens to counts of the next one, i from 2 to `n`.

    Every guess comes from the highest level that knows the context, and is what followed it most often; of equally
    frequent ones, the latest. Up to `k` guesses make a draft: each extends the context of the next without being
    counted. Prompt and answer are counted once; the authors' code counts the prompt twice. At most `max_tokens` are
    remembered, then the older half is forgotten.
    """

    __slots__ = ("_k", "_levels", "_n", "_texts")

    def __init__(self, n: int = 5, k: int = 6, max_tokens: int = MAX_TOKENS) -> None:
        if n < 2 or k < 1:
            raise InvalidRequest(f"n is {n} and k is {k}: choose n-grams of at least 2 tokens and drafts of at least 1")
        self._n = n
        self._k = k
        self._texts = Texts(self, max_tokens)

    @property
    def name(self) -> str:
        return "anpd"

    @property
    def memory_bytes(self) -> int:
        """Bytes held, by a walk over the tables; integers and tokens, which others hold too, are not counted."""
        return self._texts.memory_bytes + sum(level.memory_bytes for level in self._levels)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A chain of at most `limit` and `k` tokens; the bucket is (n-gram level, agreement)."""
        context, filled = self._context_of(self._texts.read(tokens))
        guesses: list[int] = []
        probabilities: list[float] = []
        buckets: list[tuple[int, Agreement]] = []
        for _ in range(min(limit, self._k)):
            hit = self._look_up(context, filled)
            if hit is None:
                break
            token, level, agreed = hit
            guesses.append(token)
            probabilities.append(_PRIOR[agreed][min(level - 2, 3)])
            buckets.append((level, agreed))
            context = (context << _BITS | token) & self._levels[0].mask
            filled += 1
        return Draft.chain(guesses, probabilities, buckets, self.name) if guesses else NOTHING

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Nothing: accepted tokens arrive with the next call of `propose`."""

    def _look_up(self, context: int, filled: int) -> tuple[int, int, Agreement] | None:
        """The guess after `context`, of whose tokens the last `filled` are known, its level and its support."""
        for level in self._levels:
            if level.size > filled:
                continue
            known = level.table.get(context & level.mask)
            if known is None:
                continue
            if isinstance(known, int):
                return known, level.size + 1, agreement(1, 1)
            return known.best, level.size + 1, agreement(known.best_count, known.total)
        return None

    def _context_of(self, text: Text) -> tuple[int, int]:
        """The last tokens of a text as one integer, and how many these are."""
        last = text.ids[1 - self._n :]
        context = 0
        for token in last:
            context = context << _BITS | token
        return context, len(last)

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        """`texts.Index.read`."""
        context, filled = self._context_of(text)
        mask = self._levels[0].mask
        for token in tokens:
            for level in self._levels:
                if level.size <= filled:
                    level.add(context, token)
            context = (context << _BITS | token) & mask
            filled += 1
        text.ids += tokens

    def first_states(self) -> array[int]:
        """`texts.Index.first_states`: the context is all that there is to remember."""
        return array("i")

    def clear(self) -> None:
        """`texts.Index.clear`."""
        self._levels = [_Level(size) for size in range(self._n - 1, 0, -1)]
