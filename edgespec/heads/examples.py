"""Recorded answers as training examples, and batches of them. Needs the extra `train`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgespec.heads.loss import Teacher

_HELD_OUT_SHARE = 20
"""Prompts for each one whose answers are held out."""

_CLASSES = 8
"""Likeliest tokens of the target whose probabilities are told apart; all others are one class."""

_POOL = 32
"""Batches whose answers are sorted by length together, so that little is padded."""


@dataclass(frozen=True, slots=True)
class Example:
    """One answer behind its prompt, T tokens.

    `first`: the first base, the position before the answer's first token. `states`: one array (T, d) a state.
    `ids`, `probabilities` (T, K) and `rest` (T,): the target's distribution after each token, as `loss.Teacher` has it.
    """

    prompt: int
    looping: bool
    tokens: npt.NDArray[np.int32]
    first: int
    states: tuple[npt.NDArray[np.float16], ...]
    ids: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float16]
    rest: npt.NDArray[np.float16]

    @property
    def answer(self) -> npt.NDArray[np.int32]:
        """The tokens of the answer."""
        return self.tokens[self.first + 1 :]


@dataclass(frozen=True, slots=True)
class Batch:
    """B answers of T tokens, padded at the end. `first`, `lengths`: (B,); `states`: (B, T, state_size)."""

    tokens: Tensor
    states: Tensor
    first: Tensor
    lengths: Tensor
    teacher: Teacher
    """Of all B x T positions, one after the other."""

    def bases(self) -> tuple[Tensor, Tensor]:
        """The positions (B, A) that a draft can start from and be judged, and which of them are none (False)."""
        count = int((self.lengths - 1 - self.first).max())
        at = self.first[:, None] + torch.arange(count, device=self.first.device)
        return at.clamp(max=self.tokens.shape[1] - 1), at + 1 < self.lengths[:, None]


def teacher_arrays(
    top_ids: npt.NDArray[np.int32], top_logits: npt.NDArray[np.float16], logsumexp: npt.NDArray[np.float32],
    kept_index: npt.NDArray[np.int32], n_kept: int,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float16], npt.NDArray[np.float16]]:  # fmt: skip
    """`ids`, `probabilities` and `rest` of an example from what is recorded.

    `kept_index` (n_vocab,): the row of each token among the kept ones, or `n_kept`.
    """
    ids = kept_index[top_ids[:, :_CLASSES]]
    probabilities = np.exp(top_logits[:, :_CLASSES].astype(np.float32) - logsumexp[:, None])
    rest = np.clip(1 - probabilities.sum(-1), 0, 1)
    probabilities[ids == n_kept] = 0
    return ids, probabilities.astype(np.float16), rest.astype(np.float16)


def held_out(prompt: int) -> bool:
    """Whether answers to this prompt are for measuring: always the same ones, however many there are."""
    return zlib.crc32(prompt.to_bytes(8, "little")) % _HELD_OUT_SHARE == 0


def limited(examples: Iterable[Example], tokens: int | None) -> list[Example]:
    """The first examples that have `tokens` tokens of answers together, or all."""
    chosen, total = [], 0
    for example in examples:
        if tokens is not None and total >= tokens:
            break
        chosen.append(example)
        total += len(example.answer)
    return chosen


def epoch_batches(examples: Sequence[Example], size: int, seed: tuple[int, ...]) -> list[list[Example]]:
    """All examples in batches of some `size` answer tokens, in an order that the seed decides."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(examples))
    total = sum(len(example.answer) for example in examples)
    per_pool = max(1, round(len(examples) * size * _POOL / max(1, total)))
    batches: list[list[Example]] = []
    for begin in range(0, len(order), per_pool):
        pool = sorted((examples[index] for index in order[begin : begin + per_pool]), key=lambda one: len(one.answer))
        batches += by_size(pool, size)
    return [batches[index] for index in random.permutation(len(batches))]


def by_size(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Examples in the order given, as lists of some `size` answer tokens."""
    batch: list[Example] = []
    total = 0
    for example in examples:
        batch.append(example)
        total += len(example.answer)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def by_positions(examples: Iterable[Example], most: int) -> Iterator[list[Example]]:
    """Examples in the order given, as lists that take at most `most` positions when they are padded, prompts included.

    A longer example is a list of its own.
    """
    batch: list[Example] = []
    longest = 0
    for example in examples:
        longest = max(longest, len(example.tokens))
        if batch and (len(batch) + 1) * longest > most:
            yield batch
            batch, longest = [], len(example.tokens)
        batch.append(example)
    if batch:
        yield batch


def padded(examples: Sequence[Example], n_kept: int, device: Any = "cpu") -> Batch:
    """The batch of these examples."""
    longest = max(len(example.tokens) for example in examples)
    shape = (len(examples), longest)
    size = sum(state.shape[1] for state in examples[0].states)
    classes = examples[0].ids.shape[1]
    tokens = np.zeros(shape, np.int64)
    states = np.zeros((*shape, size), np.float16)
    ids = np.full((*shape, classes), n_kept, np.int64)
    probabilities = np.zeros((*shape, classes), np.float32)
    rest = np.zeros(shape, np.float32)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens[row, :length] = example.tokens
        np.concatenate(example.states, 1, out=states[row, :length])
        ids[row, :length], probabilities[row, :length] = example.ids, example.probabilities
        rest[row, :length] = example.rest

    def moved(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    teacher = Teacher(*(moved(array.reshape(-1, *array.shape[2:])) for array in (ids, probabilities, rest)))
    lengths = np.array([len(example.tokens) for example in examples])
    first = np.array([example.first for example in examples])
    return Batch(moved(tokens), moved(states).float(), moved(first), moved(lengths), teacher)
