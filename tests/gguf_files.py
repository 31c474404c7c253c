"""GGUF files for tests: a tiny model that stock llama.cpp loads, and files as malformed as a test wants them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_BLOCKS = 32, 4, 2, 64, 2
_HEAD = N_EMBD // N_HEAD
_NORMS: dict[str, tuple[int, ...]] = {"attn_q_norm.weight": (_HEAD,), "attn_k_norm.weight": (_HEAD,)}
_POST_NORMS: dict[str, tuple[int, ...]] = {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}
_BIASES: dict[str, tuple[int, ...]] = {
    "attn_q.bias": (N_EMBD,),
    "attn_k.bias": (N_HEAD_KV * _HEAD,),
    "attn_v.bias": (N_HEAD_KV * _HEAD,),
}
_MORE: dict[str, dict[str, tuple[int, ...]]] = {
    "llama": {},
    "qwen2": _BIASES,
    "qwen2vl": _BIASES,
    "qwen3": _NORMS,
    "gemma": {},
    "gemma2": _POST_NORMS,
    "gemma3": {**_NORMS, **_POST_NORMS},
}
"""What a block of each architecture has beside a llama's."""
_MAMBA: dict[str, tuple[int, ...]] = {
    "attn_norm.weight": (N_EMBD,),
    "ssm_in.weight": (4 * N_EMBD, N_EMBD),
    "ssm_conv1d.weight": (2 * N_EMBD, 4),
    "ssm_conv1d.bias": (2 * N_EMBD,),
    "ssm_x.weight": (4 + 2 * 8, 2 * N_EMBD),
    "ssm_dt.weight": (2 * N_EMBD, 4),
    "ssm_dt.bias": (2 * N_EMBD,),
    "ssm_a": (2 * N_EMBD, 8),
    "ssm_d": (2 * N_EMBD,),
    "ssm_out.weight": (N_EMBD, 2 * N_EMBD),
}
"""A block of a recurrent model."""
_CONTROL, _BYTE, _NORMAL, _UNKNOWN, _USER_DEFINED = 3, 6, 1, 2, 4


