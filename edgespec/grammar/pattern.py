"""Regular expressions as JSON Schema means them (ECMA-262, unanchored), as GBNF inside a JSON string.

Where ECMA-262 and Python's `re` differ, only what both accept is written: `\\d` is 0 to 9, and `\\D`, `\\W` and
`\\S` are ASCII characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from edgespec.grammar.gbnf import EMPTY, MOST_REPETITIONS, Impossible, Ranges, Rules, Unsupported, literal, repeat
from edgespec.grammar.text import ANY, LAST, common, complement, inside, one_char, union


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of `ranges`."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    """One part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`item` from `low` to `high` times; None: without an end."""

    item: Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The start or the end of the string: `^` or `$`."""

    sign: str


Node = Chars | Sequence | Choice | Repeat | Anchor

_CLASSES: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0D), (0x20, 0x20)),
}
_CLASSES |= {name.upper(): complement(ranges, last=127) for name, ranges in _CLASSES.items()}
_DOT: Ranges = common(ANY, complement(((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))))
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_HEX_ESCAPE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|c([a-zA-Z])")
_QUANTIFIER = re.compile(r"\{(\d+)(?:(,)(\d*))?\}", re.ASCII)
_REFUSED_ESCAPES = {
    **dict.fromkeys("bB", "word boundaries"),
    **dict.fromkeys("123456789k", "backreferences"),
    **dict.fromkeys("pP", "Unicode properties"),
}
_REFUSED_GROUPS = {
    "?=": "lookahead", "?!": "lookahead", "?<=": "lookbehind", "?<!": "lookbehind",
}  # fmt: skip
_ANYTHING = Repeat(Chars(ANY), 0, None)


