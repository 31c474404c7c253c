"""The syntax of GBNF: text to rules. What llama.cpp's parser refuses is refused here, with its line and column."""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from edgespec.errors import GrammarError
from edgespec.grammar.gbnf import MOST_REPETITIONS, Ranges
from edgespec.grammar.rule_graph import unusable

MOST_NESTING = 100
"""Groups in groups: llama.cpp's parser recurses."""
MOST_ELEMENTS = 2_000_000
"""Characters and names after repetitions are written out; each takes 8 bytes."""

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_ESCAPE = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\\"\[\]\-])"
_LITERAL = re.compile(rf'"((?:[^"\\]|{_ESCAPE})*)"')
_CLASS = re.compile(rf"\[\^?((?:[^\]\\]|{_ESCAPE})*)\]")
_ONE = re.compile(rf"{_ESCAPE}|.", re.DOTALL)
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TOKEN = re.compile(r"!?<(?:\[([0-9]{1,9})\]>|[^\[>][^>]*>)")
_COUNT = re.compile(r"\{[ \t]*(\d+)[ \t]*(?:\}|(,)[ \t]*(\d*)[ \t]*\})", re.ASCII)


_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


class Literal(NamedTuple):
    """These characters, one after the other; at least one."""

    text: str


class Chars(NamedTuple):
    """One character of `ranges` (code points, both ends in), or one of none of them where `negated`."""

    ranges: Ranges
    negated: bool = False


class Token(NamedTuple):
    """One token by its text, `<|end|>`, or its id, `<[42]>`; any other one where `negated`."""

    text: str
    negated: bool = False


class Name(NamedTuple):
    """What a rule says. A name that begins with _ stands for a group."""

    name: str


class Repeat(NamedTuple):
    """`items` from `low` to `high` times; None: without an end."""

    items: tuple[Element, ...]
    low: int
    high: int | None


Element = Literal | Chars | Token | Name | Repeat
Rules = dict[str, list[tuple[Element, ...]]]
"""The options of each rule."""


def parse(grammar: str) -> tuple[Rules, list[str]]:
    """The rules of a grammar, and the tokens that it names. Raises GrammarError."""
    parser = _Parser(grammar)
    return parser.parse(), parser.tokens


