"""What a token reads of a model's weights, whole and trimmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.gguf.reader import Part, Tensor
from edgespec.vocabtrim.sizes import Sizes, mbsu, per_token, per_token_trimmed

EMBEDDINGS = Tensor("token_embd.weight", (32, 100), 0, 0)
OUTPUT = Tensor("output.weight", (32, 100), 8, 0)  # Q8_0: 34 bytes for 32 numbers
QUERY = Tensor("blk.0.attn_q.weight", (32, 32), 1, 0)  # F16
NORM = Tensor("output_norm.weight", (32,), 0, 0)


def _part(*tensors: Tensor) -> Part:
    return Part(Path("m.gguf"), 3, {}, {}, list(tensors), 0, 0, 0)


def test_of_the_embeddings_a_token_reads_only_its_own_row() -> None:
    assert per_token(_part(EMBEDDINGS, OUTPUT, QUERY, NORM)) == Sizes(3200 + 1024 + 32, 100 * 34 + 1024 * 2 + 32 * 4)


def test_unless_they_are_the_output_layer_too() -> None:
    assert per_token(_part(EMBEDDINGS, QUERY)) == Sizes(3200 + 1024, 3200 * 4 + 1024 * 2)


def test_a_type_that_nobody_knows_counts_as_4_bytes() -> None:
    assert per_token(_part(EMBEDDINGS, Tensor("new", (7, 3), 999, 0))) == Sizes(3221, 3221 * 4)
    assert per_token(_part()) == Sizes(0, 0)


@given(st.integers(1, 100), st.booleans())
def test_a_trimmed_model_is_as_large_as_one_of_so_many_rows(kept: int, tied: bool) -> None:
    whole = _part(EMBEDDINGS, QUERY, *([] if tied else [OUTPUT]))
    trimmed = replace(
        whole,
        tensors=[t if t is QUERY else t._replace(shape=(32, kept)) for t in whole.tensors],
    )
    assert per_token_trimmed(whole, kept) == per_token(trimmed)


def test_keeping_all_is_keeping_it_whole() -> None:
    whole = _part(EMBEDDINGS, OUTPUT, QUERY)
    assert per_token_trimmed(whole, 100) == per_token(whole)


@pytest.mark.parametrize(
    ("length", "share", "drafted", "speed_up"),
    [(1.0, 0.5, 0.0, 1.0), (3.0, 0.1, 5.0, 2.0), (2.0, 1.0, 1.0, 1.0), (4.0, 0.0, 100.0, 4.0)],
)
def test_memory_bound_speed_up(length: float, share: float, drafted: float, speed_up: float) -> None:
    assert mbsu(length, share, drafted) == pytest.approx(speed_up)
