"""What values obey: the words of merged schemas as one value, and how two of them are merged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edgespec.grammar.number_range import UNBOUNDED, Interval
from edgespec.grammar.words import TYPES, refused

MOST_ALTERNATIVES = 200
"""Combinations of the options of anyOf and oneOf at one place."""


class Located(NamedTuple):
    """A schema, and the JSON pointer of its place."""

    schema: Any
    place: str


Sub = tuple[Located, ...]
"""Schemas that a value must all obey; none: anything."""
ANYTHING: Sub = ()


class Rival(NamedTuple):
    """Another option of the oneOf at `place`, which a value must not obey too; `numbers` are those of both options."""

    place: str
    numbers: tuple[int, int]
    flat: Flat


@dataclass(frozen=True, slots=True)
class Flat:
    """Words that a value must all obey. None and the defaults say nothing.

    `rivals` are no words: a grammar can be written only where no value that it allows obeys one of them.
    """

    place: str = "#"
    types: frozenset[str] | None = None
    values: tuple[Any, ...] | None = None
    interval: Interval = UNBOUNDED
    multiple_of: int | None = None
    min_length: int = 0
    max_length: int | None = None
    patterns: tuple[str, ...] = ()
    properties: Mapping[str, Sub] | None = None
    required: tuple[str, ...] = ()
    additional: Sub | None = None
    pattern_properties: Mapping[str, Sub] = field(default_factory=dict)
    names: Sub | None = None
    min_properties: int = 0
    max_properties: int | None = None
    prefix: tuple[Sub, ...] = ()
    items: Sub | None = None
    min_items: int = 0
    max_items: int | None = None
    rivals: tuple[Rival, ...] = ()

    def written_types(self) -> tuple[str, ...]:
        """The types that values may have: those of `type`, else those that the other words speak of, else all."""
        if self.types is not None:
            return tuple(name for name in TYPES if name in self.types)
        spoken = {
            "number": self.interval.bounded or self.multiple_of is not None,
            "string": bool(self.min_length or self.max_length is not None or self.patterns),
            "array": bool(self.prefix or self.items is not None or self.min_items or self.max_items is not None),
            "object": self.speaks_of_objects,
        }
        found = tuple(name for name in TYPES if spoken.get(name))
        return found or tuple(name for name in TYPES if name != "integer")

    @property
    def speaks_of_objects(self) -> bool:
        """Whether a word for objects is there."""
        return bool(
            self.properties is not None
            or self.required
            or self.additional is not None
            or self.pattern_properties
            or self.names is not None
            or self.min_properties
            or self.max_properties is not None
        )


def json_key(value: Any) -> str:
    """A text that is the same for values that JSON Schema calls equal: 1 and 1.0, but not true."""
    return json.dumps(_comparable(value), sort_keys=True)


def _comparable(value: Any) -> Any:
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, dict):
        return {name: _comparable(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def conj(first: Sub, second: Sub) -> Sub:
    """What obeys both, without the same schema twice."""
    known = {json_key(part.schema) for part in first}
    return (*first, *(part for part in second if json_key(part.schema) not in known))


def product(first: list[Flat], second: list[Flat], place: str) -> list[Flat]:
    """The alternatives that obey one of `first` and one of `second`. Raises GrammarError for too many at `place`."""
    if len(first) * len(second) > MOST_ALTERNATIVES:
        raise refused("anyOf", place, f"it stands for more than {MOST_ALTERNATIVES} combinations")
    merged = (_merged(one, other) for one in first for other in second)
    return [flat for flat in merged if flat is not None]


def _merged(a: Flat, b: Flat) -> Flat | None:
    """What obeys both; None where nothing can."""
    types = _common_types(a.types, b.types)
    values = a.values if b.values is None else b.values
    if a.values is not None and b.values is not None:
        keys = {json_key(value) for value in b.values}
        values = tuple(value for value in a.values if json_key(value) in keys)
    interval = a.interval.meets(b.interval)
    if (types is not None and not types) or (values is not None and not values):
        return None
    length = max(len(a.prefix), len(b.prefix))
    return Flat(
        place=a.place if a != Flat(a.place) else b.place,
        types=types,
        values=values,
        interval=interval,
        multiple_of=_common_divisor(a.multiple_of, b.multiple_of),
        min_length=max(a.min_length, b.min_length),
        max_length=_least(a.max_length, b.max_length),
        patterns=tuple(dict.fromkeys((*a.patterns, *b.patterns))),
        properties=_merged_properties(a, b),
        required=tuple(dict.fromkeys((*a.required, *b.required))),
        additional=_both(a.additional, b.additional),
        pattern_properties=_merged_patterns(a, b),
        names=_both(a.names, b.names),
        min_properties=max(a.min_properties, b.min_properties),
        max_properties=_least(a.max_properties, b.max_properties),
        prefix=tuple(conj(item_at(a, index), item_at(b, index)) for index in range(length)),
        items=_both(a.items, b.items),
        min_items=max(a.min_items, b.min_items),
        max_items=_least(a.max_items, b.max_items),
        rivals=a.rivals + b.rivals,
    )


def _common_types(a: frozenset[str] | None, b: frozenset[str] | None) -> frozenset[str] | None:
    if a is None or b is None:
        return b if a is None else a
    found = a & b
    if ("integer" in a and "number" in b) or ("number" in a and "integer" in b):
        found |= {"integer"}
    return found


def _least(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else min(a, b)


def _common_divisor(a: int | None, b: int | None) -> int | None:
    return math.lcm(a, b) if a and b else a or b


def _both(a: Sub | None, b: Sub | None) -> Sub | None:
    return a if b is None else b if a is None else conj(a, b)


def item_at(flat: Flat, index: int) -> Sub:
    """What the item at `index` of an array obeys."""
    return flat.prefix[index] if index < len(flat.prefix) else flat.items or ANYTHING


def _merged_properties(a: Flat, b: Flat) -> Mapping[str, Sub] | None:
    """The properties of both; one that only one side names obeys what the other says of additional ones."""
    if a.properties is None and b.properties is None:
        return None
    first, second = a.properties or {}, b.properties or {}
    if (b.pattern_properties and first) or (a.pattern_properties and second):
        raise refused("patternProperties", (b if b.pattern_properties else a).place, "it stands beside properties")
    return {
        name: conj(
            first.get(name, a.additional or ANYTHING),
            second.get(name, b.additional or ANYTHING),
        )
        for name in (*first, *(name for name in second if name not in first))
    }


def _merged_patterns(a: Flat, b: Flat) -> Mapping[str, Sub]:
    if a.pattern_properties and b.pattern_properties:
        raise refused("patternProperties", b.place, "it is merged with another one")
    if (a.pattern_properties and b.additional is not None) or (b.pattern_properties and a.additional is not None):
        raise refused("patternProperties", a.place, "it is merged with additionalProperties")
    return a.pattern_properties or b.pattern_properties
