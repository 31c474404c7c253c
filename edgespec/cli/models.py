"""`edgespec models`: which models there are by name, and getting, checking and removing their files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgespec.cli.terminal import redraw
from edgespec.errors import MalformedModel, ModelError, ModelNotFound
from edgespec.hub import store as shelf
from edgespec.hub.catalogue import Entry, entries
from edgespec.hub.checksums import note
from edgespec.hub.external_caches import LocalFile
from edgespec.hub.resolve import DEFAULT, entry_of, resolve
from edgespec.system import cpu as machine
from edgespec.system.files import sha256_of

_SPOILT, _UNREAD = "sha256 is", "cannot be read"


def show(as_object: bool) -> None:
    """Print the catalogue, and what of it is here."""
    told = [_told(entry) for entry in (*entries().values(), *shelf.unlisted())]
    if as_object:
        click.echo(json.dumps(told))
        return
    wide = max(len(one["alias"]) for one in told)
    for one in told:
        size = f"{one['size'] / 1e6:.0f} MB" if one["size"] else "?"
        remarks = [_where(one), one["licence"]]
        remarks += [] if one["tried"] else ["not tried by us"]
        remarks += [f"drafter: {one['drafter']}"] if one["drafter"] else []
        click.echo(f"{one['alias']:<{wide}}  {size:>8}  {', '.join(remarks)}")


def pull(aliases: tuple[str, ...], local: Path | None) -> None:
    """Download models into the store, or copy one into it."""
    if local is not None and len(aliases) > 1:
        raise click.UsageError("--from FILE goes with one ALIAS")
    cache = machine.cache_directory()
    for entry in [entry_of(alias) for alias in aliases]:  # a wrong name is found out before anything is downloaded
        here = shelf.trusted(entry, cache)
        if here is not None:
            click.echo(f"{entry.alias} is here already: {here.path} ({here.owner})")
        else:
            _pull(entry, local, cache)
        if entry.drafter is not None:
            click.echo(_use_both(entry))


def locate(alias: str) -> None:
    """Print where the model's file is."""
    entry_of(alias)
    click.echo(resolve(alias, cache_dir=machine.cache_directory()))


def verify(aliases: tuple[str, ...]) -> None:
    """Compare the sha256 of models with what it should be."""
    named = [entry_of(alias) for alias in aliases]
    spoilt = unread = 0
    for entry in named or (*entries().values(), *shelf.unlisted()):
        there = list(shelf.candidates(entry))
        if not there and named:
            raise shelf.missing(entry)
        for found in there:
            said = _verified(found)
            spoilt += said.startswith(_SPOILT)
            unread += said.startswith(_UNREAD)
            click.echo(f"{entry.alias}: {found.path} ({found.owner}): {said}")
    if spoilt:
        raise MalformedModel(
            f"{spoilt} of the files above {'is' if spoilt == 1 else 'are'} not what they should be: remove them "
            "(edgespec models rm, where they are edgespec's), and pull again"
        )
    if unread:
        raise ModelError(f"{unread} of the files above cannot be read: check their permissions, or remove them")


def remove(aliases: tuple[str, ...]) -> None:
    """Remove models from edgespec's own store."""
    for entry in [entry_of(alias) for alias in aliases]:
        removed = shelf.remove(entry)
        for one in removed:
            click.echo(f"removed {one}")
        if not removed:
            other = next(shelf.candidates(entry), None)
            where = f"; {other.path} belongs to another ({other.owner}): remove it there" if other else ""
            raise ModelNotFound(f"{entry.alias} is not in the store ({shelf.directory()}){where}")


def _pull(entry: Entry, local: Path | None, cache: Path) -> None:
    progress = _Progress(entry.alias)
    try:
        if local is not None:
            found = shelf.adopt(entry, local, cache, progress=progress)
        else:
            found = shelf.pull(entry, cache, progress=progress)
    except KeyboardInterrupt:
        left = "the same command continues this download" if local is None else "nothing was copied"
        click.echo(f"\nstopped; {left}", err=True)
        raise
    finally:
        progress.finish()
    if entry.sha256 is None:
        teller = "the file's own" if local is not None else "the server's"
        click.echo(f"{entry.alias}: sha256 {found.sha256} is {teller}, and is saved; nobody tried this file yet")
    click.echo(f"{entry.alias}: {found.path}")


def _use_both(entry: Entry) -> str:
    """How to draft for a target."""
    assert entry.drafter is not None
    drafter = entry_of(entry.drafter)
    here = next(shelf.candidates(drafter), None) is not None
    first = "" if here else f"edgespec models pull {drafter.alias}, then "
    return f"with a drafter: {first}edgespec generate -m {entry.alias} -d suffix+{drafter.alias} -p ..."


def _verified(found: LocalFile) -> str:
    try:
        sha256 = sha256_of(found.path)
    except OSError as error:  # of another person, perhaps: the other files are to be checked all the same
        return f"{_UNREAD}: {error.strerror}"
    if found.sha256 is None:
        return f"its sha256 is {sha256}, and there is none to compare it with"
    if sha256 != found.sha256:
        return f"{_SPOILT} {sha256}, not {found.sha256}"
    note(found.path, sha256, machine.cache_directory())
    return "ok"


def _told(entry: Entry) -> dict[str, Any]:
    """A model as `list --json` prints it."""
    found = next(shelf.candidates(entry), None)
    return {
        "alias": entry.alias,
        "default": entry.alias == DEFAULT,
        "file": entry.file,
        "source": entry.source,
        "licence": entry.licence,
        "sha256": entry.sha256 or (found.sha256 if found else None),
        "size": entry.size or (found.path.stat().st_size if found else None),
        "context": entry.context,
        "drafter": entry.drafter,
        "kept": entry.kept,
        "tried": entry.tried,
        "path": str(found.path) if found else None,
        "owner": found.owner if found else None,
        "downloaded": shelf.started(entry),
    }


def _where(one: dict[str, Any]) -> str:
    if one["path"] is not None:
        return "here" if one["owner"] == shelf.OWN else f"here ({one['owner']})"
    return f"{one['downloaded'] / 1e6:.0f} MB of it here" if one["downloaded"] else "not here"


class _Progress:
    """Megabytes of megabytes: a line drawn over and over on a terminal, else one for every tenth."""

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
            click.echo(line, err=True)

    def finish(self) -> None:
        """Wipe the line."""
        if self._shown is not None and sys.stderr.isatty():
            redraw()
