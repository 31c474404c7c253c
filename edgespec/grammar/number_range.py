"""Numbers within bounds, as GBNF: llama.cpp has no arithmetic, so that bounds become choices digit by digit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from edgespec.grammar.gbnf import Impossible, Rules, Unsupported, alternatives, literal, repeat

MOST_DIGITS = 16
"""Digits of an integer, unless a bound has more: a model that goes on with digits for ever is stopped here."""
_EXACT_DIGITS = 15
"""Decimal numbers of so many digits differ as doubles too, so that an open bound holds after rounding."""
_MOST_MULTIPLES = 500
_LARGEST_DIVISOR = 100
_HUGE = Decimal(10) ** 40
_LIMIT: int = 10**MOST_DIGITS - 1

NUMBER = '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?'
"""A number without bounds; exponents have two digits, so that none is infinite as a double."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from `low` to `high`; None is no bound, an open bound is left out itself."""

    low: Decimal | None = None
    low_open: bool = False
    high: Decimal | None = None
    high_open: bool = False

    @property
    def bounded(self) -> bool:
        """Whether there is a bound."""
        return self.low is not None or self.high is not None

    def holds(self, value: Decimal) -> bool:
        """Whether `value` is in it."""
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        below = self.high is None or (value < self.high if self.high_open else value <= self.high)
        return above and below

    def meets(self, other: Interval) -> Interval:
        """What is in both."""
        low, low_open = self.low, self.low_open
        if other.low is not None and (low is None or (other.low, other.low_open) > (low, low_open)):
            low, low_open = other.low, other.low_open
        high, high_open = self.high, self.high_open
        if other.high is not None and (high is None or (other.high, not other.high_open) < (high, not high_open)):
            high, high_open = other.high, other.high_open
        return Interval(low, low_open, high, high_open)

    @property
    def empty(self) -> bool:
        """Whether no number is in it."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    def integers(self) -> tuple[int | None, int | None]:
        """The lowest and the highest integer in it."""
        low = high = None
        if self.low is not None:
            low = math.floor(self.low) + 1 if self.low_open else math.ceil(self.low)
        if self.high is not None:
            high = math.ceil(self.high) - 1 if self.high_open else math.floor(self.high)
        return low, high

    def written(self) -> Interval:
        """It without bounds that no number of `MOST_DIGITS` digits reaches. Raises Unsupported for huge ones."""
        low = None if self.low is not None and self.low < -_furthest(self.high) else self.low
        high = None if self.high is not None and self.high > _furthest(self.low) else self.high
        for bound in (low, high):
            if bound is not None and abs(bound) > _HUGE:
                raise Unsupported(f"{bound} is out of reach: numbers are written with at most 40 digits")
        return Interval(low, self.low_open, high, self.high_open)


UNBOUNDED = Interval()


def _furthest(other: Decimal | None) -> int:
    """How far from zero numbers go on the side without a bound, given the bound of the other side."""
    if other is None or abs(other) > _HUGE:
        return _LIMIT
    return max(_LIMIT, 10 * math.ceil(abs(other)))


def integers(interval: Interval) -> str:
    """The integers of `interval`. Raises Impossible where there are none."""
    written = interval.written()
    lowest, highest = written.integers()
    low = -_furthest(written.high) if lowest is None else lowest
    high = _furthest(written.low) if highest is None else highest
    parts = []
    if low < 0:
        parts += [f'"-" {alternatives(digits)}' for digits in [_naturals(max(1, -high), -low)] if digits]
    parts += _naturals(max(0, low), high)
    if not parts:
        raise Impossible("no integer is between the bounds")
    return " | ".join(parts)


def multiples(rules: Rules, divisor: int, interval: Interval) -> str:
    """The integers of `interval` that `divisor` divides. Raises Impossible, and Unsupported where they are too many."""
    low, high = interval.integers()
    if low is not None and high is not None:
        first, last = -(-low // divisor), high // divisor
        if first > last:
            raise Impossible(f"no multiple of {divisor} is between the bounds")
        if last - first < _MOST_MULTIPLES and max(abs(low), abs(high)) <= _HUGE:
            return rules.one_of(str(divisor * factor) for factor in range(first, last + 1))
    if divisor > _LARGEST_DIVISOR or low not in (None, 0, 1) or high not in (None, 0, -1):
        raise Unsupported(
            f"multiples of {divisor} need bounds that leave at most {_MOST_MULTIPLES} of them, "
            f"or a divisor up to {_LARGEST_DIVISOR} and no bound but 0"
        )
    names = [rules.reserve("multiple") for _ in range(divisor)]
    for rest, name in enumerate(names):  # the digits so far leave `rest` when divided
        further = " | ".join(f'"{digit}" {names[(rest * 10 + digit) % divisor]}' for digit in range(10))
        rules.define(name, further if rest else f'{further} | ""')
    start = rules.add("multiple", " | ".join(f'"{digit}" {names[digit % divisor]}' for digit in range(1, 10)))
    parts = [f'"-" {start}'] if low is None else []
    parts += [start] if high is None else []
    return " | ".join(parts if low == 1 or high == -1 else ['"0"', *parts])


def decimals(interval: Interval) -> str:
    """The numbers of `interval`, without exponents. Raises Impossible where there are none."""
    if interval.empty:
        raise Impossible("no number is between the bounds")
    written = interval.written()
    zero = Decimal(0)
    above = written.meets(Interval(low=zero))
    below = written.meets(Interval(high=zero))
    mirrored = Interval(
        None if below.high is None else below.high.copy_negate(),  # a minus would round
        below.high_open,
        None if below.low is None else below.low.copy_negate(),
        below.low_open,
    )
    parts = [] if above.empty else _from_zero(above)
    if below.low is None or below.low < 0:
        parts += [f'"-" {alternatives(found)}' for found in [_from_zero(mirrored)] if found]
    if not parts:
        raise Impossible("no number can be written between the bounds")
    return " | ".join(parts)


def _from_zero(interval: Interval) -> list[str]:
    """The numbers of an interval whose lower bound is 0 or more, as alternatives."""
    assert interval.low is not None
    low, low_digits = _split(interval.low)
    high, high_digits = (_furthest(interval.low), None) if interval.high is None else _split(interval.high)
    low_places = max(1, _EXACT_DIGITS - len(str(low)))
    high_is_left_out = interval.high is not None and interval.high_open
    high_places = max(1, _EXACT_DIGITS - len(str(high))) if high_is_left_out else low_places
    if low == high and high_digits is not None:
        both = _Fraction(low_digits, interval.low_open, high_digits, interval.high_open)
        found = [both.after(literal(str(low)), min(low_places, high_places))]
    else:
        found = [_Fraction(low=low_digits, low_open=interval.low_open).after(literal(str(low)), low_places)]
        between = _naturals(low + 1, high - (high_digits is not None))
        found += [_Fraction().after(alternatives(between), high_places)] if between else []
        if high_digits is not None:
            last = _Fraction(high=high_digits, high_open=interval.high_open)
            found.append(last.after(literal(str(high)), high_places))
    return [part for part in found if part]


def _split(value: Decimal) -> tuple[int, str]:
    """The whole part, and the digits of the fraction without zeros at the end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


