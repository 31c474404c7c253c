"""Heads that contradict themselves or their target are refused before llama.cpp would end the process over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespec.errors import MalformedModel, UnsupportedModel
from edgespec.gguf.eagle3 import Eagle3Header, read_eagle3
from tests.gguf_files import Raw, strings, text, tiny_model, u32
from tests.heads.eagle_files import Shape, integers, random_weights, write_head

SHAPE = Shape(32, 32, heads=4, heads_kv=2, feed_forward=64, n_kept=100)
N_VOCAB = 320


def read(path: Path, hidden_size: int = 32, n_vocab: int = N_VOCAB) -> Eagle3Header:
    return read_eagle3(path, target="target.gguf", hidden_size=hidden_size, n_vocab=n_vocab)


def written(folder: Path, tensors: dict[str, Any] | None = None, shape: Shape = SHAPE, **more: Any) -> Path:
    target = tiny_model(folder / "target.gguf")
    weights = {**random_weights(shape, N_VOCAB), **(tensors or {})}
    kept = {name: value for name, value in weights.items() if value is not None}
    return write_head(folder / "head.gguf", target, shape, kept, **more)


def test_a_sound_head(tmp_path: Path) -> None:
    header = read(written(tmp_path, kind="F16"))
    assert (header.hidden_size, header.state_width, header.layers) == (32, 96, (0, 1, 1))
    assert np.array_equal(header.kept_ids, random_weights(SHAPE, N_VOCAB)["d2t"])


@pytest.mark.parametrize("state_size", [11, 12, 16, 31])
def test_a_last_state_may_be_filled_up(tmp_path: Path, state_size: int) -> None:
    header = read(written(tmp_path, shape=SHAPE._replace(state_size=state_size)))
    assert header.layers == () and header.state_width == 3 * state_size


@pytest.mark.parametrize("state_size", [10, 43, 64])
def test_states_of_another_width_are_another_targets(tmp_path: Path, state_size: int) -> None:
    path = written(tmp_path, shape=SHAPE._replace(state_size=state_size))
    with pytest.raises(UnsupportedModel, match=rf"for states of 3 x {state_size} numbers, and target\.gguf gives 32"):
        read(path)


def test_other_vocabularies_and_embeddings_are_another_targets(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"a head for a vocabulary of 320 tokens, and target\.gguf has 321"):
        read(path, n_vocab=321)
    shape = SHAPE._replace(hidden_size=64)
    path = written(tmp_path, shape=shape, tensors=random_weights(shape, N_VOCAB))
    with pytest.raises(UnsupportedModel, match=r"a head for embeddings of 64 numbers, and target\.gguf has 32"):
        read(path)


def test_other_files_are_no_heads(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'llama' is no eagle3 head"):
        read(tiny_model(tmp_path / "model.gguf"))
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(MalformedModel, match="incomplete"):
        read(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eagle3.block_count", u32(2), "block_count is 2"),
        ("eagle3.nextn_predict_layers", u32(1), "nextn_predict_layers is 1"),
        ("eagle3.pooling_type", u32(1), "an embedding model|pooling_type is 1"),
        ("eagle3.attention.head_count", u32(0), "head_count is 0"),
        ("eagle3.attention.head_count_kv", u32(3), "cannot share 3 keys"),
        ("eagle3.attention.head_count_kv", u32(0), "cannot share 0 keys"),
        ("eagle3.attention.key_length", u32(16), "differ in length"),
        ("eagle3.rope.dimension_count", u32(7), "rope.dimension_count is 7"),
        ("eagle3.rope.dimension_count", u32(10), "rope.dimension_count is 10"),
        ("eagle3.embedding_length_out", u32(64), "embedding_length_out"),
        ("eagle3.embedding_length", None, "embedding_length is missing"),
        ("eagle3.target_hidden_size", None, "target_hidden_size is missing"),
        ("eagle3.target_hidden_size", text("many"), "'many', not a number"),
        ("eagle3.target_layers", None, "target_layers is missing"),
        ("eagle3.target_layers", integers([0, 1]), "names 2 layers"),
        ("eagle3.target_layers", strings("0", "1", "1"), "target_layers is missing or no array of numbers"),
        ("eagle3.expert_used_count", u32(4), "experts"),
        ("tokenizer.ggml.tokens", None, "vocabulary of 0 tokens"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, key: str, value: Raw | None, message: str) -> None:
    path = written(tmp_path, metadata={key: value})
    with pytest.raises((MalformedModel, UnsupportedModel), match=message):
        read(path)


KEPT = np.arange(100, dtype=np.int64)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"output.weight": None}, "no output layer, and that of the target has other rows"),
        ({"d2t": KEPT[:50]}, "no integer for each row"),
        ({"d2t": KEPT.astype(np.float32)}, "d2t has the type 0"),
        ({"d2t": KEPT + 221}, "lists no tokens from 0 to 319"),
        ({"d2t": KEPT - 1}, "lists no tokens"),
        ({"d2t": KEPT // 2}, "not differences"),
        ({"token_embd.weight": np.zeros((319, 32), np.float32)}, "embeddings have the shape"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict[str, Any], message: str) -> None:
    path = written(tmp_path, tensors=tensors)
    with pytest.raises(MalformedModel, match=message):
        read(path)


def test_vectors_are_32_bit_floats(tmp_path: Path) -> None:
    path = written(tmp_path, tensors={"output_norm.weight": np.ones(32, np.float16)})
    with pytest.raises(MalformedModel, match=r"the vector 'output_norm\.weight' has the type 1"):
        read(path)
