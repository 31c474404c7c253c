"""`edgespec models`: which models there are by name, and getting, checking and removing their files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgespec.cli.interrupt import message_when_stopped
from edgespec.cli.report import json_line
from edgespec.cli.terminal import echo, redraw, write
from edgespec.errors import MalformedModel, ModelError, ModelNotFound
from edgespec.hub import store
from edgespec.hub.catalogue import Entry, entries
from edgespec.hub.checksums import save_sha256
from edgespec.hub.external_caches import LocalFile
from edgespec.hub.resolve import DEFAULT_ALIAS, entry_of, entry_to_pull, resolve
from edgespec.system import cpu
from edgespec.system.files import sha256_of

_WRONG, _UNREAD = "sha256 is", "cannot be read"


def show(as_object: bool) -> None:
    """Print the catalogue, and which of its models are here."""
    listed = [_as_json(entry) for entry in (*entries().values(), *store.entries_outside_catalogue())]
    if as_object:
        echo(json_line(listed, sys.stdout))
        return
    alias_width = max(len(model["alias"]) for model in listed)
    for model in listed:
        size = f"{model['size'] / 1e6:.0f} MB" if model["size"] else "?"
        remarks = [_location(model), model["licence"]]
        remarks += [] if model["tried"] else ["not tried by us"]
        remarks += [f"drafter: {model['drafter']}"] if model["drafter"] else []
        echo(f"{model['alias']:<{alias_width}}  {size:>8}  {', '.join(remarks)}")


def pull(aliases: tuple[str, ...], local: Path | None) -> None:
    """Download models into the store, or copy one into it."""
    if local is not None and len(aliases) > 1:
        raise click.UsageError("--from FILE goes with one ALIAS")
    cache = cpu.cache_directory()
    for entry in [entry_to_pull(alias) for alias in aliases]:  # a wrong name is an error before any download
        file = store.find_checked(entry, cache)
        if file is not None:
            echo(f"{entry.alias} is here already: {file.path} ({file.owner})")
        else:
            _pull(entry, local, cache)
        if entry.drafter is not None:
            echo(_use_both(entry))


def locate(alias: str) -> None:
    """Print the path of the model's file."""
    entry_of(alias)
    write(str(resolve(alias, cache_dir=cpu.cache_directory())), nl=True)


def verify(aliases: tuple[str, ...]) -> None:
    """Check the sha256 of models."""
    named = [entry_of(alias) for alias in aliases]
    n_wrong = n_unread = 0
    for entry in named or (*entries().values(), *store.entries_outside_catalogue()):
        files = list(store.candidates(entry))
        if not files and named:
            raise store.not_found(entry)
        for file in files:
            outcome = _verified(file)
            n_wrong += outcome.startswith(_WRONG)
            n_unread += outcome.startswith(_UNREAD)
            echo(f"{entry.alias}: {file.path} ({file.owner}): {outcome}")
    if n_wrong:
        raise MalformedModel(
            f"{n_wrong} of the files above {'is' if n_wrong == 1 else 'are'} not what they should be: remove them "
            "(edgespec models rm, where they are edgespec's), and pull again"
        )
    if n_unread:
        raise ModelError(f"{n_unread} of the files above cannot be read: check their permissions, or remove them")


def remove(aliases: tuple[str, ...]) -> None:
    """Remove models from edgespec's own store."""
    for entry in [entry_of(alias) for alias in aliases]:
        removed = store.remove(entry)
        for path in removed:
            echo(f"removed {path}")
        if not removed:
            other = next(store.candidates(entry), None)
            where = f"; {other.path} belongs to another ({other.owner}): remove it there" if other else ""
            raise ModelNotFound(f"{entry.alias} is not in the store ({store.directory()}){where}")


def _pull(entry: Entry, local: Path | None, cache: Path) -> None:
    progress = _DownloadProgress(entry.alias)
    left = "the same command continues this download" if local is None else "nothing was copied"
    try:
        with message_when_stopped(lambda: left):
            if local is not None:
                file = store.adopt(entry, local, cache, progress=progress)
            else:
                file = store.pull(entry, cache, progress=progress)
    finally:
        progress.finish()
    if entry.sha256 is None:
        whose = "the file's own" if local is not None else "the server's"
        echo(f"{entry.alias}: sha256 {file.sha256} is {whose}, and is saved; nobody tried this file yet")
    echo(f"{entry.alias}: {file.path}")


def _use_both(entry: Entry) -> str:
    """The commands that use the model with its drafter."""
    assert entry.drafter is not None
    drafter = entry_of(entry.drafter)
    is_here = next(store.candidates(drafter), None) is not None
    first = "" if is_here else f"edgespec models pull {drafter.alias}, then "
    return f"with a drafter: {first}edgespec generate -m {entry.alias} -d suffix+{drafter.alias} -p ..."


def _verified(file: LocalFile) -> str:
    try:
        sha256 = sha256_of(file.path)
    except OSError as error:  # another user's, perhaps: the other files are still checked
        return f"{_UNREAD}: {error.strerror}"
    if file.sha256 is None:
        return f"its sha256 is {sha256}, and there is none to compare it with"
    if sha256 != file.sha256:
        return f"{_WRONG} {sha256}, not {file.sha256}"
    save_sha256(file.path, sha256, cpu.cache_directory())
    return "ok"


def _as_json(entry: Entry) -> dict[str, Any]:
    """The entry as `list --json` prints it."""
    file = next(store.candidates(entry), None)
    return {
        "alias": entry.alias,
        "default": entry.alias == DEFAULT_ALIAS,
        "file": entry.file,
        "source": entry.source,
        "licence": entry.licence,
        "sha256": entry.sha256 or (file.sha256 if file else None),
        "size": entry.size or (file.path.stat().st_size if file else None),
        "context": entry.context,
        "drafter": entry.drafter,
        "kept": entry.kept,
        "tried": entry.tried,
        "path": str(file.path) if file else None,
        "owner": file.owner if file else None,
        "downloaded": store.partial_bytes(entry),
    }


def _location(model: dict[str, Any]) -> str:
    if model["path"] is not None:
        return "here" if model["owner"] == store.STORE_OWNER else f"here ({model['owner']})"
    return f"{model['downloaded'] / 1e6:.0f} MB of it here" if model["downloaded"] else "not here"


class _DownloadProgress:
    """Megabytes done and in all: one line that is redrawn on a terminal, else a line for every tenth."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._shown: tuple[str, int] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        terminal = sys.stderr.isatty()
        step = (stage, (1000 if terminal else 10) * done // max(1, total))
        if step == self._shown:
            return
        self._shown = step
        line = f"{self._alias}: {stage}, {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        if terminal:
            redraw(line)
        else:
            echo(line, err=True)

    def finish(self) -> None:
        """Clear the line on a terminal."""
        if self._shown is not None and sys.stderr.isatty():
            redraw()
