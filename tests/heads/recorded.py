"""Made-up recorded answers for tests of training: tokens that follow a rule, and states that know the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgespec.backend.head_graph import PrefixShape
from edgespec.heads.examples import Example, teacher_arrays
from edgespec.heads.modules import HeadsShape
from edgespec.heads.shared import Shared

SIZE, N_VOCAB = 32, 50
LAYER = PrefixShape(head_count=4, head_count_kv=2, head_dim=8, feed_forward=48, rope_theta=10000.0, norm_epsilon=1e-5)
SHAPES = {
    "medusa": HeadsShape("medusa", SIZE, SIZE, count=3),
    "hydra": HeadsShape("hydra", SIZE, SIZE, count=3),
    "hydra++": HeadsShape("hydra", SIZE, SIZE, count=3, depth=4, layer=LAYER),
    "eagle3": HeadsShape("eagle3", SIZE, 2 * SIZE, count=3, layer=LAYER),
}
"""A small module of each kind."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Examples, and what heads share with their target."""

    examples: list[Example]
    shared: Shared


def recorded(answers: int, kind: str, *, seed: int = 0, longest: int = 24, n_kept: int = 40) -> Recorded:
    """Answers of a Markov chain; the state of a token is the LM head's row of the next one, and noise."""
    random = np.random.default_rng(seed)
    table = random.standard_normal((N_VOCAB, SIZE)).astype(np.float32)
    output = random.standard_normal((N_VOCAB, SIZE)).astype(np.float32)
    successors = np.random.default_rng(7).integers(0, N_VOCAB, (N_VOCAB, 2))
    kept = np.sort(random.choice(N_VOCAB, n_kept, replace=False))
    kept_index = np.full(N_VOCAB, n_kept, np.int32)
    kept_index[kept] = np.arange(n_kept)
    parts = SHAPES[kind].state_size // SIZE
    examples = []
    for number in range(answers):
        length, first = int(random.integers(4, longest)), int(random.integers(0, 3))
        tokens = [int(random.integers(N_VOCAB))]
        for _ in range(length):
            tokens.append(int(successors[tokens[-1], int(random.random() < 0.1)]))
        following = np.array(tokens[1:], np.int32)
        states = output[following] + 0.1 * random.standard_normal((length, SIZE))
        top_ids, top_logits, logsumexp = _distribution(output, states)
        teacher = teacher_arrays(top_ids, top_logits, logsumexp, kept_index, n_kept)
        arrays = tuple(states.astype(np.float16) for _ in range(parts))
        examples.append(Example(number, False, np.array(tokens[:-1], np.int32), first, arrays, *teacher))
    rows = torch.from_numpy(output[kept])
    return Recorded(examples, Shared(torch.from_numpy(table), np.arange(N_VOCAB), rows, kept.astype(np.int32), N_VOCAB))


def _distribution(output: npt.NDArray[Any], states: npt.NDArray[Any]) -> tuple[Any, Any, Any]:
    logits = (states @ output.T).astype(np.float32)
    top_ids = np.argsort(-logits, 1)[:, :8].astype(np.int32)
    largest = np.take_along_axis(logits, top_ids.astype(np.int64), 1)
    logsumexp = largest[:, 0] + np.log(np.exp(logits - largest[:, :1]).sum(1))
    return top_ids, largest.astype(np.float16), logsumexp
