"""Models that other tools have downloaded already, used where they lie.

Only layouts on disk are read; none of the tools has to be installed, and nothing of theirs is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from edgespec.hub.catalogue import SHA256, Entry
from edgespec.system.files import at_home


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that should be the model: whose it is, and the sha256 it must have, where anybody knows one."""

    path: Path
    owner: str
    sha256: str | None


def of_other_tools(entry: Entry) -> Iterator[LocalFile]:
    """Where other tools keep the file of `entry`; its size is right, its checksum is yet to be taken."""
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
    """Whether a file lies there, of the size it must have."""
    try:
        return path.is_file() and (size is None or path.stat().st_size == size)
    except OSError:  # a folder we may not look into
        return False


def _hugging_face(entry: Entry, repository: str) -> Iterator[Path]:
    """HF_HUB_CACHE, or hub in HF_HOME: models--ORG--NAME/snapshots/COMMIT/FILE, the newest first."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    hub = _path(named) if named else hugging_face_home() / "hub"
    snapshots = hub / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = (path for path in snapshots.glob(f"*/{escape(entry.file)}") if is_whole(path, None))
    yield from sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def hugging_face_home() -> Path:
    """HF_HOME, or where it is without that: of Hugging Face's own tools."""
    return _path(os.environ.get("HF_HOME") or str(_xdg_cache() / "huggingface"))


def _llama_cpp(entry: Entry, repository: str) -> Iterator[Path]:
    """LLAMA_CACHE, or the system's cache: ORG_NAME_FILE."""
    if named := os.environ.get("LLAMA_CACHE"):
        folder = _path(named)
    else:
        folder = (_path("~/Library/Caches") if sys.platform == "darwin" else _xdg_cache()) / "llama.cpp"
    yield folder / f"{repository.replace('/', '_')}_{entry.file}"


def _lm_studio(entry: Entry, repository: str) -> Iterator[Path]:
    """ORG/NAME/FILE in today's folder or yesterday's; whose conversion it is does not matter where a sha256 decides."""
    for folder in (_path("~/.lmstudio/models"), _path("~/.cache/lm-studio/models")):
        yield folder / repository / entry.file
        if entry.sha256 is not None:
            yield from sorted(set(folder.glob(f"*/*/{escape(entry.file)}")) - {folder / repository / entry.file})


def _ollama(entry: Entry) -> Iterator[Path]:
    """blobs/sha256-HASH; names are in manifests of its own, so that only a known sha256 finds anything."""
    if entry.sha256 is not None:
        named = os.environ.get("OLLAMA_MODELS")
        folders = [named] if named else ["~/.ollama/models", "/usr/share/ollama/.ollama/models"]
        for folder in folders:
            yield _path(folder) / "blobs" / f"sha256-{entry.sha256}"


def _named_after_its_sha256(path: Path) -> str | None:
    """The Hugging Face cache links to blobs with the server's sha256 as their names."""
    name = path.resolve().name
    return name if SHA256.fullmatch(name) else None


def _xdg_cache() -> Path:
    return _path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _path(name: str) -> Path:
    return at_home(os.path.expandvars(name))