@lru_cache(maxsize=256)
def parse(pattern: str) -> Node:
    """The strings that have a match of `pattern` in them. Raises Unsupported with the construct."""
    node = _Parser(pattern).parse()
    return _whole(node)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Node:
        node = self._choice()
        if self._at < len(self._text):
            raise self._refused("an unopened )")
        return node

    def _refused(self, construct: str) -> Unsupported:
        return Unsupported(f"{construct} at character {self._at + 1} of /{self._text}/")

    def _next(self, count: int = 1) -> str:
        return self._text[self._at : self._at + count]

    def _taken(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _choice(self) -> Node:
        options = [self._sequence()]
        while self._taken("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and self._next() not in "|)":
            parts.append(self._quantified(self._item()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _item(self) -> Node:
        sign = self._next()
        if sign in "*+?" or (sign == "{" and _QUANTIFIER.match(self._text, self._at)):
            raise self._refused(f"{sign} with nothing to repeat")
        if sign == "(":
            return self._group()
        if sign == "[":
            return Chars(self._class())
        self._at += 1
        if sign in "^$":
            return Anchor(sign)
        if sign == ".":
            return Chars(_DOT)
        return Chars(self._escape() if sign == "\\" else self._one(ord(sign)))

    def _one(self, code: int) -> Ranges:
        if 0xD800 <= code <= 0xDFFF:
            raise self._refused("half a surrogate pair")
        if code > LAST:
            raise self._refused("a character beyond U+10FFFF")
        return ((code, code),)

    def _group(self) -> Node:
        self._at += 1
        for sign, name in sorted(_REFUSED_GROUPS.items(), reverse=True):
            if self._text.startswith(sign, self._at):
                raise self._refused(f"{name} ({sign}")
        named = re.compile(r"\?(?::|<[A-Za-z_$][\w$]*>)").match(self._text, self._at)
        if named:
            self._at = named.end()
        elif self._next() == "?":
            raise self._refused(f"({self._next(2)}")
        node = self._choice()
        if not self._taken(")"):
            raise self._refused("an unclosed (")
        return node if isinstance(node, Choice) else Choice((node,))  # a quantifier after it is for the whole

    def _quantified(self, item: Node) -> Node:
        sign = self._next()
        counted = _QUANTIFIER.match(self._text, self._at)
        if self._text.startswith("{,", self._at):
            raise self._refused("{, without a number before it")
        if counted:
            self._at = counted.end()
            low = int(counted[1])
            high = low if not counted[2] else int(counted[3]) if counted[3] else None
        elif sign and sign in "*+?":
            self._at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        else:
            return item
        self._taken("?")  # lazy or not, the strings are the same
        if isinstance(item, Anchor):
            raise self._refused(f"a repeated {item.sign}")
        if high is not None and low > high:
            raise self._refused(f"a repetition from {low} to {high}")
        if max(low, high or 0) > MOST_REPETITIONS:
            raise self._refused(f"a repetition beyond {MOST_REPETITIONS}")
        if (high is None or high > 1) and lengths(item)[0] == 0:
            raise self._refused("a repetition of what may be empty")
        return Repeat(item, low, high)

    def _escape(self) -> Ranges:
        """What stands after a backslash."""
        sign = self._next()
        if not sign:
            raise self._refused("a backslash at the end")
        if sign in _CLASSES:
            self._at += 1
            return _CLASSES[sign]
        if sign in _REFUSED_ESCAPES:
            raise self._refused(f"\\{sign} ({_REFUSED_ESCAPES[sign]})")
        if sign in _CONTROLS and not (sign == "0" and self._next(2)[1:].isdigit()):
            self._at += 1
            return self._one(_CONTROLS[sign])
        if found := _HEX_ESCAPE.match(self._text, self._at):
            self._at = found.end()
            code = ord(found[4]) % 32 if found[4] else int(found[1] or found[2] or found[3], 16)
            return self._one(self._pair(code) if found[2] else code)
        if sign.isalnum():
            raise self._refused(f"\\{sign}")
        self._at += 1
        return self._one(ord(sign))

    def _pair(self, code: int) -> int:
        """The character of a surrogate pair that began with `code`."""
        second = _HEX_ESCAPE.match(self._text, self._at + 1) if self._next() == "\\" else None
        if 0xD800 <= code < 0xDC00 and second and second[2] and 0xDC00 <= int(second[2], 16) < 0xE000:
            self._at = second.end()
            return 0x10000 + ((code - 0xD800) << 10) + int(second[2], 16) - 0xDC00
        return code

    def _class(self) -> Ranges:
        """A class in square brackets."""
        start = self._at
        self._at += 1
        negated = self._taken("^")
        if self._next() == "]":
            raise self._refused("an empty class")
        found: Ranges = ()
        shorthand = False
        while not self._taken("]"):
            if self._at >= len(self._text):
                self._at = start
                raise self._refused("an unclosed [")
            low, is_class = self._class_item()
            shorthand |= is_class
            if self._next() == "-" and self._next(2)[1:] not in ("]", ""):
                self._at += 1
                high, also_class = self._class_item()
                if is_class or also_class or low[0][0] > high[0][0]:
                    raise self._refused("a range that is none")
                low = ((low[0][0], high[0][0]),)
            found = union(found, low)
        if negated:
            found = complement(found, last=127) if shorthand else complement(found)
        found = common(found, ANY)
        if not found:
            raise self._refused("a class without characters")
        return found

    def _class_item(self) -> tuple[Ranges, bool]:
        """A character or a shorthand like `\\d`, and whether it was one."""
        sign = self._next()
        self._at += 1
        if sign != "\\":
            return self._one(ord(sign)), False
        if self._taken("b"):
            return self._one(8), False
        return self._escape(), self._text[self._at - 2] == "\\" and self._text[self._at - 1] in _CLASSES


def _whole(node: Node) -> Node:
    """The whole strings that have `node` in them; its anchors are at its ends."""
    options = []
    for option in node.options if isinstance(node, Choice) else (node,):
        parts = list(option.parts) if isinstance(option, Sequence) else [option]
        if len(parts) == 1 and isinstance(parts[0], Choice):
            options.append(_whole(parts[0]))
            continue
        first, last = 0, len(parts)
        while first < last and parts[first] == Anchor("^"):
            first += 1
        while last > first and parts[last - 1] == Anchor("$"):
            last -= 1
        middle = parts[first:last]
        if any(map(_anchored, middle)):
            raise Unsupported("^ or $ that is not at an end of the pattern")
        before = [] if first else [_ANYTHING]
        after = [] if last < len(parts) else [_ANYTHING]
        options.append(Sequence((*before, *middle, *after)))
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _anchored(node: Node) -> bool:
    if isinstance(node, Repeat):
        return _anchored(node.item)
    inner = node.parts if isinstance(node, Sequence) else node.options if isinstance(node, Choice) else ()
    return isinstance(node, Anchor) or any(map(_anchored, inner))


def lengths(node: Node) -> tuple[int, int | None]:
    """The lengths of the shortest and the longest string; None: there is no longest."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Anchor):
        return 0, 0
    if isinstance(node, Repeat):
        low, high = lengths(node.item)
        return low * node.low, 0 if high == 0 else None if high is None or node.high is None else high * node.high
    inner = [lengths(part) for part in (node.parts if isinstance(node, Sequence) else node.options)]
    lows, highs = [low for low, _ in inner], [high for _, high in inner if high is not None]
    endless = len(highs) < len(inner)
    if isinstance(node, Sequence):
        return sum(lows), None if endless else sum(highs)
    return min(lows), None if endless else max(highs)


def matches(pattern: str, text: str) -> bool:
    """Whether `text` has a match of `pattern` in it. The time is bounded by their lengths, as that of `re` is not."""
    return len(text) in _ends(parse(pattern), text, {0})


def _ends(node: Node, text: str, starts: set[int]) -> set[int]:
    """Where a match of `node` can end that begins at one of `starts`."""
    if isinstance(node, Chars):
        found = (start for start in starts if start < len(text))
        return {start + 1 for start in found if any(low <= ord(text[start]) <= high for low, high in node.ranges)}
    if isinstance(node, Choice):
        return set().union(*(_ends(option, text, starts) for option in node.options))
    if isinstance(node, Sequence):
        for part in node.parts:
            starts = _ends(part, text, starts)
        return starts
    if isinstance(node, Anchor):
        return starts
    ends = set(starts) if node.low == 0 else set()
    times = 0
    while starts and (node.high is None or times < node.high):
        starts = _ends(node.item, text, starts)
        times += 1
        if times > node.low:
            starts = starts - ends
        if times >= node.low:
            ends |= starts
    return ends


def within(node: Node, low: int, high: int | None) -> Node | None:
    """The strings of `node` from `low` to `high` characters long; None where that cannot be written.

    It can where they are all of such lengths, or where only one part of a sequence, a repeated character, varies.
    """
    shortest, longest = lengths(node)
    if shortest >= low and (high is None or (longest is not None and longest <= high)):
        return node
    parts = node.parts if isinstance(node, Sequence) else (node,)
    varying = [index for index, part in enumerate(parts) if lengths(part)[0] != lengths(part)[1]]
    part = parts[varying[0]] if len(varying) == 1 else None
    if not isinstance(part, Repeat) or not isinstance(part.item, Chars):
        return None
    others = shortest - part.low
    least = max(part.low, low - others)
    bounds = [bound for bound in (part.high, None if high is None else high - others) if bound is not None]
    most = min(bounds, default=None)
    if most is not None and most < least:
        raise Impossible(f"no string of the pattern is from {low} to {high} characters long")
    return Sequence((*parts[: varying[0]], Repeat(part.item, least, most), *parts[varying[0] + 1 :]))


def expression(rules: Rules, node: Node) -> str:
    """The strings of `node` as they stand between the quotes of a JSON string."""
    if isinstance(node, Choice):
        return " | ".join(expression(rules, option) for option in node.options)
    if not isinstance(node, Sequence):
        return _item(rules, node)
    parts: list[str] = []
    text = ""
    for part in node.parts:
        if isinstance(part, Chars) and (code := _single(part)) is not None:
            text += inside(chr(code))
            continue
        parts += [literal(text)] if text else []
        text = ""
        parts.append(_item(rules, part))
    parts += [literal(text)] if text else []
    return " ".join(parts) or EMPTY


def _single(node: Chars) -> int | None:
    ((low, high), *more) = node.ranges
    return low if low == high and not more else None


def _item(rules: Rules, node: Node) -> str:
    """`node` as one item, which a sequence can hold and a repetition can take."""
    if isinstance(node, Chars):
        return one_char(rules, node.ranges)
    if isinstance(node, Repeat):
        return repeat(_item(rules, node.item), node.low, node.high)
    body = expression(rules, node)
    return rules.add("part", body)
