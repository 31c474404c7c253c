"""Checks that a trimmed model's logits are bit-identical to the full model's, for all kept rows."""

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

_PROOF_LENGTH = 24
"""Tokens that both models evaluate: half of them kept ones, half dropped ones."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The numbers of compared logits, of evaluated tokens, and of those among them that the drafter dropped."""

    logits: int
    tokens: int
    dropped_tokens: int


def load_trimmed(
    path: Path, part: Part, trimming: Trimming, *, gpu_layers: int = -1, repack: bool = True
) -> LlamaModel:
    """Load a trimmed model with the embedding table that lets it read every token of the full vocabulary."""
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


def check_equivalence(full: Path, trimmed: Path) -> Proof:
    """Compare the logits of both on the CPU. Raises ProofFailed with the largest difference, and ModelError.

    Weights are not repacked: how llama.cpp repacks them, and so rounds, can depend on the number of rows.
    """
    part = walk(trimmed)
    trimming = trimming_of(part)
    if trimming is None:
        raise ProofFailed(f"{trimmed}: not a trimmed model")
    tokens = proof_tokens(trimming)
    expected = _logits(LlamaModel(full, gpu_layers=0, repack=False), tokens)[:, trimming.kept_ids]
    actual = _logits(load_trimmed(trimmed, part, trimming, gpu_layers=0, repack=False), tokens)
    if actual.shape != expected.shape or not np.array_equal(actual, expected):
        worst = float(np.abs(actual - expected).max()) if actual.shape == expected.shape else float("inf")
        raise ProofFailed(f"the trimmed model's logits differ from those of {full.name} by up to {worst:.3g}")
    return Proof(actual.size, len(tokens), int((~np.isin(tokens, trimming.kept_ids)).sum()))


def proof_tokens(trimming: Trimming) -> list[int]:
    """_PROOF_LENGTH tokens, spread over the vocabulary, kept and dropped ones in turn."""
    dropped = np.setdiff1d(np.arange(trimming.full_vocab), trimming.kept_ids)
    half = _PROOF_LENGTH // 2
    spread = [ids[np.linspace(0, len(ids) - 1, half).astype(int)] for ids in (trimming.kept_ids, dropped) if len(ids)]
    return [int(token) for group in zip(*spread, strict=True) for token in group]


def _logits(model: LlamaModel, tokens: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The logits after every one of `tokens`, shape (len(tokens), n_vocab)."""
    context = LlamaContext(model, n_ctx=max(64, len(tokens)), threads=default_threads())
    try:
        # One row each: kernels for several rows may take another path where the number of kept rows is odd.
        return np.stack([context.evaluate(tokens[: end + 1], NOTHING).rows[0].copy() for end in range(len(tokens))])
    finally:
        context.close()
        model.close()
