"""The catalogue of models: file, source, licence, sha256, size."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from edgespec.hub.address import shards

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HUB_FOLDER = Path(__file__).parent
DEFAULT_ALIAS = "smollm2-135m"
"""The model that is used where none is named."""

_FILE_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)*[A-Za-z0-9][\w.-]*\.gguf", re.ASCII)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REPOSITORY_FILE = re.compile(rf"({_REPOSITORY.pattern})/({_FILE_NAME.pattern})", re.ASCII)
_VARIANT = re.compile(r"([-._](I?Q[1-8]\w*|TQ\d\w*|MXFP4\w*|B?F16|F32)|-\d{5}-of-\d{5})$", re.ASCII | re.IGNORECASE)
"""What names of files say at their end of the quantization and of the part."""
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue; `catalogue.toml` explains the fields.

    Raises ValueError for unsafe values: a file name that leads out of the store, say.
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
    sampling: Mapping[str, float | bool] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not _FILE_NAME.fullmatch(self.file) or ("/" in self.file and "/" not in self.alias):
            raise ValueError(f"{self.alias}: {self.file!r} is no plain name of a .gguf file")
        if (self.package is None) != (self.module is None) or (self.package is None) == (self.repository is None):
            raise ValueError(f"{self.alias}: name a repository, or a package and its module")
        if self.repository is not None and not _REPOSITORY.fullmatch(self.repository):
            raise ValueError(f"{self.alias}: {self.repository!r} is not ORGANISATION/NAME")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.alias}: {self.sha256!r} is no sha256")

    @property
    def stored_as(self) -> str:
        """The file's name in the store; the repository is part of it for models outside the catalogue."""
        organisation, slash, rest = self.alias.partition("/")
        name, _, file = rest.partition("/")
        return f"{organisation}--{name}--{file.replace('/', '+')}" if slash else self.file

    @property
    def shards(self) -> tuple[Entry, ...]:
        """An entry for each file of a split model, the first one's first; of a whole one, this entry."""
        head = self.alias.removesuffix(self.file)
        if not self.repository or head == self.alias:
            return (self,)
        return tuple(
            self if file == self.file else replace(self, alias=head + file, file=file, size=None, sha256=None)
            for file in shards(self.file)
        )

    @property
    def tried(self) -> bool:
        """Whether the file was tested; its sha256 and size are known then."""
        return self.sha256 is not None

    @property
    def source(self) -> str:
        """The package or the repository, as text."""
        return f"package {self.package}" if self.package else f"{self.repository}"


@cache
def entries() -> dict[str, Entry]:
    """The entries of the catalogue by alias, in its order."""
    with (HUB_FOLDER / "catalogue.toml").open("rb") as file:
        listed = [Entry(**fields) for fields in tomllib.load(file)["model"]]
    return {entry.alias: entry for entry in listed}


def entry_of_repository(name: str) -> Entry | None:
    """An entry for ORGANISATION/NAME/[FOLDER/]FILE.gguf at Hugging Face; None for any other name."""
    parts = _REPOSITORY_FILE.fullmatch(name)
    return Entry(name, parts[2], "licence: see its page", repository=parts[1]) if parts else None


def entry_of_file(path: Path) -> Entry | None:
    """The entry of the model in a file of this name, in whatever quantization; None where the catalogue has none."""
    model = _model_name(path.name)
    return next((entry for entry in entries().values() if _model_name(entry.file) == model), None)


def _model_name(file: str) -> str:
    """The name of a file without folder of the store, quantization and part, in small letters."""
    name = Path(file).stem.rpartition("--")[2]
    while (shorter := _VARIANT.sub("", name)) != name:
        name = shorter
    return name.lower()


def shipped_keep_lists() -> dict[str, Path]:
    """The files of the keep lists that ship with edgespec, by the names that the catalogue uses."""
    return {path.name.removesuffix(".kept.json"): path for path in sorted(HUB_FOLDER.glob("*.kept.json"))}
