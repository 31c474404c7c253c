"""Checks a model file before llama.cpp loads it.

llama.cpp ends the process on some malformed files. The checks here cover what it is known to assert, and what would
fail later with a worse message. They follow llama.cpp's `llama-model.cpp` and `llama-vocab.cpp`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from edgespec.errors import ModelError, ModelNotFound, UnsupportedModel
from edgespec.gguf.reader import BLOCKS, GET_AGAIN, MAX_STRINGS, STRING, Array, Part, Value, malformed, walk

__all__ = ["Header", "data_start", "read_draft_head", "read_header"]

_NOT_FOR_TEXT = {  # general.architecture or general.type -> what such a file is
    **dict.fromkeys(("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert"), "an embedding model"),
    **dict.fromkeys(("jina-bert-v2", "jina-bert-v3", "eurobert", "gemma-embedding"), "an embedding model"),
    **dict.fromkeys(("llama-embed", "t5encoder"), "an embedding model"),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "a diffusion model"),
    "edgespec-heads": "heads, useless without their own target,",
    **dict.fromkeys(("clip", "mmproj"), "an image or audio projector"),
    **dict.fromkeys(("eagle3", "dflash"), "a draft head, useless without its own target,"),
    "t5": "an encoder-decoder model",
    "wavtokenizer-dec": "an audio decoder",
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix",
}

_POOLING_PURPOSES = {1: "an embedding model", 2: "an embedding model", 3: "an embedding model", 4: "a reranking model"}
"""What a decoder that pools its hidden states is for, by llama.cpp's numbers of pooling types (0 is none)."""

_HEAD_PURPOSES = {"cls.": "a reranking or classifying model", "dense_2.": "an embedding model"}
"""What a model is for, by the beginnings of the names of tensors that only such models have."""

_KEY_BOUNDS = (  # key under the architecture's name, lowest value, highest value, whether llama.cpp requires it
    ("block_count", 1, 512, True),
    ("context_length", 1, 1 << 30, True),
    ("embedding_length", 1, 1 << 20, True),
    ("attention.head_count", 0, 1 << 14, False),
    ("attention.head_count_kv", 0, 1 << 14, False),
    ("nextn_predict_layers", 0, 512, False),
    ("expert_count", 0, 1024, False),
    ("expert_used_count", 0, 1024, False),
    ("expert_group_count", 0, 1024, False),
    ("expert_group_used_count", 0, 1024, False),
)

