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
from edgespec.system.jsonl import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def defaults_for(path: Path, name: str, command: click.Command, commands: Iterable[str]) -> dict[str, Any]:
    """What the file says for `command`, by parameter; only options that are shared may stand before the tables.

    Raises InvalidRequest for what is no TOML, and for a key that nothing has, with the nearest one that there is.
    """
    try:
        told: Mapping[str, Any] = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path}: {error}") from error
    own = {one.opts[-1].removeprefix("--"): one for one in command.params if isinstance(one, click.Option)}
    tables = {key: value for key, value in told.items() if isinstance(value, dict)}
    for key in told:
        _check(path, key, commands if key in tables else SHARED, "table" if key in tables else "key")
    table = tables.get(name, {})
    for key in table:
        _check(path, key, own, f"key in [{name}]")
    shared = {key for key, option in own.items() if isinstance(option, Shared)}
    wanted = {**{key: value for key, value in told.items() if key in shared and key not in tables}, **table}
    return {str(own[key].name): value for key, value in wanted.items()}


def _check(path: Path, key: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if key not in known:
        near = get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise InvalidRequest(f"{path}: unknown {what} {key!r}: {hint}")
