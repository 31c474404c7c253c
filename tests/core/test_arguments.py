"""Arguments from outside: taken for what they are, or refused with name and value."""

from __future__ import annotations

import math
import operator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import arguments
from edgespec.errors import InvalidRequest
from tests.values import ANY_VALUE


@given(st.integers(-(2**70), 2**70), st.integers(-100, 2**64))
def test_whole_numbers_are_those_in_range(value: int, low: int) -> None:
    high = low + 50
    if low <= value <= high:
        assert arguments.integer("n", value, low, high) == value
    else:
        with pytest.raises(InvalidRequest, match=f"n is {value}: it must be a whole number from {low} to {high}"):
            arguments.integer("n", value, low, high)


@pytest.mark.parametrize("value", [np.int64(5), np.uint32(5), np.int8(5), np.uint64(5), np.array(5)], ids=repr)
def test_numpys_whole_numbers_become_pythons(value: Any) -> None:
    assert type(arguments.integer("n", value, 0, 9)) is int and arguments.integer("n", value, 0, 9) == 5


@pytest.mark.parametrize(
    "value",
    [40.0, np.float32(4), True, np.True_, "4", "512", None, [4], np.array([4]), 10**5000, object(), 4j, b"4", math.nan],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_whole_number_in_range(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^top_k is .*: it must be a whole number from 0 to 50 \(0 keeps all\)$"):
        arguments.integer("top_k", value, 0, 50, "0 keeps all")


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), Decimal("0.5"), Fraction(1, 2)]
)
def test_numbers_become_pythons(value: Any) -> None:
    assert type(arguments.number("f", value, 0.0, 1.0)) is float and arguments.number("f", value, 0.0, 1.0) == 0.5


@pytest.mark.parametrize(
    "value",
    [True, np.False_, "0.5", b"1", None, [1], np.array([1.0]), 1j, np.complex64(1), 10**400, math.nan, math.inf],
)
def test_what_is_no_number_in_range(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^f is .*: it must be a number from 0 to 1$"):
        arguments.number("f", value, 0.0, 1.0)


def test_a_value_is_shown_on_one_short_line() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert arguments.shown("a\nb\x1b[2J") == "'a\\nb\\x1b[2J'"
    assert len(arguments.shown("x" * 1000)) == 60
    assert arguments.shown(Silent()) == "a value of type Silent"
    assert "\n" not in arguments.shown(np.zeros((9, 9)))


@pytest.mark.parametrize(
    ("value", "found"), [("a", ("a",)), (["a", "b"], ("a", "b")), ((), ()), (np.array(["a"]), ("a",))]
)
def test_texts(value: Any, found: tuple[str, ...]) -> None:
    assert arguments.texts("stop", value) == found
    assert all(type(text) is str for text in arguments.texts("stop", value))


@pytest.mark.parametrize(
    "value", [5, b"a", {"a": 1}, None, np.array("a"), [b"a"], ["a", 5], "\ud800", ["\udfff"]], ids=repr
)
def test_what_are_no_texts(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^stop"):
        arguments.texts("stop", value)


@given(ANY_VALUE)
def test_any_value_is_taken_or_refused(value: Any) -> None:
    checks: list[tuple[Any, type | tuple[type, ...]]] = [
        (lambda: arguments.integer("n", value, -(2**70), 2**70), int),
        (lambda: arguments.number("n", value, -math.inf, math.inf), float),
        (lambda: arguments.switch("n", value), bool),
        (lambda: arguments.choice("n", value, ("a", "b")), str),
        (lambda: arguments.text("n", value), str),
        (lambda: arguments.texts("n", value), tuple),
        (lambda: arguments.path("n", value), str),
        (lambda: arguments.mapping("n", value), dict),
        (lambda: arguments.token_ids("n", value, 300), list),
        (lambda: arguments.function("n", value), type(None)),
    ]
    for check, kind in checks:
        try:
            found = check()
        except InvalidRequest as error:
            assert str(error).startswith(("n", "a name in n")) and len(str(error)) < 300 and "\n" not in str(error)
        else:
            assert type(found) is kind


def test_a_whole_number_is_what_python_takes_for_an_index() -> None:
    class Five:
        def __index__(self) -> int:
            return 5

    assert arguments.integer("n", Five(), 0, 9) == operator.index(Five())
