"""Finds the file that MODEL names: a path to a .gguf or an alias. Nothing here uses the network."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgespec.errors import ModelNotFound
from edgespec.hub.address import parse_address
from edgespec.hub.catalogue import DEFAULT_ALIAS, Entry, entries, entry_of_repository, shipped_keep_lists
from edgespec.hub.store import find_checked, is_stored, not_found, remote_entry, stored_entry
from edgespec.system.files import expanded_path

__all__ = ["DEFAULT_ALIAS", "entry_of", "entry_to_pull", "is_address", "is_alias", "keep_list_path", "resolve"]


def resolve(model: str | Path | None, *, cache_dir: Path) -> Path:
    """The file that `model` names: an alias, a path, an address (hub.address), or with None the default model.

    The file of an alias is searched in its package, in the store and in other tools' caches; so is one of Hugging Face,
    where no path leads to a file. Its sha256 is checked once, which `cache_dir` stores. Raises ModelNotFound with the
    command that gets it, MalformedModel when the sha256 differs.
    """
    name = DEFAULT_ALIAS if model is None else str(model)
    if not is_alias(name):
        path = expanded_path(name)
        if _is_there(path):
            return path
        if parse_address(name) is None:
            if "://" in name or (path.suffix != ".gguf" and path.name == name):
                raise _unknown_model(name)
            return path
    local_file = find_checked(entry_of(name), cache_dir)
    if local_file is not None:
        return local_file.path
    error = not_found(entry_of(name))
    raise ModelNotFound(f"no model was named, and the default {error}") if model is None else error


def _is_there(path: Path) -> bool:
    """Whether there is such a file, or a folder on the way to it may not be searched: then reading it says so."""
    try:
        return path.exists()
    except PermissionError:
        return True


def is_alias(name: str) -> bool:
    """Whether the catalogue has a model of this name."""
    return name in entries()


def is_address(name: str) -> bool:
    """Whether `name` is the address of a model at Hugging Face."""
    return parse_address(name) is not None


def entry_of(alias: str) -> Entry:
    """The entry of an alias, or of an address by what is here. Raises ModelNotFound, which lists the aliases."""
    if entry := entries().get(alias):
        return entry
    address = parse_address(alias)
    if address is None:
        raise _unknown_model(alias)
    if address.file is None:
        if entry := stored_entry(address):
            return entry
        raise ModelNotFound(f"no model of {alias} is here: edgespec models pull {alias}")
    entry = entry_of_repository(f"{address.repository}/{address.file}")
    if entry is None:
        raise _unknown_model(alias)
    tried = (known for known in entries().values() if (known.repository, known.file) == (entry.repository, entry.file))
    return entry if is_stored(entry) else next(tried, entry)


def entry_to_pull(alias: str) -> Entry:
    """The same for a download: where an address names no file, the repository is asked for its list.

    Raises ModelNotFound, DownloadError.
    """
    address = None if is_alias(alias) else parse_address(alias) or parse_address(f"hf.co/{alias}")
    return remote_entry(address) if address is not None and address.file is None else entry_of(alias)


def keep_list_path(name: str | Path) -> Path:
    """The keep list that `trim --kept` names: a file, or one that ships with edgespec (`qwen2.5`)."""
    return Path(name) if _is_there(Path(name)) else shipped_keep_lists().get(str(name), Path(name))


def _unknown_model(name: str) -> ModelNotFound:
    near = difflib.get_close_matches(name, entries(), n=1)
    meant = f"did you mean {near[0]}? Else " if near else ""
    return ModelNotFound(
        f"no model {name!r}: {meant}give a path to a .gguf, an address at Hugging Face (ORG/NAME/FILE.gguf or "
        "ORG/NAME:QUANT, of the newest version), or an alias "
        f"({', '.join(entries())})"
    )
