"""From recorded answers and their target to trained heads, and the measurement of heads. Needs the extra `train`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest
from edgespec.gguf.validate import Header
from edgespec.heads.dataset import HeadData, Recorded
from edgespec.heads.examples import Example, held_out, limited, teacher_arrays
from edgespec.vocabtrim.keep_list import KeepList
from edgespec.vocabtrim.pipeline import forced_tokens
from edgespec.vocabtrim.selection import TokenIds, ranked, ranked_by_list, select_ids

LAST = "last"
"""The name of the last state in a data set; the inputs of layers are `layer.N`."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Recorded answers for one kind of heads: to train on, to measure by, and those that loop, to measure apart."""

    train: list[Example]
    held_out: list[Example]
    looping: list[Example]

    def tokens(self) -> npt.NDArray[np.int64]:
        """The ids of all tokens that occur, prompts included."""
        return np.unique(np.concatenate([one.tokens for one in (*self.train, *self.held_out, *self.looping)]))


def states_for(kind: str, data: HeadData) -> list[str]:
    """The states that heads of this kind read: EAGLE-3 the layers' inputs where they were collected, else the last."""
    layers = [name for name in data.states if name != LAST]
    if kind == "eagle3" and layers:
        return layers
    if LAST not in data.states:
        raise InvalidRequest(f"{data.directory}: {kind} reads the last state, and these answers were collected without")
    return [LAST]


def layer_indices(states: Sequence[str]) -> list[int]:
    """The indices of the layers whose inputs these are; none for the last state."""
    return [int(name.removeprefix("layer.")) for name in states if name != LAST]


def chosen_tokens(
    data: HeadData, header: Header, size: int, keep_list: KeepList | None = None, tokens: int | None = None
) -> TokenIds:
    """The ids that the heads keep, ascending: control and end tokens, then those most frequent in the answers.

    Or the first of a keep list. `tokens`: count only so many tokens of answers to train on.
    """
    if keep_list is not None:
        ranking = ranked_by_list(header.n_vocab, keep_list.ids)
    else:
        counts: Counter[int] = Counter()
        for answer in data:
            if not held_out(answer.prompt):
                counts.update(answer.tokens[answer.is_answer].tolist())
            if tokens is not None and counts.total() >= tokens:
                break
        ranking = ranked(header.n_vocab, counts)
    return select_ids(ranking, forced_tokens(header.part), min(size, header.n_vocab))


def read_answers(data: HeadData, states: Sequence[str], kept: TokenIds, n_vocab: int, tokens: int | None) -> Answers:
    """The answers of a data set, with at most some `tokens` tokens to train on; loops are neither trained nor held out.

    Raises InvalidRequest where there are none to train on or none to measure by.
    """
    kept_index = np.full(n_vocab, len(kept), np.int32)
    kept_index[kept] = np.arange(len(kept))
    train: list[Example] = []
    measured: list[Example] = []
    looping: list[Example] = []
    for example in _examples(data, states, kept_index, len(kept)):
        if held_out(example.prompt):
            (looping if example.looping else measured).append(example)
        elif not example.looping:
            train.append(example)
    if not train or not measured:
        raise InvalidRequest(
            f"{data.directory}: {len(train)} answers to train on and {len(measured)} to measure by (a twentieth of the "
            "prompts): collect more"
        )
    return Answers(limited(train, tokens), measured, looping)


def _examples(
    data: HeadData, states: Sequence[str], kept_index: npt.NDArray[np.int32], n_kept: int
) -> Iterator[Example]:
    for answer in data:
        positions = np.flatnonzero(answer.is_answer)
        if len(positions) >= 2 and positions[-1] == len(answer.tokens) - 1:
            yield _example(answer, states, int(max(1, positions[0])) - 1, kept_index, n_kept)


def _example(
    answer: Recorded, states: Sequence[str], first: int, kept_index: npt.NDArray[np.int32], n_kept: int
) -> Example:
    ids, probabilities, rest = teacher_arrays(answer.top_ids, answer.top_logits, answer.logsumexp, kept_index, n_kept)
    arrays = tuple(answer.states[name] for name in states)
    return Example(answer.prompt, answer.looping, np.asarray(answer.tokens), first, arrays, ids, probabilities, rest)


def data_digest(data: HeadData) -> str:
    """Names the answers of a data set: a hash of its shards' checksums."""
    return hashlib.sha256("".join(shard.sha256 for shard in data.shards).encode()).hexdigest()[:16]
