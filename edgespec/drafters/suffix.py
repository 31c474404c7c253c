"""Drafts what followed the longest suffix of the text that occurred before.

The index is an online suffix automaton (Blumer et al., 1985), as in SAM-Decoding (arXiv 2411.10666, section 3);
weighing continuations by how often they occurred follows SuffixDecoding (arXiv 2411.04975, section 3).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from sys import getsizeof

from edgespec.core import NOTHING, Draft, Evaluation, Verdict
from edgespec.drafters.texts import MAX_TOKENS, Agreement, Text, Texts, agreement

_ROOT = 0
_NONE = -1

MAX_WALK = 32
"""The number of suffix links followed to count one token.

Ordinary text has 2 or 3 of them, and rarely 10. In 'aaaa...' there are as many as tokens: without the bound, reading
n of them takes n * n steps. Past it, counts of the shortest suffixes come out too low; matches stay exact.
"""


class SuffixAutomaton:
    """Every substring of the text read so far, with what followed it, how often, and what did so most often.

    A state stands for the substrings that end at the same places; the longest of them has `length` tokens, and the
    next shorter state is behind its `link`. Columns are flat arrays, and a state gets a dictionary of transitions
    only when it has two of them (one state in seven does): about 140 bytes a token.
    """

    __slots__ = ("_best", "_best_target", "_branches", "_count", "_length", "_link")

    def __init__(self) -> None:
        self._length = array("i", [0])
        self._link = array("i", [_NONE])
        self._count = array("i", [0])
        self._best = array("i", [_NONE])  # the most frequent next token; of equals, the latest
        self._best_target = array("i", [_NONE])
        self._branches: dict[int, dict[int, int]] = {}  # all transitions of the states that have several

    def append(self, before: int, token: int) -> int:
        """Read one token after the text whose state is `before`, and return the state of the longer text.

        Amortised O(1) (Blumer et al.), at most `MAX_WALK` links apart. A text is the longest substring of its state,
        and stays so: several texts may grow in turn, and go on from any place in them.
        """
        link = self._link
        current = self._target(before, token)
        if current != _NONE:  # another text went on like this
            if self._length[current] != self._length[before] + 1:
                current = self._split(before, token, current)
            self._tally(before, token)
            return current
        current = self._new_state(self._length[before] + 1)
        state = before
        while state != _NONE and self._target(state, token) == _NONE:
            self._connect(state, token, current)
            state = link[state]
        target = _ROOT if state == _NONE else self._target(state, token)
        if state != _NONE and self._length[target] != self._length[state] + 1:
            target = self._split(state, token, target)
        link[current] = target
        self._tally(before, token)
        return current

    def shorter(self, state: int) -> int:
        """The state of the longest suffix of `state` that occurred more often; the root's is the root."""
        return max(self._link[state], _ROOT)

    def length(self, state: int) -> int:
        """The number of tokens of the longest substring that `state` stands for."""
        return self._length[state]

    def count(self, state: int) -> int:
        """How often the substrings of `state` occurred."""
        return self._count[state]

    def best(self, state: int) -> int:
        """The token that followed `state` most often, of equals the latest; negative if none did."""
        return self._best[state]

    def follow(self, state: int) -> int:
        """The state after `best(state)`, which must be a token."""
        return self._best_target[state]

    def diverges(self, state: int) -> bool:
        """Whether different tokens followed `state`."""
        return state in self._branches

    @property
    def memory_bytes(self) -> int:
        """Bytes held here; integers inside dictionaries are counted as 32 bytes each."""
        columns = (self._length, self._link, self._count, self._best, self._best_target)
        tables = self._branches.values()
        own = sum(map(getsizeof, columns)) + getsizeof(self._branches) + 32 * len(self._branches)
        return own + sum(getsizeof(table) + 32 * len(table) for table in tables)

    def _new_state(self, length: int) -> int:
        self._length.append(length)
        self._link.append(_NONE)
        self._count.append(0)
        self._best.append(_NONE)
        self._best_target.append(_NONE)
        return len(self._length) - 1

    def _target(self, state: int, token: int) -> int:
        if self._best[state] == token:
            return self._best_target[state]
        branches = self._branches.get(state)
        return _NONE if branches is None else branches.get(token, _NONE)

    def _connect(self, state: int, token: int, target: int) -> None:
        """Let `token` lead from `state` to `target`, whether or not it led elsewhere."""
        if self._best_target[state] == _NONE or self._best[state] == token:
            self._best[state], self._best_target[state] = token, target
            if state not in self._branches:
                return
        elif state not in self._branches:
            self._branches[state] = {self._best[state]: self._best_target[state]}
        self._branches[state][token] = target

    def _split(self, state: int, token: int, target: int) -> int:
        """Give the shorter substrings of `target`, which from now on end at more places, a state of their own."""
        clone = self._new_state(self._length[state] + 1)
        for column in (self._link, self._count, self._best, self._best_target):
            column[clone] = column[target]
        if target in self._branches:
            self._branches[clone] = self._branches[target].copy()
        self._link[target] = clone
        while state != _NONE and self._target(state, token) == target:
            self._connect(state, token, clone)
            state = self._link[state]
        return clone

    def _tally(self, before: int, token: int) -> None:
        """Count the substrings that end in `token`, and let it become the best guess where it is as frequent."""
        link, count, best, best_target = self._link, self._count, self._best, self._best_target
        state, counted = before, _NONE
        for _ in range(MAX_WALK):
            if state == _NONE:
                break
            target = best_target[state] if best[state] == token else self._branches[state][token]
            if target != counted:  # neighbours on the way may lead to one state
                count[target] += 1
                counted = target
            if best[state] < 0 or count[target] >= count[best_target[state]]:
                best[state], best_target[state] = token, target
            state = link[state]


