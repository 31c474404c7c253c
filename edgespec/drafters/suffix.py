"""Drafts what followed the longest suffix of the text that occurred before.

The index is an online suffix automaton (Blumer et al., 1985), as in SAM-Decoding (arXiv 2411.10666, section 3);
weighing continuations by how often they occurred follows SuffixDecoding (arXiv 2411.04975, section 3).
"""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from sys import getsizeof
from typing import Literal

from edgespec.core import NOTHING, Draft, Evaluation, TokenSequence, Verdict
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
        target = _ROOT if state == _NONE else self._target(state, token)
        if state != _NONE and self._length[target] != self._length[state] + 1:
            target = self._split(state, token, target)
        link[current] = target
        self._tally(before, token, place)
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


Source = Literal["earlier", "prompt", "answer", "resumed"]
"""Where a match comes from: another text, what was given before the answer, the answer itself, or a run of copying that
broke off."""

_LENGTHS = (0, 1, 2, 3, 4, 5, 7, 10, 16, 24, 32, 48)
"""The shortest match of every feature bucket."""

_PRIOR: dict[tuple[Agreement, Source], tuple[float, ...]] = {
    ("once", "prompt"): (0.0, 0.36, 0.63, 0.72, 0.80, 0.85, 0.92, 0.93, 0.96, 0.965, 0.98, 0.985),
    ("unanimous", "prompt"): (0.0, 0.40, 0.60, 0.72, 0.80, 0.85, 0.92, 0.93, 0.96, 0.965, 0.98, 0.985),
    ("once", "earlier"): (0.0, 0.25, 0.50, 0.57, 0.62, 0.70, 0.79, 0.88, 0.94, 0.96, 0.98, 0.98),
    ("unanimous", "earlier"): (0.0, 0.40, 0.60, 0.70, 0.76, 0.82, 0.88, 0.92, 0.95, 0.96, 0.97, 0.98),
    ("majority", "earlier"): (0.0, 0.33, 0.34, 0.34, 0.34, 0.35, 0.42, 0.48, 0.50, 0.50, 0.50, 0.50),
    ("split", "earlier"): (0.0, 0.06, 0.15, 0.17, 0.18, 0.19, 0.20, 0.22, 0.25, 0.25, 0.25, 0.25),
    ("once", "answer"): (0.0, 0.25, 0.50, 0.57, 0.62, 0.70, 0.79, 0.88, 0.94, 0.96, 0.98, 0.98),
    ("unanimous", "answer"): (0.0, 0.40, 0.65, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.96, 0.97, 0.98),
    ("majority", "prompt"): (0.0, 0.33, 0.34, 0.34, 0.34, 0.35, 0.42, 0.48, 0.50, 0.50, 0.50, 0.50),
    ("majority", "answer"): (0.0, 0.33, 0.34, 0.34, 0.34, 0.35, 0.42, 0.48, 0.50, 0.50, 0.50, 0.50),
    ("split", "prompt"): (0.0, 0.10, 0.15, 0.17, 0.18, 0.19, 0.20, 0.22, 0.25, 0.25, 0.25, 0.25),
    ("split", "answer"): (0.0, 0.06, 0.15, 0.17, 0.18, 0.19, 0.20, 0.22, 0.25, 0.25, 0.25, 0.25),
    ("once", "resumed"): (0.45, 0.80, 0.86, 0.88, 0.90, 0.91, 0.94, 0.95, 0.965, 0.97, 0.98, 0.99),
}
"""How often draft tokens of a feature bucket are right, one column a length."""

_FLOOR = 0.02
"""A draft ends where its prior probability falls below this: no policy wants such tokens, and they cost time."""


_RUN = 6
"""Tokens of a match that make a run of copying: where it breaks off, copying may resume behind the place."""

_RESUMED = 16
"""Tokens after which a run that broke off is not expected to resume."""

_TEXT_BITS = 32
"""A place is the number of its text, and that many bits for the place in it."""

_PLACE = (1 << _TEXT_BITS) - 1


@dataclass(slots=True)
class _Answer:
    """Where the prompt of a sequence ends.

    `prompt` is the number of its first token that the target said, `length` that of all tokens after the last forward
    pass that was observed.
    """

    prompt: int = 0
    length: int = -1


class _Cursor:
    """The last run of copying in one text."""

    __slots__ = ("offset", "since")

    def __init__(self) -> None:
        self.offset = 0
        """From the place in the text back to the source of the last run of copying."""
        self.since = _RESUMED + 1
        """Tokens since that broke off."""


