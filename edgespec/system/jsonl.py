"""Reads the JSON that users give: a value, or lines with one object on each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest
from edgespec.system.texts import read_input, read_text

_BYTE_ORDER_MARK = "\ufeff"


def read_value(path: Path) -> Any:
    """The JSON value of a file that a user names. Raises InvalidRequest with the reason."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not JSON ({error})") from error


def read_objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file, or of standard input (`-`), with their line numbers; empty lines are skipped.

    Raises InvalidRequest.
    """
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, value in read_lines(path):
        if isinstance(value, InvalidRequest):
            raise value
        objects.append((number, value))
    return objects


def read_lines(path: Path) -> list[tuple[int, dict[str, Any] | InvalidRequest]]:
    """The same, with the errors of lines that hold no object. Raises InvalidRequest where the file cannot be read."""
    found: list[tuple[int, dict[str, Any] | InvalidRequest]] = []
    for number, line in enumerate(read_input(path).split("\n"), start=1):  # `splitlines` would split at more characters
        line = line.removeprefix(_BYTE_ORDER_MARK)  # noqa: PLW2901 - files with one were joined
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, but no text
        except UnicodeEncodeError:
            reason = "a text in it is not UTF-8: half a surrogate pair is no character"
            found.append((number, InvalidRequest(f"{path}, line {number}: {reason}")))
            continue
        except (ValueError, RecursionError) as error:
            found.append((number, InvalidRequest(f"{path}, line {number}: not JSON ({error})")))
            continue
        if not isinstance(value, dict):
            value = InvalidRequest(f"{path}, line {number}: it must be an object")
        found.append((number, value))
    return found
