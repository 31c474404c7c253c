"""The words of JSON Schema 2020-12: which are obeyed, which say nothing about values, and which are refused and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgespec.errors import GrammarError

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

ANNOTATIONS = {
    *(
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
    ),
    *("$anchor", "$comment", "$defs", "definitions", "$vocabulary", "contentEncoding", "contentMediaType"),
    *("contentSchema", "discriminator"),
}
"""Words that no value can break. `discriminator` and `example` are OpenAPI's."""

REFUSED = {
    "not": "a grammar says what may come, not what may not",
    "if": "a grammar has no conditions: use anyOf with the cases written out",
    "then": "a grammar has no conditions: use anyOf with the cases written out",
    "else": "a grammar has no conditions: use anyOf with the cases written out",
    "dependentRequired": "use anyOf with the cases written out",
    "dependentSchemas": "use anyOf with the cases written out",
    "dependencies": "use anyOf with the cases written out",
    "contains": "a grammar cannot count some of the items: use prefixItems",
    "minContains": "a grammar cannot count some of the items: use prefixItems",
    "maxContains": "a grammar cannot count some of the items: use prefixItems",
    "unevaluatedItems": "use items: false",
    "additionalItems": "it is an older word: use prefixItems and items",
    "$dynamicRef": "use $ref",
    "$dynamicAnchor": "use $anchor",
    "$recursiveRef": "use $ref",
    "$recursiveAnchor": "use $anchor",
    "nullable": 'it is no word of JSON Schema: use "type": [..., "null"]',
}


def refused(word: str, place: str, reason: str) -> GrammarError:
    """The error for a word of a schema at a JSON pointer."""
    return GrammarError(f"JSON schema: {word} at {place} cannot be obeyed: {reason}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (bool, Mapping))


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) and value else [value]
    return all(isinstance(name, str) and name in TYPES for name in names)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_schema, value.values()))


_SCHEMA: tuple[Callable[[Any], bool], str] = (_is_schema, "a schema")
_SCHEMAS: tuple[Callable[[Any], bool], str] = (_are_schemas, "a list of schemas, not empty")
_MAP: tuple[Callable[[Any], bool], str] = (_is_map, "an object of schemas")
_NUMBER: tuple[Callable[[Any], bool], str] = (_is_number, "a number")
_COUNT: tuple[Callable[[Any], bool], str] = (_is_count, "a whole number from 0 on")
_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a string")

OBEYED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of them"),
    "const": (lambda value: True, ""),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list, not empty"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("pattern", "format", "$ref"), _TEXT),
    **dict.fromkeys(("items", "additionalProperties", "propertyNames", "unevaluatedProperties"), _SCHEMA),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), _SCHEMAS),
    **dict.fromkeys(("properties", "patternProperties"), _MAP),
    "required": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of strings",
    ),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
}
"""The words that a grammar obeys, with the check and the name of what each takes."""


def check_words(schema: Mapping[str, Any], place: str) -> None:
    """Raises GrammarError for a word that is refused, unknown, or has a value that it cannot have."""
    for word, value in schema.items():
        if word in REFUSED:
            raise refused(word, place, REFUSED[word])
        if word in ANNOTATIONS or word.startswith("x-"):
            continue
        if word not in OBEYED:
            raise refused(repr(word), place, "it is no word of JSON Schema 2020-12")
        fits, wanted = OBEYED[word]
        if not fits(value):
            raise refused(word, place, f"it is {_short(value)}, and must be {wanted}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
