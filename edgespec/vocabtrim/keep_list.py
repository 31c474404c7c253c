"""Lists of tokens worth keeping, made once for a family of models and shipped: no calibration is needed then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.errors import InvalidRequest
from edgespec.system.files import read_json, write_json
from edgespec.vocabtrim.selection import Ids

FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeptList:
    """`ids`, the one most worth keeping first, of the vocabulary with that hash; `told`: what they were counted in."""

    tokenizer: str
    ids: Ids
    told: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises OSError."""
        value = {"format": FORMAT, "kind": "kept tokens", "tokenizer": self.tokenizer, "made_from": self.told}
        write_json(path, {**value, "ids": self.ids.tolist()})


def load_kept(path: Path) -> KeptList:
    """A list from a file. Raises InvalidRequest where there is none or it is something else."""
    if not path.is_file():
        raise InvalidRequest(f"{path}: no such file or list; calibrate and give --counts instead")
    data = read_json(path)
    try:
        if data["format"] != FORMAT or data["kind"] != "kept tokens":
            raise ValueError("another format")
        ids = np.array(data["ids"], np.int64)
        if ids.ndim != 1 or not len(ids) or ids.min() < 0 or len(np.unique(ids)) < len(ids) or ids.max() >= 1 << 31:
            raise ValueError("ids that cannot be")
        return KeptList(str(data["tokenizer"]), ids.astype(np.int32), dict(data["made_from"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{path}: no list of kept tokens ({error})") from error
