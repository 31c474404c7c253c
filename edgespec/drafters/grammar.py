"""Drafts what the grammar of an answer leaves no choice about: keys, punctuation, the end.

A grammar that allows one continuation only makes it certain, and where it allows a few, they are branches of a tree.
The tokens are those of the tokenizer for that text; the target may split it otherwise. This is the jump-forward
decoding of SGLang (arXiv 2312.07104, section 4) as a draft: the target checks each token, so its text stays its own.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from edgespec.core import MAX_ROWS, NOTHING, ROOT, Draft, Evaluation, Verdict, Vocabulary
from edgespec.grammar.automaton import END, MOST_FORCED, Automaton, Choices, State

_MOST_PLACES = 4
"""Continuations that are told apart."""
_LEAST = 0.05
"""Probability below which a continuation is left out."""
_TAIL = 0.7
"""Prior for the last token of a continuation: it may belong to a longer one, and there are several end tokens."""
_REMEMBERED = 32
"""Times that a choice counts for, at most."""
_MOST_TREES = 1024
"""Trees that are kept for when an answer comes to the same place again."""

Bucket = tuple[int, bool]
"""The drafter's own estimate in tenths, and whether the token is the last of a continuation."""


class TextVocabulary(Vocabulary, Protocol):
    """A vocabulary that makes tokens from text."""

    @property
    def size(self) -> int:
        """The number of tokens."""
        ...

    @property
    def end(self) -> int:
        """The token that ends a text, which may not be the one that ends an answer; -1 where there is none."""
        ...

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of `text`; `special`: control tokens are recognised."""
        ...


class Choosing:
    """Which way answers go where a grammar leaves a few, by the character before: a blank behind a colon, say."""

    def __init__(self) -> None:
        self.version = 0
        """Goes up where a chance has changed by a tenth or so."""
        self._taken: dict[tuple[int, int], tuple[float, float]] = {}

    def chances(self, before: int, choices: Choices) -> list[float]:
        """The chance of each of `choices.codes` after a character, their sum at most 1."""
        count = choices.count
        chances = []
        for code in choices.codes:
            taken, seen = self._taken.get((before, code), (0.0, 0.0))
            chances.append((taken + 1.0 / count) / (seen + 1.0))
        total = max(1.0, sum(chances))
        return [chance / total for chance in chances]

    def observe(self, before: int, choices: Choices, code: int) -> None:
        """`code` was chosen."""
        for option in choices.codes:
            taken, seen = self._taken.get((before, option), (0.0, 0.0))
            known = int(10.0 * (taken + 0.5) / (seen + 1.0))
            if seen >= _REMEMBERED:
                taken, seen = taken / 2, seen / 2
            taken, seen = taken + (option == code), seen + 1.0
            self._taken[before, option] = taken, seen
            self.version += known != int(10.0 * (taken + 0.5) / (seen + 1.0))


class _Place(NamedTuple):
    """A place that the answer may reach, with that chance, by `tokens`, then `text`; the last character is `before`."""

    state: State
    tokens: tuple[int, ...]
    text: str
    before: int
    chance: float
    ended: bool = False


class GrammarDrafters:
    """Makes the drafters of answers by one model, which share their automata, and what they learn of choices."""

    def __init__(self, vocabulary: TextVocabulary) -> None:
        self.vocabulary = vocabulary
        self.choosing = Choosing()
        self._end = vocabulary.end  # or the one that ended the last answer
        self._trees: dict[tuple[State, int], Draft] = {}
        self._of_version = 0
        self._automaton = lru_cache(maxsize=8)(lambda grammar: Automaton(grammar, self._token_id))
        self._split = lru_cache(maxsize=4096)(self._tokenized)

    def drafter(self, grammar: str) -> GrammarDrafter:
        """The drafter of one answer that obeys a sound grammar from its first token on."""
        return GrammarDrafter(self, grammar)

    def ended(self, token: int) -> None:
        """An answer ended by this token: the next one probably does too."""
        if token != self._end:
            self._end = token
            self._trees.clear()

    def start(self, grammar: str) -> State | None:
        """The state before the first character; None where the grammar is too ambiguous."""
        return self._automaton(grammar).start

    def tree(self, state: State, before: int) -> Draft:
        """The draft at a place, after the character `before`; those nodes first that are reached most often."""
        if self._of_version != self.choosing.version or len(self._trees) >= _MOST_TREES:
            self._trees.clear()
            self._of_version = self.choosing.version
        tree = self._trees.get((state, before))
        if tree is None:
            tree = self._trees[state, before] = self._grown(state, before)
        return tree

    def _token_id(self, text: str) -> int:
        token = int(text[2:-2]) if text.startswith("<[") else self.vocabulary.tokenize(text)[0]
        return token if token < self.vocabulary.size else -1

    def _tokenized(self, text: str) -> tuple[int, ...]:
        """The tokens of a text; none where they would spell another one.

        Some vocabularies put a blank before a text: then it is split behind a line break.
        """
        spelled = text.encode()
        for front in ("", "\n"):
            tokens = self.vocabulary.tokenize(front + text, special=False)
            pieces = list(map(self.vocabulary.piece, tokens))
            for skipped in range(len(pieces) if front else 1):
                if b"".join(pieces[skipped:]) == spelled:
                    return tuple(tokens[skipped:])
        return ()

    def _grown(self, state: State, before: int) -> Draft:
        """The places as a tree of tokens, each with its share of its parent's chance."""
        nodes: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        chances: list[float] = []
        tails: list[bool] = []
        for place in self._places(_Place(state, (), "", before, 1.0)):
            path = self._path(place)
            node = ROOT
            for depth, token in enumerate(path):
                child = nodes.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                    chances.append(0.0)
                    tails.append(True)
                is_tail = depth == len(path) - 1
                chances[child] += place.chance * (_TAIL if is_tail else 1.0)
                tails[child] = tails[child] and is_tail
                node = child
        if not tokens:
            return NOTHING
        order = sorted(range(len(tokens)), key=lambda node: (-chances[node], node))[: MAX_ROWS - 1]
        rank = {node: place for place, node in enumerate(order)} | {ROOT: ROOT}
        shares = [chances[node] / (chances[parents[node]] if parents[node] != ROOT else 1.0) for node in order]
        return Draft(
            tuple(tokens[node] for node in order),
            tuple(rank[parents[node]] for node in order),
            tuple(shares),
            tuple((round(10 * share), tails[node]) for node, share in zip(order, shares, strict=True)),
            GrammarDrafter.name,
        )

    def _places(self, start: _Place) -> Iterator[_Place]:
        """Where the grammar leads, as far as it counts out what may come; the likeliest branches first."""
        pending = [start]
        found = 0
        while pending:
            place = self._forced(pending.pop())
            rest = place.chance
            if not place.ended and found + len(pending) < _MOST_PLACES:
                branches = list(self._branches(place))
                rest -= sum(branch.chance for branch in branches)
                pending += sorted(branches, key=lambda branch: branch.chance)
            if rest >= _LEAST:
                found += 1
                yield place._replace(chance=rest)

    def _forced(self, place: _Place) -> _Place:
        """The last place to which there is one way only."""
        while len(place.tokens) + len(place.text) < MOST_FORCED and not place.ended:
            text, state = place.state.forced
            before = ord(text[-1]) if text else place.before
            place = _Place(state, place.tokens, place.text + text, before, place.chance)
            choices = state.choices
            if choices.only == END:
                return place._replace(ended=True)
            if choices.count != 1 or not choices.tokens or choices.is_open:
                break
            following = state.after_token(choices.tokens[0], "")
            if following is None:
                break
            place = _Place(following, (*self._path(place), choices.tokens[0]), "", before, place.chance)
        return place

    def _branches(self, place: _Place) -> Iterator[_Place]:
        """The ways on from a place, those of small chance left out."""
        choices = place.state.choices
        if choices.is_open or choices.only is not None or len(place.text) >= MOST_FORCED:
            return
        for code, share in zip(choices.codes, self.choosing.chances(place.before, choices), strict=True):
            chance = place.chance * share
            if chance < _LEAST:
                continue
            if code == END:
                yield place._replace(chance=chance, ended=True)
            elif following := place.state.after(code):
                yield _Place(following, place.tokens, place.text + chr(code), code, chance)

    def _path(self, place: _Place) -> tuple[int, ...]:
        """The tokens that lead to a place; none where its text cannot be split into tokens."""
        split = self._split(place.text) if place.text else ()
        if place.text and not split:
            return ()
        return (*place.tokens, *split, self._end) if place.ended and self._end >= 0 else (*place.tokens, *split)


