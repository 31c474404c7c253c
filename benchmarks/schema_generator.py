"""Random JSON schemas over the words that edgespec obeys, each with instances that obey it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

NAMES = ("name", "age", "city", "tags", "price", "ok", "naïve", 'a "b"', "x-1", "id", "note", "kind")
WORDS = ("", "yes", "no", "Zürich", "two\nlines", 'say "hi"', "C:\\temp", "\\d+", "a/b", "日本", "tab\there", "\u0007")
PATTERNS: dict[str, tuple[str, ...]] = {
    r"^\d{3}-\d{4}$": ("123-4567", "000-0000"),
    r"^[A-Z][a-z]{1,8}( [A-Z][a-z]+)?$": ("Ada", "Ada Lovelace"),
    r"^(red|green|blue)$": ("red", "blue"),
    r"ab+c": ("abc", "xxabbbc yy"),
    r"^[^\s@]+@[\w.]+$": ("a@b.c", "joe!@x"),
    r"^\w+(?:[-.]\w+)*$": ("a", "a-b.c"),
    r"^.{2,5}$": ("ab", "日本 x"),
    r'^"\\$': ('"\\',),
    r"^[\x20-\x7e]*$": ("", "plain ~ text"),
    r"^v\d+|latest$": ("v1", "the latest"),
}
FORMATS: dict[str, tuple[str, ...]] = {
    "date": ("2024-02-29", "1999-12-31"),
    "time": ("23:59:59Z", "08:00:00.5+02:00"),
    "date-time": ("2024-01-31T00:00:00Z",),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000",),
    "ipv4": ("0.0.0.0", "192.168.1.255"),
    "email": ("a@example.org", "first.last+tag@mail.example.com"),
    "uri": ("https://example.org/a/b", "http://www.example.com"),
}


class Made(NamedTuple):
    """A schema, and a maker of instances that obey it and are in the form that the grammar writes."""

    schema: Any
    instance: Callable[[], Any]


class SchemaMaker:
    """Makes schemas by the seeded `chance`."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._defs: dict[str, Any] = {}

    def document(self) -> Made:
        """A whole schema, with the $defs that it refers to."""
        made = self._made(0)
        if self._defs:
            return Made({**made.schema, "$defs": self._defs}, made.instance)
        return made

    def _made(self, depth: int) -> Made:
        simple = [self._null, self._boolean, self._integer, self._number, self._string, self._pattern, self._format,
                  self._constant, self._choice]  # fmt: skip
        nested = [self._array, self._tuple, self._object, self._object, self._open_object, self._map, self._any_of,
                  self._one_of, self._all_of, self._reference, self._recursive]  # fmt: skip
        if depth < 3 and self._chance.random() < (0.75 if depth == 0 else 0.35):
            return self._chance.choice(nested)(depth + 1)
        return self._chance.choice(simple)()

    def _null(self) -> Made:
        return Made({"type": "null"}, lambda: None)

    def _boolean(self) -> Made:
        return Made({"type": "boolean"}, lambda: self._chance.random() < 0.5)

    def _integer(self) -> Made:
        low = self._chance.choice([0, 1, -5, 17, -1000, 2024, 99])
        high = low + self._chance.choice([0, 4, 73, 1000, 123456])
        step = self._chance.choice([1, 1, 1, 5, 7])
        found = [value for value in (low, high, low + 1, high - 1, (low + high) // 2) if low <= value <= high]
        if step > 1 and high - low < 1000:
            multiples = list(range(-(-low // step) * step, high + 1, step)) or [0]
            if multiples == [0]:
                low, high = 0, 1000
            schema = {"type": "integer", "minimum": low, "maximum": high, "multipleOf": step}
            return Made(schema, lambda: self._chance.choice(multiples))
        bounds: dict[str, Any] = self._chance.choice([
            {}, {"minimum": low}, {"maximum": high}, {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
            {"minimum": low - 0.5, "maximum": high + 0.25},
        ])  # fmt: skip
        return Made({"type": "integer", **bounds}, lambda: self._chance.choice(found))

    def _number(self) -> Made:
        low = self._chance.choice([0, 0.5, -1.25, 10, -300, 0.001])
        high = low + self._chance.choice([0.5, 1, 99.75, 1000])
        bounds: dict[str, Any] = self._chance.choice([
            {}, {"minimum": low}, {"maximum": high}, {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low, "exclusiveMaximum": high},
        ])  # fmt: skip
        shares = [0.25, 0.5, 0.75]
        return Made({"type": "number", **bounds}, lambda: round(low + (high - low) * self._chance.choice(shares), 6))

    def _string(self) -> Made:
        low = self._chance.choice([0, 0, 1, 3])
        high = low + self._chance.choice([0, 1, 12, 40])
        bounds: dict[str, Any] = self._chance.choice(
            [{}, {"maxLength": high}, {"maxLength": 20_000}, {"minLength": low, "maxLength": high}]
        )
        fits = [word for word in WORDS if low <= len(word) <= high] or ["x" * low]
        return Made({"type": "string", **bounds}, lambda: self._chance.choice(fits))

    def _pattern(self) -> Made:
        pattern, found = self._chance.choice(list(PATTERNS.items()))
        return Made({"type": "string", "pattern": pattern}, lambda: self._chance.choice(found))

    def _format(self) -> Made:
        name, found = self._chance.choice(list(FORMATS.items()))
        return Made({"type": "string", "format": name}, lambda: self._chance.choice(found))

    def _constant(self) -> Made:
        value: Any = self._chance.choice([*WORDS, 0, -1.5, True, None, [1, "a"], {"a": [None]}])
        return Made({"const": value}, lambda: value)

    def _choice(self) -> Made:
        values = self._chance.sample([*WORDS, 1, 2.5, False, None, [1]], self._chance.randint(1, 5))
        if self._chance.random() < 0.5 and any(isinstance(value, str) for value in values):
            texts = [value for value in values if isinstance(value, str)]
            return Made({"type": "string", "enum": values}, lambda: self._chance.choice(texts))
        return Made({"enum": values}, lambda: self._chance.choice(values))

    def _array(self, depth: int) -> Made:
        item = self._made(depth)
        low = self._chance.choice([0, 0, 1, 2])
        high = low + self._chance.choice([0, 1, 2])
        bounds: dict[str, Any] = self._chance.choice(
            [{"maxItems": max(1, high)}, {"minItems": low, "maxItems": high}, {"maxItems": 3, "uniqueItems": False}]
        )
        schema = {"type": "array", "items": item.schema, **bounds}
        size = self._chance.randint(bounds.get("minItems", 0), bounds["maxItems"])
        return Made(schema, lambda: [item.instance() for _ in range(size)])

    def _tuple(self, depth: int) -> Made:
        parts = [self._made(depth) for _ in range(self._chance.randint(1, 3))]
        schema: dict[str, Any] = {"type": "array", "prefixItems": [part.schema for part in parts]}
        further = self._chance.choice([None, False, self._boolean()])
        if further is not None:
            schema["items"] = further.schema if isinstance(further, Made) else False
        schema["minItems"] = self._chance.randint(0, len(parts))
        schema["maxItems"] = len(parts) + 1
        size = self._chance.randint(schema["minItems"], len(parts))

        def instance() -> list[Any]:
            rest = [further.instance()] if isinstance(further, Made) and size == len(parts) else []
            return [*(part.instance() for part in parts[:size]), *rest]

        return Made(schema, instance)

    def _members(self, depth: int, most: int = 4) -> tuple[dict[str, Made], list[str]]:
        names = self._chance.sample(NAMES, self._chance.randint(1, most))
        members = {name: self._made(depth) for name in names}
        return members, [name for name in names if self._chance.random() < 0.6]

    def _some(self, members: dict[str, Made], required: list[str]) -> dict[str, Any]:
        return {
            name: made.instance() for name, made in members.items() if name in required or self._chance.random() < 0.5
        }

    def _object(self, depth: int) -> Made:
        members, required = self._members(depth)
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: made.schema for name, made in members.items()},
            "required": required,
        }
        if self._chance.random() < 0.5:
            schema["additionalProperties"] = False
        return Made(schema, lambda: self._some(members, required))

    def _open_object(self, depth: int) -> Made:
        members, required = self._members(depth, most=2)
        further = self._boolean()
        schema = {
            "type": "object",
            "properties": {name: made.schema for name, made in members.items()},
            "required": required,
            "additionalProperties": further.schema,
        }
        return Made(schema, lambda: {**self._some(members, required), "nam": True, "named": False})

    def _map(self, depth: int) -> Made:
        value = self._made(depth)
        kind = self._chance.randint(0, 2)
        schema: dict[str, Any] = {"type": "object", "maxProperties": 3}
        if kind == 0:
            schema["patternProperties"] = {"^[a-z]{1,8}$": value.schema}
        else:
            schema["additionalProperties"] = value.schema
        if kind == 1:
            schema["propertyNames"] = {"enum": ["one", "two", "three"]}
        return Made(schema, lambda: {"one": value.instance(), "two": value.instance()})

    def _any_of(self, depth: int) -> Made:
        options = [self._made(depth) for _ in range(self._chance.randint(1, 3))]
        return Made({"anyOf": [option.schema for option in options]}, lambda: self._chance.choice(options).instance())

    def _one_of(self, depth: int) -> Made:
        if self._chance.random() < 0.5:
            options = self._chance.sample([self._null(), self._boolean(), self._integer(), self._string()], 2)
            return Made(
                {"oneOf": [option.schema for option in options]}, lambda: self._chance.choice(options).instance()
            )
        kinds = {kind: self._made(depth) for kind in ("cat", "dog")}
        schemas = [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": made.schema},
                "required": ["kind", "value"],
            }
            for kind, made in kinds.items()
        ]

        def instance() -> dict[str, Any]:
            kind = self._chance.choice(list(kinds))
            return {"kind": kind, "value": kinds[kind].instance()}

        return Made({"oneOf": schemas}, instance)

    def _all_of(self, depth: int) -> Made:
        first, second = self._made(depth), self._made(depth)
        schema = {
            "type": "object",
            "allOf": [
                {"properties": {"name": first.schema}, "required": ["name"]},
                {"properties": {"note": second.schema}, "required": ["note"]},
            ],
        }
        return Made(schema, lambda: {"name": first.instance(), "note": second.instance()})

    def _reference(self, depth: int) -> Made:
        made = self._made(depth)
        name = f"part {len(self._defs)}~/"
        self._defs[name] = made.schema
        return Made({"$ref": f"#/$defs/part%20{len(self._defs) - 1}~0~1", "description": "a part"}, made.instance)

    def _recursive(self, depth: int) -> Made:
        made = self._made(depth)
        name = f"node{len(self._defs)}"
        self._defs[name] = {
            "type": "object",
            "properties": {"value": made.schema, "next": {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}},
            "required": ["value", "next"],
        }
        return Made(
            {"$ref": f"#/$defs/{name}"},
            lambda: {"value": made.instance(), "next": {"value": made.instance(), "next": None}},
        )
