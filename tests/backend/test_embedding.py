"""Rows of an embedding matrix as numbers: the very ones that gguf's own dequantizing gives."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from edgespec.backend import EmbeddingTable, embedding
from edgespec.errors import UnsupportedModel
from edgespec.gguf.reader import BLOCKS

ROWS, COLUMNS, OFFSET = 12, 64, 96
_Q = gguf.GGMLQuantizationType


def _file(folder: Path, kind: gguf.GGMLQuantizationType) -> tuple[Path, npt.NDArray[np.float32], int]:
    """A file with the matrix somewhere in it; what its numbers are; the bytes of a row."""
    numbers = np.random.default_rng(3).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    raw = gguf.quants.quantize(numbers, kind)
    path = folder / "table.bin"
    path.write_bytes(b"\xaa" * OFFSET + raw.tobytes() + b"\xbb" * 7)
    expected = np.asarray(gguf.quants.dequantize(raw, kind), np.float32).reshape(ROWS, COLUMNS)
    return path, expected, raw.nbytes // ROWS


def _table(path: Path, kind: int, row_bytes: int, architecture: str = "llama") -> EmbeddingTable:
    return EmbeddingTable(
        path, offset=OFFSET, kind=kind, row_bytes=row_bytes, rows=ROWS, columns=COLUMNS, architecture=architecture
    )


def _filled(table: EmbeddingTable, tokens: list[int]) -> npt.NDArray[np.float32]:
    vectors = np.full((len(tokens), COLUMNS), np.nan, np.float32)
    table.fill(tokens, vectors)
    return vectors


@pytest.mark.parametrize("kind", [_Q.F32, _Q.F16, _Q.BF16, _Q.Q4_0, _Q.Q4_1, _Q.Q5_0, _Q.Q5_1, _Q.Q8_0], ids=str)
def test_rows_are_read_as_the_numbers_they_are(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    path, expected, row_bytes = _file(tmp_path, kind)
    elements, size = BLOCKS[int(kind)]
    assert row_bytes == COLUMNS // elements * size
    table = _table(path, int(kind), row_bytes)
    assert (table.rows, table.columns) == (ROWS, COLUMNS)
    assert np.allclose(_filled(table, list(range(ROWS))), expected, rtol=1e-6, atol=1e-7)


def test_rows_come_in_any_order_and_as_often_as_wanted(tmp_path: Path) -> None:
    path, expected, row_bytes = _file(tmp_path, _Q.Q8_0)
    tokens = [11, 0, 11, 5, 5, 0]
    table = _table(path, int(_Q.Q8_0), row_bytes)
    assert np.array_equal(_filled(table, tokens), _filled(table, tokens))
    assert np.allclose(_filled(table, tokens), expected[tokens])
    assert _filled(table, []).shape == (0, COLUMNS)


def test_what_is_written_over_a_vector_does_not_come_back(tmp_path: Path) -> None:
    path, expected, row_bytes = _file(tmp_path, _Q.F32)
    table = _table(path, int(_Q.F32), row_bytes)
    vectors = _filled(table, [4])
    vectors *= 0.0
    assert np.array_equal(_filled(table, [4])[0], expected[4])


def test_more_rows_than_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_MAX_CACHED_ROWS", 3)
    path, expected, row_bytes = _file(tmp_path, _Q.F16)
    table = _table(path, int(_Q.F16), row_bytes)
    tokens = [*range(ROWS), *range(ROWS)]
    assert np.array_equal(_filled(table, tokens), expected[tokens])


@pytest.mark.parametrize(("architecture", "scale"), [("gemma3", 8.0), ("llama", 1.0), ("qwen2", 1.0)])
def test_vectors_are_scaled_where_llama_cpp_scales_the_embeddings_of_tokens(
    tmp_path: Path, architecture: str, scale: float
) -> None:
    path, expected, row_bytes = _file(tmp_path, _Q.F32)
    found = _filled(_table(path, int(_Q.F32), row_bytes, architecture), [2, 2])
    assert np.allclose(found, scale * expected[[2, 2]])


def test_a_type_that_is_no_number_for_ggml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.bin"
    path.write_bytes(bytes(OFFSET + ROWS * COLUMNS))
    with pytest.raises(UnsupportedModel, match="embeddings of ggml type 24 cannot be read as numbers"):
        _table(path, 24, COLUMNS)


def test_a_table_that_is_not_all_there_is_not_read(tmp_path: Path) -> None:
    path, _, row_bytes = _file(tmp_path, _Q.F32)
    path.write_bytes(path.read_bytes()[: OFFSET + ROWS * row_bytes - 1])
    with pytest.raises(ValueError, match="buffer is smaller"):
        _table(path, int(_Q.F32), row_bytes)


def test_a_row_that_there_is_not(tmp_path: Path) -> None:
    path, _, row_bytes = _file(tmp_path, _Q.F32)
    with pytest.raises(IndexError):
        _filled(_table(path, int(_Q.F32), row_bytes), [ROWS])
