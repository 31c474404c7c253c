"""What values obey: whether one value does, and whether no value that is written for one alternative obeys another."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from edgespec.grammar import pattern
from edgespec.grammar.flat import ANYTHING, Flat, Sub, item_at, json_key
from edgespec.grammar.number_range import Interval
from edgespec.grammar.schema import Reader, exact

_DEEPEST = 4
"""Properties of properties that are compared to tell two alternatives apart."""


def obeys(reader: Reader, value: Any, sub: Sub) -> bool:
    """Whether `value` obeys `sub`."""
    return any(obeys_flat(reader, value, flat) for flat in reader.expand(sub))


def obeys_flat(reader: Reader, value: Any, flat: Flat) -> bool:
    """Whether `value` obeys one alternative."""
    if flat.types is not None and not (_types_of(value) & flat.types):
        return False
    if flat.values is not None and json_key(value) not in {json_key(allowed) for allowed in flat.values}:
        return False
    if isinstance(value, str):
        return _fits(len(value), flat.min_length, flat.max_length) and all(
            pattern.matches(regex, value) for regex in flat.patterns
        )
    if isinstance(value, list):
        items = (obeys(reader, item, item_at(flat, index)) for index, item in enumerate(value))
        return _fits(len(value), flat.min_items, flat.max_items) and all(items)
    if isinstance(value, dict):
        return _obeys_as_object(reader, value, flat)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        divisible = flat.multiple_of is None or Fraction(exact(value)) % flat.multiple_of == 0
        return divisible and flat.interval.holds(exact(value))
    return True


def _types_of(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, (int, float)):
        return {"integer", "number"} if value == int(value) else {"number"}
    kinds: list[tuple[type, str]] = [(str, "string"), (list, "array"), (dict, "object")]
    return {next((name for kind, name in kinds if isinstance(value, kind)), "null")}


def _fits(size: int, low: int, high: int | None) -> bool:
    return low <= size and (high is None or size <= high)


def _obeys_as_object(reader: Reader, value: dict[str, Any], flat: Flat) -> bool:
    if not _fits(len(value), flat.min_properties, flat.max_properties) or not set(flat.required) <= set(value):
        return False
    for name, member in value.items():
        named = (flat.properties or {}).get(name)
        patterns = [sub for regex, sub in flat.pattern_properties.items() if pattern.matches(regex, name)]
        subs = [*([named] if named is not None else []), *patterns] or [flat.additional or ANYTHING]
        if not all(obeys(reader, member, sub) for sub in subs):
            return False
        if flat.names is not None and not obeys(reader, name, flat.names):
            return False
    return True


def excludes(reader: Reader, a: Flat, b: Flat, depth: int = _DEEPEST) -> bool:
    """Whether no value that a grammar writes for `a` obeys `b`; False where that is not certain."""
    if a.values is not None:
        return not any(obeys_flat(reader, value, a) and obeys_flat(reader, value, b) for value in a.values)
    if b.values is not None:
        return not any(obeys_flat(reader, value, a) for value in b.values)
    allowed = b.types
    shared = [
        name
        for name in a.written_types()
        if allowed is None or name in allowed or (name == "integer" and "number" in allowed)
        or (name == "number" and "integer" in allowed)
    ]  # fmt: skip
    return all(_excludes_as(name, reader, a, b, depth) for name in shared)


def _excludes_as(name: str, reader: Reader, a: Flat, b: Flat, depth: int) -> bool:
    if name in ("integer", "number"):
        return _apart(a.interval, b.interval)
    if name == "string":
        return _lengths_apart(a.min_length, a.max_length, b.min_length, b.max_length)
    if name == "array":
        shorter = min(a.min_items, max(len(a.prefix), len(b.prefix), 1))
        return _lengths_apart(a.min_items, a.max_items, b.min_items, b.max_items) or any(
            _sub_excludes(reader, item_at(a, index), item_at(b, index), depth) for index in range(shorter)
        )
    return name == "object" and _excludes_as_object(reader, a, b, depth)


def _apart(a: Interval, b: Interval) -> bool:
    return a.meets(b).empty


def _lengths_apart(low: int, high: int | None, other_low: int, other_high: int | None) -> bool:
    return (high is not None and high < other_low) or (other_high is not None and other_high < low)


def _excludes_as_object(reader: Reader, a: Flat, b: Flat, depth: int) -> bool:
    mine, others = a.properties or {}, b.properties or {}
    closed = a.additional is None and a.properties is not None and not a.pattern_properties
    for name in b.required:
        if name not in mine and name not in a.required and (closed or _nothing(reader, a.additional)):
            return True
    for name in a.required:
        if name not in others and not b.pattern_properties and _nothing(reader, b.additional):
            return True
    return any(
        _sub_excludes(reader, mine[name], others[name], depth)
        for name in {*a.required, *b.required}
        if name in mine and name in others
    )


def _nothing(reader: Reader, sub: Sub | None) -> bool:
    return sub is not None and not reader.expand(sub)


def _sub_excludes(reader: Reader, a: Sub, b: Sub, depth: int) -> bool:
    if depth == 0:
        return False
    return all(excludes(reader, one, other, depth - 1) for one in reader.expand(a) for other in reader.expand(b))