class Suffix:
    """The suffix drafter: the longest suffix of the text that occurred before, continued as it most often was.

    A guess is made from the whole match, however rare: where a lone occurrence contradicts the majority of a shorter
    suffix, it is right from twice to 50 times as often. Where a match runs into the end of what was read, as in a
    loop, the draft goes on from the longest suffix that has a continuation. At most `max_tokens` are remembered, then
    the older half is forgotten.
    """

    __slots__ = ("_answers", "_automaton", "_texts")

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._texts = Texts(self, max_tokens)
        self._answers: weakref.WeakKeyDictionary[TokenSequence, _Answer] = weakref.WeakKeyDictionary()

    @property
    def name(self) -> str:
        return "suffix"

    @property
    def memory_bytes(self) -> int:
        """Bytes held, by a walk over the index; tokens, which the sequences hold too, are not counted."""
        return self._texts.memory_bytes + self._automaton.memory_bytes

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A chain of at most `limit` tokens; the feature bucket is (shortest match of the class, agreement, source)."""
        text = self._texts.read(tokens)
        found: list[int] = []
        probabilities: list[float] = []
        buckets: list[tuple[int, Agreement, Source]] = []
        reach = 1.0
        for token, length, agreed, source in islice(self._continuation(text, self._prompt_of(tokens)), max(limit, 0)):
            column = bisect_right(_LENGTHS, length) - 1
            probability = _PRIOR[agreed, source][column]
            reach *= probability
            if reach < _FLOOR:
                break
            found.append(token)
            probabilities.append(probability)
            buckets.append((_LENGTHS[column], agreed, source))
        return Draft.chain(found, probabilities, buckets, self.name) if found else NOTHING

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Notice where the prompt ends. Tokens are read by `propose`: the first one must not wait for that."""
        if not isinstance(evaluation.sequence, TokenSequence):
            return
        answer = self._answers.setdefault(evaluation.sequence, _Answer())
        if evaluation.length != answer.length:
            answer.prompt = evaluation.length
        answer.length = evaluation.length + len(verdict.emitted)

    def _prompt_of(self, tokens: Sequence[int]) -> int:
        answer = self._answers.get(tokens) if isinstance(tokens, TokenSequence) else None
        return answer.prompt if answer else 0

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        """`texts.Index.read`."""
        index, states, state, cursor = self._automaton, text.states, text.states[-1], _cursor_of(text)
        place = (text.number << _TEXT_BITS) + len(text.ids)
        for token in tokens:
            state = index.append(state, token, place)
            states.append(state)
            match = state if index.count(state) > 1 else index.shorter(state)
            cursor.since += 1
            if index.length(match) >= _RUN and (end := self._place_in(text, index.end(match, place))) is not None:
                cursor.offset, cursor.since = (place & _PLACE) - end, 0
            place += 1
        text.ids += tokens

    def first_states(self) -> array[int]:
        """`texts.Index.first_states`."""
        return array("i", [_ROOT])

    def clear(self) -> None:
        """`texts.Index.clear`."""
        self._automaton = SuffixAutomaton()

    def _place_in(self, text: Text, end: int) -> int | None:
        """A place of the automaton as one of this text; None where it is of another."""
        number, place = end >> _TEXT_BITS, end & _PLACE
        if number == text.number or any(number == origin and place < length for origin, length in text.origins):
            return place
        return None

    def _continuation(self, text: Text, prompt: int) -> Iterator[tuple[int, int, Agreement, Source]]:
        """The next token after a text, the length of the match that it continues, its support and source; and so on."""
        index, cursor = self._automaton, _cursor_of(text)
        state = text.states[-1]
        while state and index.best(state) < 0:
            state = index.shorter(state)
        resumed = self._resumed(text, cursor, index.length(state))
        if resumed is not None:
            return self._run(text, *resumed)
        return self._matched(text, prompt - text.skipped, state)

    def _resumed(self, text: Text, cursor: _Cursor, known: int) -> tuple[int, int] | None:
        """The place from which a run of copying goes on that broke off, and the tokens that match before it.

        None where a longer match is `known`, or copying did not resume: at least one token must match again, or the
        one wrong token must have been the last.
        """
        ids = text.ids
        here = len(ids) - 1
        place = here - cursor.offset
        if known >= _RUN or not 0 < cursor.since <= _RESUMED or place < 0:
            return None
        length = 0
        while length < min(_RUN, place + 1) and ids[place - length] == ids[here - length]:
            length += 1
        if length < known or (not length and cursor.since > 1):
            return None
        return place + 1, length

    def _run(self, text: Text, place: int, length: int) -> Iterator[tuple[int, int, Agreement, Source]]:
        for at in range(place, len(text.ids)):
            yield text.ids[at], length + at - place, "once", "resumed"

    def _matched(self, text: Text, prompt: int, state: int) -> Iterator[tuple[int, int, Agreement, Source]]:
        """Without end in a loop: what followed the longest match most often."""
        index = self._automaton
        here = (text.number << _TEXT_BITS) + len(text.ids) - 1
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
            end = self._place_in(text, index.end(state, here))
            source: Source = "earlier" if end is None else "prompt" if end < prompt else "answer"
            yield token, length, agreement(hits, total), source
            state, length, unfinished = target, length + 1, 0


def _cursor_of(text: Text) -> _Cursor:
    """The cursor of a text, made where it has none."""
    if not isinstance(text.cursor, _Cursor):
        text.cursor = _Cursor()
    return text.cursor
