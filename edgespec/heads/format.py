"""The file of heads: a GGUF with the learned tensors, and what they belong to.

A *learned part* has no rows of the target's vocabulary: `edgespec.heads.assemble` adds those of the LM head, and the
result can run. Keys begin with `edgespec.heads.`; `d2t` lists the kept tokens (docs/heads.md).
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgespec.backend.ggml import F32, I64, TYPES, Weight, quantize_rows
from edgespec.backend.head_graph import PrefixShape
from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import encoded, numbers
from edgespec.gguf.reader import BLOCKS, Array, Part, malformed
from edgespec.gguf.validate import Header, data_start, walk_to_data
from edgespec.gguf.writer import NewTensor, write_gguf
from edgespec.vocabtrim.counts import tokenizer_hash

HEADS_FORMAT = 1
"""Version of the format, in `edgespec.heads.format`."""

ARCHITECTURE = "edgespec-heads"
"""`general.architecture` of all files but assembled EAGLE-3 heads, which llama.cpp loads itself."""

KINDS = ("medusa", "hydra", "eagle3")
OUTPUT, KEPT = "output.weight", "d2t"
OWN_OUTPUT = "lm_head.weight"
"""In a learned part of EAGLE-3: an LM head of its own, (n_kept, d), which takes the place of the target's rows."""

_PREFIX = "edgespec.heads."
_LAYER_KEYS = ("head_count", "head_count_kv", "head_dim", "feed_forward", "rope_theta", "norm_epsilon")
_LARGEST = 1 << 20  # of any size in the metadata


