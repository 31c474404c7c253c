"""From recorded answers and their target to trained heads, and the measurement of heads. Needs the extra `train`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest, OutputError, UnsupportedModel
from edgespec.gguf.validate import Header
from edgespec.heads.dataset import HeadData, Recorded
from edgespec.heads.examples import Example, held_out, teacher_arrays
from edgespec.heads.format import Belongs, HeadsFile, write_heads
from edgespec.heads.learned import module_of, round_weights, spec_of, weights_of
from edgespec.heads.modules import HeadsModule
from edgespec.heads.replay import Replayed, replay
from edgespec.heads.shared import Shared, shared_with
from edgespec.heads.start import shape_of, started
from edgespec.heads.target import TargetWeights
from edgespec.heads.train import Epoch, Progress, Trainer, Training
from edgespec.system.files import replacing, sha256_of
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

    def add(self, example: Example) -> None:
        """Measure by this one too, apart where it loops."""
        (self.looping if example.looping else self.held_out).append(example)

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
    total = 0
    train: list[Example] = []
    measured = Answers([], [], [])

    def wanted(answer: Recorded) -> bool:
        return held_out(answer.prompt) or not (answer.looping or (tokens is not None and total >= tokens))

    for example in _examples(data, states, kept, n_vocab, wanted):
        if held_out(example.prompt):
            measured.add(example)
        else:
            train.append(example)
            total += len(example.answer)
    if not train or not measured.held_out:
        raise InvalidRequest(
            f"{data.directory}: {len(train)} answers to train on and {len(measured.held_out)} to measure by (a "
            "twentieth of the prompts): collect more"
        )
    return Answers(train, measured.held_out, measured.looping)


def _answers_to_measure(data: HeadData, states: Sequence[str], kept: TokenIds, n_vocab: int, *, every: bool) -> Answers:
    """The held-out answers of a data set, or all of them. Raises InvalidRequest where there are none."""
    measured = Answers([], [], [])
    for example in _examples(data, states, kept, n_vocab, lambda answer: every or held_out(answer.prompt)):
        measured.add(example)
    if not measured.held_out:
        which = "answer that does not loop" if every else "held-out answer (those to a twentieth of the prompts)"
        raise InvalidRequest(f"{data.directory} has no {which} to measure by: collect more")
    return measured


def _examples(
    data: HeadData, states: Sequence[str], kept: TokenIds, n_vocab: int, wanted: Callable[[Recorded], bool]
) -> Iterator[Example]:
    kept_index = np.full(n_vocab, len(kept), np.int32)
    kept_index[kept] = np.arange(len(kept))
    for answer in data:
        if wanted(answer):
            positions = np.flatnonzero(answer.is_answer)
            if len(positions) >= 2 and positions[-1] == len(answer.tokens) - 1:
                yield _example(answer, states, int(max(1, positions[0])) - 1, kept_index, len(kept))


def _example(
    answer: Recorded, states: Sequence[str], first: int, kept_index: npt.NDArray[np.int32], n_kept: int
) -> Example:
    ids, probabilities, rest = teacher_arrays(answer.top_ids, answer.top_logits, answer.logsumexp, kept_index, n_kept)
    arrays = tuple(answer.states[name] for name in states)
    return Example(answer.prompt, answer.looping, np.asarray(answer.tokens), first, arrays, ids, probabilities, rest)


def data_digest(data: HeadData) -> str:
    """Names the answers of a data set: a hash of its shards' checksums."""
    return hashlib.sha256("".join(shard.sha256 for shard in data.shards).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Order:
    """What to train: `kind` of `start.KINDS`, `count` heads or steps, over the first `size` tokens by their use.

    `tokens`: answer tokens to train on at most. `stored_as`: the type of the file's matrices, of `backend.ggml.TYPES`.
    `version`: edgespec's, for the record. `start`: heads of this kind to go on from, with the tokens that they keep.
    """

    kind: str
    training: Training
    size: int = 16384
    count: int = 4
    tokens: int | None = None
    keep_list: KeepList | None = None
    stored_as: str = "q8_0"
    version: str = ""
    start: HeadsFile | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Replays of held-out answers: greedy chains, trees where they were asked for, and chains of answers that loop."""

    chain: Replayed
    tree: Replayed | None = None
    looping: Replayed | None = None

    def as_json(self) -> dict[str, Any]:
        """Mean acceptance lengths, and acceptance rates by position."""
        parts = {"chain": self.chain, "tree": self.tree, "looping": self.looping}
        return {
            name: {"tokens": part.tokens, "mean_acceptance_length": round(part.mean_length, 4),
                   "acceptance_by_position": [round(rate, 4) for rate in part.rates]}
            for name, part in parts.items() if part is not None
        }  # fmt: skip


def train(
    data: HeadData, header: Header, order: Order, out: Path, *, device: str = "cpu", progress: Progress = lambda _: None
) -> tuple[list[Epoch], Measured]:
    """Train heads for the target with this header, and write their learned part to `out`, whole or not at all.

    Until it is written, a checkpoint lies beside it, from which the same call goes on. What is measured is the file's
    weights, rounded to its type. Raises InvalidRequest, UnsupportedModel, OutputError.
    """
    belongs = _checked_target(data, header)
    states = states_for(order.kind, data)
    if order.start is not None:
        _check_start(order.start, order.kind, header, states)
        kept: TokenIds = order.start.kept_ids.astype(np.int32)
    else:
        kept = chosen_tokens(data, header, order.size, order.keep_list, order.tokens)
    answers = read_answers(data, states, kept, header.n_vocab, order.tokens)
    target = TargetWeights(header)
    shared = shared_with(target, kept, answers.tokens(), device)
    if order.start is not None:
        module = module_of(order.start)
    else:
        shape = shape_of(order.kind, target, layer_indices(states), order.count)
        module = started(shape, target, order.training.seed)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    about = {
        "kind": order.kind, "data": data_digest(data), "answers": len(answers.train),
        "tokens": sum(len(example.answer) for example in answers.train), "kept": len(kept), "states": states,
        "training": asdict(order.training), "edgespec": order.version,
        "start": None if order.start is None else sha256_of(order.start.path),
    }  # fmt: skip
    identity = json.dumps([about, hashlib.sha256(kept.tobytes()).hexdigest(), order.count], sort_keys=True)
    trainer = Trainer(module, shared, order.training, identity=identity, checkpoint=checkpoint)
    history = trainer.run(answers.train, answers.held_out, progress)
    round_weights(module, order.stored_as)
    measured = measure(module, shared, answers)
    provenance = {**about, "epochs": [asdict(epoch) for epoch in history], "held_out": measured.as_json()}
    spec = spec_of(module.shape, belongs, layer_indices(states), provenance)
    try:
        with replacing(out) as temporary, temporary.open("xb") as file:
            write_heads(file, spec, weights_of(module), kept.astype(np.int64), order.stored_as)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    checkpoint.unlink(missing_ok=True)
    return history, measured


def evaluate(
    data: HeadData,
    header: Header,
    heads: HeadsFile,
    *,
    nodes: int | None = None,
    every: bool = False,
    device: str = "cpu",
) -> Measured:
    """Replay the held-out answers of a data set with heads of the target with this header; `every`: all answers.

    `nodes`: with draft trees of so many nodes, too. Raises InvalidRequest, UnsupportedModel.
    """
    module, shared, answers = opened(data, header, heads, every=every, device=device)
    return measure(module, shared, answers, nodes)


def opened(
    data: HeadData, header: Header, heads: HeadsFile, *, every: bool = False, device: str = "cpu"
) -> tuple[HeadsModule, Shared, Answers]:
    """Heads with what they share with their target, and the answers to replay; see `evaluate`."""
    _checked_target(data, header)
    heads.spec.check(header)
    states = [f"layer.{layer}" for layer in heads.spec.states] or [LAST]
    if missing := set(states) - set(data.states):
        raise InvalidRequest(
            f"{heads.path.name} reads {min(missing)}, and {data.directory} has {', '.join(data.states)}"
        )
    module = module_of(heads).to(device)
    kept: TokenIds = heads.kept_ids.astype(np.int32)
    answers = _answers_to_measure(data, states, kept, header.n_vocab, every=every)
    return module, shared_with(TargetWeights(header), kept, answers.tokens(), device), answers


def measure(module: HeadsModule, shared: Shared, answers: Answers, nodes: int | None = None) -> Measured:
    """Replay the held-out answers, and those that loop."""
    tree = replay(module, shared, answers.held_out, nodes) if nodes else None
    looping = replay(module, shared, answers.looping) if answers.looping else None
    return Measured(replay(module, shared, answers.held_out), tree, looping)


def _check_start(start: HeadsFile, kind: str, header: Header, states: Sequence[str]) -> None:
    """Raises UnsupportedModel where training cannot go on from these heads."""
    start.spec.check(header)
    spec = start.spec
    if spec.trained_as != kind or spec.states != tuple(layer_indices(states)):
        raise UnsupportedModel(
            f"{start.path}: {spec.trained_as} on the states of layers {list(spec.states) or LAST}, and {kind} on "
            f"{', '.join(states)} was asked for: choose the same kind and the same states"
        )


def _checked_target(data: HeadData, header: Header) -> Belongs:
    """What the heads will belong to. Raises InvalidRequest where the answers are another model's."""
    belongs = Belongs.of(header)
    recorded = data.header["target"]
    if recorded.get("target_hash") != belongs.fingerprint:
        raise InvalidRequest(
            f"{data.directory} holds answers of {recorded.get('name')}, which is another model than "
            f"{header.part.path.name}: name their target with -m"
        )
    return belongs
