"""What a trimmed file says of itself: read as it was written, and refused where it cannot be."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import MalformedModel
from edgespec.gguf.reader import Part, walk
from edgespec.vocabtrim.format import KEY_PREFIX, EmbeddingTableSpec, Trimming, trimming_of
from tests.gguf_files import SOUND, Raw, RawTensor, encode, text, u32

COLUMNS, FULL = 32, 9
KEPT = [0, 3, 8]


def _entries(
    kept: list[int] = KEPT, *, full: int = FULL, kind: int = 0, offset: int = 4096, counts: dict[str, Any] | None = None
) -> list[tuple[str, Raw]]:
    """The entries that `Trimming.entries` gives, as a test's file takes them."""
    table = EmbeddingTableSpec(0, kind, full, COLUMNS)
    trimming = Trimming(np.array(kept, np.int32), full, "größe.gguf", "ab" * 32, counts or {}, table)
    found = []
    for data in trimming.metadata_entries("gpt2", offset):
        (length,) = struct.unpack_from("<Q", data)
        (value_type,) = struct.unpack_from("<I", data, 8 + length)
        found.append((data[8 : 8 + length].decode(), Raw(value_type, data[8 + length + 4 :])))
    return found


def _walked(folder: Path, entries: list[tuple[str, Raw]], rows: int = len(KEPT), data: int = 16_384) -> Part:
    path = folder / "trimmed.gguf"
    path.write_bytes(encode([*SOUND, *entries], [RawTensor(shape=(COLUMNS, rows))], data=data))
    return walk(path)


def _but(key: str, value: Raw | None) -> list[tuple[str, Raw]]:
    """The entries with one replaced or left out."""
    rest = [(name, raw) for name, raw in _entries() if name != f"{KEY_PREFIX}{key}"]
    return rest if value is None else [*rest, (f"{KEY_PREFIX}{key}", value)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("format")


@given(
    st.sets(st.integers(0, 50), min_size=1, max_size=20).map(sorted),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(), max_size=3),
)
def test_what_is_written_is_read(folder: Path, kept: list[int], counts: dict[str, Any]) -> None:
    found = trimming_of(_walked(folder, _entries(kept, full=51, counts=counts), rows=len(kept)))
    assert found is not None
    assert found.kept_ids.tolist() == kept
    assert (found.full_vocab, found.source_name, found.source_sha256) == (51, "größe.gguf", "ab" * 32)
    assert found.provenance == counts
    assert found.table == EmbeddingTableSpec(4096, 0, 51, COLUMNS)


def test_a_full_model_is_not_trimmed(folder: Path) -> None:
    assert trimming_of(_walked(folder, [])) is None


def test_the_size_of_the_entries_does_not_depend_on_where_the_table_is() -> None:
    trimming = Trimming(np.array(KEPT, np.int32), FULL, "m", "s", {}, EmbeddingTableSpec(0, 0, FULL, COLUMNS))
    sizes = {sum(map(len, trimming.metadata_entries("gpt2", offset))) for offset in (0, 1 << 33, (1 << 62) - 1)}
    assert len(sizes) == 1


@pytest.mark.parametrize(("kind", "size"), [(0, 128), (1, 64), (8, 34), (2, 18)])
def test_the_bytes_of_a_row(kind: int, size: int) -> None:
    assert EmbeddingTableSpec(0, kind, 5, 32).row_bytes == size


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (_but("format", u32(2)), "trimmed in format 2, and 1 can be read; trim it again"),
        (_but("format", text("1")), "trimmed in format 1"),
        (_but("kept_ids", None), "kept_ids is missing or no array of numbers"),
        (_but("kept_ids", u32(3)), "kept_ids is missing or no array of numbers"),
        (_entries([0, 3]), "keeps 2 tokens, and its embeddings have the shape .32, 3."),
        (_entries([0, 3, 3]), "are not ascending ids below 9"),
        (_entries([3, 0, 8]), "are not ascending ids below 9"),
        (_entries([0, 3, 9]), "are not ascending ids below 9"),
        (_entries([-1, 3, 8]), "are not ascending ids below 9"),
        (_but("full_vocab", None), "edgespec.trim.full_vocab is None, not a number"),
        (_but("full_vocab", text("9")), "full_vocab is '9', not a number"),
        (_but("full_vocab", Raw(7, b"\1")), "full_vocab is True, not a number"),
        (_but("embedding_offset", Raw(11, struct.pack("<q", -1))), "embedding_offset is -1, not a number"),
        (_but("embedding_offset", Raw(10, struct.pack("<Q", 1 << 62))), "not a number"),
        (_but("embedding_type", u32(999)), "has embeddings of the type 999, which is unknown here"),
        (_but("embedding_type", u32(12)), "has embeddings of the type 12"),  # blocks of 256, and 32 columns
        (_entries(offset=10), "its table of embeddings is not complete"),  # within the header
        (_entries(offset=1 << 40), "its table of embeddings is not complete"),
        (_entries(full=10_000), "its table of embeddings is not complete"),
        (_but("counts", text("{")), "edgespec.trim.counts is no JSON object"),
        (_but("counts", text("[]")), "edgespec.trim.counts is no JSON object"),
    ],
)
def test_nonsense_is_refused(folder: Path, entries: list[tuple[str, Raw]], says: str) -> None:
    with pytest.raises(MalformedModel, match=says):
        trimming_of(_walked(folder, entries))


def test_a_file_cut_within_its_table_is_refused(folder: Path) -> None:
    part = _walked(folder, _entries())
    end = 4096 + FULL * COLUMNS * 4
    whole = part.path.read_bytes()
    for length, sound in ((end, True), (end - 1, False)):
        part.path.write_bytes(whole[:length])
        if sound:
            assert trimming_of(walk(part.path)) is not None
        else:
            with pytest.raises(MalformedModel, match="not complete"):
                trimming_of(walk(part.path))


@pytest.mark.parametrize("key", ["source_name", "source_sha256", "counts", "tokenizer"])
def test_where_it_comes_from_may_be_missing(folder: Path, key: str) -> None:
    found = trimming_of(_walked(folder, _but(key, None)))
    assert found is not None
    assert found.kept_ids.tolist() == KEPT
