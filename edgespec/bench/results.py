"""Result files: JSON that says where its figures come from."""

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
from edgespec.system.child import ROOT
from edgespec.system.cpu import cores, cpu_name
from edgespec.system.files import read_json, replacing


def code_digest() -> str:
    """Which code this is, to 16 digits of a sha256: between two releases the version stays the same."""
    package = ROOT / "edgespec"
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(f"{source.relative_to(package).as_posix()}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def without_folders(word: str) -> str:
    """An argument with the paths in it that lead out of the working directory cut down to their last part.

    An argument may hold others, quoted as for a shell: a peer's.
    """
    head, equals, arguments = word.partition("=")
    if equals and head.startswith("--"):  # an option and what it is
        return f"{head}={without_folders(arguments)}"
    if equals and any(mark in arguments for mark in " '\""):
        return f"{head}={shlex.join(_cut(argument) for argument in shlex.split(arguments))}"
    return _cut(word)


def _cut(word: str) -> str:
    return re.sub(r"(^|[+=,])(?:\.\.)?/[^+,]*?([^/+,]+)(?=$|[+,])", r"\1\2", word)


def origin(what: str, models: Iterable[Path], command: Iterable[str]) -> dict[str, Any]:
    """What was measured, by which command, when, on which machine, with which versions and model files."""
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
    """Put a result into its file, at once or not at all. Raises OutputError."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def begun(path: Path, fresh: dict[str, Any], *, holds: str) -> dict[str, Any] | None:
    """What an earlier run left in `path`, if its settings are those of the `fresh` one; None where there is no file.

    `holds`: the key of what was measured.

    Raises InvalidRequest where the file is something else, or was made with other settings, elsewhere, or by other
    code: figures of two machines, or from before and after a change, do not belong into one file.
    """
    if not path.exists():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("what") != fresh["what"] or not {"settings", holds} <= found.keys():
        raise InvalidRequest(f"{path}: it exists and is no result of this benchmark; choose another file")
    if "code" not in found.get("versions", {}):
        raise InvalidRequest(
            f"{path}: it does not say which code it was measured with, as files of earlier versions do not, so nothing "
            "can be added to it; choose another file, or remove this one"
        )
    old, new = (
        {**one["settings"], **one["machine"], **one["versions"], "models": one["models"]} for one in (found, fresh)
    )
    other = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if other:
        values = ", ".join(str(old.get(key)) for key in other)
        raise InvalidRequest(
            f"{path}: it was begun with another {', '.join(other)} ({values}); choose another file, or remove this one"
        )
    return found
