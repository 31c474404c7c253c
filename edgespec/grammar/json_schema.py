"""JSON Schema 2020-12 as GBNF. docs/schemas.md has the table of what is obeyed, and what is refused.

The grammar writes only values that the schema allows. It does not write all of them: properties come in the schema's
order, objects that name properties are closed unless additionalProperties opens them, and blanks are single.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgespec.errors import GrammarError
from edgespec.grammar import gbnf, number_range, pattern
from edgespec.grammar.check import parsed
from edgespec.grammar.flat import ANYTHING, Flat, Located, Sub, json_key
from edgespec.grammar.gbnf import EMPTY, MOST_REPETITIONS, Impossible, Rules, Unsupported, alternatives, literal, repeat
from edgespec.grammar.instances import excludes, obeys, obeys_flat
from edgespec.grammar.rule_graph import endless_rules
from edgespec.grammar.schema import Reader, located
from edgespec.grammar.text import PLAIN, any_char, common, complement, dumps, inside
from edgespec.grammar.words import refused

Schema = str | bool | Mapping[str, Any] | type
"""A JSON schema: as JSON text, as what that text means, or as a class with `model_json_schema`, like pydantic's."""

MOST_RULES = 50_000
"""Kinds of values in one schema."""


def schema_to_grammar(schema: Schema) -> str:
    """The GBNF grammar of a JSON schema. Raises GrammarError with the word and its place where it cannot be obeyed."""
    try:
        document = _document(schema)
        compiler = _Compiler(document)
        return compiler.grammar()
    except RecursionError as error:
        raise GrammarError("the JSON schema is nested too deeply") from error


def _document(schema: Schema) -> Any:
    """The schema as json.loads gives it."""
    make = getattr(schema, "model_json_schema", None)
    if isinstance(schema, type) and callable(make):
        schema = make()
    if isinstance(schema, str):
        document = _loaded(schema.removeprefix("\ufeff"))
    elif isinstance(schema, (bool, Mapping)):
        try:
            document = json.loads(json.dumps(schema, allow_nan=False, default=_plain))
        except (TypeError, ValueError) as error:
            raise GrammarError(f"the JSON schema is not JSON: {error}") from error
    else:
        raise GrammarError(
            f"a JSON schema is a dict, a JSON text, True, False, or a class with model_json_schema, not {schema!r:.60}"
        )
    if not isinstance(document, (bool, dict)):
        raise GrammarError(f"a JSON schema is an object, true or false, not {document!r:.60}")
    return document


def _loaded(text: str) -> Any:
    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, parse_constant=constant, parse_float=_finite)
    except ValueError as error:
        raise GrammarError(f"the JSON schema is not JSON: {error}") from error


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond the numbers that a double holds")
    return value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r:.60} is no JSON value")


