"""Which characters a grammar allows next: its pushdown automaton, built as far as answers come.

A state is a set of stacks, as in llama.cpp's grammar sampler (src/llama-grammar.cpp), and remembers the states that
follow it. So a character that was seen in that state before costs one look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from edgespec.grammar import syntax
from edgespec.grammar.gbnf import Ranges

MOST_STACKS = 256
"""Stacks of a state: an ambiguous grammar may have any number, and each takes some microseconds."""
MOST_STATES = 20_000
"""States that are remembered; then all are forgotten. Each takes about 1 kB."""
MOST_CHOICES = 8
"""Characters of a class that count as single choices; a larger class is not counted out."""
MOST_FORCED = 256
"""Characters of a forced text: about as many as the longest draft has."""
_OPEN = 64
"""Characters of a class from which on any text may come, so that nothing is known of it."""
_UNSAID = ((0, 0), (0xD800, 0xDFFF))
"""Code points that no token has."""

END = -1
"""The end of an answer, where a character is expected."""


@dataclass(slots=True, eq=False)
class _Cell:
    """An element of an option, and what comes after it."""

    element: syntax.Element
    next: _Cell | None
    token: int = -1
    """The id of a Token; below 0 where the vocabulary has none."""
    body: _Cell | None = None
    """The items of a Repeat."""
    less: _Cell | None = None
    """The same Repeat with one less to come, where it was asked for."""


@dataclass(slots=True, eq=False)
class _Stack:
    """Where a reading of the text stands, and where it goes on after each rule that it is in."""

    cell: _Cell
    rest: _Stack | None


@dataclass(frozen=True, slots=True)
class Choices:
    """What may come next: single characters, a token, the end, or `others`, which are not counted out.

    `is_open`: any text may come, such as in a JSON string. `codes` are code points, `END` among them, ascending.
    """

    codes: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    others: bool = False
    is_open: bool = False
    count: int = field(init=False)
    """How many there are; `others` count once."""
    only: int | None = field(init=False)
    """The code point that must come, or `END`; None where there is a choice, or a token."""

    def __post_init__(self) -> None:
        count = len(self.codes) + len(self.tokens) + self.others
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "only", self.codes[0] if self.codes and count == 1 and not self.is_open else None)


class State:
    """All places in a grammar where an answer may stand."""

    def __init__(self, automaton: Automaton, stacks: frozenset[_Stack | None]) -> None:
        self._automaton = automaton
        self._stacks = stacks
        self._after: dict[int, State | None] = {}

    def after(self, code: int) -> State | None:
        """The state after a code point; None where it is not allowed."""
        try:
            return self._after[code]
        except KeyError:
            state = self._after[code] = self._automaton.after(self._stacks, code)
            return state

    def after_token(self, token: int, text: str) -> State | None:
        """The state after a token, which the grammar may name or take for its text; None where it is not allowed."""
        state: State | None = self
        for character in text:
            state = state and state.after(ord(character))
        return self._automaton.after_token(self._stacks, token, state._stacks if state and text else frozenset())

    @cached_property
    def forced(self) -> tuple[str, State]:
        """The text that must come, of at most `MOST_FORCED` characters, and the state after it."""
        text, state = "", self
        while (code := state.choices.only) is not None and code != END and len(text) < MOST_FORCED:
            following = state.after(code)
            if following is None:  # too many stacks
                break
            text, state = text + chr(code), following
        return text, state

    @cached_property
    def names_tokens(self) -> bool:
        """Whether the grammar names a token here."""
        return any(stack is not None and isinstance(stack.cell.element, syntax.Token) for stack in self._stacks)

    @cached_property
    def choices(self) -> Choices:
        """What may come next."""
        codes: set[int] = set()
        tokens: set[int] = set()
        others = is_open = False
        for stack in self._stacks:
            element = stack and stack.cell.element
            if stack is None:
                codes.add(END)
            elif isinstance(element, syntax.Token):
                is_open = is_open or element.negated or stack.cell.token < 0
                tokens.add(stack.cell.token)
            elif isinstance(element, syntax.Chars):
                size = _OPEN if element.negated else sum(high - low + 1 for low, high in element.ranges)
                if size >= _OPEN or _meets(element.ranges, _UNSAID):
                    is_open = True
                elif size > MOST_CHOICES:
                    others = True
                else:
                    codes.update(code for low, high in element.ranges for code in range(low, high + 1))
        return Choices(tuple(sorted(codes)), tuple(sorted(tokens)), others=others, is_open=is_open)


def _meets(ranges: Ranges, others: Ranges) -> bool:
    return any(low <= high_of_other and low_of_other <= high
               for low, high in ranges for low_of_other, high_of_other in others)  # fmt: skip


@dataclass(eq=False)
class Automaton:
    """The automaton of a sound grammar. `token_id` gives the id of a token that it names; below 0: there is none."""

    grammar: str
    token_id: Callable[[str], int]
    _rules: syntax.Rules = field(init=False)
    _options: dict[str, list[_Cell | None]] = field(init=False, default_factory=dict)
    _stacks: dict[tuple[_Cell, _Stack | None], _Stack] = field(init=False, default_factory=dict)
    _states: dict[frozenset[_Stack | None], State] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._rules, _ = syntax.parse(self.grammar)

    @property
    def start(self) -> State | None:
        """The state before the first character; None where the grammar is too ambiguous."""
        stacks: set[_Stack | None] = set()
        for option in self._options_of("root"):
            self._reach(option, None, stacks)
        return self._state(stacks)

    def after(self, stacks: frozenset[_Stack | None], code: int) -> State | None:
        """The state that follows `stacks` by a code point; None where there is none."""
        found: set[_Stack | None] = set()
        for stack in stacks:
            if stack is not None and _takes(stack.cell.element, code):
                self._reach(stack.cell.next, stack.rest, found)
        return self._state(found)

    def after_token(
        self, stacks: frozenset[_Stack | None], token: int, by_text: frozenset[_Stack | None]
    ) -> State | None:
        """The state that follows `stacks` by a token that the grammar names, and by what its text leads to."""
        found = set(by_text)
        for stack in stacks:
            if stack is None or not isinstance(element := stack.cell.element, syntax.Token):
                continue
            if (stack.cell.token == token) != element.negated:
                self._reach(stack.cell.next, stack.rest, found)
        return self._state(found)

    def _state(self, stacks: set[_Stack | None]) -> State | None:
        if not stacks or len(stacks) > MOST_STACKS:
            return None
        key = frozenset(stacks)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= MOST_STATES:
                self._states.clear()
                self._stacks.clear()
            state = self._states[key] = State(self, key)
        return state

    def _reach(self, cell: _Cell | None, rest: _Stack | None, found: set[_Stack | None]) -> None:
        """Add the stacks that stand before a character or a token, from a place on."""
        pending: list[tuple[_Cell | None, _Stack | None]] = [(cell, rest)]
        seen: set[tuple[_Cell, _Stack | None]] = set()
        while pending:
            cell, rest = pending.pop()
            if cell is None:
                if rest is None:
                    found.add(None)
                else:
                    pending.append((rest.cell, rest.rest))
                continue
            if (cell, rest) in seen:
                continue
            seen.add((cell, rest))
            if len(found) > MOST_STACKS:
                return
            element = cell.element
            if isinstance(element, syntax.Name):
                after = self._stack(cell.next, rest)
                pending += [(option, after) for option in self._options_of(element.name)]
            elif isinstance(element, syntax.Repeat):
                if element.low == 0:
                    pending.append((cell.next, rest))
                pending.append((cell.body, self._stack(self._less(cell, element), rest)))
            else:
                found.add(self._stack(cell, rest))

    def _less(self, cell: _Cell, element: syntax.Repeat) -> _Cell | None:
        """What is left of a Repeat after its items came once."""
        if element.high == 1:
            return cell.next
        if element.high is None and element.low == 0:
            return cell
        if cell.less is None:
            high = None if element.high is None else element.high - 1
            less = syntax.Repeat(element.items, max(0, element.low - 1), high)
            cell.less = _Cell(less, cell.next, body=cell.body)
        return cell.less

    def _stack(self, cell: _Cell | None, rest: _Stack | None) -> _Stack | None:
        if cell is None:
            return rest
        stack = self._stacks.get((cell, rest))
        if stack is None:
            stack = self._stacks[cell, rest] = _Stack(cell, rest)
        return stack

    def _options_of(self, name: str) -> list[_Cell | None]:
        if name not in self._options:
            self._options[name] = [self._cells(option) for option in self._rules[name]]
        return self._options[name]

    def _cells(self, elements: tuple[syntax.Element, ...]) -> _Cell | None:
        first: _Cell | None = None
        for element in reversed(list(_single(elements))):
            token = self.token_id(element.text) if isinstance(element, syntax.Token) else -1
            body = self._cells(element.items) if isinstance(element, syntax.Repeat) else None
            first = _Cell(element, first, token, body)
        return first


def _single(elements: tuple[syntax.Element, ...]) -> Iterator[syntax.Element]:
    """The elements, with a literal as its characters."""
    for element in elements:
        if isinstance(element, syntax.Literal):
            yield from (syntax.Chars(((code, code),)) for code in map(ord, element.text))
        else:
            yield element


def _takes(element: syntax.Element, code: int) -> bool:
    """Whether a character may stand where the element is."""
    if not isinstance(element, syntax.Chars):
        return False
    return any(low <= code <= high for low, high in element.ranges) != element.negated