_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_SAMPLE_BYTES = 256
"""Bytes of each tensor that count for the fingerprint."""
_NEVER_WEIGHTS = (9, 15, 24, 25, 26, 27, 28)  # Q8_1 and Q8_K exist in memory only; integers and doubles


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of a model file.

    `fingerprint` identifies the bytes of the file, whatever its name and age: by the size, the header (the CRC-32 of
    all bytes before the tensor data) and a sample of each tensor, of every shard.
    """

    architecture: str
    n_vocab: int
    fingerprint: str
    parts: tuple[Part, ...] = field(repr=False, compare=False)
    """The walked files: all shards of a split model."""

    @property
    def part(self) -> Part:
        """The walked file; of a split model, the first one."""
        return self.parts[0]


def read_draft_head(path: Path, architecture: str) -> Part:
    """The checked header of a draft head, a single file of an architecture like "eagle3".

    What it shares with its target, and its vocabulary, is left to the caller. Raises as `read_header` does.
    """
    part = walk_to_data(path)
    if (found := part.values.get("general.architecture")) != architecture:
        raise UnsupportedModel(f"{path}: {found!r} is no {architecture} head; choose one that was made for the target")
    metadata = _CheckedMetadata(path, part.values, draft_head=True)
    if list(metadata.other_shards()):
        raise UnsupportedModel(f"{path}: a split model is no {architecture} head; choose a single file")
    metadata.check_sizes(metadata.shapes([part]))
    return part


def read_header(path: Path) -> Header:
    """The checked header of the model at `path`; of all its shards when `path` is the first of a split model.

    Takes time in proportion to the header and the number of tensors, never to the file. Raises ModelNotFound,
    MalformedModel, UnsupportedModel, or ModelError when the operating system does not let the file be read.
    """
    first = walk_to_data(path)
    metadata = _CheckedMetadata(path, first.values)
    parts = (first, *map(walk_to_data, metadata.other_shards()))
    shapes = metadata.shapes(parts)
    metadata.check_sizes(shapes)
    return Header(metadata.architecture, metadata.n_vocab(shapes), _fingerprint(parts), parts)


def _fingerprint(parts: Sequence[Part]) -> str:
    try:
        identities = [(part.size, part.header_size, part.header_crc, _sampled_crc(part)) for part in parts]
    except OSError as error:
        raise ModelError(f"{parts[0].path}: {error.strerror}; check its permissions and the disk") from error
    return hashlib.blake2b(repr(identities).encode(), digest_size=8).hexdigest()


def _sampled_crc(part: Part) -> int:
    """The CRC-32 of a sample from the middle of each tensor, and of the file's end.

    Another training or quantization changes all weights of a tensor, and reading them all would take minutes.
    """
    start, crc = data_start(part), 0
    middles = [start + tensor.offset + (tensor.size or 0) // 2 for tensor in part.tensors]  # of newer types, anything
    with part.path.open("rb", buffering=0) as file:
        for position in (*middles, max(start, part.size - _SAMPLE_BYTES)):
            file.seek(min(position, part.size))
            crc = zlib.crc32(file.read(_SAMPLE_BYTES), crc)
    return crc


def data_start(part: Part) -> int:
    """The position of the first tensor's data. Raises MalformedModel for an alignment that is none."""
    alignment = _alignment(part)
    return -(-part.header_size // alignment) * alignment


def _alignment(part: Part) -> int:
    alignment = part.values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise malformed(part.path, f"gives {alignment} as its alignment, which is no power of two")
    return alignment


def walk_to_data(path: Path) -> Part:
    """The header of one file whose tensors lie in it one right after the other, as llama.cpp demands."""
    part = walk(path)
    alignment, start, offset = _alignment(part), data_start(part), 0
    for tensor in part.tensors:
        size = tensor.size
        if size is None and tensor.type not in BLOCKS:
            break  # newer or older than our table: llama.cpp says whether it knows it
        if size is None:
            raise malformed(path, f"the rows of the tensor {tensor.name!r}, {tensor.shape}, are no whole blocks")
        if tensor.offset != offset:
            raise malformed(path, f"the tensor {tensor.name!r} starts at {tensor.offset}, where {offset} comes next")
        missing = start + offset + size - part.size
        if missing > 0:
            raise malformed(path, f"incomplete: {missing} bytes of the tensor {tensor.name!r} are missing")
        offset += -(-size // alignment) * alignment
    return part


_Shapes = Mapping[str, tuple[int, ...]]


class _CheckedMetadata:
    """The metadata of one language model, checked for consistency with itself and with the tensors."""

    def __init__(self, path: Path, values: Mapping[str, Value], *, draft_head: bool = False) -> None:
        self._path, self._values = path, values
        self._refuse_purpose(_NOT_FOR_TEXT.get(str(values.get("general.type"))))
        self.architecture = self._text("general.architecture")
        if not draft_head:
            self._refuse_purpose(_NOT_FOR_TEXT.get(self.architecture))
        if values.get(self._architecture_key("attention.causal")) is False:
            self._refuse_purpose("a model without causal attention")
        pooling = values.get(self._architecture_key("pooling_type"))
        if isinstance(pooling, int):
            self._refuse_purpose(_POOLING_PURPOSES.get(pooling))

    def _refuse(self, reason: str, remedy: str = GET_AGAIN) -> NoReturn:
        raise malformed(self._path, reason, remedy)

    def _refuse_purpose(self, purpose: str | None) -> None:
        if purpose:
            raise UnsupportedModel(f"{self._path}: {purpose} cannot generate text; choose a language model")

    def _text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or not value or not value.isprintable():
            self._refuse(f"{key} is missing" if value is None else f"{key} is {value!r}, not a name")
        return value

    def _number(self, key: str, lowest: int, highest: int) -> int | None:
        """A scalar of the metadata, or None where it is missing or one number a layer."""
        value = self._values.get(key)
        if value is None or isinstance(value, Array):
            return None
        if type(value) is not int or not lowest <= value <= highest:
            self._refuse(f"{key} is {value!r}, and {lowest} to {highest} make sense")
        return value

    def _architecture_key(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def other_shards(self) -> Iterator[Path]:
        """The paths of the second and later shards of a split model."""
        count, shard_number = self._number("split.count", 0, 99_999) or 1, self._number("split.no", 0, 99_999) or 0
        name, ending = self._path.name, f"-00001-of-{count:05}.gguf"
        if shard_number > 0:
            raise UnsupportedModel(f"{self._path}: shard {shard_number + 1} of {count}; name the first shard")
        if count > 1 and not name.endswith(ending):
            self._refuse(f"the first of {count} shards, which llama.cpp finds by name", f"let it end in {ending}")
        for number in range(2, count + 1):
            shard = self._path.with_name(f"{name.removesuffix(ending)}-{number:05}-of-{count:05}.gguf")
            if not shard.exists():
                raise ModelNotFound(f"{shard}: shard {number} of {count} is missing; download all shards")
            yield shard

    def shapes(self, parts: Sequence[Part]) -> _Shapes:
        """The shapes of the tensors of all shards, by name."""
        tensors = [tensor for part in parts for tensor in part.tensors]
        if not tensors:
            self._refuse_purpose("a vocabulary without a model")
        for start, purpose in _HEAD_PURPOSES.items():
            if any(tensor.name.startswith(start) for tensor in tensors):
                self._refuse_purpose(purpose)
        for name, shape, kind, _ in tensors:
            lookup = name.endswith("tid2eid.weight")  # a table of expert numbers, in integers
            if name.endswith(".weight") and kind in _NEVER_WEIGHTS and not lookup:
                self._refuse(f"the tensor {name!r} has the type {kind}, and no weights have that")
            if len(shape) == 1 and BLOCKS.get(kind, (1, 0))[0] > 1:
                self._refuse(f"the tensor {name!r} is a vector in the quantized type {kind}, and llama.cpp has none")
        shapes_by_name = {tensor.name: tensor.shape for tensor in tensors}
        if len(shapes_by_name) < len(tensors):
            self._refuse("two of its shards hold the same tensor")
        return shapes_by_name

    def check_sizes(self, shapes: _Shapes) -> None:
        """Refuse numbers of layers, heads and experts that are absurd or contradict the tensors or each other."""
        numbers = {}
        for key, lowest, highest, required in _KEY_BOUNDS:
            value = self._number(self._architecture_key(key), lowest, highest)
            if required and value is None:
                self._refuse(f"{self._architecture_key(key)} is missing")
            numbers[key] = value or 0
        heads = self._values.get(self._architecture_key("attention.head_count"))
        if heads == 0 and any(".attn_q" in name for name in shapes):
            self._refuse(f"{self._architecture_key('attention.head_count')} is 0, and it has attention")
        self._check_blocks(numbers["block_count"], numbers["nextn_predict_layers"], shapes)
        self._check_experts(*(numbers[f"expert_{key}count"] for key in ("", "used_", "group_", "group_used_")))
        for key in _EPSILONS:
            epsilon = self._values.get(self._architecture_key(f"attention.{key}"), 0.0)
            if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
                self._refuse(f"{self._architecture_key(f'attention.{key}')} is {epsilon}, and 0 to 1 make sense")
        scaling = self._values.get(self._architecture_key("rope.scaling.type"), "none")
        if scaling not in _ROPE_SCALINGS:
            self._refuse(f"{self._architecture_key('rope.scaling.type')} is {scaling!r}, which llama.cpp does not know")

    def _check_blocks(self, announced: int, extra: int, shapes: _Shapes) -> None:
        """`extra` blocks predict later tokens: they are among those announced, and not every file has them."""
        matches = (re.match(r"blk\.(\d+)\.", name) for name in shapes)
        blocks = max((int(match[1]) + 1 for match in matches if match), default=0)
        if not blocks <= announced <= blocks + extra or extra > announced:
            self._refuse(f"{self._architecture_key('block_count')} is {announced}, and its tensors are for {blocks}")

    def _check_experts(self, experts: int, used: int, groups: int, groups_used: int) -> None:
        """Some dense models announce one expert or use one of none: llama.cpp takes them as they are."""
        per_layer = isinstance(self._values.get(self._architecture_key("expert_used_count")), Array)
        if used > max(experts, 1) or (experts > 1 and not used and not per_layer):
            self._refuse(f"uses {used} of {experts} experts")
        if groups and (groups >= experts or experts % groups or (groups > 1 and not 0 < groups_used < groups)):
            self._refuse(f"uses {groups_used} of {groups} groups of {experts} experts")

    def n_vocab(self, shapes: _Shapes) -> int:
        """The number of tokens, the same in the tokenizer and in the tensors."""
        size = self._tokenizer_size()
        name = next((name for name in ("token_embd.weight", "output.weight") if name in shapes), None)
        if name is None:
            self._refuse("has neither token embeddings nor an output layer")
        if len(shapes[name]) < 2 or shapes[name][1] != size:
            self._refuse(f"the tensor {name!r} has the shape {shapes[name]}, and the vocabulary {size} tokens")
        return size

    def _tokenizer_size(self) -> int:
        if self._text("tokenizer.ggml.model") in ("no_vocab", "none"):
            size = self._number(self._architecture_key("vocab_size"), 1, MAX_STRINGS)
            if size is None:
                self._refuse(f"has no tokens, and {self._architecture_key('vocab_size')} is missing")
            return size
        tokens = self._values.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Array) or tokens.type != STRING or not tokens.length:
            self._refuse("tokenizer.ggml.tokens is missing or no list of tokens")
        return tokens.length
