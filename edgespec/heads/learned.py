"""A heads module as a file of its learned part, and back. Needs the extra `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgespec.backend.ggml import Weight, dequantize_rows
from edgespec.errors import UnsupportedModel
from edgespec.gguf.writer import NewTensor
from edgespec.heads.format import KEPT, OUTPUT, Belongs, HeadsFile, HeadsSpec, stored
from edgespec.heads.modules import HeadsModule, HeadsShape, new_module


def spec_of(shape: HeadsShape, target: Belongs, states: Sequence[int], provenance: Mapping[str, Any]) -> HeadsSpec:
    """What the file says of a module of this shape; `states`: the layers whose inputs it reads, or none."""
    depth = 1 if shape.kind == "eagle3" else shape.depth
    return HeadsSpec(shape.kind, target, shape.count, depth, tuple(states), shape.layer, provenance)


def weights_of(module: HeadsModule) -> dict[str, npt.NDArray[np.float32]]:
    """The weights by their names in a file."""
    return {name: weight.cpu().float().numpy().copy() for name, weight in module.state_dict().items()}


def round_weights(module: HeadsModule, kind: str) -> None:
    """Make the weights what a file in this ggml type holds of them."""
    _fill(module, {name: stored(name, values, kind) for name, values in weights_of(module).items()})


def module_of(file: HeadsFile) -> HeadsModule:
    """The module of a file. Raises UnsupportedModel for tensors that it has no place for."""
    spec, size = file.spec, file.spec.target.hidden_size
    shape = HeadsShape(
        spec.kind, size, size * max(1, len(spec.states)), spec.count, spec.depth, spec.layer, bool(spec.states)
    )
    tensors = {name: tensor for name, tensor in file.tensors.items() if name not in (KEPT, OUTPUT)}
    module = new_module(shape)
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise UnsupportedModel(
            f"{file.path}: its tensors are not those of edgespec heads train, and no replay knows them"
        )
    _fill(module, tensors)
    return module


def _fill(module: HeadsModule, tensors: Mapping[str, NewTensor | Weight]) -> None:
    values = {}
    for name, tensor in tensors.items():
        rows, columns = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
        numbers = dequantize_rows(bytes(tensor.data), tensor.kind, rows, columns)
        values[name] = torch.from_numpy(numbers.reshape(tensor.shape))
    module.load_state_dict(values)
