"""Drafts what followed the longest suffix of the text that occurred before.

A suffix automaton finds it, as in SAM-Decoding (arXiv 2411.10666, section 3); weighing continuations by how often they
occurred, and drafting several of them as a tree, follows SuffixDecoding (arXiv 2411.04975, section 3).
"""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from edgespec.core import NOTHING, Draft, Evaluation, TokenSequence, Verdict
from edgespec.drafters.automaton import ROOT_STATE, SuffixAutomaton
from edgespec.drafters.growth import Growth
from edgespec.drafters.texts import MAX_TOKENS, Agreement, Text, Texts, agreement
from edgespec.policy.tree import HOPELESS

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

_OF_SHARE = 1 / 3
"""What else followed a match than the most frequent token is right this many times as often as it followed."""

_OCCURRENCES = (2, 3, 4, 6, 8, 12)
"""Feature buckets of what else followed: the fewest occurrences of the match for each of the token."""

_LEAST_REACH = HOPELESS * _OCCURRENCES[0] / _OF_SHARE
"""Behind a node that is reached less often, all that else followed is below `HOPELESS`."""

_DIVERGING = ("majority", "split")

_RUN = 6
"""Tokens of a match that make a run of copying: where it breaks off, copying may resume behind the place."""

_RESUMED = 16
"""Tokens after which a run that broke off is not expected to resume."""

_TEXT_BITS = 32
"""A place is the number of its text, and that many bits for the place in it."""

_PLACE = (1 << _TEXT_BITS) - 1


_Match = tuple[int, int, int]
"""A state of the automaton, the tokens of the match, and how many of its occurrences end where a text does."""

_Guess = tuple[int, int, Agreement, Source, int, int, int]
"""The most frequent next token, the tokens of the match before it, their agreement and source; then the state of that
match, the state after the token, and the number of occurrences. A run of copying has no states."""


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
    loop, the draft goes on from the longest suffix that has a continuation. Where other tokens followed a match too,
    they begin side branches. At most `max_tokens` are remembered, then the older half is forgotten.
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
        """A tree of at most `limit` nodes: the likeliest chain, then side branches where there is room for them.

        The feature bucket is (shortest match of the class, agreement, source); that of a side branch's first token is
        ("branch", occurrences of the match for each of the token).
        """
        text = self._texts.read(tokens)
        reading = _Reading(self._automaton, text, self._prompt_of(tokens) - text.skipped)
        found: list[int] = []
        probabilities: list[float] = []
        buckets: list[Hashable] = []
        diverging: list[tuple[int, _Guess]] = []
        reach = 1.0
        for guess in islice(reading.continuation(), max(limit, 0)):
            token, length, agreed, source, *_ = guess
            if agreed in _DIVERGING and reach >= _LEAST_REACH:
                diverging.append((len(found) - 1, guess))
            column = bisect_right(_LENGTHS, length) - 1
            probability = _PRIOR[agreed, source][column]
            reach *= probability
            if reach < HOPELESS:
                break
            found.append(token)
            probabilities.append(probability)
            buckets.append((_LENGTHS[column], agreed, source))
        if not diverging or len(found) == limit:
            return Draft.chain(found, probabilities, buckets, self.name) if found else NOTHING
        growth: Growth[_Match] = Growth(found, probabilities, buckets, limit)
        for parent, guess in diverging:
            growth.offer(parent, reading.others(guess, growth.reach(parent)))
        growth.grow(reading.children)
        return growth.draft(self.name)

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
            if index.length(match) >= _RUN and (end := _place_in(text, index.end(match, place))) is not None:
                cursor.offset, cursor.since = (place & _PLACE) - end, 0
            place += 1
        text.ids += tokens

    def first_states(self) -> array[int]:
        """`texts.Index.first_states`."""
        return array("i", [ROOT_STATE])

    def clear(self) -> None:
        """`texts.Index.clear`."""
        self._automaton = SuffixAutomaton()