class _Parser:
    """Follows llama.cpp's parser, so that both refuse the same."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.tokens: list[str] = []
        self._rules: Rules = {}
        self._symbols: set[str] = set()
        self._made = 0  # rules that llama.cpp adds for groups and repetitions
        self._groups = 0
        self._elements = 0
        self._depth = 0

    def parse(self) -> Rules:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            name = self._name("a rule's name")
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                raise self._refused("::=")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            self._rules[name] = self._alternatives(_SPACE)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._refused("the end of the line")
            self._skip(_SPACE_AND_LINES)
        return self._rules

    def _refused(self, expected: str) -> GrammarError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - (self._text.rfind("\n", 0, self._at) + 1) + 1
        rest = self._text[self._at : self._at + 21].splitlines()
        found = repr(rest[0][:20]) if rest and rest[0] else "the line's end" if rest else "the end of the text"
        return unusable(f"line {line}, column {column}: {expected} should be here, not {found}")

    def _skip(self, spaces: re.Pattern[str]) -> None:
        found = spaces.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _name(self, expected: str) -> str:
        found = _NAME.match(self._text, self._at)
        if not found:
            raise self._refused(expected)
        self._at = found.end()
        self._symbols.add(found[0])
        return found[0]

    def _alternatives(self, spaces: re.Pattern[str]) -> list[tuple[Element, ...]]:
        found = [self._sequence(spaces)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            found.append(self._sequence(spaces))
        return found

    def _count_elements(self, count: int) -> None:
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            raise self._refused(f"less than {MOST_ELEMENTS} characters and names, repetitions written out,")

    def _sequence(self, spaces: re.Pattern[str]) -> tuple[Element, ...]:
        rule: list[Element] = []
        item: tuple[Element, ...] = ()
        size = rules = depth = 0  # of the item, written out; what llama.cpp takes for that; repetitions
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign in "*+?{":
                low, high = self._repetition(sign)
                if not item:
                    raise self._refused("something to repeat before this")
                total = high or low or 1
                if rules * total > MOST_REPETITIONS:
                    raise self._refused(f"at most {MOST_REPETITIONS} repetitions, one within the other multiplied,")
                del rule[len(rule) - len(item) :]
                size = self._repeated_size(size, low, high)
                depth += 1
                if depth > MOST_NESTING:
                    raise self._refused(f"no more than {MOST_NESTING} repetitions of each other")
                item = () if high == 0 else (Repeat(item, low, high),)
                rules *= total
            else:
                made = len(self._symbols) + self._made
                found = self._item(sign, spaces)
                if found is None:
                    break
                item, size = found, sum(len(part.text) if isinstance(part, Literal) else 1 for part in found)
                rules = max(1, len(self._symbols) + self._made - made) if sign == "(" else 1
                depth = 0
                self._count_elements(size)
            rule += item
            self._skip(spaces)
        return tuple(rule)

    def _repetition(self, sign: str) -> tuple[int, int | None]:
        if sign != "{":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        found = _COUNT.match(self._text, self._at)
        if not found or max(len(found[1]), len(found[3] or "")) > 19:
            raise self._refused("a repetition like {2}, {2,} or {2,4}")
        low = int(found[1])
        high = low if not found[2] else int(found[3]) if found[3] else None
        if low > MOST_REPETITIONS:
            raise self._refused(f"at most {MOST_REPETITIONS} repetitions")
        if high is not None and high < low:
            raise self._refused("a repetition whose second number is not below the first")
        self._at = found.end()
        return low, None if high is not None and high > MOST_REPETITIONS else high

    def _repeated_size(self, size: int, low: int, high: int | None) -> int:
        """The size of a repeated item of that size, and the count of the rules that llama.cpp makes for it."""
        optional = 1 if high is None else high - low
        self._count_elements(size * max(0, low - 1) + (size + 2) * optional)
        self._made += optional
        return size * low + bool(optional)

    def _item(self, sign: str, spaces: re.Pattern[str]) -> tuple[Element, ...] | None:
        """The elements of a literal, a class, a token, a name or a group; None where the sequence ends."""
        if sign == '"':
            text = self._matched(_LITERAL, "a literal with its closing quote and known escapes")
            return (Literal(_unescaped(text[1])),) if text[1] else ()
        if sign == "[":
            text = self._matched(_CLASS, "a class with its closing bracket and known escapes")
            return (Chars(_ranges(text[1]), text[0].startswith("[^")),) if text[1] else ()
        if sign in "<!":
            return self._token()
        if sign == ".":
            self._at += 1
            return (Chars((), negated=True),)
        if sign == "(":
            return self._group()
        if _NAME.match(self._text, self._at):
            return (Name(self._name("a name")),)
        return None

    def _matched(self, wanted: re.Pattern[str], expected: str) -> re.Match[str]:
        found = wanted.match(self._text, self._at)
        if not found:
            raise self._refused(expected)
        self._at = found.end()
        return found

    def _token(self) -> tuple[Element, ...]:
        found = self._matched(_TOKEN, "a token like <[42]> or <|end|>")
        text = found[0].removeprefix("!")
        self.tokens.append(text)
        return (Token(text, found[0].startswith("!")),)

    def _group(self) -> tuple[Element, ...]:
        self._depth += 1
        if self._depth > MOST_NESTING:
            raise self._refused(f"no more than {MOST_NESTING} groups within each other")
        self._at += 1
        self._made += 1
        self._skip(_SPACE_AND_LINES)
        options = self._alternatives(_SPACE_AND_LINES)
        if not self._text.startswith(")", self._at):
            raise self._refused(")")
        self._at += 1
        self._depth -= 1
        self._groups += 1
        name = f"_{self._groups}"  # no name that can be written
        self._rules[name] = options
        return (Name(name),)


def _unescaped(text: str) -> str:
    """The characters of a literal or a class, whose escapes are known ones."""
    return _ONE.sub(lambda found: _char(found[0]), text) if "\\" in text else text


def _char(text: str) -> str:
    if not text.startswith("\\"):
        return text
    return _ESCAPED.get(text[1]) or chr(min(int(text[2:], 16), sys.maxunicode))  # no text has what is beyond it


def _ranges(text: str) -> Ranges:
    """The ranges of a class, between its brackets."""
    signs = _ONE.findall(text)
    found: list[tuple[int, int]] = []
    while signs:
        low = high = ord(_char(signs.pop(0)))
        if len(signs) > 1 and signs[0] == "-":
            high = ord(_char(signs[1]))
            del signs[:2]
        found.append((low, high))
    return tuple(found)
