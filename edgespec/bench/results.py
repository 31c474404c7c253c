"""Result files: JSON with the origin of its figures."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgespec import __version__
from edgespec.backend import build_name, gpus
from edgespec.errors import InvalidRequest, OutputError
from edgespec.system.child import IMPORT_ROOT
from edgespec.system.cpu import cores, cpu_name
from edgespec.system.files import read_json, replacing


def code_digest() -> str:
    """16 hexadecimal digits of the sha256 of the package's code: the version changes with releases only."""
    package = IMPORT_ROOT / "edgespec"
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(f"{source.relative_to(package).as_posix()}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def without_folders(word: str) -> str:
    """An argument, with paths that lead out of the working directory cut to their last part.

    An argument may contain others, quoted as for a shell: a peer's.
    """
    head, equals, arguments = word.partition("=")
    if equals and head.startswith("--"):  # an option with its value
        return f"{head}={without_folders(arguments)}"
    if equals and any(mark in arguments for mark in " '\""):
        return f"{head}={shlex.join(_cut(argument) for argument in shlex.split(arguments))}"
    return _cut(word)


def _cut(word: str) -> str:
    return re.sub(r"(^|[+=,])(?:\.\.)?/[^+,]*?([^/+,]+)(?=$|[+,])", r"\1\2", word)


def origin(what: str, models: Iterable[Path], command: Iterable[str]) -> dict[str, Any]:
    """The origin of a result: what was measured, command, date, machine, versions and model files."""
    return {
        "what": what,
        "command": shlex.join(map(without_folders, command)),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": {
            "cpu": cpu_name(),
            "cores": cores(),
            "system": platform.platform(),
            **({"gpus": list(gpus())} if gpus() else {}),
        },
        "versions": {
            "edgespec": __version__,
            "code": code_digest(),
            "llama.cpp": build_name(),
            "python": platform.python_version(),
        },
        "models": [{"file": model.name, "bytes": model.stat().st_size} for model in models],
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result, whole or not at all. Raises OutputError."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def resumed(path: Path, fresh: dict[str, Any], *, holds: str) -> dict[str, Any] | None:
    """The result of an earlier run in `path`, if its settings are those of the `fresh` one; None without a file.

    `holds`: the key of the measurements.

    Raises InvalidRequest where the file is no result, or has other settings, another machine or other code: one file
    must not mix figures of two machines, or from before and after a change.
    """
    if not path.exists():
        return None
    earlier = read_json(path)
    if (
        not isinstance(earlier, dict)
        or earlier.get("what") != fresh["what"]
        or not {"settings", holds} <= earlier.keys()
    ):
        raise InvalidRequest(f"{path}: it exists and is no result of this benchmark; choose another file")
    if "code" not in earlier.get("versions", {}):
        raise InvalidRequest(
            f"{path}: it does not say which code it was measured with, as files of earlier versions do not, so nothing "
            "can be added to it; choose another file, or remove this one"
        )
    earlier_settings, fresh_settings = (
        {**result["settings"], **result["machine"], **result["versions"], "models": result["models"]}
        for result in (earlier, fresh)
    )
    different_keys = sorted(
        key for key in {*earlier_settings, *fresh_settings} if earlier_settings.get(key) != fresh_settings.get(key)
    )
    if different_keys:
        values = ", ".join(str(earlier_settings.get(key)) for key in different_keys)
        raise InvalidRequest(
            f"{path}: it was begun with another {', '.join(different_keys)} ({values}); choose another file, or remove "
            "this one"
        )
    return earlier
