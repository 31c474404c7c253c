"""Heads with random weights for a model, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgespec.backend import LlamaModel, published_layers
from edgespec.backend.head_graph import HeadShape, PrefixShape, expected_tensors
from edgespec.gguf.validate import read_header
from edgespec.heads.assemble import assemble
from edgespec.heads.format import OUTPUT, Belongs, HeadsSpec, read_heads, write_heads
from tests.heads.eagle_files import Shape, random_weights

KINDS = ("medusa", "hydra", "hydra++", "eagle3")
COUNT = 4


def random_heads(kind: str, target: Belongs, kept: Any, *, layers: tuple[int, ...] = (), seed: int = 0) -> Any:
    """A spec, and weights by name, of heads for a target; those of `eagle3` read `layers`, or the last state."""
    size, rng = target.hidden_size, np.random.default_rng(seed)
    layer = PrefixShape(4, 2, size // 4, 2 * size, 10000.0, 1e-5) if kind in ("hydra++", "eagle3") else None
    depth = 2 if kind == "hydra++" else 1
    spec = HeadsSpec(
        kind.removesuffix("++"), target, COUNT, depth, layers if kind == "eagle3" else (), layer, {"tokens": 0}
    )
    if kind == "eagle3":
        shape = Shape(size, size, 4, 2, 2 * size, len(kept))
        weights = {name: values for name, values in random_weights(shape, target.n_vocab, seed=seed).items()
                   if name not in ("d2t", OUTPUT)}  # fmt: skip
        if not layers:
            weights["fc.weight"] = weights["fc.weight"][:, :size]
        return spec, weights
    form = HeadShape(spec.kind, size, COUNT, depth, len(kept), layer)
    weights = {}
    for name, values in expected_tensors(form, {}):
        if name != OUTPUT:
            random = rng.standard_normal(values) / np.sqrt(values[-1] if len(values) > 1 else 4)
            weights[name] = (random + ("norm" in name)).astype(np.float32)
    return spec, weights


def heads_files(model: Path, folder: Path, kind: str, *, stored: str = "f32", seed: int = 0) -> tuple[Path, Path]:
    """The learned part and the assembled file of random heads for the model at `model`, in `folder`."""
    header = read_header(model)
    target = Belongs.of(header)
    loaded = LlamaModel(model, gpu_layers=0)
    count = published_layers(loaded)
    loaded.close()
    layers = (0, count // 2, count - 1) if count and kind == "eagle3" else ()
    kept = np.sort(np.random.default_rng(seed).choice(target.n_vocab, target.n_vocab // 2, replace=False))
    spec, weights = random_heads(kind, target, kept, layers=layers, seed=seed)
    learned, runnable = folder / f"{kind}.learned.gguf", folder / f"{kind}.gguf"
    with learned.open("wb") as file:
        write_heads(file, spec, weights, kept.astype(np.int64), stored)
    assemble(read_heads(learned), header, runnable, stored)
    return learned, runnable
