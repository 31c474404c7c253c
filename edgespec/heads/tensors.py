"""The tensors that heads of a kind have, checked by name, shape and type before they are read."""

from __future__ import annotations

from edgespec.backend.head_graph import HeadShape, PrefixShape, expected_tensors
from edgespec.errors import InvalidRequest
from edgespec.gguf.reader import malformed
from edgespec.heads.format import KEPT, OUTPUT, OWN_OUTPUT, HeadsFile

_Forms = list[tuple[str, tuple[int, ...]]]


def check_tensors(heads: HeadsFile) -> None:
    """Raises MalformedModel for a learned part that lacks a tensor, or has one too many or of another shape or type."""
    try:
        expected = _expected(heads)
        if foreign := sorted(set(heads.tensors) - {KEPT, OUTPUT} - {name for name, _ in expected}):
            raise InvalidRequest(f"{heads.spec.kind} heads have no place for {foreign[0]}")
        for name, form in expected:
            if name not in heads.tensors:
                raise InvalidRequest(f"the heads have no tensor {name}")
            heads.tensors[name].check(name, *form)
    except InvalidRequest as error:
        raise malformed(heads.path, str(error)) from error


def _expected(heads: HeadsFile) -> _Forms:
    spec, kept = heads.spec, len(heads.kept_ids)
    size, layer = spec.target.hidden_size, spec.layer
    if spec.kind == "eagle3":
        if layer is None:
            raise InvalidRequest("the heads have no sizes of their layer")
        optional = {OWN_OUTPUT: (kept, size), "rope_freqs.weight": (layer.head_dim // 2,)}
        own: _Forms = [(name, form) for name, form in optional.items() if name in heads.tensors]
        return [*own, *_eagle3(size, size * max(1, len(spec.states)), layer)]
    shape = HeadShape(spec.kind, size, spec.count, spec.depth, kept, layer)
    return [(name, form) for name, form in expected_tensors(shape, heads.tensors) if name != OUTPUT]


def _eagle3(size: int, joined: int, layer: PrefixShape) -> _Forms:
    query, key = layer.head_count * layer.head_dim, layer.head_count_kv * layer.head_dim
    matrices: dict[str, tuple[int, ...]] = {
        "attn_norm": (size,), "attn_norm_2": (size,), "ffn_norm": (size,), "attn_q": (query, 2 * size),
        "attn_k": (key, 2 * size), "attn_v": (key, 2 * size), "attn_output": (size, query),
        "ffn_gate": (layer.feed_forward, size), "ffn_up": (layer.feed_forward, size),
        "ffn_down": (size, layer.feed_forward),
    }  # fmt: skip
    layers = [(f"blk.0.{name}.weight", form) for name, form in matrices.items()]
    return [("fc.weight", (size, joined)), ("output_norm.weight", (size,)), *layers]
