"""Entries read where the walk found them, and written so that they are found again."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import MalformedModel
from edgespec.gguf.metadata import encoded, encoded_u64, entry, numbers, strings, unpadded
from edgespec.gguf.reader import Part, walk
from tests.gguf_files import SOUND, Raw, encode, string, text, u32

_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metadata")


def _with(folder: Path, *values: tuple[str, Raw]) -> Part:
    path = folder / "model.gguf"
    path.write_bytes(encode([*SOUND, *values]))
    return walk(path)


def _written(folder: Path, data: bytes) -> Part:
    """A file with one entry, which is `data`."""
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + data)
    return walk(path)


@given(key=_UNICODE.filter(bool), value=_UNICODE)
def test_texts_written_are_read_again(folder: Path, key: str, value: str) -> None:
    if key == "general.alignment":
        return
    data = encoded(key, value)
    part = _written(folder, data)
    assert part.values == {key: value}
    assert entry(part, key) == data


@given(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**32 - 1, 2**32, 2**64 - 1])))
def test_whole_numbers_written_are_read_again(folder: Path, value: int) -> None:
    part = _written(folder, encoded("number", value))
    assert part.values == {"number": value}
    (kind,) = struct.unpack("<I", entry(part, "number")[8 + 6 : 8 + 6 + 4])
    assert kind == (4 if value < 2**32 else 10), "32 bits where they suffice: llama.cpp asks for that type"


def test_a_number_that_does_not_fit_is_an_error_and_no_other_number() -> None:
    for value in (-1, 2**64):
        with pytest.raises(struct.error):
            encoded("number", value)


@given(st.integers(0, 2**64 - 1))
def test_an_entry_of_64_bits_is_always_as_long(folder: Path, value: int) -> None:
    data = encoded_u64("offset", value)
    assert len(data) == len(encoded_u64("offset", 0))
    assert _written(folder, data).values == {"offset": value}


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))
def test_arrays_written_are_read_again(folder: Path, ids: list[int]) -> None:
    for value in (ids, np.array(ids, np.int32)):
        part = _written(folder, encoded("ids", value))
        assert numbers(part, "ids").tolist() == ids


@pytest.mark.parametrize(
    ("kind", "layout", "values"),
    [
        (0, "B", [0, 255]),
        (1, "b", [-128, 127]),
        (2, "H", [0, 65535]),
        (3, "h", [-32768, 32767]),
        (4, "I", [0, 2**32 - 1]),
        (5, "i", [-(2**31), 2**31 - 1]),
        (6, "f", [0.5, -1.5]),
        (7, "?", [True, False]),
        (10, "Q", [0, 2**64 - 1]),
        (11, "q", [-(2**63), 2**63 - 1]),
        (12, "d", [0.1, -1e300]),
    ],
)
def test_arrays_of_every_type_of_number(folder: Path, kind: int, layout: str, values: list[object]) -> None:
    raw = Raw(9, struct.pack("<IQ", kind, len(values)) + struct.pack(f"<{len(values)}{layout}", *values))
    assert numbers(_with(folder, ("array", raw), ("after", u32(1))), "array").tolist() == values


@pytest.mark.parametrize("value", [u32(3), text("3"), Raw(9, struct.pack("<IQ", 8, 0)), None])
def test_what_is_no_array_of_numbers_is_refused(folder: Path, value: Raw | None) -> None:
    part = _with(folder, *([("array", value)] if value else []))
    with pytest.raises(MalformedModel, match="array is missing or no array of numbers; download or convert it again"):
        numbers(part, "array")


@pytest.mark.parametrize("value", [u32(3), text("3"), Raw(9, struct.pack("<IQI", 4, 1, 7)), None])
def test_what_is_no_list_of_texts_is_refused(folder: Path, value: Raw | None) -> None:
    part = _with(folder, *([("words", value)] if value else []))
    with pytest.raises(MalformedModel, match="words is missing or no list of texts"):
        strings(part, "words")


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_lists_of_texts_come_back_undecoded(folder: Path, words: list[bytes]) -> None:
    raw = Raw(9, struct.pack("<IQ", 8, len(words)) + b"".join(map(string, words)))
    assert strings(_with(folder, ("wörter", raw), ("after", u32(1))), "wörter") == words


def test_there_is_no_entry_where_there_is_none(folder: Path) -> None:
    with pytest.raises(KeyError):
        entry(_with(folder), "nothing")


def test_a_file_that_shrinks_after_the_walk_is_noticed(folder: Path) -> None:
    part = _with(folder, ("last", text("x" * 100)))
    part.path.write_bytes(part.path.read_bytes()[: part.spans["last"][1] - 1])
    with pytest.raises(MalformedModel, match="changed while it was read; wait until its download is complete"):
        entry(part, "last")


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([], 0),
        ([b"a"], 1),
        ([b"a", b"[PAD1]"], 1),
        ([b"[PAD0]", b"[PAD1]"], 0),
        ([b"[PAD0]", b"a", b"[PAD2]", b"[PAD3]"], 2),
        ([b"a", b"[PAD]"], 2),
        ([b"a", b"[PAD1] "], 2),
        ([b"a", b"<|dummy_7|>", b"<dummy00001>"], 1),
        ([b"a", b""], 2),
    ],
)
def test_padding_is_left_out_at_the_end_alone(texts: list[bytes], kept: int) -> None:
    assert unpadded(texts) == texts[:kept]
    assert unpadded(unpadded(texts)) == texts[:kept]
