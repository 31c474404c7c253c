"""Is a trimmed file what it should be? Its logits against the full model's, row by kept row, to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgespec.backend import EmbeddingTable, LlamaContext, LlamaModel
from edgespec.core import NOTHING
from edgespec.errors import ProofFailed
from edgespec.gguf.reader import Part, walk
from edgespec.system.cpu import default_threads
from edgespec.vocabtrim.format import Trimming, trimming_of

_LENGTH = 24
"""Tokens that both models read: half of them kept, half not."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How many logits were compared, after how many tokens, and how many of those tokens have no row of their own."""

    logits: int
    tokens: int
    outside: int


def load_trimmed(
    path: Path, part: Part, trimming: Trimming, *, gpu_layers: int = -1, repack: bool = True
) -> LlamaModel:
    """The model in a trimmed file, able to read every token of the full vocabulary."""
    table = trimming.table
    inputs = EmbeddingTable(
        path,
        offset=table.offset,
        kind=table.type,
        row_bytes=table.row_bytes,
        rows=table.rows,
        columns=table.columns,
        architecture=str(part.values["general.architecture"]),
    )
    return LlamaModel(path, gpu_layers=gpu_layers, inputs=inputs, repack=repack)


def prove(full: Path, trimmed: Path) -> Proof:
    """Compare the two on the CPU, token by token. Raises ProofFailed with the largest difference, and ModelError.

    Weights stay as they are in the file: how llama.cpp rearranges them for speed, and so rounds, can depend on the
    number of rows.
    """
    part = walk(trimmed)
    trimming = trimming_of(part)
    if trimming is None:
        raise ProofFailed(f"{trimmed}: not a trimmed model")
    tokens = sample(trimming)
    expected = _logits(LlamaModel(full, gpu_layers=0, repack=False), tokens)[:, trimming.kept]
    found = _logits(load_trimmed(trimmed, part, trimming, gpu_layers=0, repack=False), tokens)
    if found.shape != expected.shape or not np.array_equal(found, expected):
        worst = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        raise ProofFailed(f"the trimmed model's logits differ from those of {full.name} by up to {worst:.3g}")
    return Proof(found.size, len(tokens), int((~np.isin(tokens, trimming.kept)).sum()))


def sample(trimming: Trimming) -> list[int]:
    """Tokens from all over the vocabulary, kept and dropped ones in turn."""
    dropped = np.setdiff1d(np.arange(trimming.full_vocab), trimming.kept)
    half = _LENGTH // 2
    spread = [ids[np.linspace(0, len(ids) - 1, half).astype(int)] for ids in (trimming.kept, dropped) if len(ids)]
    return [int(token) for group in zip(*spread, strict=True) for token in group]


def _logits(model: LlamaModel, tokens: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The logits after every one of `tokens`, shape (len(tokens), n_vocab)."""
    context = LlamaContext(model, n_ctx=max(64, len(tokens)), threads=default_threads())
    try:
        # One by one: kernels for several rows may take another path where the number of kept rows is odd.
        return np.stack([context.evaluate(tokens[: end + 1], NOTHING).rows[0].copy() for end in range(len(tokens))])
    finally:
        context.close()
        model.close()
