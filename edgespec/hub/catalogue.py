"""What the catalogue says of a model: file, source, licence, and the figures that we can support."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
DEFAULT = "smollm2-135m"

_FILE = re.compile(r"[A-Za-z0-9][\w.-]*\.gguf", re.ASCII)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_OF_A_REPOSITORY = re.compile(rf"({_REPOSITORY.pattern})/({_FILE.pattern})", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue; `catalogue.toml` explains the fields.

    Raises ValueError for what would be a danger: a file name that leaves the store, say.
    """

    alias: str
    file: str
    licence: str
    package: str | None = None
    module: str | None = None
    repository: str | None = None
    sha256: str | None = None
    size: int | None = None
    context: int | None = None
    drafter: str | None = None
    kept: str | None = None

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file):
            raise ValueError(f"{self.alias}: {self.file!r} is no plain name of a .gguf file")
        if (self.package is None) != (self.module is None) or (self.package is None) == (self.repository is None):
            raise ValueError(f"{self.alias}: name a repository, or a package and its module")
        if self.repository is not None and not _REPOSITORY.fullmatch(self.repository):
            raise ValueError(f"{self.alias}: {self.repository!r} is not ORGANISATION/NAME")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.alias}: {self.sha256!r} is no sha256")

    @property
    def stored_as(self) -> str:
        """The name of its file in our store; two repositories that are not listed may have files of one name."""
        return self.alias.replace("/", "--") if "/" in self.alias else self.file

    @property
    def tried(self) -> bool:
        """Whether we had the file in our hands, and its figures from there."""
        return self.sha256 is not None

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"package {self.package}" if self.package else f"{self.repository}"


@cache
def entries() -> dict[str, Entry]:
    """The catalogue by alias, in its order."""
    with (FOLDER / "catalogue.toml").open("rb") as file:
        listed = [Entry(**one) for one in tomllib.load(file)["model"]]
    return {entry.alias: entry for entry in listed}


def of_repository(name: str) -> Entry | None:
    """A model that the catalogue does not have, by ORGANISATION/NAME/FILE.gguf at Hugging Face."""
    parts = _OF_A_REPOSITORY.fullmatch(name)
    return Entry(name, parts[2], "licence: see its page", repository=parts[1]) if parts else None


def kept_lists() -> dict[str, Path]:
    """The lists of tokens that are shipped, by the names that the catalogue uses."""
    return {path.name.removesuffix(".kept.json"): path for path in sorted(FOLDER.glob("*.kept.json"))}
