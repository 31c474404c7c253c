"""The walk through a header: what was written comes back, and of damaged bytes one of our own errors, nothing worse."""

from __future__ import annotations

import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgespec.errors import EdgespecError, MalformedModel, ModelError, ModelNotFound
from edgespec.gguf.reader import BLOCKS, STRING, Array, Part, Tensor, malformed, walk
from tests.gguf_files import SOUND, TENSORS, Raw, RawTensor, encode, string, text

_SCALARS: dict[int, tuple[str, st.SearchStrategy[Any]]] = {
    0: ("<B", st.integers(0, 2**8 - 1)),
    1: ("<b", st.integers(-(2**7), 2**7 - 1)),
    2: ("<H", st.integers(0, 2**16 - 1)),
    3: ("<h", st.integers(-(2**15), 2**15 - 1)),
    4: ("<I", st.integers(0, 2**32 - 1)),
    5: ("<i", st.integers(-(2**31), 2**31 - 1)),
    6: ("<f", st.floats(width=32, allow_nan=False)),
    7: ("<?", st.booleans()),
    10: ("<Q", st.integers(0, 2**64 - 1)),
    11: ("<q", st.integers(-(2**63), 2**63 - 1)),
    12: ("<d", st.floats(allow_nan=False)),
}
_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_KEYS = _UNICODE.filter(lambda key: key not in ("", "general.alignment"))


def _scalars(kind: int) -> st.SearchStrategy[tuple[Raw, Any]]:
    layout, numbers = _SCALARS[kind]
    return numbers.map(lambda number: (Raw(kind, struct.pack(layout, number)), number))


def _arrays(kind: int) -> st.SearchStrategy[tuple[Raw, Any]]:
    layout, numbers = _SCALARS[kind]
    return st.lists(numbers, max_size=20).map(
        lambda found: (
            Raw(9, struct.pack("<IQ", kind, len(found)) + b"".join(struct.pack(layout, number) for number in found)),
            Array(kind, len(found)),
        )
    )