_LENGTHS = (1, 2, 3, 4, 5, 7, 10, 16, 32)
"""The shortest match of every class of guess."""

_PRIOR: dict[Agreement, tuple[float, ...]] = {
    "once": (0.25, 0.50, 0.57, 0.62, 0.70, 0.79, 0.88, 0.94, 0.98),
    "split": (0.13, 0.15, 0.17, 0.18, 0.19, 0.20, 0.22, 0.25, 0.25),
    "majority": (0.33, 0.34, 0.34, 0.34, 0.35, 0.42, 0.48, 0.50, 0.50),
    "unanimous": (0.54, 0.70, 0.77, 0.81, 0.87, 0.90, 0.93, 0.95, 0.97),
}
"""How often guesses of a class are right, one column a length.

Smoothed by eye from 100,000 tokens of Python sources, edits of them, docstrings and excerpts of package descriptions,
and from 5,000 tokens of answers by Qwen2.5-Coder-1.5B. The place in the draft does not matter beyond the match, which
grows along it. In edits, lone short matches are right more often, by up to 0.4; else domains differ by 0.1 to 0.2.
"""

_FLOOR = 0.02
"""A draft ends where its prior probability falls below this: no policy wants such tokens, and they cost time."""


class Suffix:
    """The suffix drafter: the longest suffix of the text that occurred before, continued as it most often was.

    A guess is made from the whole match, however rare: where a lone occurrence contradicts the majority of a shorter
    suffix, it is right from twice to 50 times as often. Where a match runs into the end of what was read, as in a
    loop, the draft goes on from the longest suffix that has a continuation. At most `max_tokens` are remembered, then
    the older half is forgotten.
    """

    __slots__ = ("_automaton", "_texts")

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._texts = Texts(self, max_tokens)

    @property
    def name(self) -> str:
        return "suffix"

    @property
    def memory_bytes(self) -> int:
        """Bytes held, by a walk over the index; tokens, which the sequences hold too, are not counted."""
        return self._texts.memory_bytes + self._automaton.memory_bytes

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A chain of at most `limit` tokens; the bucket is (shortest match of the class, agreement)."""
        state = self._texts.read(tokens).states[-1]
        guesses: list[int] = []
        probabilities: list[float] = []
        buckets: list[tuple[int, Agreement]] = []
        reach = 1.0
        for token, length, agreed in islice(self._continuations(state), max(limit, 0)):
            column = bisect_right(_LENGTHS, length) - 1
            probability = _PRIOR[agreed][column]
            reach *= probability
            if reach < _FLOOR:
                break
            guesses.append(token)
            probabilities.append(probability)
            buckets.append((_LENGTHS[column], agreed))
        return Draft.chain(guesses, probabilities, buckets, self.name) if guesses else NOTHING

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Nothing: accepted tokens arrive with the next call of `propose`."""

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        """`texts.Index.read`."""
        append, states, state = self._automaton.append, text.states, text.states[-1]
        for token in tokens:
            state = append(state, token)
            states.append(state)
        text.ids += tokens

    def first_states(self) -> array[int]:
        """`texts.Index.first_states`."""
        return array("i", [_ROOT])

    def clear(self) -> None:
        """`texts.Index.clear`."""
        self._automaton = SuffixAutomaton()

    def _continuations(self, state: int) -> Iterator[tuple[int, int, Agreement]]:
        """The next token after a text, the length of the match that it continues, and its support; and so on."""
        index = self._automaton
        length = index.length(state)
        unfinished = 1  # occurrences without a continuation: the one at the end of the text
        while True:
            while state and index.best(state) < 0:
                state = index.shorter(state)
                length, unfinished = index.length(state), 1
            if not state:
                return
            token, target = index.best(state), index.follow(state)
            hits = index.count(target)
            total = index.count(state) - unfinished if index.diverges(state) else hits
            yield token, length, agreement(hits, total)
            state, length, unfinished = target, length + 1, 0
