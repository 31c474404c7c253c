"""Makes heads that can run: the learned part, with rows of the target's LM head.

Medusa and Hydra stay files of our own. EAGLE-3 heads become GGUFs of llama.cpp's architecture `eagle3`, with the
target's tokenizer, which llama-server loads too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.backend.ggml import TYPES, Weight, dequantize_rows, quantize_rows
from edgespec.errors import InvalidRequest, OutputError, UnsupportedModel
from edgespec.gguf.metadata import encoded, entry
from edgespec.gguf.reader import BLOCKS
from edgespec.gguf.validate import Header
from edgespec.gguf.writer import NewTensor, write_gguf
from edgespec.heads.format import ARCHITECTURE, OUTPUT, OWN_OUTPUT, HeadsFile
from edgespec.heads.target import TargetWeights
from edgespec.heads.tensors import check_tensors
from edgespec.system import cpu
from edgespec.system.files import replacing

_ROWS_AT_ONCE = 1024
_JOINED = 3  # states that llama.cpp's EAGLE-3 joins, whatever they are
_BLOCK = 32

AssembleProgress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


def assemble(
    heads: HeadsFile,
    target: Header,
    out: Path,
    kind: str = "q4_0",
    progress: AssembleProgress = lambda done, total: None,
) -> None:
    """Write the heads that can run to `out`: the rows of the LM head in a type of `TYPES`.

    Raises UnsupportedModel where the heads do not belong to the target, MalformedModel where they are none,
    InvalidRequest for another type, OutputError.
    """
    if kind not in TYPES:
        raise InvalidRequest(f"type {kind!r}: choose {', '.join(TYPES)}")
    heads.spec.check(target)
    if heads.assembled:
        raise UnsupportedModel(f"{heads.path}: assembled already")
    check_tensors(heads)
    size = heads.spec.target.hidden_size
    own = kind if size % BLOCKS[TYPES[kind]][0] == 0 else "f16"
    tensors = [_requantized(name, weight, own) for name, weight in heads.tensors.items()]
    if OWN_OUTPUT in heads.tensors:
        tensors = [tensor._replace(name=OUTPUT) if tensor.name == OWN_OUTPUT else tensor for tensor in tensors]
    else:
        rows = _output_rows(heads, target, own, progress)
        tensors.append(NewTensor(OUTPUT, TYPES[own], (len(heads.kept_ids), size), rows))
    if heads.spec.kind == "eagle3":
        entries, tensors = _stock_entries(heads, target), [_stock(tensor, size) for tensor in tensors]
    else:
        entries = [encoded("general.architecture", ARCHITECTURE)]
    try:
        with replacing(out) as temporary, temporary.open("xb") as file:
            write_gguf(file, [*entries, *heads.spec.entries()], tensors)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error


def runnable_path(heads: HeadsFile) -> Path:
    """Where heads that can run are kept: in edgespec's data folder, by the name of the learned part and the target."""
    return runnable_folder() / f"{heads.path.stem}-{heads.spec.target.fingerprint[:16]}.gguf"


def runnable_folder() -> Path:
    """The folder of the heads that can run. A file's name ends with `-`, 16 digits of the target's hash, `.gguf`."""
    return cpu.data_directory() / "heads"


def _requantized(name: str, weight: Weight, kind: str) -> NewTensor:
    """The tensor as it is; an LM head of the heads' own in the type that is asked for, as the target's rows."""
    if name != OWN_OUTPUT and not re.fullmatch(r"heads\.\d+\.output\.weight", name):
        return NewTensor(name, weight.kind, weight.shape, weight.data)
    count, size = weight.shape
    row, data, pieces = len(weight.data) // count, weight.data, []
    for begin in range(0, count, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, count - begin)
        numbers = dequantize_rows(bytes(data[begin * row : (begin + rows) * row]), weight.kind, rows, size)
        pieces.append(quantize_rows(numbers, kind))
    return NewTensor(name, TYPES[kind], weight.shape, b"".join(pieces))


def _output_rows(heads: HeadsFile, target: Header, kind: str, progress: AssembleProgress) -> bytes:
    weights, ids, pieces = TargetWeights(target), heads.kept_ids.tolist(), []
    progress(0, len(ids))
    for begin in range(0, len(ids), _ROWS_AT_ONCE):
        chosen = ids[begin : begin + _ROWS_AT_ONCE]
        pieces.append(quantize_rows(weights.output_rows(chosen), kind))
        progress(begin + len(chosen), len(ids))
    return b"".join(pieces)


def _stock_entries(heads: HeadsFile, target: Header) -> list[bytes]:
    """The metadata of llama.cpp's architecture `eagle3` (src/models/eagle3.cpp), and the target's tokenizer."""
    spec, layer, part = heads.spec, heads.spec.layer, target.part
    if layer is None:
        raise UnsupportedModel(f"{heads.path}: EAGLE-3 heads without the sizes of their layer")
    size = spec.target.hidden_size
    context = part.values.get(f"{target.architecture}.context_length", 2048)
    values: dict[str, Any] = {
        "block_count": 1, "context_length": context if isinstance(context, int) else 2048, "embedding_length": size,
        "feed_forward_length": layer.feed_forward, "attention.head_count": layer.head_count,
        "attention.head_count_kv": layer.head_count_kv, "attention.key_length": layer.head_dim,
        "attention.value_length": layer.head_dim, "attention.layer_norm_rms_epsilon": layer.norm_epsilon,
        "rope.freq_base": layer.rope_theta, "rope.dimension_count": layer.head_dim,
        "target_hidden_size": size if spec.states else _state_size(size) // _JOINED,
        "target_layers": list(spec.states) or [0] * _JOINED,
    }  # fmt: skip
    return [
        encoded("general.architecture", "eagle3"),
        *(encoded(f"eagle3.{key}", value) for key, value in values.items()),
        *(entry(part, key) for key in part.spans if key.startswith("tokenizer.") and "chat_template" not in key),
    ]


def _state_size(size: int) -> int:
    """Numbers of a last state as llama.cpp joins it: three parts of whole blocks."""
    unit = _JOINED * _BLOCK
    return -(-size // unit) * unit


def _stock(tensor: NewTensor, size: int) -> NewTensor:
    """The tensor as llama.cpp wants it: the joining matrix of a last state is filled up with zero columns."""
    if tensor.name != "fc.weight" or tensor.shape[1] != size or _state_size(size) == size:
        return tensor
    elements, block = BLOCKS[tensor.kind]
    raw = np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], size // elements * block)
    wide = np.zeros((tensor.shape[0], _state_size(size) // elements * block), np.uint8)
    wide[:, : raw.shape[1]] = raw  # a block of zeros is one of zero bytes in every type of `TYPES`
    return tensor._replace(shape=(tensor.shape[0], _state_size(size)), data=wide.tobytes())
