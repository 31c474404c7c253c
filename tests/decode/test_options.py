"""How an answer is asked for: what is refused, and what one may rely on afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgespec.decode.options import GREEDY, GenerationOptions
from edgespec.decode.sampling import SamplingParams
from edgespec.errors import GrammarError, InvalidRequest
from edgespec.grammar import schema_to_grammar


def test_the_defaults_are_greedy_and_filter_nothing() -> None:
    options = GenerationOptions()
    assert (options.max_tokens, options.stop, options.overflow, options.explain) == (512, (), "stop", False)
    assert options.sampling is GREEDY
    assert not (GREEDY.temperature or GREEDY.filters or GREEDY.reweighs)


def test_one_stop_string_is_one() -> None:
    assert GenerationOptions(stop="end").stop == ("end",)


def test_stop_strings_cannot_change_afterwards() -> None:
    stops = ["a", "b"]
    options = GenerationOptions(stop=stops)
    stops.append("c")
    assert options.stop == ("a", "b")


@pytest.mark.parametrize("count", [0, -1, -(10**9)])
def test_an_answer_has_at_least_one_token(count: int) -> None:
    with pytest.raises(InvalidRequest, match=f"max_tokens is {count}: it must be a whole number from 1 "):
        GenerationOptions(max_tokens=count)
    with pytest.raises(InvalidRequest):
        GenerationOptions().but(max_tokens=count)


def test_some_can_be_changed_and_the_others_stay() -> None:
    sampling = SamplingParams(temperature=0.5, seed=3)
    before = GenerationOptions(sampling, 10, ("x",), "shift", True)
    after = before.but(max_tokens=20, stop="y")
    assert after == GenerationOptions(sampling, 20, ("y",), "shift", True)
    assert before == GenerationOptions(sampling, 10, ("x",), "shift", True)
    assert before.but() == before


def test_a_schema_becomes_the_grammar_of_the_sampling() -> None:
    sampling = SamplingParams(temperature=0.5, seed=3)
    options = GenerationOptions(sampling, schema={"type": "boolean"})
    assert options.sampling == dataclasses.replace(sampling, grammar=schema_to_grammar({"type": "boolean"}))
    assert options.but(max_tokens=3).sampling == options.sampling
    assert GenerationOptions(schema=True).sampling.grammar and GenerationOptions(schema=None).sampling is GREEDY


@pytest.mark.parametrize(
    ("schema", "reason"), [({"uniqueItems": True}, "uniqueItems at #"), (False, "no value"), (3, "a JSON schema is")]
)
def test_a_schema_that_cannot_be_obeyed_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        GenerationOptions(schema=schema)


def test_a_schema_and_a_grammar_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest, match="a schema and a grammar exclude each other"):
        GenerationOptions(SamplingParams(grammar='root ::= "a"'), schema={})


def test_what_there_is_not_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        GenerationOptions().but(max_token=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationOptions().max_tokens = 3  # type: ignore[misc]
