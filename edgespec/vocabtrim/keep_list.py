"""Keep lists: token ids in the order of their use, counted once for a family of models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.errors import InvalidRequest
from edgespec.system.files import read_json, write_json
from edgespec.vocabtrim.selection import TokenIds

KEEP_LIST_FORMAT = 1
"""Version of the keep list files."""


@dataclass(frozen=True, slots=True)
class KeepList:
    """`ids` in the order of their use, of the vocabulary with the hash `tokenizer`; `provenance`: their origin."""

    tokenizer: str
    ids: TokenIds
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the list to `path`, whole or not at all. Raises OSError."""
        value = {
            "format": KEEP_LIST_FORMAT,
            "kind": "kept tokens",
            "tokenizer": self.tokenizer,
            "made_from": self.provenance,
        }
        write_json(path, {**value, "ids": self.ids.tolist()})


def load_keep_list(path: Path) -> KeepList:
    """Read a keep list. Raises InvalidRequest where the file is missing or malformed."""
    if not path.is_file():
        raise InvalidRequest(f"{path}: no such file or list; calibrate and give --counts instead")
    data = read_json(path)
    try:
        if data["format"] != KEEP_LIST_FORMAT or data["kind"] != "kept tokens":
            raise ValueError("another format")
        ids = np.array(data["ids"], np.int64)
        if ids.ndim != 1 or not len(ids) or ids.min() < 0 or len(np.unique(ids)) < len(ids) or ids.max() >= 1 << 31:
            raise ValueError("ids that cannot be")
        return KeepList(str(data["tokenizer"]), ids.astype(np.int32), dict(data["made_from"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{path}: no list of kept tokens ({error})") from error
