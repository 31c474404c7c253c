"""Checks arguments that come from outside: each function returns the value as a plain Python one, or raises.

Values of numpy and of other libraries are taken for what they are. Every error is an InvalidRequest of one line with
the argument's name, its value and what it must be.
"""

from __future__ import annotations

import errno
import math
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from edgespec.errors import InvalidRequest

MAX_INT32 = 2**31 - 1
"""The largest whole number that llama.cpp takes for most of its settings."""

_MAX_SHOWN = 60
"""The most characters of a value that an error shows."""


def integer(name: str, value: object, low: int, high: int, meaning: str = "") -> int:
    """A whole number from `low` to `high`, by `operator.index`: 40.0 and True are none."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except Exception:
        number = None
    if number is None or not low <= number <= high:
        raise _wrong(name, value, f"a whole number from {low} to {high}", meaning)
    return int(number)


def number(name: str, value: object, low: float, high: float, meaning: str = "") -> float:
    """A number from `low` to `high`, by `float`: a text and True are none."""
    result = math.nan
    if isinstance(value, SupportsFloat | SupportsIndex) and not isinstance(value, _NO_NUMBERS) and not _shape(value):
        try:
            result = float(value)
        except Exception:
            result = math.nan
    if not low <= result <= high:
        raise _wrong(name, value, f"a number from {low:g} to {high:g}", meaning)
    return result


def switch(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise _wrong(name, value, "True or False")
    return bool(value)


def choice(name: str, value: object, choices: Collection[str]) -> str:
    """One of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise _wrong(name, value, f"one of {', '.join(choices)}")
    return str(value)


def text(name: str, value: object) -> str:
    """A text that can be written as UTF-8, which half a surrogate pair cannot."""
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} is not UTF-8 text: character {error.start} is none") from error
    return str(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """Texts; a single one may be given as it is."""
    if isinstance(value, str):
        return (text(name, value),)
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | memoryview | Mapping):
        raise _wrong(name, value, "a text or a list of texts")
    try:
        items = list(value)
    except Exception as error:  # an array of no dimension, say
        raise _wrong(name, value, "a text or a list of texts") from error
    return tuple(text(f"{name}[{index}]", item) for index, item in enumerate(items))


def path(name: str, value: object) -> str:
    """A path that the system can look up: a text, or an object that names one. There may be no such file."""
    right = "a path"
    try:
        given = os.fspath(value)  # type: ignore[call-overload]
        if isinstance(given, str):
            os.lstat(given)
            return str(given)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return str(given)
        right = "shorter: no file has so long a name"
    except Exception:  # it names no path, or one with a NUL in it
        given = None
    raise _wrong(name, value, right)


def mapping(name: str, value: object) -> dict[str, Any]:
    """A mapping from texts to any values."""
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping of names to values")
    return {text(f"a name in {name}", key): entry for key, entry in value.items()}


def token_ids(name: str, value: object, size: int) -> list[int]:
    """Token ids of a vocabulary of `size`."""
    if (
        not isinstance(value, Sequence | np.ndarray)
        or isinstance(value, str | bytes | bytearray)
        or _shape(value) == ()
    ):
        raise _wrong(name, value, "a list of token ids")
    return [integer(f"{name}[{index}]", token, 0, size - 1) for index, token in enumerate(value)]


def function(name: str, value: object) -> None:
    """Check that `value` can be called, or is None."""
    if value is not None and not callable(value):
        raise _wrong(name, value, "a function")


def none_is_default(options: object, *, but: Collection[str] = ()) -> None:
    """Give the fields of a dataclass that are None their defaults, except those named in `but`."""
    for field in fields(options):  # type: ignore[arg-type]
        if getattr(options, field.name) is None and field.name not in but:
            if field.default is not MISSING:
                object.__setattr__(options, field.name, field.default)
            elif field.default_factory is not MISSING:
                object.__setattr__(options, field.name, field.default_factory())


def shown(value: object) -> str:
    """The value on one short line, for an error."""
    try:
        line = repr(value)
    except Exception:  # of an object that cannot be shown, or a whole number of thousands of digits
        line = f"a value of type {type(value).__name__}"
    line = " ".join(line.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[: _MAX_SHOWN - 1]}…"


_NO_NUMBERS = (bool, np.bool_, str, bytes, complex, np.complexfloating)
"""Types that have a `__float__`, here or in numpy, and are no numbers to us."""


def _shape(value: object) -> Any:
    """The dimensions of an array; () for a scalar of numpy, None for what is none of these."""
    return getattr(value, "shape", None)


def _wrong(name: str, value: object, right: str, meaning: str = "") -> InvalidRequest:
    return InvalidRequest(f"{name} is {shown(value)}: it must be {right}{f' ({meaning})' if meaning else ''}")
