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

import json
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

    Raises InvalidRequest for invalid TOML, for an unknown key, with the nearest known one, and for a wrong value.
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
    used = {key: (key, value) for key, value in settings.items() if key in shared and key not in tables}
    used |= {key: (f"{key} in [{name}]", value) for key, value in table.items()}
    return {
        str(command_options[key].name): _value_of(command_options[key], value, f"{path}: {place}")
        for key, (place, value) in used.items()
    }


def _value_of(option: click.Option, value: Any, place: str) -> Any:
    """The value of `option`; one that may be repeated takes a list or a single value.

    Raises InvalidRequest where the value has another type, or the option does not take it.
    """
    if option.multiple:
        return [_single_value(option, one, place) for one in (value if isinstance(value, list) else [value])]
    return _single_value(option, value, place)


def _single_value(option: click.Option, value: Any, place: str) -> Any:
    types, wanted = next((kinds for kind, *kinds in _TYPES if isinstance(option.type, kind)), ((), "a text"))
    try:
        if not (isinstance(value, str) or type(value) in types):
            raise click.BadParameter(f"it must be {wanted}")
        option.type.convert(value, option, None)
    except click.BadParameter as error:
        shown = json.dumps(value, ensure_ascii=False, default=str)  # as TOML writes it, or nearly
        raise InvalidRequest(f"{place} is {shown}: {error.message}") from error
    return value


_TYPES = (
    (click.types.BoolParamType, (bool,), "true or false"),
    (click.types.IntParamType, (int,), "a whole number"),  # IntRange is one
    (click.types.FloatParamType, (int, float), "a number"),
)
"""Types of options with the types of their values in TOML, and how these are called; a text is read as if typed."""


def _check_key(path: Path, key: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if key not in known:
        near = get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise InvalidRequest(f"{path}: unknown {what} {key!r}: {hint}")
