"""Numbers within bounds: the grammar allows exactly those that a plain comparison allows."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import LlamaVocabulary
from edgespec.grammar import number_range
from edgespec.grammar.gbnf import Impossible, Rules, Unsupported
from edgespec.grammar.number_range import Interval
from tests.grammar.matcher import accepts, answer

DECIMALS = st.decimals(-2000, 2000, places=3, allow_nan=False) | st.integers(-(10**18), 10**18).map(Decimal)
INTERVALS = st.builds(Interval, st.none() | DECIMALS, st.booleans(), st.none() | DECIMALS, st.booleans())


def _near(interval: Interval, chance: random.Random) -> list[Decimal]:
    """Numbers at the bounds, beside them, and anywhere."""
    steps = [Decimal(step) for step in ("0", "1", "-1", "0.001", "-0.001", "0.5", "-10", "100")]
    bounds = [bound for bound in (interval.low, interval.high) if bound is not None] or [Decimal(0)]
    found = [bound + step for bound in bounds for step in steps]
    if interval.low is not None and interval.high is not None:
        found.append((interval.low + interval.high) / 2)
    return [*found, Decimal(chance.randint(-3000, 3000)), Decimal(0)]


@settings(max_examples=150)
@given(interval=INTERVALS, seed=st.integers(0, 10**6))
def test_integers_are_those_between_the_bounds(vocabulary: LlamaVocabulary, interval: Interval, seed: int) -> None:
    inside = [value for value in _near(interval, random.Random(seed)) if interval.holds(value) and value == int(value)]
    try:
        grammar = f"root ::= {number_range.integers(interval)}"
    except Impossible:
        assert not inside
        return
    for value in _near(interval, random.Random(seed)):
        if value == int(value) and abs(value) < 10**16:
            assert accepts(vocabulary, grammar, str(int(value))) == interval.holds(value)
    written = answer(vocabulary, grammar, seed)
    assert written.ended and interval.holds(Decimal(written.text)) and "." not in written.text


@settings(max_examples=100)
@given(interval=INTERVALS, seed=st.integers(0, 10**6))
def test_decimals_are_those_between_the_bounds(vocabulary: LlamaVocabulary, interval: Interval, seed: int) -> None:
    try:
        grammar = f"root ::= {number_range.decimals(interval)}"
    except Impossible:
        assert interval.empty or not any(interval.holds(value) for value in _near(interval, random.Random(seed)))
        return
    for value in _near(interval, random.Random(seed)):
        text = f"{value:f}"
        shortened = text.rstrip("0").rstrip(".") if "." in text else text
        if abs(value) < 10**9 and all(abs(bound or Decimal(0)) < 10**9 for bound in (interval.low, interval.high)):
            assert accepts(vocabulary, grammar, shortened or "0") == interval.holds(value), shortened
    for further in range(seed, seed + 3):
        written = answer(vocabulary, grammar, further)
        double = float(written.text)
        assert interval.holds(Decimal(written.text))
        assert interval.low is None or not interval.low_open or double > float(interval.low)
        assert interval.high is None or not interval.high_open or double < float(interval.high)


@settings(max_examples=60)
@given(divisor=st.integers(2, 60), low=st.none() | st.integers(-500, 500), span=st.none() | st.integers(0, 900))
def test_multiples_are_those_between_the_bounds(
    vocabulary: LlamaVocabulary, divisor: int, low: int | None, span: int | None
) -> None:
    high = None if span is None else (low or 0) + span
    interval = Interval(low=None if low is None else Decimal(low), high=None if high is None else Decimal(high))
    rules = Rules()
    try:
        rules.define("root", number_range.multiples(rules, divisor, interval))
    except Unsupported:
        assert low is None or high is None
        return
    except Impossible:
        assert low is not None and high is not None and not any(n % divisor == 0 for n in range(low, high + 1))
        return
    for value in {0, divisor, -divisor, 7 * divisor, divisor + 1, low or 1, high or 1}:
        expected = value % divisor == 0 and interval.holds(Decimal(value))
        assert accepts(vocabulary, rules.text(), str(value)) == expected, value


@pytest.mark.parametrize(
    ("interval", "yes", "no"),
    [
        (Interval(low=Decimal(1), high=Decimal(5)), ["1", "5"], ["0", "6", "15", "-1", "01", "+1", "1.0"]),
        (Interval(low=Decimal("-1.7976931348623157e308")), ["0", "-5", "9" * 16], ["9" * 17]),
        (Interval(low=Decimal(7604876475938242), high=Decimal(10) ** 16), ["1" + "0" * 16], ["76048764759382420"]),
        (Interval(low=Decimal(10) ** 20), ["1" + "0" * 20, "2" * 21], ["9" * 20]),
    ],
)
def test_some_integers(vocabulary: LlamaVocabulary, interval: Interval, yes: list[str], no: list[str]) -> None:
    grammar = f"root ::= {number_range.integers(interval)}"
    assert [text for text in (*yes, *no) if accepts(vocabulary, grammar, text)] == yes


def test_multiples_between_bounds_that_no_number_reaches_are_refused() -> None:
    """They were once written with any number of digits."""
    for interval in (Interval(high=Decimal(10) ** 18), Interval(low=Decimal(-(2**63)), high=Decimal(2**63 - 1))):
        with pytest.raises(Unsupported, match="multiples of 10 need bounds"):
            number_range.multiples(Rules(), 10, interval)


def test_bounds_out_of_reach_are_refused() -> None:
    with pytest.raises(Unsupported, match="out of reach"):
        number_range.integers(Interval(low=Decimal(10) ** 300))


def test_a_number_without_bounds(vocabulary: LlamaVocabulary) -> None:
    grammar = f"root ::= {number_range.NUMBER}"
    for text in ("0", "-0.5", "1e-7", "12.25", "1E+10"):
        assert accepts(vocabulary, grammar, text)
    for text in ("", "-", "1.", ".5", "01", "1e", "1e999", "Infinity", "NaN"):
        assert not accepts(vocabulary, grammar, text)