def tiny_model(
    path: Path,
    *,
    architecture: str = "llama",
    n_vocab: int = 320,
    seed: int = 0,
    tied: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model of two blocks with random weights to `path`, some 160 KB, and return `path`.

    `architecture`: llama, qwen2, qwen2vl, qwen3, gemma, gemma2 or gemma3, which differ in norms and biases. The
    positions of qwen2vl have several dimensions (M-RoPE), so that llama.cpp cannot shift them.

    `tied`: without an output layer of its own, so that the embeddings serve as one.

    Its SentencePiece vocabulary is <unk>, <s>, </s>, the 256 bytes, then the words w259, w260 and so on, cut at
    `n_vocab`: with fewer than 259 tokens, llama.cpp dies of texts whose bytes are missing. `metadata` are GGUF keys
    (`{"llama.block_count": 3}`): they replace what the file would say, None leaves the key out. Where they have tokens,
    there are as many as those.
    """
    n_vocab = len((metadata or {}).get("tokenizer.ggml.tokens") or ()) or n_vocab
    shaped = {
        "block_count": N_BLOCKS,
        "context_length": 512,
        "embedding_length": N_EMBD,
        "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD_KV,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": _HEAD,
    }
    keys: dict[str, Any] = {
        "general.architecture": architecture,
        "general.name": "tiny",
        **{f"{architecture}.{key}": value for key, value in shaped.items()},
        **({"qwen2vl.rope.dimension_sections": [2, 1, 1, 0]} if architecture == "qwen2vl" else {}),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": _tokens(n_vocab),
        "tokenizer.ggml.scores": [-float(token) for token in range(n_vocab)],
        "tokenizer.ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * n_vocab][:n_vocab],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        **(metadata or {}),
    }
    writer = gguf.GGUFWriter(path, str(keys.pop("general.architecture")))
    for key, value in keys.items():
        if value is not None:
            _add(writer, key, value)
    random = np.random.default_rng(seed)
    for name, shape in _shapes(architecture, n_vocab, tied):
        scale = 0 if name.endswith("norm.weight") else shape[-1] ** -0.5
        weights = random.standard_normal(shape) * scale + (not scale)
        if name.endswith("ssm_a"):  # what a recurrent state remembers has to fade
            weights = -np.abs(weights)
        writer.add_tensor(name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_recurrent(path: Path) -> Path:
    """A model like `tiny_model` with a recurrent state instead of keys and values, which cannot be cut."""
    metadata = {
        "general.architecture": "mamba",
        "mamba.ssm.conv_kernel": 4,
        "mamba.ssm.inner_size": 2 * N_EMBD,
        "mamba.ssm.state_size": 8,
        "mamba.ssm.time_step_rank": 4,
    }
    return tiny_model(path, architecture="mamba", metadata=metadata)


def _tokens(n_vocab: int) -> list[str]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [*tokens, *(f"▁w{token}" for token in range(len(tokens), n_vocab))][:n_vocab]


def byte_level(
    pre: str,
    *,
    merges: Sequence[tuple[str, str]] = (("Ġ", "Ġ"),),
    controls: Sequence[str] = ("<|im_start|>", "<|im_end|>"),
    defined: Sequence[str] = (),
) -> dict[str, Any]:
    """The metadata of a byte-level BPE vocabulary for `tiny_model`: the bytes, what `merges` make, and more tokens.

    `pre` names the pre-tokenizer. `controls` are control tokens, of which the last ends an answer; `defined` are
    user-defined ones. No token begins a text.
    """
    words = [*map(_byte_character, range(256)), *(left + right for left, right in merges)]
    kinds = [*[_NORMAL] * len(words), *[_CONTROL] * len(controls), *[_USER_DEFINED] * len(defined)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*words, *controls, *defined],
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": None,
        "tokenizer.ggml.eos_token_id": len(words) + len(controls) - 1,
    }


def _byte_character(byte: int) -> str:
    """The character that stands for a byte in GPT-2's vocabularies: printable ones for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return chr(byte) if byte in printable else chr(256 + sum(other not in printable for other in range(byte)))


def _shapes(architecture: str, n_vocab: int, tied: bool) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in numpy's order: rows first."""
    yield "token_embd.weight", (n_vocab, N_EMBD)
    for block in range(N_BLOCKS):
        if architecture == "mamba":
            yield from ((f"blk.{block}.{name}", shape) for name, shape in _MAMBA.items())
            continue
        for name, shape in {
            "attn_norm": (N_EMBD,),
            "attn_q": (N_EMBD, N_EMBD),
            "attn_k": (N_HEAD_KV * _HEAD, N_EMBD),
            "attn_v": (N_HEAD_KV * _HEAD, N_EMBD),
            "attn_output": (N_EMBD, N_EMBD),
            "ffn_norm": (N_EMBD,),
            "ffn_gate": (N_FF, N_EMBD),
            "ffn_up": (N_FF, N_EMBD),
            "ffn_down": (N_EMBD, N_FF),
        }.items():
            yield f"blk.{block}.{name}.weight", shape
        for name, shape in _MORE[architecture].items():
            yield f"blk.{block}.{name}", shape
    yield "output_norm.weight", (N_EMBD,)
    if not tied:
        yield "output.weight", (n_vocab, N_EMBD)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


class Raw(NamedTuple):
    """A metadata value as bytes: whatever `type` says."""

    type: int
    payload: bytes


class RawTensor(NamedTuple):
    """A tensor's description, and the bytes that its data takes in the file."""

    name: str = "token_embd.weight"
    shape: Sequence[int] = (32, 4)
    type: int = 0
    offset: int = 0
    dimensions: int | None = None


def string(text: str | bytes) -> bytes:
    """A string as GGUF writes it."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def u32(value: int) -> Raw:
    """A 32-bit number."""
    return Raw(4, struct.pack("<I", value))


def text(value: str) -> Raw:
    """A string value."""
    return Raw(8, string(value))


def strings(*values: str) -> Raw:
    """An array of strings."""
    return Raw(9, struct.pack("<IQ", 8, len(values)) + b"".join(map(string, values)))


SOUND: tuple[tuple[str, Raw], ...] = (
    ("general.architecture", text("llama")),
    ("llama.block_count", u32(1)),
    ("llama.context_length", u32(64)),
    ("llama.embedding_length", u32(32)),
    ("llama.attention.head_count", u32(4)),
    ("tokenizer.ggml.model", text("llama")),
    ("tokenizer.ggml.tokens", strings("a", "b", "c", "d")),
)
"""The least metadata that makes sense, for the tensors of `TENSORS`."""

TENSORS = (RawTensor(), RawTensor("blk.0.attn_q.weight", (32, 32), 0, 512))


def encode(
    values: Iterable[tuple[str | bytes, Raw]] = SOUND,
    tensors: Iterable[RawTensor] = TENSORS,
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_values: int | None = None,
    alignment: int = 32,
    data: int = 512 + 4096,
) -> bytes:
    """A GGUF file with these parts and `data` zero bytes of tensor data. The two counts may lie."""
    values, tensors = list(values), list(tensors)
    header = b"GGUF" + struct.pack(
        "<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(values) if n_values is None else n_values
    )
    for key, value in values:
        header += string(key) + struct.pack("<I", value.type) + value.payload
    for name, shape, kind, offset, dimensions in tensors:
        header += string(name) + struct.pack("<I", len(shape) if dimensions is None else dimensions)
        header += struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)
    return header + bytes(-len(header) % alignment + data)


def changed(key: str, value: Raw | None, base: Iterable[tuple[str, Raw]] = SOUND) -> list[tuple[str, Raw]]:
    """The metadata of `base` with `key` replaced, added, or (None) left out."""
    rest = [(name, old) for name, old in base if name != key]
    return rest if value is None else [*rest, (key, value)]
