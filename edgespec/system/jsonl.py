"""Reads text files, and JSON lines: one object on each line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgespec.errors import InvalidRequest


def read_text(path: Path) -> str:
    """The text of a file. Raises InvalidRequest with the reason."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: {error}") from error


def read_objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with their line numbers; empty lines are skipped. Raises InvalidRequest."""
    text = read_text(path)
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):  # `splitlines` would split at more characters
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is valid JSON, but no text
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path}, line {number}: it must be an object")
        objects.append((number, value))
    return objects