@dataclass(frozen=True, slots=True)
class _Fraction:
    """Digits after a decimal point, as a fraction from `low` to `high`; None is no bound."""

    low: str | None = None
    low_open: bool = False
    high: str | None = None
    high_open: bool = False

    def after(self, whole: str, places: int) -> str | None:
        """`whole` and the fractions of at most `places` digits; None where there are none."""
        return _followed(whole, *self._digits(places), point='"." ')

    def _digits(self, places: int) -> tuple[bool, list[str]]:
        """Whether no further digit is needed, and the alternatives of further digits, `places` at most."""
        low = None if self.low == "" and not self.low_open else self.low
        high = self.high
        if high == "" and (self.high_open or low is not None):
            return False, []
        ends = low is None
        if places == 0 or high == "":
            return ends, []
        if low is None and high is None:
            return True, [repeat("[0-9]", 1, places)]
        if low == "" and high is None:  # above zero
            zeros = places // 2
            free = _digits(0, places - zeros - 1)
            return False, [" ".join(part for part in (_zeros(zeros), "[1-9]", free) if part)]
        return ends, self._by_first_digit(low, high, places)

    def _by_first_digit(self, low: str | None, high: str | None, places: int) -> list[str]:
        lowest, highest = int(low[:1] or "0") if low is not None else 0, int(high[:1]) if high else 9
        free, parts = [], []
        for digit in range(lowest, highest + 1):
            rest = _Fraction(
                low[1:] if low is not None and digit == lowest else None,
                self.low_open,
                high[1:] if high is not None and digit == highest else None,
                self.high_open,
            )
            if rest.low is None and rest.high is None:
                free.append(digit)
            else:
                part = _followed(f'"{digit}"', *rest._digits(places - 1))
                parts += [part] if part else []
        if free:
            parts.append(" ".join(filter(None, (_digit(free[0], free[-1]), _digits(0, places - 1)))))
        return parts


def _followed(start: str, ends: bool, further: list[str], *, point: str = "") -> str | None:
    """`start` and one of `further`, or `start` alone where it `ends`; None where neither may be."""
    if not further:
        return start if ends else None
    rest = f"{point}{alternatives(further)}"
    return f"{start} ({rest})?" if ends else f"{start} {rest}"


def _zeros(most: int) -> str:
    return repeat('"0"', 0, most) if most else ""


def _naturals(low: int, high: int) -> list[str]:
    """The integers from `low`, 0 or more, to `high`, as alternatives; none where `high` is below `low`."""
    parts = []
    if low == 0 <= high:
        parts.append('"0"')
        low = 1
    while low <= high:
        length = len(str(low))
        if low == 10 ** (length - 1) and high >= 10**length - 1:
            longest = length
            while high >= 10 ** (longest + 1) - 1:
                longest += 1
            parts.append(" ".join(filter(None, ("[1-9]", _digits(length - 1, longest - 1)))))
            low = 10**longest
        else:
            top = min(high, 10**length - 1)
            parts.append(_same_length(str(low), str(top)))
            low = top + 1
    return parts


def _same_length(low: str, high: str) -> str:
    """The digit strings from `low` to `high`, which are equally long."""
    if not low:
        return ""
    length = len(low) - 1
    if low[0] == high[0]:
        return f'"{low[0]}" {_same_length(low[1:], high[1:])}'.rstrip()
    first, last = int(low[0]), int(high[0])
    before, after = [], []
    if low[1:] != "0" * length:
        before = [f'"{low[0]}" {_same_length(low[1:], "9" * length)}']
        first += 1
    if high[1:] != "9" * length:
        after = [f'"{high[0]}" {_same_length("0" * length, high[1:])}']
        last -= 1
    middle = [" ".join(filter(None, (_digit(first, last), _digits(length, length))))] if first <= last else []
    return alternatives([*before, *middle, *after])


def _digit(first: int, last: int) -> str:
    return f'"{first}"' if first == last else f"[{first}-{last}]"


def _digits(fewest: int, most: int) -> str:
    return repeat("[0-9]", fewest, most) if most else ""
