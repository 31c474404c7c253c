"""Paths as people type them and terminals paste them: quoted, with backslashes before blanks, or file:// addresses."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edgespec.errors import InvalidRequest


def typed_path(argument: str) -> Path:
    """The path that `argument` names, `~` expanded. Raises InvalidRequest where it is on no disk here."""
    try:
        return Path(unquoted(argument)).expanduser()
    except RuntimeError as error:  # ~somebody
        raise InvalidRequest(f"{argument}: {error}") from error


def unquoted(argument: str) -> str:
    """`argument` without the quotes and backslashes of a shell, or from a file:// address.

    It stays as it is where a file of that name is there, and where it is several words: a path with blanks needs none.
    """
    argument = argument.strip()
    if Path(argument).exists():
        return argument
    if argument[:7].lower() == "file://":
        address = urlsplit(argument)
        if address.netloc not in ("", "localhost"):
            raise InvalidRequest(f"{argument} is a file of another machine: copy it here")
        return url2pathname(address.path)
    if os.name == "nt":  # a backslash is part of the path
        return argument[1:-1] if len(argument) > 2 and argument[0] == argument[-1] == '"' else argument
    try:
        words = shlex.split(argument)
    except ValueError:  # a quote that is part of a name
        return argument
    return words[0] if len(words) == 1 else argument
