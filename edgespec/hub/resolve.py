"""Finds the file that MODEL names: a path to a .gguf or an alias. Nothing here uses the network."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgespec.errors import ModelNotFound
from edgespec.hub.catalogue import DEFAULT_ALIAS, Entry, entries, entry_of_repository, shipped_keep_lists
from edgespec.hub.store import find_checked, not_found
from edgespec.system.files import expanded_path

__all__ = ["DEFAULT_ALIAS", "entry_of", "is_alias", "keep_list_path", "resolve"]


def resolve(model: str | Path | None, *, cache_dir: Path) -> Path:
    """The file that `model` names: an alias, a path, ORGANISATION/NAME/FILE.gguf, or with None the default model.

    The file of an alias is searched in its package, in the store and in other tools' caches; so is one of Hugging Face,
    where no path leads to a file. Its sha256 is checked once, which `cache_dir` stores. Raises ModelNotFound with the
    command that gets it, MalformedModel when the sha256 differs.
    """
    name = DEFAULT_ALIAS if model is None else str(model)
    if not is_alias(name):
        path = expanded_path(name)
        if not path.exists() and path.suffix != ".gguf" and path.name == name:
            raise _unknown_model(name)
        if path.exists() or entry_of_repository(name) is None:
            return path
    local_file = find_checked(entry_of(name), cache_dir)
    if local_file is not None:
        return local_file.path
    error = not_found(entry_of(name))
    raise ModelNotFound(f"no model was named, and the default {error}") if model is None else error


def is_alias(name: str) -> bool:
    """Whether the catalogue has a model of this name."""
    return name in entries()


def entry_of(alias: str) -> Entry:
    """The entry of an alias or of ORGANISATION/NAME/FILE.gguf. Raises ModelNotFound, which lists the aliases."""
    entry = entries().get(alias) or entry_of_repository(alias)
    if entry is None:
        raise _unknown_model(alias)
    return entry


def keep_list_path(name: str | Path) -> Path:
    """The keep list that `trim --kept` names: a file, or one that ships with edgespec (`qwen2.5`)."""
    return Path(name) if Path(name).exists() else shipped_keep_lists().get(str(name), Path(name))


def _unknown_model(name: str) -> ModelNotFound:
    near = difflib.get_close_matches(name, entries(), n=1)
    meant = f"did you mean {near[0]}? Else " if near else ""
    return ModelNotFound(
        f"no model {name!r}: {meant}give a path to a .gguf, ORGANISATION/NAME/FILE.gguf of Hugging Face, or an alias "
        f"({', '.join(entries())})"
    )
