"""Lists of tokens worth keeping: what is saved is loaded, and what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.vocabtrim.keep_list import KeepList, load_keep_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20, unique=True))
def test_what_is_saved_is_loaded_in_its_order(folder: Path, ids: list[int]) -> None:
    KeepList("häsh", np.array(ids, np.int32), {"texts": 3}).save(folder / "k.json")
    found = load_keep_list(folder / "k.json")
    assert found.ids.tolist() == ids
    assert found.ids.dtype == np.int32
    assert (found.tokenizer, found.provenance) == ("häsh", {"texts": 3})


def _stored(**changes: Any) -> dict[str, Any]:
    sound = {"format": 1, "kind": "kept tokens", "tokenizer": "h", "made_from": {}, "ids": [3, 1]}
    return {key: value for key, value in {**sound, **changes}.items() if value is not ...}


def test_the_sound_one_is_sound(folder: Path) -> None:
    (folder / "k.json").write_text(json.dumps(_stored()), encoding="utf-8")
    assert load_keep_list(folder / "k.json").ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        3,
        {},
        *(_stored(**{key: ...}) for key in _stored()),
        _stored(format=2),
        _stored(kind="counts"),
        _stored(made_from=3),
        _stored(ids=[]),
        _stored(ids=3),
        _stored(ids=None),
        _stored(ids="12"),
        _stored(ids=[[1, 2]]),
        _stored(ids=[1, [2]]),
        _stored(ids=[1, 1]),
        _stored(ids=[-1]),
        _stored(ids=[2**31]),
        _stored(ids=[2**80]),
        _stored(ids=["a"]),
    ],
    ids=lambda stored: json.dumps(stored)[-60:],
)
def test_what_is_no_list_is_refused(folder: Path, stored: Any) -> None:
    (folder / "k.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InvalidRequest, match=r"k\.json: no list of kept tokens"):
        load_keep_list(folder / "k.json")


def test_a_list_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file or list; calibrate and give --counts instead"):
        load_keep_list(folder / "qwen99")