class GrammarDrafter:
    """The drafter of one answer; it follows the answer by `observe`, which has to see each of its tokens."""

    name = "grammar"

    def __init__(self, shared: GrammarDrafters, grammar: str) -> None:
        self._shared = shared
        self._grammar = grammar
        self._started = False
        self._state: State | None = None  # None before the first token, and where the grammar cannot be followed
        self._before = 0  # the last character
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A tree of at most `limit` nodes, those reached most often first; each node's bucket is a `Bucket`."""
        state = self._state
        if state is None or limit < 1 or state.choices.is_open or self._decoder.getstate()[0]:
            return NOTHING
        return self._shared.tree(state, self._before).first(limit)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Follow the grammar through the emitted tokens."""
        if not self._started:
            self._started = True
            self._state = self._shared.start(self._grammar)
        for token in verdict.emitted:
            if self._state is not None:
                self._state = self._after(self._state, token)

    def _after(self, state: State, token: int) -> State | None:
        """The state after a token; None where the answer ends, or cannot be followed."""
        vocabulary = self._shared.vocabulary
        if vocabulary.is_end(token):
            self._chosen(state, END)
            self._shared.ended(token)
            return None
        try:
            text = self._decoder.decode(vocabulary.piece(token) or vocabulary.control_text(token).encode())
        except UnicodeDecodeError:
            return None
        if state.names_tokens:
            self._before = ord(text[-1]) if text else self._before
            return state.after_token(token, text)
        for code in map(ord, text):
            self._chosen(state, code)
            following = state.after(code)
            if following is None:
                return None
            state = following
        return state

    def _chosen(self, state: State, code: int) -> None:
        choices = state.choices
        if not choices.is_open and choices.only is None:
            self._shared.choosing.observe(self._before, choices, code)
        self._before = code