class _Compiler:
    """Makes the rules of one document. Each method returns an expression, or the name of a rule where it says so."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._reader = Reader(document, excludes)
        self._rules = Rules()
        self._names: dict[str, str] = {}
        self._impossible: dict[str, Impossible] = {}
        self._places: dict[str, str] = {}
        self._awaited: set[str] = set()  # rules that others named before they had a body
        self._space = self._rules.add("space", f'" " | {EMPTY}')
        self._types: dict[str, Callable[[Flat], str]] = {
            "null": lambda flat: '"null"',
            "boolean": lambda flat: '"true" | "false"',
            "integer": self._integer,
            "number": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }

    def grammar(self) -> str:
        """The checked grammar of the document."""
        try:
            root = self._rule(located(self._document, "#"))
        except Impossible as error:
            raise GrammarError(f"JSON schema: it allows no value: {error}") from error
        self._rules.define("root", root)
        text = self._rules.text()
        endless = endless_rules(parsed(text))
        if endless:
            raise self._endless(next((name for name in self._places if name in endless), "root"))
        return text

    def _rule(self, sub: Sub) -> str:
        """The name of the rule for values that obey `sub`. Raises Impossible."""
        key = json_key([part.schema for part in sub])
        if key in self._impossible:
            raise self._impossible[key]
        if key not in self._names:
            if len(self._names) > MOST_RULES:
                raise GrammarError(f"JSON schema: it stands for more than {MOST_RULES} kinds of values")
            name = self._names[key] = self._rules.reserve("value")
            self._places[name] = sub[0].place if sub else "#"
            try:
                self._rules.define(name, self._union(sub))
            except Impossible as error:
                if name in self._awaited:
                    raise self._endless(name) from error
                self._impossible[key] = error
                self._rules.discard(name)
                raise
        if not self._rules.defined(self._names[key]):
            self._awaited.add(self._names[key])
        return self._names[key]

    def _endless(self, name: str) -> GrammarError:
        place = self._places.get(name, "#")
        return GrammarError(f"JSON schema: a value at {place} would never end: it requires another one of itself")

    def _union(self, sub: Sub) -> str:
        flats = self._reader.expand(sub)
        place = sub[0].place if sub else "#"
        parts: list[str] = []
        reasons: list[Impossible] = []
        for flat in flats:
            for make in self._makers(flat):
                try:
                    parts.append(make())
                except Impossible as error:
                    reasons.append(error)
        if not parts:
            raise reasons[0] if reasons else Impossible(f"no value obeys what stands at {place}")
        return " | ".join(dict.fromkeys(parts))

    def _makers(self, flat: Flat) -> Iterable[Callable[[], str]]:
        """A function for each type of values that obey `flat`."""
        if flat.values is not None:
            yield lambda: self._values(flat)
            return
        for name in flat.written_types():
            yield lambda name=name: self._of_type(name, flat)  # type: ignore[misc]

    def _of_type(self, name: str, flat: Flat) -> str:
        try:
            return self._types[name](flat)
        except Impossible as error:
            raise Impossible(f"{error} ({name} at {flat.place})") from error

    def _values(self, flat: Flat) -> str:
        others = replace(flat, values=None)
        allowed = [value for value in flat.values or () if obeys_flat(self._reader, value, others)]
        if not allowed:
            raise Impossible(f"no value of enum or const obeys the other words at {flat.place}")
        return self._rules.one_of(map(dumps, allowed))

    def _integer(self, flat: Flat) -> str:
        if flat.multiple_of and flat.multiple_of > 1:
            make = number_range.multiples
            return self._limited("multipleOf", flat, make, self._rules, flat.multiple_of, flat.interval)
        return self._rules.add(
            "integer", self._limited("minimum or maximum", flat, number_range.integers, flat.interval)
        )

    def _number(self, flat: Flat) -> str:
        if flat.multiple_of:
            return self._integer(flat)
        if not flat.interval.bounded:
            return self._rules.add("number", number_range.NUMBER)
        return self._rules.add(
            "number", self._limited("minimum or maximum", flat, number_range.decimals, flat.interval)
        )

    def _limited(self, word: str, flat: Flat, make: Callable[..., str], *arguments: Any) -> str:
        try:
            return make(*arguments)
        except Unsupported as error:
            raise refused(word, flat.place, str(error)) from error

    def _string(self, flat: Flat) -> str:
        return self._rules.add("string", f'"\\"" {self._characters(flat)} "\\""')

    def _characters(self, flat: Flat) -> str:
        """What stands between the quotes, as items of a sequence."""
        if not flat.patterns:
            char = any_char(self._rules)
            return self._limited("minLength", flat, repeat, char, flat.min_length, flat.max_length)
        if len(flat.patterns) > 1:
            raise refused("pattern", flat.place, "there is another pattern or format for the same string: join them")
        node = pattern.within(pattern.parse(flat.patterns[0]), flat.min_length, flat.max_length)
        if node is None:
            word = "maxLength" if flat.max_length is not None else "minLength"
            raise refused(word, flat.place, "it stands beside a pattern or format: say it there, like ^.{2,9}$")
        body = self._limited("minLength", flat, pattern.expression, self._rules, node)
        return self._rules.add("text", body) if " | " in body else body

    def _array(self, flat: Flat) -> str:
        low, high = flat.min_items, flat.max_items
        if high is not None and low > high:
            raise Impossible(f"at least {low} items and at most {high}")
        if low > MOST_REPETITIONS:
            raise refused("minItems", flat.place, f"it is {low}, and a grammar counts to {MOST_REPETITIONS}")
        prefix = [self._possible(sub) for sub in flat.prefix[:high]]
        further = None
        if not flat.prefix or (flat.items is not None and (high is None or high > len(prefix))):
            further = self._possible(flat.items if flat.items is not None else ANYTHING)
        if None in prefix:
            prefix, further = prefix[: prefix.index(None)], None
        elif not prefix and further is not None and high != 0:
            prefix = [further]
        end = f'{self._space} "]"'
        rest = self._items_after(len(prefix), further, low, high, end)
        for index in range(len(prefix) - 1, 0, -1):
            options = [f'"," {self._space} {prefix[index]} {rest}'] if rest is not None else []
            options += [end] if index >= low else []
            rest = self._rules.add("items", " | ".join(options)) if options else None
        options = [f"{prefix[0]} {rest}"] if prefix and rest is not None else []
        options += ['"]"'] if low == 0 else []
        if not options:
            raise Impossible("its items allow no value, or are too few")
        return self._rules.add("array", f'"[" {self._space} {alternatives(options)}')

    def _items_after(self, count: int, item: str | None, low: int, high: int | None, end: str) -> str | None:
        """The rule of what follows `count` items, where the rest are `item`; None where nothing can."""
        if item is None or (high is not None and high <= count):
            return self._rules.add("items", end) if low <= count else None
        more = self._rules.add("item", f'"," {self._space} {item}')
        times = repeat(more, max(0, low - count), None if high is None else high - count)
        return self._rules.add("items", f"{times} {end}")

    def _possible(self, sub: Sub) -> str | None:
        """The name of the rule for `sub`; None where no value obeys it."""
        try:
            return self._rule(sub)
        except Impossible:
            return None

    def _object(self, flat: Flat) -> str:
        low, high = flat.min_properties, flat.max_properties
        if high is not None and low > high:
            raise Impossible(f"at least {low} properties and at most {high}")
        if flat.properties is None and not flat.required:
            return self._map(flat)
        if flat.pattern_properties:
            raise refused("patternProperties", flat.place, "it stands beside properties or required: name them all")
        members = self._members(flat)
        extra = self._extra_member(flat, [name for name, _, _ in members])
        required = sum(is_required for _, _, is_required in members)
        if low > max(required, 1):
            raise refused("minProperties", flat.place, f"it is more than the {required} properties of required")
        if high is not None and (extra is not None or high < len(members)):
            raise refused("maxProperties", flat.place, "it is less than the properties that may come: remove some")
        return self._named_members(members, extra, needed=low > 0)

    def _members(self, flat: Flat) -> list[tuple[str, str, bool]]:
        """Name, rule of the value, and whether it is required, for each property that may come."""
        subs = dict(flat.properties or {})
        for name in flat.required:
            if name not in subs:
                subs[name] = flat.additional if flat.additional is not None else ANYTHING
        members = []
        for name, sub in subs.items():
            value = self._possible(sub)
            named = flat.names is None or obeys(self._reader, name, flat.names)
            if value is not None and named:
                members.append((name, value, name in flat.required))
            elif name in flat.required:
                raise Impossible(f"the required property {name!r} allows no value")
        return members

    def _extra_member(self, flat: Flat, names: Sequence[str]) -> str | None:
        """The rule of a further member, after its opening quote; None where there may be none."""
        if flat.additional is None and flat.properties is not None:
            return None
        value = self._possible(flat.additional if flat.additional is not None else ANYTHING)
        if value is None:
            return None
        if flat.names is not None:
            raise refused("propertyNames", flat.place, "it stands beside properties and additional ones: name them all")
        others = {*names, *(flat.properties or {})}
        key = self._other_than(sorted(name for name in others if inside(name) == name))
        return self._rules.add("member", f'{key} ":" {self._space} {value}')

    def _other_than(self, names: Sequence[str]) -> str:
        """The rule of a property's name without escapes that is none of `names`, with its closing quote."""
        if not names:
            plain = gbnf.char_class(PLAIN)
            return self._rules.add("name", f'{plain}* "\\""')
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name[:1], []).append(name[1:])
        options = [] if "" in groups else ['"\\""']
        groups.pop("", None)
        options += [f"{literal(first)} {self._other_than(rests)}" for first, rests in groups.items()]
        others = common(PLAIN, complement(tuple((ord(first), ord(first)) for first in sorted(groups))))
        options.append(f"{gbnf.char_class(others)} {self._other_than(())}")
        return self._rules.add("name", " | ".join(options))

    def _named_members(self, members: Sequence[tuple[str, str, bool]], extra: str | None, *, needed: bool) -> str:
        """An object of these members in their order, then any number of `extra` ones.

        From the last member to the first: `rest` is what follows the opening quote of a name, `after` what follows a
        whole member.
        """
        end = f'{self._space} "}}"'
        after = self._rules.add("members", end)
        rest: str | None = None
        if extra is not None:
            after = self._rules.reserve("members")
            rest = self._rules.add("names", f"{extra} {after}")
            self._rules.define(after, f'"," {self._space} "\\"" {rest} | {end}')
        optional = True
        for name, value, is_required in reversed(members):
            key = literal(f'{inside(name)}":')
            option = f"{key} {self._space} {value} {after}"
            rest = self._rules.add("names", option if is_required or rest is None else f"{option} | {rest}")
            optional = optional and not is_required
            after = self._rules.add("members", f'"," {self._space} "\\"" {rest}' + (f" | {end}" if optional else ""))
        options = [f'"\\"" {rest}'] if rest is not None else []
        options += ['"}"'] if optional and not (needed and options) else []
        if needed and rest is None:
            raise Impossible("it has no properties, and needs some")
        return self._rules.add("object", f'"{{" {self._space} {alternatives(options)}')

    def _map(self, flat: Flat) -> str:
        """An object without named properties."""
        low, high = flat.min_properties, flat.max_properties
        if low > 1:
            raise refused("minProperties", flat.place, "a grammar cannot see that names differ: use required")
        member = self._map_member(flat) if high != 0 else None
        options = ['"}"'] if low == 0 else []
        if member is not None:
            more = self._rules.add("member", f'"," {self._space} {member}')
            times = repeat(more, 0, None if high is None else high - 1)
            options = [f'{member} {times} {self._space} "}}"', *options]
        return self._rules.add("object", f'"{{" {self._space} {alternatives(options)}')

    def _map_member(self, flat: Flat) -> str | None:
        """The rule of a member, with its name; None where there may be none."""
        sub = flat.additional if flat.additional is not None else ANYTHING
        key = self._rules.add("string", f'"\\"" {any_char(self._rules)}* "\\""')
        if flat.pattern_properties:
            if len(flat.pattern_properties) > 1 or flat.names is not None:
                raise refused("patternProperties", flat.place, "it is not alone: one pattern without others, please")
            ((regex, sub),) = flat.pattern_properties.items()
            key = self._string(Flat(flat.place, patterns=(regex,)))
        elif flat.names is not None:
            strings = (*flat.names, Located({"type": "string"}, flat.place))
            key = self._rule(strings)
        value = self._possible(sub)
        return None if value is None else self._rules.add("member", f'{key} ":" {self._space} {value}')
