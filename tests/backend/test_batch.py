"""What an evaluation is given: tokens or vectors, positions, and which rows are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.backend.batch import Batch, Node
from edgespec.backend.embedding import EmbeddingTable

CAPACITY, COLUMNS, ROWS, SEQUENCES = 16, 4, 9, 5


def _array(pointer: Any, count: int) -> list[int]:
    return [int(pointer[place]) for place in range(count)]


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(CAPACITY, None, SEQUENCES)


@given(st.data())
def test_tokens_positions_and_rows(batch: Batch, data: st.DataObject) -> None:
    """One batch for all: nothing is left of what was in it before."""
    tokens = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=CAPACITY))
    position = data.draw(st.integers(0, 100_000))
    rows = data.draw(st.integers(0, len(tokens)))
    sequence = data.draw(st.integers(0, SEQUENCES - 1))
    filled = batch.fill(tokens, position, rows, sequence)
    count = len(tokens)
    assert filled.n_tokens == count
    assert _array(filled.token, count) == tokens
    assert _array(filled.pos, count) == list(range(position, position + count))
    assert _array(filled.logits, count) == [0] * (count - rows) + [1] * rows
    assert _array(filled.n_seq_id, count) == [1] * count
    assert {int(filled.seq_id[place][0]) for place in range(count)} == {sequence}


@given(st.data())
def test_nodes_have_several_sequences(batch: Batch, data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, SEQUENCES - 1), min_size=1, max_size=SEQUENCES, unique=True)
    nodes = data.draw(
        st.lists(st.builds(Node, st.integers(0, 2**31 - 1), st.integers(0, 99), ids, st.booleans()), max_size=CAPACITY)
    )
    filled = batch.fill_nodes(nodes)
    count = len(nodes)
    assert filled.n_tokens == count
    found = [
        Node(
            filled.token[i],
            filled.pos[i],
            [filled.seq_id[i][j] for j in range(filled.n_seq_id[i])],
            bool(filled.logits[i]),
        )
        for i in range(count)
    ]
    assert found == nodes
    batch.fill([7, 8], 0, 2, 3)
    assert _array(filled.n_seq_id, 2) == [1, 1] and _array(filled.seq_id[1], 1) == [3]


@pytest.fixture
def table(tmp_path: Path) -> tuple[EmbeddingTable, npt.NDArray[np.float32]]:
    numbers = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    (tmp_path / "t").write_bytes(numbers.tobytes())
    return (
        EmbeddingTable(
            tmp_path / "t", offset=0, kind=0, row_bytes=4 * COLUMNS, rows=ROWS, columns=COLUMNS, architecture="llama"
        ),
        numbers,
    )


def test_vectors_go_in_where_tokens_have_no_row(table: tuple[EmbeddingTable, npt.NDArray[np.float32]]) -> None:
    inputs, numbers = table
    batch = Batch(CAPACITY, inputs)
    filled = batch.fill([3, 8, 3], 5, 1)
    assert not filled.token, "vectors or tokens, never both"
    vectors = np.ctypeslib.as_array(filled.embd, (3, COLUMNS))
    assert np.array_equal(vectors, numbers[[3, 8, 3]])
    assert _array(filled.pos, 3) == [5, 6, 7]
    assert _array(filled.logits, 3) == [0, 0, 1]
    batch.close()


def test_more_than_its_capacity_is_an_error(batch: Batch) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        batch.fill([1] * (CAPACITY + 1), 0, 1)


def test_closing_twice_frees_once() -> None:
    batch = Batch(4, None)
    batch.close()
    batch.close()
