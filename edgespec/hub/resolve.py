"""Which file a MODEL names: a path to a .gguf, or an alias. Nothing here touches the network."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgespec.errors import ModelNotFound
from edgespec.hub.catalogue import DEFAULT, Entry, entries, kept_lists, of_repository
from edgespec.hub.store import missing, trusted
from edgespec.system.files import at_home

__all__ = ["DEFAULT", "entry_of", "is_alias", "kept_list", "resolve"]


def resolve(model: str | Path | None, *, cache_dir: Path) -> Path:
    """The file that `model` names: an alias, a path, ORGANISATION/NAME/FILE.gguf, or with None the default model.

    The file of an alias is looked for in its package, in our store and with other tools; it is checked by its sha256
    once, which is remembered in `cache_dir`. So is one of Hugging Face, where no path leads to a file. Raises
    ModelNotFound with how to get one, MalformedModel when the checksum differs.
    """
    name = DEFAULT if model is None else str(model)
    if not is_alias(name):
        path = at_home(name)
        if not path.exists() and path.suffix != ".gguf" and path.name == name:
            raise _unknown(name)
        if path.exists() or of_repository(name) is None:
            return path
    found = trusted(entry_of(name), cache_dir)
    if found is not None:
        return found.path
    error = missing(entry_of(name))
    raise ModelNotFound(f"no model was named, and the default {error}") if model is None else error


def is_alias(name: str) -> bool:
    """Whether the catalogue has a model of this name."""
    return name in entries()


def entry_of(alias: str) -> Entry:
    """What the catalogue says of it, or ORGANISATION/NAME/FILE.gguf itself. Raises ModelNotFound with the aliases."""
    entry = entries().get(alias) or of_repository(alias)
    if entry is None:
        raise _unknown(alias)
    return entry


def kept_list(name: str | Path) -> Path:
    """The list of tokens that `trim --kept` names: a file, or one of those that ship by its name (`qwen2.5`)."""
    return Path(name) if Path(name).exists() else kept_lists().get(str(name), Path(name))


def _unknown(name: str) -> ModelNotFound:
    near = difflib.get_close_matches(name, entries(), n=1)
    meant = f"did you mean {near[0]}? Else " if near else ""
    return ModelNotFound(
        f"no model {name!r}: {meant}give a path to a .gguf, ORGANISATION/NAME/FILE.gguf of Hugging Face, or an alias "
        f"({', '.join(entries())})"
    )
