"""The header of an EAGLE-3 head, checked against its target before llama.cpp loads it.

llama.cpp ends the process over heads that contradict themselves or their target: the checks follow its
`src/models/eagle3.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import numbers
from edgespec.gguf.reader import STRING, Array, Part, Tensor, malformed
from edgespec.gguf.validate import data_start, read_draft_head

_F32, _I64 = 0, 27
_LAYERS = 3  # the fixed number of states that the architecture joins
_PADDING = 96  # a last state is filled up to three parts of whole quantization blocks, 32 numbers each


@dataclass(frozen=True, slots=True)
class Eagle3Header:
    """What a head reads and gives.

    `state_width` numbers are joined to one state. `layers` are those of the target whose inputs they are; empty where
    they are its last state, filled up with zeros. `kept_ids` are the target's ids of the rows of logits, (n_kept,).
    """

    part: Part = field(repr=False, compare=False)
    hidden_size: int
    state_width: int
    layers: tuple[int, ...]
    kept_ids: npt.NDArray[np.int64] = field(repr=False, compare=False)


def read_eagle3(path: Path, *, target: str, hidden_size: int, n_vocab: int) -> Eagle3Header:
    """The checked header of the head at `path` for a target of that name, hidden size and vocabulary.

    Raises UnsupportedModel for a head of another target or of another kind, and as `read_header` does.
    """
    check = _Head(read_draft_head(path, "eagle3"))
    check.sizes()
    size, state_size, layers = check.number("embedding_length"), check.number("target_hidden_size"), check.layers()
    if state_size != hidden_size:
        if not hidden_size <= _LAYERS * state_size < hidden_size + _PADDING:
            check.refuse_target(f"states of {_LAYERS} x {state_size} numbers", target, f"gives {hidden_size} a layer")
        layers = ()
    check.vocabulary(target, n_vocab)
    if "token_embd.weight" not in check.tensors and size != hidden_size:
        check.refuse_target(f"embeddings of {size} numbers", target, f"has {hidden_size}")
    return Eagle3Header(check.part, size, _LAYERS * state_size, layers, check.kept_ids(hidden_size, n_vocab))


class _Head:
    """The checks of one file."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for tensor in part.tensors}

    def refuse(self, reason: str) -> NoReturn:
        raise malformed(self.part.path, reason)

    def refuse_target(self, wanted: str, target: str, given: str) -> NoReturn:
        raise UnsupportedModel(
            f"{self.part.path}: a head for {wanted}, and {target} {given}; choose a head that was made for it"
        )

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number of the metadata, 0 or more."""
        value = self.part.values.get(f"eagle3.{key}", default)
        if type(value) is not int or value < 0:
            self.refuse(f"eagle3.{key} is {value!r}, not a number" if value is not None else f"eagle3.{key} is missing")
        return value

    def layers(self) -> tuple[int, ...]:
        """The layers of the target whose inputs are joined."""
        found = tuple(int(layer) for layer in numbers(self.part, "eagle3.target_layers"))
        if len(found) != _LAYERS:
            self.refuse(f"eagle3.target_layers names {len(found)} layers, and llama.cpp joins {_LAYERS}")
        return found

    def sizes(self) -> None:
        """Refuse what llama.cpp's graph asserts: sizes of the layer, and types of its vectors."""
        for key, wanted in (("block_count", 1), ("nextn_predict_layers", 0), ("pooling_type", 0)):
            if (found := self.number(key, wanted)) != wanted:
                self.refuse(f"eagle3.{key} is {found}, and a head has {wanted}")
        size, heads = self.number("embedding_length"), self.number("attention.head_count")
        heads_kv = self.number("attention.head_count_kv", heads)
        if not heads or not heads_kv or heads % heads_kv:
            self.refuse(f"its {heads} attention heads cannot share {heads_kv} keys")
        head = self.number("attention.key_length", size // heads)
        if head != self.number("attention.value_length", size // heads) or not head:
            self.refuse("its keys and values differ in length")
        turned = self.number("rope.dimension_count", head)
        if not 0 < turned <= head or turned % 2:
            self.refuse(f"eagle3.rope.dimension_count is {turned}, and its keys have {head} numbers")
        if self.number("embedding_length_out", size) != size:
            self.refuse("eagle3.embedding_length_out differs from its hidden size")
        for tensor in self.part.tensors:
            if len(tensor.shape) == 1 and tensor.type != _F32 and tensor.name != "d2t":
                self.refuse(f"the vector {tensor.name!r} has the type {tensor.type}, and llama.cpp adds 32-bit floats")

    def vocabulary(self, target: str, n_vocab: int) -> None:
        """Refuse a vocabulary of another size than the target's: tokens would stand for others."""
        tokens = self.part.values.get("tokenizer.ggml.tokens")
        count = tokens.length if isinstance(tokens, Array) and tokens.type == STRING else self.number("vocab_size", 0)
        if count != n_vocab:
            self.refuse_target(f"a vocabulary of {count} tokens", target, f"has {n_vocab}")
        embeddings = self.tensors.get("token_embd.weight")
        if embeddings is not None and embeddings.shape[1:] != (n_vocab,):
            self.refuse(f"its embeddings have the shape {embeddings.shape}, and its vocabulary {n_vocab} tokens")

    def kept_ids(self, hidden_size: int, n_vocab: int) -> npt.NDArray[np.int64]:
        """The target's ids of the rows of logits."""
        output, kept = self.tensors.get("output.weight"), self.tensors.get("d2t")
        if output is None and (kept is not None or self.number("embedding_length") != hidden_size):
            self.refuse("it has no output layer, and that of the target has other rows")
        if kept is None:
            return np.arange(n_vocab)
        if kept.type != _I64 or len(kept.shape) != 1 or output is None or output.shape[1:] != kept.shape:
            self.refuse(f"d2t has the type {kept.type} and the shape {kept.shape}, and no integer for each row")
        ids = np.fromfile(self.part.path, "<i8", kept.shape[0], offset=data_start(self.part) + kept.offset)
        ids = ids.astype(np.int64)
        if not len(ids) or ids.min() < 0 or ids.max() >= n_vocab or len(np.unique(ids)) < len(ids):
            self.refuse(f"d2t lists no tokens from 0 to {n_vocab - 1}, each once (absolute ids, not differences)")
        return ids
