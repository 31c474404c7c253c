"""Heads before training, from what their target knows. Needs the extra `train`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgespec.backend.head_graph import PrefixShape
from edgespec.errors import UnsupportedModel
from edgespec.heads.modules import Attention, Eagle3, HeadsModule, HeadsShape, new_module
from edgespec.heads.target import TargetWeights

KINDS = ("medusa", "hydra", "hydra++", "eagle3")
"""The kinds of heads that can be trained. hydra++ is hydra with four blocks a head and prefix attention."""

_EMBEDDING_SCALE = 0.02
"""Standard deviation of first weights on what the target's layer does not see: embeddings."""


def shape_of(kind: str, target: TargetWeights, layers: Sequence[int], count: int) -> HeadsShape:
    """The shape of heads of this kind on the inputs of a target's layers, or on its last state if none are named."""
    layer = None
    if kind in ("hydra++", "eagle3"):
        heads = int(target.number("attention.head_count"))
        if not heads:
            raise UnsupportedModel(f"{target.path}: its attention has no number of heads: train medusa or hydra")
        layer = PrefixShape(
            head_count=heads,
            head_count_kv=int(target.number("attention.head_count_kv", heads)),
            head_dim=int(target.number("attention.key_length", target.hidden_size // heads)),
            feed_forward=int(target.number("feed_forward_length", 4 * target.hidden_size)),
            rope_theta=float(target.number("rope.freq_base", 10000.0)),
            norm_epsilon=float(target.number("attention.layer_norm_rms_epsilon", 1e-5)),
        )
    depth = 4 if kind == "hydra++" else 1
    size = target.hidden_size
    return HeadsShape(
        kind.removesuffix("++"), size, size * max(1, len(layers)), count, depth, layer, reads_prompts=bool(layers)
    )


def started(shape: HeadsShape, target: TargetWeights, seed: int) -> HeadsModule:
    """A module before training: what of its layer fits starts as the target's last layer, the rest by the seed."""
    torch.manual_seed(seed)
    module = new_module(shape)
    if isinstance(module, Eagle3):
        with torch.no_grad():
            _start_layer(module.blk[0], target, shape.hidden_size)
            _copy(module.output_norm.weight, target.norm("output_norm"))
            if shape.state_size >= shape.hidden_size:  # at first, the last of the joined states alone
                module.fc.weight.zero_()
                module.fc.weight[:, -shape.hidden_size :] = torch.eye(shape.hidden_size)
    return module


def _start_layer(layer: Attention, target: TargetWeights, size: int) -> None:
    for name in ("attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_norm"):
        _copy(getattr(layer, name).weight, target.last_layer(name))
    _copy(layer.attn_norm_2.weight, target.last_layer("attn_norm"))
    for name in ("attn_q", "attn_k", "attn_v"):
        weight = getattr(layer, name).weight
        if _copy(weight[:, size:], target.last_layer(name)):
            weight[:, :size].normal_(0, _EMBEDDING_SCALE)


def _copy(weight: torch.Tensor, values: object) -> bool:
    """Fill `weight` with the target's, where there is one of its shape."""
    found = values is not None and tuple(weight.shape) == tuple(values.shape)  # type: ignore[attr-defined]
    if found:
        weight.copy_(torch.from_numpy(values))
    return found