_VALUES = st.one_of(
    st.sampled_from(sorted(_SCALARS)).flatmap(_scalars),
    st.sampled_from(sorted(_SCALARS)).flatmap(_arrays),
    _UNICODE.map(lambda value: (text(value), value)),
)
"""A value as bytes, and what the walk makes of it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def _walked(folder: Path, data: bytes) -> Part:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return walk(path)


@given(values=st.dictionaries(_KEYS, _VALUES, max_size=8), version=st.sampled_from([2, 3]))
def test_metadata_comes_back_as_it_was_written(folder: Path, values: dict[str, tuple[Raw, Any]], version: int) -> None:
    part = _walked(folder, encode([(key, raw) for key, (raw, _) in values.items()], version=version))
    assert part.values == {key: expected for key, (_, expected) in values.items()}
    assert part.version == version
    assert list(part.values) == list(values), "in the order of the file"


@given(values=st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_spans_lie_end_to_end_and_hold_the_entries(folder: Path, values: dict[str, tuple[Raw, Any]]) -> None:
    data = encode([(key, raw) for key, (raw, _) in values.items()])
    part = _walked(folder, data)
    position = 24
    for key, (raw, _) in values.items():
        begin, end = part.spans[key]
        assert begin == position
        assert data[begin:end] == string(key) + struct.pack("<I", raw.type) + raw.payload
        position = end
    assert part.header_crc == zlib.crc32(data[: part.header_size])


def test_tensors_come_back_as_they_were_written(folder: Path) -> None:
    written = [RawTensor("größe", (2, 3, 4, 5), 0, 0), RawTensor("point", (), 1, 480), RawTensor("a" * 63, (7,), 99, 1)]
    part = _walked(folder, encode(SOUND, written))
    assert part.tensors == [Tensor(one.name, tuple(one.shape), one.type, one.offset) for one in written]
    assert part.size == (folder / "model.gguf").stat().st_size


_LENGTHS = st.one_of(st.integers(0, 12), st.sampled_from([0, 255, 256, 257, 4096, 70_000]))


@settings(max_examples=60)
@given(st.lists(_LENGTHS, max_size=200), st.sampled_from([b"\0", b"a", b"\xff", struct.pack("<Q", 3)]))
@example([3] * 30_000, b"a")  # longer than a window
@example([0] * 1000, b"a")
@example([5] * 100 + [70_000] + [5] * 700 + [0] + [5] * 100, b"\0")
def test_arrays_of_strings_are_stepped_over_whatever_is_in_them(folder: Path, lengths: list[int], fill: bytes) -> None:
    """Lengths are guessed by the window there, and the strings may look like lengths themselves."""
    payload = b"".join(string((fill * length)[:length]) for length in lengths)
    array = Raw(9, struct.pack("<IQ", 8, len(lengths)) + payload)
    part = _walked(folder, encode([*SOUND, ("words", array), ("after", text("found"))]))
    assert part.values["words"] == Array(STRING, len(lengths))
    assert part.values["after"] == "found"
    assert part.tensors[0].name == TENSORS[0].name


def test_a_file_cut_anywhere_in_its_header_is_refused(folder: Path) -> None:
    whole = encode()
    header = _walked(folder, whole).header_size
    for length in range(header):
        with pytest.raises(MalformedModel) as refused:
            _walked(folder, whole[:length])
        assert "\n" not in str(refused.value)
    assert _walked(folder, whole[:header]).header_size == header, "the data is no part of the walk"


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(encode()) - 4608 - 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_headers_are_read_or_refused_and_nothing_worse(folder: Path, damage: list[tuple[int, int]]) -> None:
    data = bytearray(encode())
    for place, byte in damage:
        data[place] = byte
    try:
        part = _walked(folder, bytes(data))
    except EdgespecError as error:
        assert len(str(error)) < 700
        assert "\n" not in str(error)
    else:
        assert part.header_size <= part.size


@given(st.binary(max_size=200))
def test_anything_after_the_magic_is_read_or_refused(folder: Path, data: bytes) -> None:
    try:
        part = _walked(folder, b"GGUF" + data)
    except MalformedModel:
        return
    assert part.header_size <= part.size


@given(st.sampled_from(sorted(BLOCKS)), st.integers(1, 8), st.lists(st.integers(1, 5), max_size=3))
def test_the_size_of_a_tensor_is_that_of_its_blocks(kind: int, blocks: int, rest: list[int]) -> None:
    elements, size = BLOCKS[kind]
    assert Tensor("t", (blocks * elements, *rest), kind, 0).size == blocks * prod(rest) * size
    if elements > 1:
        assert Tensor("t", (blocks * elements + 1, *rest), kind, 0).size is None, "no whole number of blocks"


def test_the_size_of_a_tensor_of_an_unknown_type_is_unknown() -> None:
    assert Tensor("t", (32, 4), 999, 0).size is None
    assert Tensor("t", (), 0, 0).size == 4, "a single number"
    assert Tensor("t", (0, 4), 0, 0).size == 0


@pytest.mark.parametrize("name", ["nowhere.gguf", "no/folder/model.gguf", "a\0b.gguf"])
def test_a_file_that_is_not_there(folder: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such file; check the path"):
        walk(folder / name)


def test_a_path_through_a_file_leads_to_none(folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    with pytest.raises(ModelNotFound):
        walk(folder / "file" / "model.gguf")


def test_what_the_system_refuses_is_said_in_its_words(folder: Path) -> None:
    with pytest.raises(ModelError, match="name too long; check its permissions"):
        walk(folder / ("x" * 5000))


def test_a_folder_and_a_pipe_are_no_models_and_nobody_waits_for_them(tmp_path: Path) -> None:
    with pytest.raises(MalformedModel, match=r"a directory; name a \.gguf file"):
        walk(tmp_path)
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(MalformedModel, match="not a file"):
        walk(pipe)


def test_what_a_file_puts_into_a_message_is_cut() -> None:
    error = malformed(Path("m.gguf"), "x" * 5000)
    assert str(error) == f"m.gguf: {'x' * 300}...; download or convert it again"
    assert str(malformed(Path("m.gguf"), "short", "do this")) == "m.gguf: short; do this"
