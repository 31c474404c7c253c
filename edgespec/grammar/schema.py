"""Reading a JSON schema: $ref, allOf, anyOf and oneOf become a list of alternatives, each one merged set of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from edgespec.grammar import pattern
from edgespec.grammar.flat import ANYTHING, Flat, Located, Rival, Sub, json_key, product
from edgespec.grammar.formats import FORMATS
from edgespec.grammar.gbnf import Unsupported
from edgespec.grammar.number_range import Interval
from edgespec.grammar.words import check_words, refused

_INTEGER_FORMATS = {"int32": 2**31, "int64": 2**63}
_NUMBER_FORMATS = ("float", "double", *_INTEGER_FORMATS)


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
            flats = product(flats, self._expand(part, frozenset()), part.place)
        if any(flat.rivals for flat in flats):
            self._tell_apart(sub, flats)
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
            flats = product(flats, self._expand(target, seen | {target.place}), place)
        for member in _listed(part, "allOf"):
            flats = product(flats, self._expand(member, seen), place)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                options = [self._expand(option, seen) for option in _listed(part, word)]
                if word == "oneOf":
                    options = _as_rivals(options, place)
                flats = product(flats, [flat for option in options for flat in option], place)
        if "unevaluatedProperties" in schema:
            flats = [_evaluated(flat, schema["unevaluatedProperties"], place) for flat in flats]
        return flats

    def _tell_apart(self, sub: Sub, flats: list[Flat]) -> None:
        """Raises GrammarError where a value that is written for one option of oneOf may obey another one.

        What is written depends on all words of `sub`: those beside oneOf may add types and properties to an option.
        """
        key = json_key([part.schema for part in sub])
        if key in self._told_apart:  # or being told apart: a schema may contain itself
            return
        self._told_apart.add(key)
        for flat in flats:
            for place, numbers, other in flat.rivals:
                if not self._excludes(self, flat, other):
                    both = " and ".join(map(str, sorted(numbers)))
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


def _as_rivals(options: list[list[Flat]], place: str) -> list[list[Flat]]:
    """The options of a oneOf, each with all others as rivals."""
    rivals = [
        tuple(
            Rival(place, (mine, other), flat)
            for other, option in enumerate(options)
            if other != mine
            for flat in option
        )
        for mine in range(len(options))
    ]
    return [
        [replace(flat, rivals=flat.rivals + others) for flat in option]
        for option, others in zip(options, rivals, strict=True)
    ]


def _evaluated(flat: Flat, schema: Any, place: str) -> Flat:
    if flat.additional is not None or schema is True:
        return flat
    return replace(flat, additional=located(schema, pointer(place, "unevaluatedProperties")))
