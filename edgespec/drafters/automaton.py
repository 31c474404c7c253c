"""A suffix automaton that counts: every substring of what was read, and what followed it how often.

It is built online (Blumer et al., 1985), as in SAM-Decoding (arXiv 2411.10666, section 3).
"""

from __future__ import annotations

from array import array
from sys import getsizeof

ROOT_STATE = 0
"""The state of a text of which nothing was read."""

_NONE = -1

MAX_WALK = 32
"""The number of suffix links followed to count one token.

Ordinary text has 2 or 3 of them, and rarely 10. In 'aaaa...' there are as many as tokens: without the bound, reading
n of them takes n * n steps. Past it, counts of the shortest suffixes come out too low; matches stay exact.
"""

MAX_FOLLOWERS = 128
"""The most different tokens after a match that are gone through for a draft; of so many, each is rarely right."""


class SuffixAutomaton:
    """Every substring of the text read so far, with what followed it, how often, and what did so most often.

    A state stands for the substrings that end at the same places; the longest of them has `length` tokens, and the
    next shorter state is behind its `link`. Columns are flat arrays, and a state gets a dictionary of transitions
    only when it has two of them (one state in seven does): about 170 bytes a token.
    """

    __slots__ = ("_best", "_best_target", "_branches", "_count", "_end", "_end_before", "_length", "_link")

    def __init__(self) -> None:
        self._length = array("i", [0])
        self._link = array("i", [_NONE])
        self._count = array("i", [0])
        self._best = array("i", [_NONE])  # the most frequent next token; of equals, the latest
        self._best_target = array("i", [_NONE])
        self._branches: dict[int, dict[int, int]] = {}  # all transitions of the states that have several
        self._end = array("q", [_NONE])  # the place where the substrings of a state ended last
        self._end_before = array("q", [_NONE])  # and the time before that

    def append(self, before: int, token: int, place: int = 0) -> int:
        """Read one token after the text whose state is `before`, and return the state of the longer text.

        `place` is a number of the caller's for where that is: see `end`.

        Amortised O(1) (Blumer et al.), at most `MAX_WALK` links apart. A text is the longest substring of its state,
        and stays so: several texts may grow in turn, and go on from any place in them.
        """
        link = self._link
        current = self._target(before, token)
        if current != _NONE:  # another text went on like this
            if self._length[current] != self._length[before] + 1:
                current = self._split(before, token, current)
            self._tally(before, token, place)
            return current
        current = self._new_state(self._length[before] + 1)
        state = before
        while state != _NONE and self._target(state, token) == _NONE:
            self._connect(state, token, current)
            state = link[state]
        target = ROOT_STATE if state == _NONE else self._target(state, token)
        if state != _NONE and self._length[target] != self._length[state] + 1:
            target = self._split(state, token, target)
        link[current] = target
        self._tally(before, token, place)
        return current

    def shorter(self, state: int) -> int:
        """The state of the longest suffix of `state` that occurred more often; the root's is the root."""
        return max(self._link[state], ROOT_STATE)

    def length(self, state: int) -> int:
        """The number of tokens of the longest substring that `state` stands for."""
        return self._length[state]

    def count(self, state: int) -> int:
        """How often the substrings of `state` occurred."""
        return self._count[state]

    def end(self, state: int, here: int) -> int:
        """The place where `state` occurred last, but for `here`; negative if it did not."""
        end = self._end[state]
        return self._end_before[state] if end == here else end

    def best(self, state: int) -> int:
        """The token that followed `state` most often, of equals the latest; negative if none did."""
        return self._best[state]

    def follow(self, state: int) -> int:
        """The state after `best(state)`, which must be a token."""
        return self._best_target[state]

    def diverges(self, state: int) -> bool:
        """Whether different tokens followed `state`."""
        return state in self._branches

    def others(self, state: int, least: int) -> list[tuple[int, int, int]]:
        """What followed `state` at least `least` times but for `best(state)`: (how often, token, state after it).

        The most frequent come first; of equals, the latest. Empty where over `MAX_FOLLOWERS` tokens followed.
        """
        branches = self._branches.get(state)
        if branches is None or len(branches) > MAX_FOLLOWERS:
            return []
        counts, best, end = self._count, self._best[state], self._end
        found = [
            (counts[target], token, target)
            for token, target in branches.items()
            if counts[target] >= least and token != best
        ]
        found.sort(key=lambda other: (other[0], end[other[2]]), reverse=True)
        return found

    @property
    def memory_bytes(self) -> int:
        """Bytes held here; integers inside dictionaries are counted as 32 bytes each."""
        columns = (
            self._length, self._link, self._count, self._best, self._best_target, self._end, self._end_before
        )  # fmt: skip
        tables = self._branches.values()
        own = sum(map(getsizeof, columns)) + getsizeof(self._branches) + 32 * len(self._branches)
        return own + sum(getsizeof(table) + 32 * len(table) for table in tables)

    def _new_state(self, length: int) -> int:
        self._length.append(length)
        self._link.append(_NONE)
        self._count.append(0)
        self._best.append(_NONE)
        self._best_target.append(_NONE)
        self._end.append(_NONE)
        self._end_before.append(_NONE)
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
        for column in (self._link, self._count, self._best, self._best_target, self._end, self._end_before):
            column[clone] = column[target]
        if target in self._branches:
            self._branches[clone] = self._branches[target].copy()
        self._link[target] = clone
        while state != _NONE and self._target(state, token) == target:
            self._connect(state, token, clone)
            state = self._link[state]
        return clone

    def _tally(self, before: int, token: int, place: int) -> None:
        """Count the substrings that end in `token`, and let it become the best guess where it is as frequent."""
        link, count, best, best_target = self._link, self._count, self._best, self._best_target
        end, end_before = self._end, self._end_before
        state, counted = before, _NONE
        for _ in range(MAX_WALK):
            if state == _NONE:
                break
            target = best_target[state] if best[state] == token else self._branches[state][token]
            if target != counted:  # neighbours on the way may lead to one state
                count[target] += 1
                end_before[target], end[target] = end[target], place
                counted = target
            if best[state] < 0 or count[target] >= count[best_target[state]]:
                best[state], best_target[state] = token, target
            state = link[state]
