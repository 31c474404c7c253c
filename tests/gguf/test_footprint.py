"""What a model takes, by its file: the sizes that llama.cpp then allocates."""

from __future__ import annotations

import logging
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgespec.backend import KV_TYPES, LlamaContext, LlamaModel
from edgespec.gguf.footprint import Footprint, footprint
from edgespec.gguf.validate import read_header
from tests.gguf_files import TENSORS, RawTensor, changed, encode, text, tiny_model, u32

MIB = 1 << 20


def allocated(path: Path, n_ctx: int, kv_type: str, caplog: pytest.LogCaptureFixture) -> float:
    """The bytes of the KV cache that llama.cpp says it allocates."""
    with caplog.at_level(logging.DEBUG, "edgespec.llama_cpp"), closing(LlamaModel(path)) as model:
        caplog.clear()
        LlamaContext(model, n_ctx=n_ctx, threads=1, kv_type=kv_type).close()
    return MIB * sum(float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", caplog.text))


@pytest.mark.parametrize("kv_type", ["f16", "f32", "f16+bf16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen2vl", "qwen3", "gemma", "gemma2", "gemma3"])
def test_the_kv_cache_is_as_long_as_llama_cpp_makes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, architecture: str, kv_type: str
) -> None:
    window = {f"{architecture}.attention.sliding_window": 64} if architecture in ("gemma2", "gemma3") else {}
    path = tiny_model(tmp_path / "tiny.gguf", architecture=architecture, tied=True, metadata=window)
    expected = footprint(read_header(path)).kv_cache(40_000, KV_TYPES[kv_type])
    assert allocated(path, 40_000, kv_type, caplog) == pytest.approx(expected, abs=0.01 * MIB)


@pytest.mark.model
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_the_kv_cache_of_a_real_model(smollm2: Path, caplog: pytest.LogCaptureFixture, kv_type: str) -> None:
    model = footprint(read_header(smollm2))
    assert allocated(smollm2, 2000, kv_type, caplog) == pytest.approx(
        model.kv_cache(2000, KV_TYPES[kv_type]), abs=0.01 * MIB
    )
    assert model.weights == pytest.approx(smollm2.stat().st_size, rel=0.05)


LATENT = (
    RawTensor("token_embd.weight", (32, 4)),
    RawTensor("blk.0.attn_kv_a_mqa.weight", (32, 24), offset=512),
)


def _footprint(path: Path, tensors: tuple[RawTensor, ...], **values: int) -> Footprint:
    metadata = changed("llama.attention.head_count", u32(4))
    for name, value in values.items():
        metadata.append((f"llama.attention.{name}", u32(value)))
    path.write_bytes(encode(metadata, tensors, data=1 << 14))
    return footprint(read_header(path))


@pytest.mark.parametrize(
    ("tensors", "values", "keys", "elements"),
    [
        ((*TENSORS, RawTensor("blk.0.attn_k.weight", (32, 16), offset=4608)), {}, 16, 16),
        ((TENSORS[0], RawTensor("blk.0.attn_qkv.weight", (32, 64), offset=512)), {}, 16, 16),
        ((TENSORS[0], RawTensor("blk.0.attn_qkv.weight", (32, 96), offset=512)), {"key_length": 16}, 16, 16),
        (LATENT, {"kv_lora_rank": 16, "key_length_mla": 12}, 24, 0),
        (LATENT, {"kv_lora_rank": 16, "key_length": 12, "value_length": 8}, 48, 32),
        (TENSORS, {}, 0, 0),
    ],
    ids=["keys that serve as values", "one matrix", "one matrix, long heads", "latent", "latent, older", "none"],
)
def test_keys_and_values_of_a_token(
    tmp_path: Path, tensors: tuple[RawTensor, ...], values: dict[str, int], keys: int, elements: int
) -> None:
    found = _footprint(tmp_path / "m.gguf", tensors, **values)
    assert (found.keys, found.values) == (keys, elements)
    assert found.certain is (keys == 0), "where there may be less, nothing is refused"


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        ({}, 64),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, 256),
        (
            {
                "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 32,
            },
            128,
        ),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, 64),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float("inf")}, 64),
        ({"llama.rope.scaling.type": "linear"}, 64),
    ],
)  # fmt: skip
def test_a_scaling_makes_the_context_longer(tmp_path: Path, values: dict[str, Any], scaled: int) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"llama.context_length": 64, **values})
    found = footprint(read_header(path))
    assert (found.n_ctx_train, found.n_ctx_scaled) == (64, scaled)


def test_all_shards_count(tmp_path: Path) -> None:
    split = ("split.count", u32(2))
    first, second = (tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(encode([*changed("general.name", text("m")), ("split.no", u32(0)), split], TENSORS[:1], data=512))
    keys = RawTensor("blk.0.attn_k.weight", (32, 16), offset=0)
    second.write_bytes(encode([("split.no", u32(1)), split], [keys], data=2048))
    found = footprint(read_header(first))
    assert found.keys == 16
    assert 512 + 2048 <= found.weights < 512 + 2048 + 64
