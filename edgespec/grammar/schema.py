"""Reading a JSON schema: $ref, allOf, anyOf and oneOf become a list of alternatives, each one merged set of words."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import unquote

from edgespec.grammar import pattern
from edgespec.grammar.formats import FORMATS
from edgespec.grammar.gbnf import Unsupported
from edgespec.grammar.number_range import UNBOUNDED, Interval
from edgespec.grammar.words import TYPES, check_words, refused

MOST_ALTERNATIVES = 200
"""Combinations of the options of anyOf and oneOf at one place."""
_INTEGER_FORMATS = {"int32": 2**31, "int64": 2**63}
_NUMBER_FORMATS = ("float", "double", *_INTEGER_FORMATS)


class Located(NamedTuple):
    """A schema, and the JSON pointer of its place."""

    schema: Any
    place: str


Sub = tuple[Located, ...]
"""Schemas that a value must all obey; none: anything."""
ANYTHING: Sub = ()


@dataclass(frozen=True, slots=True)
class Flat:
    """Words that a value must all obey. None and the defaults say nothing."""

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


class Reader:
    """Expands the schemas of one document.

    `excludes(reader, a, b)` says whether no value written for `a` obeys `b`: oneOf allows no value that obeys two.
    """

    def __init__(self, root: Any, excludes: Callable[[Reader, Flat, Flat], bool]) -> None:
        self._root = root
        self._excludes = excludes
        self._told_apart: set[str] = set()

    def expand(self, sub: Sub) -> list[Flat]:
        """The alternatives that `sub` allows; none where it allows no value. Raises GrammarError."""
        flats = [Flat(sub[0].place if sub else "#")]
        for part in sub:
            flats = _product(flats, self._expand(part, frozenset()), part.place)
        return flats

    def _expand(self, part: Located, seen: frozenset[str]) -> list[Flat]:
        schema, place = part
        if isinstance(schema, bool):
            return [Flat(place)] if schema else []
        check_words(schema, place)
        flats = [_own(schema, place)]
        if "$ref" in schema:
            target = self._target(schema["$ref"], place)
            if target.place in seen:
                raise refused("$ref", place, f"{schema['$ref']} refers to itself and nothing else")
            flats = _product(flats, self._expand(target, seen | {target.place}), place)
        for member in _listed(part, "allOf"):
            flats = _product(flats, self._expand(member, seen), place)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                options = [self._expand(option, seen) for option in _listed(part, word)]
                if word == "oneOf":
                    self._tell_apart(options, place)
                flats = _product(flats, [flat for option in options for flat in option], place)
        if "unevaluatedProperties" in schema:
            flats = [_evaluated(flat, schema["unevaluatedProperties"], place) for flat in flats]
        return flats

    def _tell_apart(self, options: list[list[Flat]], place: str) -> None:
        """Raises GrammarError where a value that is written for one option of oneOf may obey another one."""
        if place in self._told_apart:  # or being told apart: a schema may contain itself
            return
        self._told_apart.add(place)
        for first, second in itertools.permutations(range(len(options)), 2):
            for one, other in itertools.product(options[first], options[second]):
                if not self._excludes(self, one, other):
                    both = " and ".join(map(str, sorted((first, second))))
                    raise refused("oneOf", place, f"a value could obey options {both}: use anyOf, or tell them apart")

    def _target(self, ref: str, place: str) -> Located:
        """What a local reference means."""
        own = self._root.get("$id") if isinstance(self._root, Mapping) else None
        fragment = ref.removeprefix(own) if isinstance(own, str) and own and ref.startswith(own) else ref
        if fragment in ("", "#"):
            return Located(self._root, "#")
        if not fragment.startswith("#"):
            raise refused("$ref", place, f"{ref} is another document, and none is fetched: put it into $defs")
        if not fragment.startswith("#/"):
            return self._anchor(fragment[1:], place)
        found = self._root
        for part in fragment[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise refused("$ref", place, f"there is nothing at {ref}")
        if not isinstance(found, (bool, Mapping)):
            raise refused("$ref", place, f"at {ref} is no schema")
        return Located(found, fragment)

    def _anchor(self, name: str, place: str) -> Located:
        pending = [(self._root, "#")]
        while pending:
            found, where = pending.pop()
            if isinstance(found, Mapping) and found.get("$anchor") == name:
                return Located(found, where)
            inner = found.items() if isinstance(found, Mapping) else enumerate(found) if isinstance(found, list) else ()
            pending += [(value, pointer(where, str(key))) for key, value in inner]
        raise refused("$ref", place, f"there is no $anchor {name}")


def pointer(place: str, *names: str) -> str:
    """The JSON pointer of what is below `place`."""
    return "/".join((place, *(name.replace("~", "~0").replace("/", "~1") for name in names)))


def _listed(whole: Located, word: str) -> list[Located]:
    schema, place = whole
    return [Located(part, pointer(place, word, str(index))) for index, part in enumerate(schema.get(word, ()))]


def _own(schema: Mapping[str, Any], place: str) -> Flat:
    """The words of one schema itself, without those that combine others."""

    def sub(word: str) -> Sub | None:
        return located(schema[word], pointer(place, word)) if word in schema else None

    def subs(word: str) -> dict[str, Sub]:
        return {name: located(value, pointer(place, word, name)) for name, value in schema.get(word, {}).items()}

    def count(word: str) -> int | None:
        return int(schema[word]) if word in schema else None

    if schema.get("uniqueItems") and count("maxItems") not in (0, 1):
        raise refused("uniqueItems", place, "a grammar cannot compare items: leave it out, and check the answer")
    values = [schema["const"]] if "const" in schema else None
    if "enum" in schema:
        keys = {json_key(value) for value in values} if values is not None else None
        values = [value for value in schema["enum"] if keys is None or json_key(value) in keys]
    names = schema.get("type")
    flat = Flat(
        place=place,
        types=None if names is None else frozenset([names] if isinstance(names, str) else names),
        values=None if values is None else tuple(values),
        interval=_interval(schema),
        multiple_of=_divisor(schema, place),
        min_length=count("minLength") or 0,
        max_length=count("maxLength"),
        patterns=_patterns(schema, place),
        properties=subs("properties") if "properties" in schema else None,
        required=tuple(dict.fromkeys(schema.get("required", ()))),
        additional=sub("additionalProperties"),
        pattern_properties=subs("patternProperties"),
        names=sub("propertyNames"),
        min_properties=count("minProperties") or 0,
        max_properties=count("maxProperties"),
        prefix=tuple(
            located(value, pointer(place, "prefixItems", str(index)))
            for index, value in enumerate(schema.get("prefixItems", ()))
        ),
        items=sub("items"),
        min_items=count("minItems") or 0,
        max_items=count("maxItems"),
    )
    return _with_integer_format(flat, schema.get("format"))


def located(schema: Any, place: str) -> Sub:
    """A schema at its place; one that allows anything says nothing."""
    return ANYTHING if schema is True or schema == {} else (Located(schema, place),)


def exact(value: float | int) -> Decimal:
    """A number as it is written."""
    return Decimal(value) if isinstance(value, int) else Decimal(repr(value))


def _interval(schema: Mapping[str, Any]) -> Interval:
    found = Interval()
    for word, is_low, is_open in (
        ("minimum", True, False),
        ("exclusiveMinimum", True, True),
        ("maximum", False, False),
        ("exclusiveMaximum", False, True),
    ):
        if word in schema:
            bound = exact(schema[word])
            one = Interval(low=bound, low_open=is_open) if is_low else Interval(high=bound, high_open=is_open)
            found = found.meets(one)
    return found


def _divisor(schema: Mapping[str, Any], place: str) -> int | None:
    if "multipleOf" not in schema:
        return None
    value = schema["multipleOf"]
    if value != int(value):
        raise refused("multipleOf", place, f"it is {value}, and a grammar can divide by whole numbers only")
    return int(value)


def _patterns(schema: Mapping[str, Any], place: str) -> tuple[str, ...]:
    found = []
    name = schema.get("format")
    if name is not None and name not in _NUMBER_FORMATS:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise refused("format", place, f"{name!r} is none of {known}")
        found.append(FORMATS[name])
    for word, texts in (("pattern", [schema[word] for word in schema if word == "pattern"]),
                        ("patternProperties", schema.get("patternProperties", ()))):  # fmt: skip
        for text in texts:
            try:
                pattern.parse(text)
            except Unsupported as error:
                raise refused(word, place, str(error)) from error
    return (*found, schema["pattern"]) if "pattern" in schema else tuple(found)


def _with_integer_format(flat: Flat, name: Any) -> Flat:
    """OpenAPI's int32 and int64 are bounds."""
    if name not in _INTEGER_FORMATS:
        return flat
    size = _INTEGER_FORMATS[name]
    return replace(flat, interval=flat.interval.meets(Interval(low=Decimal(-size), high=Decimal(size - 1))))


def _evaluated(flat: Flat, schema: Any, place: str) -> Flat:
    if flat.additional is not None or schema is True:
        return flat
    return replace(flat, additional=located(schema, pointer(place, "unevaluatedProperties")))


def _product(first: list[Flat], second: list[Flat], place: str) -> list[Flat]:
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
        prefix=tuple(conj(_item(a, index), _item(b, index)) for index in range(length)),
        items=_both(a.items, b.items),
        min_items=max(a.min_items, b.min_items),
        max_items=_least(a.max_items, b.max_items),
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


def _item(flat: Flat, index: int) -> Sub:
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
