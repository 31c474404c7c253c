"""Strings inside JSON, as GBNF: which characters stand as they are, and which are escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable

from edgespec.grammar.gbnf import Ranges, Rules, char_class, literal

LAST = 0x10FFFF
_SURROGATES = ((0xD800, 0xDFFF),)
_ESCAPED: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))


def union(*ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All code points of `ranges`."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for some in ranges for pair in some):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges, last: int = LAST) -> Ranges:
    """The code points up to `last` that are not in `ranges`."""
    found, start = [], 0
    for low, high in (*union(ranges), (last + 1, LAST + 1)):
        if start <= min(low - 1, last):
            found.append((start, min(low - 1, last)))
        start = high + 1
    return tuple(found)


def common(first: Ranges, second: Ranges) -> Ranges:
    """The code points in both."""
    return complement(union(complement(first), complement(second)))


ANY: Ranges = complement(_SURROGATES)
"""Every character: half surrogates are none."""
PLAIN: Ranges = common(ANY, complement(_ESCAPED))
"""The characters that stand in a JSON string as they are."""

_ANY_ESCAPE = r'"\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F] | [dD] [0-7]) [0-9a-fA-F]{2})'


def any_char(rules: Rules) -> str:
    """The rule of one character of a JSON string, escaped in any way; half surrogates are left out."""
    return rules.add("char", f"{char_class(PLAIN)} | {_ANY_ESCAPE}")


def one_char(rules: Rules, ranges: Ranges) -> str:
    """An item for one character of `ranges` in a JSON string, escaped as `json.dumps` does it."""
    plain, escaped = common(ranges, PLAIN), common(ranges, _ESCAPED)
    codes = [code for low, high in escaped for code in range(low, high + 1)]
    if not codes:
        return char_class(plain)
    if not plain and len(codes) == 1:
        return literal(inside(chr(codes[0])))
    parts = [char_class(plain)] if plain else []
    short = union(*([(ord(text[1]), ord(text[1]))] for code in codes if len(text := inside(chr(code))) == 2))
    parts += [f'"\\\\" {char_class(short)}'] if short else []
    for high in (0, 1):
        low = union(*([(ord(text[-1]), ord(text[-1]))] for code in codes
                      if len(text := inside(chr(code))) == 6 and code >> 4 == high))  # fmt: skip
        parts += [f'"\\\\u00{high}" {char_class(low)}'] if low else []
    return rules.add("char", " | ".join(parts))


def inside(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return dumps(text)[1:-1]


def dumps(value: object) -> str:
    """`value` as JSON, half surrogates escaped. Raises ValueError for what is no JSON."""
    written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        written.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return written
