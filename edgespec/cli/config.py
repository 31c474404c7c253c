"""The configuration file: defaults for the options, under their own names.

    model = "~/models/small.gguf"
    temp = 0.7

    [chat]
    max-tokens = 2048

Keys before the first table count for every command that shares the option; a table is for the command of its name, and
for the options that only it has. The command line comes first, then the environment (EDGESPEC_MODEL and so on), then
this file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from edgespec.cli.options import SHARED, Shared
from edgespec.errors import InvalidRequest
from edgespec.system.texts import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def defaults_for(path: Path, name: str, command: click.Command, commands: Iterable[str]) -> dict[str, Any]:
    """The file's defaults for `command`, by parameter name; only shared options may stand before the tables.

    Raises InvalidRequest for invalid TOML, and for an unknown key, with the nearest known one.
    """
    try:
        settings: Mapping[str, Any] = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: {error}") from error
    command_options = {
        option.opts[-1].removeprefix("--"): option for option in command.params if isinstance(option, click.Option)
    }
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    for key in settings:
        _check_key(path, key, commands if key in tables else SHARED, "table" if key in tables else "key")
    table = tables.get(name, {})
    for key in table:
        _check_key(path, key, command_options, f"key in [{name}]")
    shared = {key for key, option in command_options.items() if isinstance(option, Shared)}
    used = {**{key: value for key, value in settings.items() if key in shared and key not in tables}, **table}
    return {str(command_options[key].name): value for key, value in used.items()}


def _check_key(path: Path, key: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if key not in known:
        near = get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise InvalidRequest(f"{path}: unknown {what} {key!r}: {hint}")