@dataclass(frozen=True, slots=True)
class Belongs:
    """The target that heads belong to, whatever it is quantized to.

    `fingerprint`: the SHA-256 of its norms, which no quantization changes and every other training does.
    """

    architecture: str
    hidden_size: int
    layers: int
    n_vocab: int
    tokenizer: str
    fingerprint: str

    @classmethod
    def of(cls, header: Header) -> Belongs:
        """What heads of the model with this header belong to. Raises UnsupportedModel where it has no 32-bit norms."""
        values, name = header.part.values, header.architecture
        return cls(
            name, int(values[f"{name}.embedding_length"]), int(values[f"{name}.block_count"]), header.n_vocab,  # type: ignore[arg-type]
            tokenizer_hash(header.part), _norms_hash(header.parts),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadsSpec:
    """What heads are: kind, target, and form.

    `states`: the layers whose inputs they join; empty for the target's last state. `count`: the tokens they draft.
    `depth`: blocks of a head. `layer`: the decoder layer of EAGLE-3, or Hydra++'s prefix attention. `provenance`: how
    they were trained, and what was measured.
    """

    kind: str
    target: Belongs
    count: int
    depth: int = 1
    states: tuple[int, ...] = ()
    layer: PrefixShape | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_as(self) -> str:
        """The kind as `heads train` has it: Hydra with prefix attention is hydra++."""
        return "hydra++" if self.kind == "hydra" and self.layer is not None else self.kind

    def check(self, header: Header) -> None:
        """Raises UnsupportedModel, with the reason, where heads do not belong to the model of this header."""
        model, own = Belongs.of(header), self.target
        for what, ours, theirs in (
            ("a hidden size", own.hidden_size, model.hidden_size),
            ("a number of layers", own.layers, model.layers),
            ("a vocabulary", own.n_vocab, model.n_vocab),
            ("an architecture", own.architecture, model.architecture),
        ):
            if ours != theirs:
                raise UnsupportedModel(
                    f"heads for {what} of {ours}, and {header.part.path.name} has {theirs}: "
                    "use the heads of this target, or train them (edgespec heads train)"
                )
        for what, ours, theirs in (
            ("another tokenizer", own.tokenizer, model.tokenizer), ("other weights", own.fingerprint, model.fingerprint)
        ):  # fmt: skip
            if ours != theirs:
                raise UnsupportedModel(
                    f"heads of a model that is shaped like {header.part.path.name} and has {what}: "
                    "use the heads of this target, or train them (edgespec heads train)"
                )

    def entries(self) -> list[bytes]:
        """The metadata entries, encoded, without the architecture."""
        own = self.target
        values: dict[str, Any] = {
            "format": HEADS_FORMAT, "kind": self.kind, "count": self.count, "depth": self.depth,
            "states": list(self.states), "target_architecture": own.architecture, "hidden_size": own.hidden_size,
            "target_layers": own.layers, "vocab_size": own.n_vocab, "tokenizer_hash": own.tokenizer,
            "target_hash": own.fingerprint, "provenance": json.dumps(self.provenance, sort_keys=True),
        }  # fmt: skip
        if self.layer is not None:
            values |= {key: getattr(self.layer, key) for key in _LAYER_KEYS}
        return [encoded(f"{_PREFIX}{key}", value) for key, value in values.items()]


class HeadsFile:
    """A heads file, checked and mapped. `kept_ids`: the target's id of each row of logits, ascending, (n_kept,)."""

    def __init__(self, path: Path, part: Part, spec: HeadsSpec, tensors: dict[str, Weight]) -> None:
        self.path, self.part, self.spec, self.tensors = path, part, spec, tensors
        self.kept_ids: npt.NDArray[np.int64] = np.frombuffer(tensors[KEPT].data, "<i8")

    @property
    def assembled(self) -> bool:
        """Whether it can run: it has the rows of the LM head."""
        return OUTPUT in self.tensors


def is_heads(part: Part) -> bool:
    """Whether a walked file is one of heads, learned or assembled, of this program or EAGLE-3 of another."""
    return f"{_PREFIX}format" in part.values or part.values.get("general.architecture") in (ARCHITECTURE, "eagle3")


def is_described(part: Part) -> bool:
    """Whether a walked file says what it belongs to, as no EAGLE-3 head of another program does."""
    return f"{_PREFIX}format" in part.values or part.values.get("general.architecture") != "eagle3"


def read_heads(path: Path, *, architecture: str = ARCHITECTURE) -> HeadsFile:
    """The heads file at `path`. Raises ModelNotFound, MalformedModel, UnsupportedModel."""
    part = walk_to_data(path)
    if (found := part.values.get("general.architecture")) != architecture:
        raise UnsupportedModel(f"{path}: {found!r} is no file of heads; edgespec heads train makes one")
    values = _Values(part)
    if (version := values.number("format", 1)) != HEADS_FORMAT:
        raise UnsupportedModel(f"{path}: format {version} of heads, and {HEADS_FORMAT} can be read; update edgespec")
    kind = values.choice("kind", KINDS)
    target = Belongs(
        values.text("target_architecture"), values.number("hidden_size", 1), values.number("target_layers", 1),
        values.number("vocab_size", 1, 1 << 31), values.text("tokenizer_hash"), values.text("target_hash"),
    )  # fmt: skip
    states = tuple(numbers(part, f"{_PREFIX}states").tolist())
    if not all(isinstance(layer, int) and 0 <= layer < target.layers for layer in states):
        raise malformed(path, f"reads the states of layers {states}, of {target.layers}")
    spec = HeadsSpec(
        kind, target, values.number("count", 1), values.number("depth", 1), states, values.layer(), values.provenance()
    )  # fmt: skip
    tensors = _tensors(part)
    kept = tensors.get(KEPT)
    if kept is None or kept.kind != I64 or len(kept.shape) != 1:
        raise malformed(path, f"has no list {KEPT} of the tokens that are kept")
    ids = np.frombuffer(kept.data, "<i8")
    if not len(ids) or ids[0] < 0 or ids[-1] >= target.n_vocab or (np.diff(ids) <= 0).any():
        raise malformed(path, f"its list {KEPT} is not of ascending tokens below {target.n_vocab}")
    return HeadsFile(path, part, spec, tensors)


def write_heads(
    file: BinaryIO,
    spec: HeadsSpec,
    weights: Mapping[str, npt.NDArray[np.float32]],
    kept_ids: npt.NDArray[np.int64],
    kind: str = "q8_0",
) -> None:
    """Write heads: matrices in a type of `TYPES` (f16 where a row is no multiple of its block), vectors as f32.

    Raises OSError where the disk refuses.
    """
    tensors = [NewTensor(KEPT, I64, (len(kept_ids),), np.ascontiguousarray(kept_ids, "<i8").tobytes())]
    tensors += [stored(name, values, kind) for name, values in weights.items()]
    write_gguf(file, [encoded("general.architecture", ARCHITECTURE), *spec.entries()], tensors)


def stored(name: str, values: npt.NDArray[np.float32], kind: str) -> NewTensor:
    """A tensor in the type that it has in a file."""
    if values.ndim == 1:
        return NewTensor(name, F32, values.shape, np.ascontiguousarray(values, "<f4").tobytes())
    fits = values.shape[1] % BLOCKS[TYPES[kind]][0] == 0
    own = kind if fits else "f16"
    return NewTensor(name, TYPES[own], values.shape, quantize_rows(values, own))


def _tensors(part: Part) -> dict[str, Weight]:
    """The tensors, without a copy. Their bytes are inside the file: the walk has checked that."""
    with part.path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin, tensors = data_start(part), {}
    for tensor in part.tensors:
        if tensor.size is None:
            raise malformed(part.path, f"the tensor {tensor.name!r} has the type {tensor.type}, unknown here")
        place = begin + tensor.offset
        raw = data[place : place + tensor.size]
        if len(raw) != tensor.size:
            raise malformed(part.path, f"ends inside the tensor {tensor.name!r}")
        tensors[tensor.name] = Weight(tensor.type, tuple(reversed(tensor.shape)), raw)
    return tensors


def _norms_hash(parts: Sequence[Part]) -> str:
    """The SHA-256 over the names and bytes of all norms that are 32-bit floats, in the order of their names."""
    digest = hashlib.sha256()
    norms = {tensor.name: (part, tensor) for part in parts for tensor in part.tensors
             if tensor.name.endswith("norm.weight") and tensor.type == F32}  # fmt: skip
    if not norms:
        raise UnsupportedModel(
            f"{parts[0].path.name} has no 32-bit norms, by which heads know their target: use a file that llama.cpp's "
            "own converter and llama-quantize made"
        )
    for name, (part, tensor) in sorted(norms.items()):
        with part.path.open("rb") as file:
            file.seek(data_start(part) + tensor.offset)
            digest.update(name.encode() + file.read(tensor.size or 0))
    return digest.hexdigest()


class _Values:
    """The checked metadata of heads."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def _value(self, key: str) -> Any:
        return self._part.values.get(f"{_PREFIX}{key}")

    def number(self, key: str, low: int, high: int = _LARGEST) -> int:
        value = self._value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise malformed(self._part.path, f"{_PREFIX}{key} is {_told(value)}: it must be from {low} to {high}")
        return value

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str):
            raise malformed(self._part.path, f"{_PREFIX}{key} is {_told(value)}: it must be a text")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self.text(key)
        if value not in choices:
            raise UnsupportedModel(
                f"{self._part.path}: heads of the kind {value[:40]!r}; {', '.join(choices)} are known"
            )
        return value

    def layer(self) -> PrefixShape | None:
        if self._value("head_count") is None:
            return None
        theta, epsilon = (self._value(key) for key in ("rope_theta", "norm_epsilon"))
        if not isinstance(theta, float) or not isinstance(epsilon, float) or not theta > 0 or not 0 <= epsilon < 1:
            raise malformed(self._part.path, f"has a layer with {theta} as rope_theta and {epsilon} as norm_epsilon")
        sizes = [self.number(key, 1) for key in _LAYER_KEYS[:4]]
        return PrefixShape(sizes[0], sizes[1], sizes[2], sizes[3], theta, epsilon)

    def provenance(self) -> Mapping[str, Any]:
        try:
            value = json.loads(self.text("provenance"))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise malformed(self._part.path, f"{_PREFIX}provenance is no JSON object")
        return value


def _told(value: object) -> str:
    if value is None:
        return "missing"
    return f"a list of {value.length}" if isinstance(value, Array) else repr(value)[:60]
