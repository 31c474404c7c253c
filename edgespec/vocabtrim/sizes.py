"""The weights that a model reads for one token, in parameters and in bytes.

A token reads every weight once, but of the input embeddings only its own row, unless they are the output layer too.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from edgespec.gguf.reader import Part
from edgespec.vocabtrim.format import EMBEDDINGS, OUTPUT


class Sizes(NamedTuple):
    """Parameters and bytes."""

    parameters: int
    bytes: int


def per_token(part: Part) -> Sizes:
    """What the model reads for one token; tensors of an unknown type count 4 bytes a parameter."""
    untied = any(tensor.name == OUTPUT for tensor in part.tensors)
    tensors_read = [tensor for tensor in part.tensors if not (untied and tensor.name == EMBEDDINGS)]
    parameters = sum(prod(tensor.shape) for tensor in tensors_read)
    return Sizes(parameters, sum(tensor.size or 4 * prod(tensor.shape) for tensor in tensors_read))


def per_token_trimmed(part: Part, kept: int) -> Sizes:
    """What the model reads for one token once it is trimmed to `kept` tokens."""
    full = per_token(part)
    tensors = {tensor.name: tensor for tensor in part.tensors}
    layer = tensors.get(OUTPUT, tensors[EMBEDDINGS])
    columns, rows = layer.shape
    size = layer.size or 4 * rows * columns
    return Sizes(full.parameters - (rows - kept) * columns, full.bytes - (rows - kept) * (size // rows))


def mbsu(block_length: float, share: float, draft_length: float) -> float:
    """Memory-bound speed-up (VocabTrim, arXiv 2506.22694, section 5): `share` is the drafter's size over the target's.

    What speculation would gain if time were the reading of weights and nothing else.
    """
    return block_length / (share * draft_length + 1.0)