class _Reading:
    """What the automaton says about the end of one text, whose answer begins at its token number `prompt`."""

    __slots__ = ("_here", "_index", "_prompt", "_text")

    def __init__(self, index: SuffixAutomaton, text: Text, prompt: int) -> None:
        self._index = index
        self._text = text
        self._prompt = prompt
        self._here = (text.number << _TEXT_BITS) + len(text.ids) - 1

    def continuation(self) -> Iterator[_Guess]:
        """What follows the text, one token after the other: a run of copying, or else what followed the match."""
        index, state = self._index, self._text.states[-1]
        while state and index.best(state) < 0:
            state = index.shorter(state)
        resumed = self._resumed(index.length(state))
        if resumed is not None:
            return self._run(*resumed)
        return self._matched(state, index.length(state), 1)

    def children(self, match: _Match, reach: float) -> Iterator[tuple[int, float, Hashable, _Match]]:
        """What follows a match: the most frequent token, and the `others`."""
        for guess in islice(self._matched(*match), 1):
            token, length, agreed, source, _, after, _ = guess
            column = bisect_right(_LENGTHS, length) - 1
            yield token, _PRIOR[agreed, source][column], (_LENGTHS[column], agreed, source), (after, length + 1, 0)
            if agreed in _DIVERGING and reach >= _LEAST_REACH:
                yield from self.others(guess, reach)

    def others(self, guess: _Guess, reach: float) -> Iterator[tuple[int, float, Hashable, _Match]]:
        """What else followed the match of a guess, often enough behind a node of that `reach`."""
        _, length, agreed, source, state, _, total = guess
        room = 1.0 - _PRIOR[agreed, source][bisect_right(_LENGTHS, length) - 1]
        most = int(_OF_SHARE * reach / HOPELESS)
        for hits, token, target in self._index.others(state, total // (most + 1) + 1):
            occurrences = max(total // hits, _OCCURRENCES[0])
            probability = min(_OF_SHARE / occurrences, room)  # past MAX_WALK, totals may be too low
            room -= probability
            bucket = _OCCURRENCES[bisect_right(_OCCURRENCES, occurrences) - 1]
            yield token, probability, ("branch", bucket), (target, length + 1, 0)

    def _resumed(self, known: int) -> tuple[int, int] | None:
        """The place from which a run of copying goes on that broke off, and the tokens that match before it.

        None where a longer match is `known`, or copying did not resume: at least one token must match again, or the
        one wrong token must have been the last.
        """
        ids, cursor = self._text.ids, _cursor_of(self._text)
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

    def _run(self, place: int, length: int) -> Iterator[_Guess]:
        for at in range(place, len(self._text.ids)):
            yield self._text.ids[at], length + at - place, "once", "resumed", ROOT_STATE, ROOT_STATE, 1

    def _matched(self, state: int, length: int, unfinished: int) -> Iterator[_Guess]:
        """Without end in a loop: what followed the longest match most often."""
        index, text, here, prompt = self._index, self._text, self._here, self._prompt
        while True:
            while state and index.best(state) < 0:
                state = index.shorter(state)
                length, unfinished = index.length(state), 1
            if not state:
                return
            token, target = index.best(state), index.follow(state)
            hits = index.count(target)
            total = index.count(state) - unfinished if index.diverges(state) else hits
            end = _place_in(text, index.end(state, here))
            source: Source = "earlier" if end is None else "prompt" if end < prompt else "answer"
            yield token, length, agreement(hits, total), source, state, target, total
            state, length, unfinished = target, length + 1, 0


def _place_in(text: Text, end: int) -> int | None:
    """A place of the automaton as one of this text; None where it is of another."""
    number, place = end >> _TEXT_BITS, end & _PLACE
    if number == text.number or any(number == origin and place < length for origin, length in text.origins):
        return place
    return None


def _cursor_of(text: Text) -> _Cursor:
    """The cursor of a text, made where it has none."""
    if not isinstance(text.cursor, _Cursor):
        text.cursor = _Cursor()
    return text.cursor
