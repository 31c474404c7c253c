"""Finds models in the caches of other tools, where they are used in place.

Only the folders are read; the tools need not be installed, and nothing is written there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from edgespec.hub.catalogue import SHA256, Entry
from edgespec.system.files import expanded_path


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that should be the model, the tool that owns it, and the sha256 it must have, if that is known."""

    path: Path
    owner: str
    sha256: str | None


def external_files(entry: Entry) -> Iterator[LocalFile]:
    """The files of `entry` in other tools' caches; their size is right, their sha256 is not checked yet."""
    if entry.repository is None:
        return
    for owner, paths in (
        ("Hugging Face cache", _hugging_face(entry, entry.repository)),
        ("llama.cpp", _llama_cpp(entry, entry.repository)),
        ("LM Studio", _lm_studio(entry, entry.repository)),
        ("Ollama", _ollama(entry)),
    ):
        for path in paths:
            if is_whole(path, entry.size):
                yield LocalFile(path, owner, entry.sha256 or _named_after_its_sha256(path))


def is_whole(path: Path, size: int | None) -> bool:
    """Whether `path` is a file of `size` bytes; of any size where that is None."""
    try:
        return path.is_file() and (size is None or path.stat().st_size == size)
    except OSError:  # a folder without permission
        return False


def _hugging_face(entry: Entry, repository: str) -> Iterator[Path]:
    """HF_HUB_CACHE, or hub in HF_HOME: models--ORG--NAME/snapshots/COMMIT/FILE, the newest first."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    hub = _path(named) if named else hugging_face_home() / "hub"
    snapshots = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
    snapshot_files = (path for path in snapshots.glob(f"*/{escape(entry.file)}") if is_whole(path, None))
    yield from sorted(snapshot_files, key=lambda path: path.stat().st_mtime, reverse=True)


def hugging_face_home() -> Path:
    """The folder of Hugging Face's own tools: HF_HOME, or its default."""
    return _path(os.environ.get("HF_HOME") or str(_xdg_cache() / "huggingface"))


def _llama_cpp(entry: Entry, repository: str) -> Iterator[Path]:
    """LLAMA_CACHE, or the system's cache: ORG_NAME_FILE."""
    if named := os.environ.get("LLAMA_CACHE"):
        folder = _path(named)
    else:
        folder = (_path("~/Library/Caches") if sys.platform == "darwin" else _xdg_cache()) / "llama.cpp"
    yield folder / f"{repository.replace('/', '_')}_{entry.file}"


def _lm_studio(entry: Entry, repository: str) -> Iterator[Path]:
    """ORG/NAME/FILE in the new or the old folder; with a known sha256, files of any organisation."""
    for folder in (_path("~/.lmstudio/models"), _path("~/.cache/lm-studio/models")):
        yield folder / repository / entry.file
        if entry.sha256 is not None:
            yield from sorted(set(folder.glob(f"*/*/{escape(entry.file)}")) - {folder / repository / entry.file})


def _ollama(entry: Entry) -> Iterator[Path]:
    """blobs/sha256-HASH; only for entries with a known sha256."""
    if entry.sha256 is not None:
        named = os.environ.get("OLLAMA_MODELS")
        folders = [named] if named else ["~/.ollama/models", "/usr/share/ollama/.ollama/models"]
        for folder in folders:
            yield _path(folder) / "blobs" / f"sha256-{entry.sha256}"


def _named_after_its_sha256(path: Path) -> str | None:
    """The sha256 in the name of the blob that the Hugging Face cache links to, or None."""
    name = path.resolve().name
    return name if SHA256.fullmatch(name) else None


def _xdg_cache() -> Path:
    return _path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _path(name: str) -> Path:
    return expanded_path(os.path.expandvars(name))
