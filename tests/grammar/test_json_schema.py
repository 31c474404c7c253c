"""JSON Schema to GBNF: judged by the jsonschema package on texts that llama.cpp's own grammar allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.schema_generator import SchemaMaker
from edgespec.backend import LlamaVocabulary
from edgespec.errors import GrammarError
from edgespec.grammar import schema_to_grammar
from tests.grammar.matcher import accepts, answer


def _validator(schema: Any) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_what_the_grammar_allows_is_valid_and_what_is_canonical_is_allowed(
    vocabulary: LlamaVocabulary, seed: int
) -> None:
    made = SchemaMaker(seed).document()
    grammar = schema_to_grammar(made.schema)
    validator = _validator(made.schema)
    for further in range(3):
        instance = made.instance()
        validator.validate(instance)
        assert accepts(vocabulary, grammar, json.dumps(instance, ensure_ascii=False)), instance
        written = answer(vocabulary, grammar, seed + further)
        if written.ended:
            validator.validate(json.loads(written.text))


_ONE_NAME = [{"properties": {name: True}, "required": [name]} for name in ("a", "b")]
"""Options that are told apart as long as no other word allows both names."""

CASES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "a string": (
        {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        [{"code": "def add(a, b):\n\treturn a + b\x00"}],
        [{}, {"code": 1}, {"code": "", "more": 1}],
    ),
    "a large maxLength": ({"type": "string", "maxLength": 1001}, ["x" * 1001], ["x" * 1002]),
    "a larger maxLength counts as none": ({"type": "string", "maxLength": 20_000}, ["x" * 2500], [1]),
    "a large maxItems": ({"type": "array", "items": {"type": "null"}, "maxItems": 1001}, [[], [None] * 1001],
                         [[None] * 1002]),
    "a larger maxItems counts as none": ({"type": "array", "maxItems": 20_000}, [[1] * 50], [1]),
    "stars": ({"type": "integer", "minimum": 1, "maximum": 5}, [1, 5], [0, 6, 100, 1.5]),
    "not negative": ({"type": "number", "minimum": 0}, [0, 7.25], [-7, -0.5]),
    "a constant with a line break": ({"const": "a\nb"}, ["a\nb"], ["ab"]),
    "backslashes": ({"enum": ["\\d+", "\\w+"]}, ["\\d+", "\\w+"], ["\\"]),
    "a path": ({"enum": ["C:\\temp\\new"]}, ["C:\\temp\\new"], []),
    "quotes": ({"const": 'say "hi"'}, ['say "hi"'], []),
    "half a surrogate pair": ({"const": "\ud800"}, [], ["x"]),
    "a property with a quote": ({"properties": {'5" pipe': {"type": "integer"}}}, [{'5" pipe': 1}, {}], [{"5": 1}]),
    "allOf beside properties": (
        {"properties": {"a": {"type": "integer"}}, "allOf": [{"properties": {"b": {"const": 1}}, "required": ["b"]},
                                                             {"properties": {"a": {"minimum": 3}}}]},
        [{"a": 3, "b": 1}, {"b": 1}],
        [{"a": 2, "b": 1}, {"a": 3}],
    ),
    "a required name that is not listed": (
        {"properties": {"a": {"const": 1}}, "required": ["z"]}, [{"a": 1, "z": [0]}, {"z": 1}], [{"a": 1}]
    ),
    "minItems without items": ({"type": "array", "minItems": 3}, [[1, "a", None]], [[1, 2]]),
    "integers of an enum": ({"type": "integer", "enum": [1, 2.5, 3.0, True]}, [1, 3.0], [2.5, True]),
    "an enum beside other words": ({"enum": ["a", "abc", [1], {"x": 1}], "maxLength": 2, "type": "string"}, ["a"],
                                   ["abc", [1]]),
    "anything": ({}, [None, True, -1.5, "x", [1, [2]], {"a": {"b": []}}], []),
    "true": (True, [None, {"a": 1}], []),
    "items that are anything": ({"items": {}}, [[], [1, "a"]], [1, {}]),
    "only a title": ({"title": "X"}, ["x", 1], []),
    "an anchor": ({"$anchor": "top", "type": ["null", "array"], "items": {"$ref": "#top"}}, [None, [[], None]], [1]),
    "a recursive reference": ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
    "a pattern": ({"type": "string", "pattern": "^\\d{3}-\\d{4}$"}, ["123-4567"], ["1234567", "a123-4567"]),
    "an unanchored pattern": ({"type": "string", "pattern": "b+"}, ["abc", "b\n"], ["ac"]),
    "a pattern and its lengths": ({"pattern": "^[a-z]{2,4}$", "minLength": 1, "maxLength": 9}, ["ab"], ["a"]),
    "a pattern that its lengths cut": ({"pattern": "^[A-Z]", "minLength": 2, "maxLength": 4}, ["Ab", "ABCD"],
                                       ["A", "ABCDE", "ab"]),
    "a repetition that its lengths cut": ({"pattern": "^x[a-z]+$", "maxLength": 3}, ["xa", "xab"], ["x", "xabc"]),
    "an email": ({"format": "email"}, ["a@b.de"], ["a"]),
    "int32": ({"type": "integer", "format": "int32"}, [2**31 - 1, -(2**31)], [2**31, -(2**31) - 1]),
    "open objects": (
        {"properties": {"a": {"const": 1}}, "additionalProperties": {"type": "string"}},
        [{"a": 1, "b": "x", "aa": "y"}, {"": "x"}, {}],
        [{"a": "x"}, {"b": 1}],
    ),
    "an empty object": ({"type": "object", "properties": {}}, [{}], [{"a": 1}]),
    "unevaluated properties": (
        {"allOf": [{"properties": {"a": True}}], "properties": {"b": True}, "unevaluatedProperties": False},
        [{"b": 1, "a": 2}, {}],
        [{"c": 1}],
    ),
    "a property that allOf closes": (
        {"allOf": [{"properties": {"a": True}, "additionalProperties": False}, {"properties": {"b": True}}]},
        [{"a": 1}, {}],
        [{"b": 1}],
    ),
    "an optional property without a value": ({"properties": {"a": False, "b": True}}, [{}, {"b": 1}], [{"a": 1}]),
    "some property": ({"properties": {"a": True, "b": True}, "minProperties": 1}, [{"a": 1}, {"b": 1}], [{}]),
    "names by a pattern": ({"propertyNames": {"pattern": "^x"}, "additionalProperties": {"type": "null"}},
                           [{}, {"x1": None}], [{"y": None}, {"x": 1}]),
    "one of kinds": (
        {"oneOf": [{"properties": {"k": {"const": "a"}, "n": {"type": "integer"}}, "required": ["k"]},
                   {"properties": {"k": {"const": "b"}}, "required": ["k"]}], "type": "object"},
        [{"k": "a", "n": 1}, {"k": "b"}],
        [{"k": "b", "n": 1}, {"k": "c"}],
    ),
    "one of two ranges": (
        {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 5}]}, [3, 5], [4]
    ),
    "one of two names": ({"oneOf": _ONE_NAME}, [{"a": 1}, {"b": 2}], [{}, {"a": 1, "b": 2}]),
    "one of kinds that other words tell apart": (
        {"type": "integer", "oneOf": [{"minimum": 3}, {"type": "string"}]}, [3], [2, "x"]
    ),
    "a tuple": ({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[], [1], [1, "a"]],
                [["a"], [1, "a", 1]]),
    "a tuple that goes on": ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2, "maxItems": 3},
                             [[1, 2], [1, 2, 2]], [[1], [2, 2], [1, 2, 2, 2]]),
    "a divisor of huge numbers": ({"enum": [7 * 10**40, 10**40], "multipleOf": 7}, [7 * 10**40], [10**40]),
    "a long bound": ({"type": "number", "minimum": -1234567890123456789012345678905, "maximum": -1e30},
                     [-1234567890123456789012345678904], [-1234567890123456789012345678949]),
    "no items": ({"type": "array", "maxItems": 0, "uniqueItems": True}, [[]], [[1]]),
    "a whole divisor": ({"type": "number", "multipleOf": 25, "minimum": 0}, [0, 75], [10, 12.5, -25]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_schema_allows_these_values_and_not_those(vocabulary: LlamaVocabulary, case: str) -> None:
    schema, yes, no = CASES[case]
    grammar = schema_to_grammar(schema)
    validator = _validator(schema)
    for value in yes:
        assert validator.is_valid(value)
    allowed = [value for value in (*yes, *no) if accepts(vocabulary, grammar, json.dumps(value, ensure_ascii=False))]
    assert allowed == yes
    for seed in range(10):
        written = answer(vocabulary, grammar, seed)
        assert not written.ended or validator.is_valid(json.loads(written.text)), written.text


def test_an_enum_beside_a_pattern_that_python_cannot_read(vocabulary: LlamaVocabulary) -> None:
    grammar = schema_to_grammar({"enum": ["2024", "x"], "pattern": "^(?<year>[0-9]{4})$"})
    assert accepts(vocabulary, grammar, '"2024"') and not accepts(vocabulary, grammar, '"x"')


def test_control_characters_are_escaped(vocabulary: LlamaVocabulary) -> None:
    grammar = schema_to_grammar({"type": "string"})
    for code in range(0x20):
        assert not accepts(vocabulary, grammar, f'"{chr(code)}"')
        assert accepts(vocabulary, grammar, json.dumps(chr(code)))


def test_blanks_are_bounded(vocabulary: LlamaVocabulary) -> None:
    grammar = schema_to_grammar({"type": "array", "items": {"type": "integer"}})
    assert accepts(vocabulary, grammar, "[ 1, 2 ]") and accepts(vocabulary, grammar, "[1,2]")
    for text in ("[  1]", " [1]", "[1] ", "[1,  2]", "[1]\n", "[\n1]"):
        assert not accepts(vocabulary, grammar, text)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"tags": {"type": "array", "uniqueItems": True}}}, "uniqueItems at #/properties/tags"),
        ({"items": {"not": {"const": 1}}}, "not at #/items"),
        ({"if": True}, "if at #"),
        ({"then": True}, "then at #"),
        ({"else": True}, "else at #"),
        ({"contains": {}}, "contains at #"),
        ({"minContains": 1}, "minContains at #"),
        ({"maxContains": 1}, "maxContains at #"),
        ({"dependentRequired": {}}, "dependentRequired at #"),
        ({"dependentSchemas": {}}, "dependentSchemas at #"),
        ({"unevaluatedItems": False}, "unevaluatedItems at #"),
        ({"$dynamicRef": "#x"}, "$dynamicRef at #"),
        ({"type": "string", "nullable": True}, "nullable at #"),
        ({"allOf": [{"minLenght": 3}]}, "'minLenght' at #/allOf/0 cannot be obeyed: it is no word of JSON Schema"),
        ({"format": "ipv6"}, "format at # cannot be obeyed: 'ipv6' is none of"),
        ({"properties": {"a/b~": {"pattern": "a\\b"}}}, "pattern at #/properties/a~1b~0 cannot be obeyed: \\b (wor"),
        ({"multipleOf": 0.1}, "multipleOf at #"),
        ({"multipleOf": 12345}, "multipleOf at #"),
        ({"minLength": 2001}, "minLength at # cannot be obeyed: 2001 is too many: a grammar counts to 2000"),
        ({"minItems": 2001}, "minItems at # cannot be obeyed: it is 2001"),
        ({"pattern": "a|bc+", "maxLength": 3}, "maxLength at # cannot be obeyed: it stands beside a pattern"),
        ({"pattern": "a", "format": "date"}, "pattern at # cannot be obeyed: there is another pattern or format"),
        ({"minProperties": 2}, "minProperties at #"),
        ({"properties": {"a": True, "b": True}, "maxProperties": 1}, "maxProperties at #"),
        ({"properties": {"a": True}, "patternProperties": {"b": True}}, "patternProperties at #"),
        ({"patternProperties": {"a": True, "b": True}}, "patternProperties at #"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "oneOf at # cannot be obeyed: a value could obey options 0"),
        ({"oneOf": [{"minimum": 5}, {"maximum": 4}], "type": ["number", "string"]},
         "oneOf at # cannot be obeyed: a value could obey options 0 and 1"),
        ({"properties": {"a": True, "b": True}, "oneOf": _ONE_NAME}, "oneOf at # cannot be obeyed"),
        ({"allOf": [{"oneOf": _ONE_NAME}, {"properties": {"b": True}, "additionalProperties": True}]},
         "oneOf at #/allOf/0 cannot be obeyed"),
        ({"type": "Integer"}, "type at # cannot be obeyed: it is 'Integer', and must be one of null, boolean, integer"),
        ({"type": []}, "type at #"),
        ({"enum": []}, "enum at # cannot be obeyed: it is [], and must be a list, not empty"),
        ({"minimum": "1"}, "minimum at #"),
        ({"exclusiveMinimum": True}, "exclusiveMinimum at #"),
        ({"required": "a"}, "required at #"),
        ({"properties": {"a": 1}}, "properties at #"),
        ({"items": [True]}, "items at #"),
        ({"minLength": -1}, "minLength at #"),
        ({"$ref": "#"}, "$ref at # cannot be obeyed: # refers to itself"),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "$ref at #/anyOf/0 cannot be obeyed: # refers to itself"),
        ({"$ref": "#/nowhere"}, "$ref at # cannot be obeyed: there is nothing at #/nowhere"),
        ({"$ref": "#nowhere"}, "there is no $anchor nowhere"),
        ({"$ref": "https://example.org/s.json"}, "is another document, and none is fetched: put it into $defs"),
        ({"$ref": "other.json#/a"}, "is another document"),
        (False, "it allows no value"),
        ({"type": "integer", "enum": ["a"]}, "it allows no value"),
        ({"minimum": 3, "maximum": 2}, "it allows no value: no number is between the bounds"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "it allows no value"),
        ({"required": ["a"], "additionalProperties": False}, "the required property 'a' allows no value"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "a value at # would never end"),
        ({"allOf": [{"anyOf": [{"minimum": n} for n in range(20)]} for _ in range(3)]}, "more than 200 combinations"),
        ("", "the JSON schema is not JSON"),
        ("{", "the JSON schema is not JSON"),
        ('{"const": 1e999}', "1e999 is beyond the numbers that a double holds"),
        ('{"maximum": Infinity}', "Infinity is no JSON number"),
        ("[1]", "a JSON schema is an object, true or false, not [1]"),
        ("null", "a JSON schema is an object, true or false, not None"),
        ("[" * 200_000, "nested too deeply"),
        ({"const": float("nan")}, "the JSON schema is not JSON"),
        ({"const": {1, 2}}, "the JSON schema is not JSON"),
        (7, "a JSON schema is a dict, a JSON text"),
        (int, "a JSON schema is a dict, a JSON text"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused_by_word_and_place(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError) as refused:
        schema_to_grammar(schema)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250


def test_annotations_say_nothing() -> None:
    words = ("title", "description", "$schema", "$id", "$comment")
    noted = {**dict.fromkeys(words, "text"), "default": 1, "examples": [1], "x-mine": {}, "$defs": {}}
    noted |= dict.fromkeys(("deprecated", "readOnly", "writeOnly"), True)
    assert schema_to_grammar({**noted, "type": "integer"}) == schema_to_grammar({"type": "integer"})


def test_a_schema_comes_in_many_forms() -> None:
    class Model:
        @classmethod
        def model_json_schema(cls) -> Mapping[str, Any]:
            return {"type": "boolean"}

    expected = schema_to_grammar({"type": "boolean"})
    for schema in ('{"type": "boolean"}', '\ufeff{"type": "boolean"}', MappingProxyType({"type": "boolean"}), Model):
        assert schema_to_grammar(schema) == expected
    assert schema_to_grammar(True) == schema_to_grammar("{}") == schema_to_grammar({})


def test_many_constants_share_their_beginnings(vocabulary: LlamaVocabulary) -> None:
    words = [f"word-{number:04}" for number in range(2000)]
    grammar = schema_to_grammar({"enum": words})
    assert accepts(vocabulary, grammar, '"word-1234"') and not accepts(vocabulary, grammar, '"word-2000"')
    assert max(line.count("|") for line in grammar.splitlines()) < 10


def test_many_optional_properties(vocabulary: LlamaVocabulary) -> None:
    names = [f"p{number}" for number in range(300)]
    grammar = schema_to_grammar({"properties": {name: {"type": "null"} for name in names}, "required": ["p299"]})
    assert accepts(vocabulary, grammar, '{"p7": null, "p100": null, "p299": null}')
    assert not accepts(vocabulary, grammar, '{"p100": null, "p7": null, "p299": null}')
