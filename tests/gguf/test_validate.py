"""Sound files pass, whatever they look like; every other file gets one line, and nothing worse."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.errors import EdgespecError, MalformedModel, ModelError, ModelNotFound, UnsupportedModel
from edgespec.gguf.reader import BLOCKS, Array, walk
from edgespec.gguf.validate import read_header
from tests.gguf_files import SOUND, TENSORS, Raw, RawTensor, changed, encode, string, strings, text, tiny_model, u32

_EMBEDDINGS, _QUERY = TENSORS


def _f32(value: float) -> Raw:
    return Raw(6, struct.pack("<f", value))


def _with(key: str, value: Raw | None) -> bytes:
    return encode(changed(key, value))


def _with_experts(experts: int, used: int, groups: int, groups_used: int) -> bytes:
    numbers = zip(("", "used_", "group_", "group_used_"), (experts, used, groups, groups_used), strict=True)
    return encode([*SOUND, *((f"llama.expert_{key}count", u32(number)) for key, number in numbers)])


def _as_architecture(name: str, *more: tuple[str, Raw]) -> bytes:
    values = [(key.replace("llama.", f"{name}."), value) for key, value in changed("general.architecture", text(name))]
    return encode([*values, *more])


def _with_tensor(**changes: object) -> bytes:
    return encode(SOUND, (_EMBEDDINGS, _QUERY._replace(**changes)))  # type: ignore[arg-type]


MALFORMED: dict[str, tuple[bytes, str]] = {
    # not a GGUF
    "empty": (b"", "empty"),
    "something else": (b"abcdefgh" * 9, "not a GGUF (it starts with b'abcd')"),
    "safetensors": (struct.pack("<Q", 60) + b'{"weight":{}}' + bytes(60), "safetensors"),
    "pytorch zip": (b"PK\x03\x04" + bytes(60), "PyTorch"),
    "pytorch pickle": (b"\x80\x02" + bytes(60), "PyTorch"),
    "gzip": (gzip.compress(encode()), "gzip"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "older format": (b"tjgg\x03\x00\x00\x00" + bytes(60), "older than GGUF"),
    # the preamble
    "version 1": (encode(version=1), "version 1"),
    "version 0": (encode(version=0), "version 0"),
    "version 4": (encode(version=4), "version 4"),
    "big-endian": (encode(version=0x03000000), "big-endian"),
    "only a magic": (b"GGUF", "ends inside its header"),
    "many tensors": (encode(n_tensors=1 << 62), "tensors"),
    "many keys": (encode(n_values=(1 << 64) - 1), "metadata keys"),
    "more keys than there are": (encode(n_values=len(SOUND) + 1), ""),
    # metadata
    "truncated metadata": (encode()[:200], "ends inside its header"),
    "long string": (_with("general.name", Raw(8, struct.pack("<Q", 1 << 40))), "a string of 1099511627776 bytes"),
    "string past the end": (_with("general.name", Raw(8, struct.pack("<Q", 100_000))), "ends inside its header"),
    "long key": (encode([*SOUND, ("k" * 65_536, u32(0))]), "65536"),
    "key without a name": (encode([*SOUND, ("", u32(0))]), "without a name"),
    "duplicate key": (encode([*SOUND, SOUND[1]]), "'llama.block_count' twice"),
    "unknown value type": (_with("some.key", Raw(13, bytes(8))), "'some.key' has the type 13"),
    "array of arrays": (_with("some.key", Raw(9, struct.pack("<IQIQ", 9, 1, 4, 0))), "array of type 9"),
    "array past the end": (_with("some.key", Raw(9, struct.pack("<IQ", 4, 1 << 61))), "ends inside its header"),
    "strings past the end": (_with("some.key", Raw(9, struct.pack("<IQ", 8, 1 << 30))), "1073741824 strings"),
    "string in an array past the end": (
        _with("some.key", Raw(9, struct.pack("<IQQ", 8, 2, (1 << 64) - 9))),
        "ends inside its header",
    ),
    "alignment 48": (_with("general.alignment", u32(48)), "no power of two"),
    "alignment 0": (_with("general.alignment", u32(0)), "no power of two"),
    "alignment as text": (_with("general.alignment", text("32")), "alignment as type 8"),
    # tensors
    "truncated tensors": (encode(data=0)[:-60], "ends inside its header"),
    "truncated data": (encode(data=512 + 4095), "incomplete: 1 bytes"),
    "no data": (encode(data=0), "incomplete"),
    "five dimensions": (_with_tensor(shape=(1,) * 5), "5 dimensions"),
    "4294967295 dimensions": (_with_tensor(dimensions=(1 << 32) - 1), "4294967295 dimensions"),
    "negative dimension": (_with_tensor(shape=((1 << 64) - 1, 1)), "impossible shape"),
    "overflowing dimensions": (_with_tensor(shape=(1 << 32, 1 << 32)), "impossible shape"),
    "huge tensor": (_with_tensor(shape=(1 << 40, 1)), "incomplete"),
    "partial block": (_with_tensor(shape=(31, 32), type=8), "no whole blocks"),
    "scalar in a block type": (_with_tensor(shape=(), type=8), "no whole blocks"),
    "unaligned data": (_with_tensor(offset=513), "starts at 513, where 512 comes next"),
    "overlapping data": (_with_tensor(offset=0), "starts at 0, where 512 comes next"),
    "data with a gap": (_with_tensor(offset=544), "starts at 544, where 512 comes next"),
    "long tensor name": (_with_tensor(name="n" * 64), "a string of 64 bytes"),
    "duplicate tensor": (_with_tensor(name="token_embd.weight"), "'token_embd.weight' twice"),
    "integer weights": (_with_tensor(type=26), "no weights have that"),
    "quantized norm": (_with_tensor(name="blk.0.attn_norm.weight", shape=(32,), type=8), "a vector"),
    # the model
    "no architecture": (_with("general.architecture", None), "general.architecture is missing"),
    "architecture in two lines": (_with("general.architecture", text("a\nb")), "'a\\nb', not a name"),
    "architecture as a number": (_with("general.architecture", u32(1)), "1, not a name"),
    "no block count": (_with("llama.block_count", None), "llama.block_count is missing"),
    "no blocks": (_with("llama.block_count", u32(0)), "1 to 512"),
    "100000 blocks": (_with("llama.block_count", u32(100_000)), "1 to 512"),
    "more blocks than there are": (_with("llama.block_count", u32(2)), "its tensors are for 1"),
    "block count as text": (_with("llama.block_count", text("1")), "'1'"),
    "absurd block number": (_with_tensor(name="blk.99999999999.attn_q.weight"), "its tensors are for 100000000000"),
    "absurd extra blocks": (_with("llama.nextn_predict_layers", u32(2)), "its tensors are for 1"),
    "no context": (_with("llama.context_length", u32(0)), "llama.context_length is 0"),
    "absurd context": (_with("llama.context_length", u32((1 << 32) - 1)), "llama.context_length is 4294967295"),
    "no embedding": (_with("llama.embedding_length", u32(0)), "llama.embedding_length is 0"),
    "absurd embedding": (_with("llama.embedding_length", u32(1 << 31)), "llama.embedding_length is 2147483648"),
    "no heads": (_with("llama.attention.head_count", u32(0)), "it has attention"),
    "absurd heads": (_with("llama.attention.head_count", u32(1 << 20)), "head_count is 1048576"),
    "absurd key heads": (_with("llama.attention.head_count_kv", u32(1 << 20)), "head_count_kv is 1048576"),
    "negative epsilon": (_with("llama.attention.layer_norm_rms_epsilon", _f32(-1)), "-1.0"),
    "epsilon not a number": (_with("llama.attention.layer_norm_rms_epsilon", _f32(float("nan"))), "nan"),
    "unknown rope scaling": (_with("llama.rope.scaling.type", text("sideways")), "'sideways'"),
    "absurd experts": (_with_experts(1025, 2, 0, 0), "expert_count is 1025"),
    "more experts used than there are": (_with_experts(4, 5, 0, 0), "uses 5 of 4 experts"),
    "experts unused": (_with_experts(4, 0, 0, 0), "uses 0 of 4 experts"),
    "uneven groups of experts": (_with_experts(8, 2, 3, 1), "3 groups"),
    "all groups of experts used": (_with_experts(8, 2, 4, 4), "uses 4 of 4 groups"),
    # the vocabulary
    "no tokenizer": (_with("tokenizer.ggml.model", None), "tokenizer.ggml.model is missing"),
    "no tokens": (_with("tokenizer.ggml.tokens", None), "tokenizer.ggml.tokens is missing"),
    "tokens as text": (_with("tokenizer.ggml.tokens", text("a b c d")), "no list of tokens"),
    "tokens as numbers": (
        _with("tokenizer.ggml.tokens", Raw(9, struct.pack("<IQII", 4, 2, 1, 2))),
        "no list of tokens",
    ),
    "empty tokens": (_with("tokenizer.ggml.tokens", strings()), "no list of tokens"),
    "fewer tokens than embeddings": (_with("tokenizer.ggml.tokens", strings("a")), "the vocabulary 1 tokens"),
    "flat embeddings": (encode(SOUND, (RawTensor(shape=(128,)), _QUERY)), "(128,)"),
    "no embeddings": (encode(SOUND, (_QUERY._replace(offset=0),)), "neither token embeddings"),
    "no vocabulary size": (_with("tokenizer.ggml.model", text("no_vocab")), "llama.vocab_size is missing"),
    "absurd vocabulary size": (
        encode([*changed("tokenizer.ggml.model", text("no_vocab")), ("llama.vocab_size", u32((1 << 32) - 1))]),
        "llama.vocab_size is 4294967295",
    ),
}

UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "mean pooling": (_as_architecture("qwen3", ("qwen3.pooling_type", u32(1))), "an embedding model"),
    "pooling of the last token": (_as_architecture("qwen3", ("qwen3.pooling_type", u32(3))), "an embedding model"),
    "pooling to a rank": (_as_architecture("qwen3", ("qwen3.pooling_type", u32(4))), "a reranking model"),
    "a classifier's head": (
        encode(SOUND, (*TENSORS, RawTensor("cls.output.weight", (32, 2), 0, 4608)), data=4608 + 256),
        "a reranking or classifying model",
    ),
    "bert": (_as_architecture("bert"), "an embedding model"),
    "nomic-bert": (_as_architecture("nomic-bert"), "an embedding model"),
    "jina-bert-v2": (_as_architecture("jina-bert-v2"), "an embedding model"),
    "t5encoder": (_as_architecture("t5encoder"), "an embedding model"),
    "t5": (_as_architecture("t5"), "an encoder-decoder model"),
    "diffusion": (_as_architecture("llada"), "a diffusion model"),
    "draft head": (_as_architecture("eagle3"), "a draft head"),
    "projector": (encode([("general.architecture", text("clip"))]), "projector"),
    "mmproj": (_with("general.type", text("mmproj")), "projector"),
    "adapter": (_with("general.type", text("adapter")), "a LoRA adapter"),
    "importance matrix": (encode([("general.type", text("imatrix"))]), "an importance matrix"),
    "not causal": (
        _as_architecture("qwen3", ("qwen3.attention.causal", Raw(7, b"\0")), ("qwen3.pooling_type", u32(1))),
        "without causal attention",
    ),
    "vocabulary only": (encode(SOUND, ()), "a vocabulary"),
    "second shard": (encode([*SOUND, ("split.no", u32(1)), ("split.count", u32(3))]), "shard 2 of 3"),
}

SOUND_FILES: dict[str, bytes] = {
    "least": encode(),
    "version 2": encode(version=2),
    "aligned to 8": encode([*SOUND, ("general.alignment", u32(8))], alignment=8),
    "bytes after the last tensor": encode() + bytes(1000),
    "trimmed drafter": encode(
        [
            *changed("tokenizer.ggml.tokens", None, changed("tokenizer.ggml.model", text("no_vocab"))),
            ("llama.vocab_size", u32(4)),
        ]
    )
    + b"table",
    "one number of heads a layer": _with("llama.attention.head_count", Raw(9, struct.pack("<IQI", 4, 1, 4))),
    "experts": _with_experts(8, 2, 0, 0),
    "experts in groups": _with_experts(8, 2, 4, 2),
    "dense with one expert": _with_experts(0, 1, 0, 0),
    "no pooling": _as_architecture("qwen3", ("qwen3.pooling_type", u32(0))),
    "no attention": encode(
        changed("llama.attention.head_count", u32(0)), (_EMBEDDINGS, _QUERY._replace(name="blk.0.ssm_in.weight"))
    ),
    "stripped of its extra block": encode(
        [*changed("llama.block_count", u32(2)), ("llama.nextn_predict_layers", u32(1))]
    ),
    "extra block in place": encode([*SOUND, ("llama.nextn_predict_layers", u32(1))]),
    "tensor without elements": encode(SOUND, (*TENSORS, RawTensor("blk.0.empty", (0, 7), 0, 4608))),
    "type of the future": _with_tensor(type=99, offset=12345),
    "table of experts": _with_tensor(name="blk.0.ffn_gate_tid2eid.weight", type=26),
    "untied without input table": encode(SOUND, (RawTensor("output.weight"), _QUERY)),
    "latin-1 in a string": _with("general.author", Raw(8, string(b"Andr\xe9"))),
    "long tokens": _with("tokenizer.ggml.tokens", strings("a" * 70_000, "", "b" * 300, "c")),
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return write


def _refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str, file: Callable[[bytes], Path]) -> None:
    data, reason = MALFORMED[name]
    error = _refusal(file(data))
    assert type(error) is MalformedModel
    assert reason in str(error)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(name: str, file: Callable[[bytes], Path]) -> None:
    data, reason = UNSUPPORTED[name]
    error = _refusal(file(data))
    assert type(error) is UnsupportedModel
    assert reason in str(error)


@pytest.mark.parametrize("name", SOUND_FILES)
def test_sound(name: str, file: Callable[[bytes], Path]) -> None:
    assert read_header(file(SOUND_FILES[name])).n_vocab == 4


def test_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing.gguf", tmp_path / "file" / "model.gguf", tmp_path / "nul\0.gguf"):
        assert type(_refusal(path)) is ModelNotFound


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a directory" in str(_refusal(tmp_path))
    assert "not a file" in str(_refusal(tmp_path / "pipe"))


def test_the_system_refuses(tmp_path: Path) -> None:
    assert type(_refusal(tmp_path / ("n" * 300))) is ModelError


def test_header_of_a_tiny_model(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", n_vocab=300)
    header, part = read_header(path), walk(path)
    assert (header.architecture, header.n_vocab) == ("llama", 300)
    assert (part.version, len(part.tensors), part.size) == (3, 21, path.stat().st_size)
    assert part.values["llama.context_length"] == 512
    assert part.values["tokenizer.ggml.tokens"] == Array(type=8, length=300)
    assert part.values["tokenizer.ggml.add_bos_token"] is False


def test_the_same_bytes_have_the_same_fingerprint(tmp_path: Path) -> None:
    path, copy = tiny_model(tmp_path / "tiny.gguf"), tmp_path / "copy.gguf"
    first = read_header(path).fingerprint
    os.utime(path, ns=(0, 0))
    shutil.copyfile(path, copy)
    assert read_header(path).fingerprint == read_header(copy).fingerprint == first


def test_other_bytes_have_another_fingerprint(file: Callable[[bytes], Path], tmp_path: Path) -> None:
    fingerprints = {
        read_header(file(data)).fingerprint
        for data in (encode(), _with("llama.context_length", u32(65)), encode() + b"\0", encode()[:-1] + b"\1")
    }
    trained = {read_header(tiny_model(tmp_path / "tiny.gguf", seed=seed)).fingerprint for seed in range(3)}
    assert (len(fingerprints), len(trained)) == (4, 3)


@settings(max_examples=30)
@given(data=st.data())
def test_another_value_of_any_one_tensor_shows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """As of a fine-tune that trained some matrices only: all values of each changed one differ."""
    path = tiny_model(tmp_path_factory.mktemp("tensors") / "tiny.gguf")
    first, part = read_header(path).fingerprint, walk(path)
    tensor = data.draw(st.sampled_from(part.tensors))
    start = -(-part.header_size // 32) * 32 + tensor.offset
    content = bytearray(path.read_bytes())
    for position in range(start, start + (tensor.size or 0)):
        content[position] ^= 1
    path.write_bytes(content)
    assert read_header(path).fingerprint != first


def _write_shards(directory: Path) -> list[Path]:
    """A model in three shards; the first holds no tensors, as llama.cpp's own tool can leave it."""
    paths = [directory / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    split = ("split.count", Raw(2, struct.pack("<H", 3)))
    for number, path in enumerate(paths):
        tensors = ((), (_EMBEDDINGS,), (_QUERY._replace(offset=0),))[number]
        path.write_bytes(encode([*(SOUND if number == 0 else ()), ("split.no", u32(number)), split], tensors))
    return paths


def test_shards(tmp_path: Path) -> None:
    paths = _write_shards(tmp_path)
    header = read_header(paths[0])
    assert header.n_vocab == 4

    os.utime(paths[2], ns=(0, 0))
    assert read_header(paths[0]).fingerprint == header.fingerprint
    paths[2].write_bytes(paths[2].read_bytes()[:-1] + b"\1")
    assert read_header(paths[0]).fingerprint != header.fingerprint


def test_shards_missing_truncated_renamed_repeated(tmp_path: Path) -> None:
    first, second, third = _write_shards(tmp_path)
    third_data = third.read_bytes()

    third.write_bytes(second.read_bytes())
    assert "same tensor" in str(_refusal(first))

    third.write_bytes(third_data[:-1000])
    with pytest.raises(MalformedModel, match=f"{third.name}: incomplete"):
        read_header(first)

    third.unlink()
    with pytest.raises(ModelNotFound, match="shard 3 of 3 is missing"):
        read_header(first)

    assert "-00001-of-00003.gguf" in str(_refusal(first.rename(tmp_path / "renamed.gguf")))


def test_block_sizes_are_those_of_the_reference() -> None:
    reference = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    reference.pop(9)  # Q8_1 has two 16-bit numbers a block in ggml, and still two 32-bit ones there
    common = BLOCKS.keys() & reference.keys()
    assert len(common) > 25
    assert {kind: BLOCKS[kind] for kind in common} == {kind: reference[kind] for kind in common}


@settings(max_examples=100, deadline=1000)
@given(lengths=st.lists(st.one_of(st.integers(0, 40), st.integers(240, 600)), max_size=3000), zeros=st.booleans())
def test_arrays_of_strings_are_skipped_exactly(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], zeros: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "strings.gguf"
    words = b"".join(string((b"\0" if zeros else b"a") * length) for length in lengths)
    array = Raw(9, struct.pack("<IQ", 8, len(lengths)) + words)
    path.write_bytes(encode([("before", u32(1)), ("array", array), ("after", u32(2))], ()))
    assert walk(path).values == {"before": 1, "array": Array(8, len(lengths)), "after": 2}


_edits = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "insert", "number")),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from((0, 1, 2, 8, 9, 31, 127, 255, 256, 65_536, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)),
    ),
    min_size=1,
    max_size=5,
)


def _edit(data: bytearray, kind: str, position: int, value: int) -> None:
    if kind == "flip":
        data[position : position + 1] = bytes(byte ^ (value & 0xFF or 1) for byte in data[position : position + 1])
    elif kind == "cut":
        del data[position : position + value]
    elif kind == "insert":
        data[position:position] = bytes([value & 0xFF]) * (1 + value % 9)
    else:
        data[position : position + 8] = struct.pack("<Q", value)


@settings(max_examples=500, deadline=1000)
@given(edits=_edits)
def test_a_damaged_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, float, int]]
) -> None:
    base = tmp_path_factory.getbasetemp()
    sound = base / "sound.gguf"
    if not sound.exists():
        tiny_model(sound, n_vocab=12)
    data = bytearray(sound.read_bytes())
    header_size = walk(sound).header_size
    for kind, where, value in edits:
        _edit(data, kind, int(where * min(header_size, len(data))), value)
    damaged = base / "damaged.gguf"
    damaged.write_bytes(data)
    try:
        read_header(damaged)
    except EdgespecError as error:
        assert "\n" not in str(error)
