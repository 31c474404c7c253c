"""Cross-entropy of heads against the target's distribution over the kept tokens. Needs the extra `train`.

Of the target's distribution at each token, the largest logits and the logarithm of the sum of all are known. So its
probabilities of the likeliest tokens are exact, and the mass of all others is one class, "another token", whose
probability under the heads is what they give to the kept tokens that are not among the likeliest. Mass of tokens
that are not kept counts nowhere: a position whose target likes none of the kept tokens weighs little.

The LM head is frozen and wide, so its part of the loss and of the gradient is computed by hand, in pieces, without
storing logits. In training, the sum over the vocabulary may be over a sample: the likeliest tokens of all rows, and of
the others some, whose share stands for all (sampled softmax, arXiv 1412.2007, with exact likeliest tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS = 512
"""Rows of logits at once: 512 x 16384 of 4 bytes take 32 MB."""

_LEAST_REST = 1e-6
"""The least probability of "another token" under the heads, whose logarithm is taken."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """The target's distribution at N tokens: `ids` (N, K) are rows of the kept tokens, `probabilities` (N, K) theirs.

    An id that is not kept is n_kept, with probability 0. `rest` (N,): the probability of all tokens beyond those K.
    """

    ids: Tensor
    probabilities: Tensor
    rest: Tensor

    def at(self, index: Tensor) -> Teacher:
        """The distributions at some of the tokens."""
        return Teacher(self.ids[index], self.probabilities[index], self.rest[index])


class OutputRows:
    """The LM head's rows of the kept tokens, (n_kept, d), frozen. `kind`: the type of its products."""

    def __init__(self, rows: Tensor, kind: torch.dtype) -> None:
        self.n_kept = len(rows)
        self.rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])]).to(kind)  # a last one for what is not kept

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, n_kept) of states (N, d)."""
        return (x.to(self.rows.dtype) @ self.rows[: self.n_kept].T).float()

    def loss(self, x: Tensor, teacher: Teacher, others: Tensor | None = None) -> Tensor:
        """Cross-entropy (N,) of states (N, d). `others`: rows that stand for all that are no row's likeliest."""
        if others is None:
            return _Loss.apply(x, teacher, self.rows, None)
        likely = torch.zeros(self.n_kept + 1, dtype=torch.bool, device=x.device)
        likely[teacher.ids.flatten()] = True
        likely[self.n_kept] = False
        others = others[~likely[others]]
        chosen = torch.cat([likely.nonzero()[:, 0], others])
        column = torch.full((self.n_kept + 1,), len(chosen), device=x.device)
        column[chosen] = torch.arange(len(chosen), device=x.device)
        shift = torch.zeros(len(chosen) + 1, device=x.device)
        unlikely = self.n_kept - (len(chosen) - len(others))
        shift[len(chosen) - len(others) : -1] = torch.tensor(unlikely / max(1, len(others))).log()
        rows = self.rows[torch.cat([chosen, chosen.new_tensor([self.n_kept])])]
        mapped = Teacher(column[teacher.ids], teacher.probabilities, teacher.rest)
        return _Loss.apply(x, mapped, rows, shift)


class _Loss(torch.autograd.Function):
    """Computes the gradient beside the loss: that of a row's logits is no longer needed when the next piece comes."""

    @staticmethod
    def forward(context: Any, x: Tensor, teacher: Teacher, rows: Tensor, shift: Tensor | None) -> Tensor:
        losses, gradients = x.new_empty(len(x)), torch.empty_like(x)
        states = x.to(rows.dtype)
        for begin in range(0, len(x), _ROWS):
            part = slice(begin, begin + _ROWS)
            logits = (states[part] @ rows.T).float()
            if shift is not None:
                logits += shift
            logits[:, -1] = -torch.inf
            ids, wanted, rest = teacher.ids[part], teacher.probabilities[part], teacher.rest[part]
            total = logits.logsumexp(-1, keepdim=True)
            likeliest = logits.gather(-1, ids) - total
            q = logits.sub_(total).exp_()
            q_likeliest = likeliest.exp()
            q_rest = (1 - q_likeliest.sum(-1)).clamp_min(_LEAST_REST)
            losses[part] = -(wanted * likeliest.clamp_min(-1e4)).sum(-1) - rest * q_rest.log()
            mass = wanted.sum(-1) + rest
            q *= (mass - rest / q_rest)[:, None]
            q.scatter_(-1, ids, mass[:, None] * q_likeliest - wanted)
            gradients[part] = (q.to(rows.dtype) @ rows).to(x.dtype)
        context.save_for_backward(gradients)
        return losses

    @staticmethod
    def backward(context: Any, outer: Tensor) -> Any:
        (gradients,) = context.saved_tensors
        return gradients * outer[:, None], None, None, None
