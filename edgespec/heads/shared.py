"""What heads share with their target, frozen, as PyTorch computes with it. Needs the extra `train`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgespec.heads.loss import OutputRows
from edgespec.heads.target import TargetWeights
from edgespec.vocabtrim.selection import TokenIds


class Shared:
    """The target's embeddings of the tokens in use, (n, d), and its LM head's rows of the kept ones, (n_kept, d).

    `used`: the ids of the embeddings, below `n_vocab`. `kept`: those of the rows, ascending. `products`: the type to
    multiply matrices in.
    """

    def __init__(
        self, embeddings: Tensor, used: npt.NDArray[np.int64], output_rows: Tensor, kept: TokenIds, n_vocab: int,
        device: str = "cpu", products: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        index = np.zeros(n_vocab, np.int64)
        index[used] = np.arange(len(used))
        self._index = torch.from_numpy(index).to(device)
        self._embeddings = embeddings.to(device)
        self.kept = torch.from_numpy(kept.astype(np.int64)).to(device)
        self.head = OutputRows(output_rows.to(device), products)
        self.device = device

    def embed(self, tokens: Tensor) -> Tensor:
        """The input embeddings of tokens, (..., d)."""
        return self._embeddings[self._index[tokens]]


def shared_with(target: TargetWeights, kept: TokenIds, tokens: npt.NDArray[np.int64], device: str) -> Shared:
    """What heads with these kept ids share with the target; `tokens`: the ids that occur in the answers."""
    used = np.union1d(kept, tokens)
    embeddings, rows = target.embeddings(used.tolist()), target.output_rows(kept.tolist())
    return Shared(
        torch.from_numpy(embeddings), used, torch.from_numpy(rows), kept, target.n_vocab, device, product_type(device)
    )


def product_type(device: str) -> torch.dtype:
    """The type that matrix products are fast in: bfloat16 on GPUs and on processors with instructions for it."""
    return torch.bfloat16 if device != "cpu" or torch.cpu._is_avx512_bf16_supported() else torch.float32
