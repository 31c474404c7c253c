"""Checks GBNF text before llama.cpp gets it.

llama.cpp prints what does not parse to stderr, and dies of some grammars that do: deep nesting, `{5,2}`, rules that
grow without reading a character (src/llama-grammar.cpp). Each of these is refused here, with its line and column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from edgespec.errors import GrammarError
from edgespec.grammar import rule_graph
from edgespec.grammar.gbnf import MOST_REPETITIONS
from edgespec.grammar.rule_graph import Option, Rule, unusable

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


def check_grammar(grammar: str, is_token: Callable[[str], bool] | None = None) -> bool:
    """Whether the grammar names tokens. Raises GrammarError where llama.cpp refuses it or does not survive it.

    `is_token` says whether a text like `<|end|>` is one token of the vocabulary; without it, all are.
    """
    tokens = _tokens_of(grammar)
    for text in tokens:
        if is_token is not None and not text.startswith("<[") and not is_token(text):
            raise unusable(f"{text} is not one token of this vocabulary")
    return bool(tokens)


@lru_cache(maxsize=64)
def _tokens_of(grammar: str) -> tuple[str, ...]:
    return _parsed(grammar)[1]


def parsed(grammar: str) -> dict[str, Rule]:
    """The rules of a sound grammar: alternatives of elements, repetitions shortened. Raises GrammarError."""
    return _parsed(grammar)[0]


def _parsed(grammar: str) -> tuple[dict[str, Rule], tuple[str, ...]]:
    """The rules, and the tokens that are named."""
    if not grammar.strip():
        raise GrammarError("the grammar is empty: it needs a rule named root")
    if "\0" in grammar:
        raise GrammarError(f"the grammar has a NUL at character {grammar.index(chr(0)) + 1}: write it as \\x00")
    try:
        grammar.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar has half a surrogate pair at character {error.start + 1}") from error
    parser = _Parser(grammar)
    rules = parser.parse()
    for check in (rule_graph.check_names, rule_graph.check_left_recursion, rule_graph.check_growth):
        check(rules)
    return rules, tuple(parser.tokens)


class _Parser:
    """Follows llama.cpp's parser, so that both refuse the same."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.tokens: list[str] = []
        self._rules: dict[str, Rule] = {}
        self._symbols: set[str] = set()
        self._made = 0  # rules that llama.cpp adds for groups and repetitions
        self._elements = 0
        self._depth = 0

    def parse(self) -> dict[str, Rule]:
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

    def _alternatives(self, spaces: re.Pattern[str]) -> Rule:
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

    def _sequence(self, spaces: re.Pattern[str]) -> Option:
        rule: Option = []
        item: Option = []
        size = rules = 0  # of the item, with its repetitions written out; and what llama.cpp takes for that
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
                size, item = self._repeated(item, size, low, high)
                rules *= total
            else:
                made = len(self._symbols) + self._made
                found = self._item(sign, spaces)
                if found is None:
                    break
                item, size = found, len(found)
                rules = max(1, len(self._symbols) + self._made - made) if sign == "(" else 1
                self._count_elements(size)
            rule += item
            self._skip(spaces)
        return rule

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

    def _repeated(self, item: Option, size: int, low: int, high: int | None) -> tuple[int, Option]:
        """The size and the elements of a repeated item. For the checks, 2 of several copies and rules are enough."""
        optional = 1 if high is None else high - low
        self._count_elements(size * max(0, low - 1) + (size + 2) * optional)
        repeated = item * min(low, 2)
        last: str | None = None
        for index in range(min(optional, 2)):
            name = self._make_rule([])
            following = name if high is None else last
            self._rules[name] = [[*item, *([following] if following and (index or high is None) else [])], []]
            last = name
        self._made += max(0, optional - 2)
        return size * low + bool(optional), [*repeated, last] if last else repeated

    def _make_rule(self, rule: Rule) -> str:
        self._made += 1
        name = f"_{self._made}"  # no name that can be written
        self._rules[name] = rule
        return name

    def _item(self, sign: str, spaces: re.Pattern[str]) -> Option | None:
        """The elements of a literal, a class, a token, a name or a group; None where the sequence ends."""
        if sign == '"':
            text = self._matched(_LITERAL, "a literal with its closing quote and known escapes")
            return [None] * sum(1 for _ in _ONE.finditer(text[1]))
        if sign == "[":
            text = self._matched(_CLASS, "a class with its closing bracket and known escapes")
            return [None] if text[1] else []
        if sign in "<!":
            return self._token()
        if sign == ".":
            self._at += 1
            return [None]
        if sign == "(":
            return self._group()
        if _NAME.match(self._text, self._at):
            return [self._name("a name")]
        return None

    def _matched(self, wanted: re.Pattern[str], expected: str) -> re.Match[str]:
        found = wanted.match(self._text, self._at)
        if not found:
            raise self._refused(expected)
        self._at = found.end()
        return found

    def _token(self) -> Option:
        found = self._matched(_TOKEN, "a token like <[42]> or <|end|>")
        self.tokens.append(found[0].removeprefix("!"))
        return [None]

    def _group(self) -> Option:
        self._depth += 1
        if self._depth > MOST_NESTING:
            raise self._refused(f"no more than {MOST_NESTING} groups within each other")
        self._at += 1
        self._skip(_SPACE_AND_LINES)
        name = self._make_rule([])
        self._rules[name] = self._alternatives(_SPACE_AND_LINES)
        if not self._text.startswith(")", self._at):
            raise self._refused(")")
        self._at += 1
        self._depth -= 1
        return [name]
