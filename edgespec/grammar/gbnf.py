"""Writing GBNF: rules that are shared where their text is the same, literals, character classes, repetitions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

MOST_REPETITIONS = 2000
"""llama.cpp refuses a larger lower bound, and takes a larger upper bound as none (MAX_REPETITION_THRESHOLD)."""

_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN_IN_CLASS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 !#$%&'()*+,./:;<=>?@_`{|}~")
EMPTY = '""'

Ranges = tuple[tuple[int, int], ...]
"""Code points, as sorted ranges with both ends in."""


class Unsupported(Exception):
    """What a grammar cannot say; the text is the reason."""


class Impossible(Exception):
    """What no value can be; the text is the reason."""


class Rules:
    """The rules of a grammar. A rule is named by its kind and a number; equal texts share one rule."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._numbers = itertools.count()

    def add(self, kind: str, body: str) -> str:
        """The name of the rule with this body."""
        if body not in self._names:
            name = self.reserve(kind)
            self._bodies[name] = body
            self._names[body] = name
        return self._names[body]

    def reserve(self, kind: str) -> str:
        """The name of a rule whose body comes later, by `define`."""
        name = f"{kind}-{next(self._numbers)}"
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Set the body of a reserved rule, or of one with a name of its own, like root."""
        self._bodies[name] = body

    def defined(self, name: str) -> bool:
        """Whether a reserved rule has its body."""
        return bool(self._bodies[name])

    def discard(self, name: str) -> None:
        """Remove a reserved rule that no other one names."""
        del self._bodies[name]

    def one_of(self, texts: Iterable[str]) -> str:
        """An expression for any of these texts. Common beginnings are written once: each alternative costs time."""
        return self._tree(sorted(set(texts)))

    def _tree(self, texts: Sequence[str]) -> str:
        """`texts` are sorted, distinct, and at least one."""
        first, last = texts[0], texts[-1]
        differing = (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
        start = first[: next(differing, min(len(first), len(last)))]
        if len(texts) == 1:
            return literal(start)
        rests = [text[len(start) :] for text in texts]
        groups: dict[str, list[str]] = {}
        for rest in rests:
            groups.setdefault(rest[:1], []).append(rest)
        choice = " | ".join(self._tree(group) for group in groups.values())
        return f"{literal(start)} {self.add('choice', choice)}" if start else choice

    def text(self) -> str:
        """The grammar, a line for each rule."""
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())


def literal(text: str) -> str:
    """`text` as a GBNF literal."""
    escaped = (_SHORT.get(c) or (f"\\x{ord(c):02X}" if c < " " or c == "\x7f" else c) for c in text)
    return f'"{"".join(escaped)}"'


def char_class(ranges: Ranges) -> str:
    """Any one character of `ranges`."""
    parts = (_class_char(low) if low == high else f"{_class_char(low)}-{_class_char(high)}" for low, high in ranges)
    return f"[{''.join(parts)}]"


def _class_char(code: int) -> str:
    if chr(code) in _PLAIN_IN_CLASS:
        return chr(code)
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def repeat(item: str, low: int, high: int | None) -> str:
    """`item`, a rule's name, a literal or a character class, from `low` to `high` times; None: without an end.

    An upper bound that llama.cpp does not count is left out. Raises Unsupported for such a lower bound.
    """
    if low > MOST_REPETITIONS:
        raise Unsupported(f"{low} is too many: a grammar counts to {MOST_REPETITIONS}")
    if high is not None and high > MOST_REPETITIONS:
        high = None
    if high is not None and low > high:
        raise Impossible(f"at least {low} and at most {high}")
    if high == 0:
        return EMPTY
    if high is None:
        return f"{item}{('*', '+')[low] if low < 2 else f'{{{low},}}'}"
    if low == high:
        return item if low == 1 else f"{item}{{{low}}}"
    return f"{item}?" if high == 1 else f"{item}{{{low},{high}}}"


def alternatives(parts: Sequence[str]) -> str:
    """One of `parts`, in brackets where there are several. Raises Impossible where there is none."""
    if not parts:
        raise Impossible("nothing is left")
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"
