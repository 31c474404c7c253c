"""ANPD: drafts from n-gram tables of several levels that adapt to the conversation (arXiv 2404.08698, section 3)."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from sys import getsizeof

from edgespec.core import NOTHING, Draft, Evaluation, Verdict
from edgespec.drafters.growth import Growth
from edgespec.drafters.texts import MAX_TOKENS, Agreement, Text, Texts, agreement
from edgespec.errors import InvalidRequest
from edgespec.policy.tree import HOPELESS

_BITS = 32
"""A context is one integer, the latest token in its lowest bits: half the size of a tuple, and never two alike."""

_PRIOR: dict[Agreement, tuple[float, ...]] = {
    "once": (0.25, 0.52, 0.61, 0.85),
    "split": (0.14, 0.17, 0.18, 0.22),
    "majority": (0.33, 0.42, 0.42, 0.46),
    "unanimous": (0.55, 0.74, 0.80, 0.95),
}
"""How often guesses of levels 2, 3, 4, and 5 or more are right, measured as for the suffix drafter."""

_OF_SHARE = 0.4
"""What else followed a context than the most frequent token is right this many times as often as it followed."""

_OCCURRENCES = (2, 3, 4, 6, 8, 12)
"""Feature buckets of what else followed: the fewest occurrences of the context for each of the token."""

_LEAST_REACH = HOPELESS * _OCCURRENCES[0] / _OF_SHARE
"""Behind a node that is reached less often, all that else followed is below `HOPELESS`."""

_MAX_FOLLOWERS = 128
"""The most different tokens after a context that are gone through for a draft; of so many, each is rarely right."""

_State = tuple[int, int, int]
"""A context of a path, how many of its tokens are known, and how many were drafted."""


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
    counted. Prompt and answer are counted once; the authors' code counts the prompt twice. With `branches`, which the
    paper does not have, what else followed a context at its highest level begins side branches behind that chain; no
    path has more than `k` tokens. At most `max_tokens` are remembered, then the older
    half is forgotten.
    """

    __slots__ = ("_branches", "_k", "_levels", "_n", "_texts")

    def __init__(self, n: int = 5, k: int = 6, max_tokens: int = MAX_TOKENS, *, branches: bool = True) -> None:
        if n < 2 or k < 1:
            raise InvalidRequest(f"n is {n} and k is {k}: choose n-grams of at least 2 tokens and drafts of at least 1")
        self._n = n
        self._k = k
        self._branches = branches
        self._texts = Texts(self, max_tokens)

    @property
    def name(self) -> str:
        return "anpd"

    @property
    def memory_bytes(self) -> int:
        """Bytes held, by a walk over the tables; integers and tokens, which others hold too, are not counted."""
        return self._texts.memory_bytes + sum(level.memory_bytes for level in self._levels)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A chain of at most `limit` and `k` tokens, and side branches up to `limit` nodes.

        The bucket is (n-gram level, agreement); that of a side branch's first token is ("branch", occurrences of the
        context for each of the token).
        """
        context, filled = self._context_of(self._texts.read(tokens))
        guesses: list[int] = []
        probabilities: list[float] = []
        buckets: list[Hashable] = []
        diverging: list[_State] = []
        for drafted in range(min(limit, self._k)):
            hit = self._look_up(context, filled)
            if hit is None:
                break
            token, level, agreed = hit
            guesses.append(token)
            probabilities.append(_PRIOR[agreed][min(level - 2, 3)])
            buckets.append((level, agreed))
            if agreed in ("majority", "split"):
                diverging.append((context, filled, drafted))
            context = (context << _BITS | token) & self._levels[0].mask
            filled += 1
        if not self._branches or not diverging or len(guesses) == limit:
            return Draft.chain(guesses, probabilities, buckets, self.name) if guesses else NOTHING
        growth: Growth[_State] = Growth(guesses, probabilities, buckets, limit)
        for state in diverging:
            parent = state[2] - 1
            growth.offer(parent, islice(self._children(state, growth.reach(parent)), 1, None))
        growth.grow(self._children)
        return growth.draft(self.name)

    def _children(self, state: _State, reach: float) -> Iterator[tuple[int, float, Hashable, _State]]:
        """What may follow a context behind a node of that `reach`: the guess, and what else followed."""
        context, filled, drafted = state
        hit = self._look_up(context, filled) if drafted < self._k else None
        if hit is None:
            return
        guess, level, agreed = hit
        mask, table = self._levels[0].mask, self._levels[self._n - level]
        context <<= _BITS
        after = (context | guess) & mask, filled + 1, drafted + 1
        yield guess, _PRIOR[agreed][min(level - 2, 3)], (level, agreed), after
        known = table.table[context >> _BITS & table.mask]
        if reach < _LEAST_REACH or not isinstance(known, _Followers) or len(known.counts) > _MAX_FOLLOWERS:
            return
        least = known.total // (int(_OF_SHARE * reach / HOPELESS) + 1) + 1
        others = [(hits, token) for token, hits in known.counts.items() if hits >= least and token != guess]
        others.sort(reverse=True, key=itemgetter(0))
        for hits, token in others:
            occurrences = known.total // hits  # at least 2: the guess is as frequent
            bucket = _OCCURRENCES[bisect_right(_OCCURRENCES, occurrences) - 1]
            after = (context | token) & mask, filled + 1, drafted + 1
            yield token, _OF_SHARE / occurrences, ("branch", bucket), after

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
