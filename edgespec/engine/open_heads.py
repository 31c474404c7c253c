"""Opens heads for a target: the file, the kind, what they cost, and the hidden states that they need."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgespec.backend import EmbeddingTable, HiddenStates, LlamaContext, LlamaModel
from edgespec.backend.eagle3 import Eagle3Context
from edgespec.backend.head_graph import HeadGraph, HeadShape
from edgespec.core import Row
from edgespec.drafters.head_kinds import Eagle3Heads, HydraHeads, MedusaHeads
from edgespec.drafters.heads import HeadDrafter, Heads, States
from edgespec.errors import ModelError, UnsupportedModel
from edgespec.gguf.reader import walk
from edgespec.gguf.validate import Header, read_header
from edgespec.heads.assemble import runnable_folder
from edgespec.heads.format import Belongs, HeadsFile, is_heads, read_heads
from edgespec.heads.target import embedding_table

_log = logging.getLogger("edgespec")

WINDOW = 64
"""States of the text before that a head with attention reads at least: as many as a drafter model's longest window."""

EAGLE3_LENGTH = 6
"""The longest chain of EAGLE-3: in training it goes on from its own output so often, and a little more."""

_MEASURED = 8
"""States that are read to measure what one takes."""


class OpenedHeads(NamedTuple):
    """Heads as a drafter, and the states of the target that they read."""

    drafter: HeadDrafter
    states: HiddenStates


def is_heads_file(path: Path) -> bool:
    """Whether the file at `path` is one of heads. Raises ModelError."""
    return is_heads(walk(path))


def heads_for(target: LlamaModel) -> Path | None:
    """The heads that edgespec heads assemble made for this target, the ones with the longest drafts if several.

    A file that is damaged is left aside, with a warning.
    """
    folder = runnable_folder()
    if not folder.is_dir():
        return None
    header = read_header(target.path)
    try:
        digits = Belongs.of(header).fingerprint[:16]
    except UnsupportedModel:  # nobody can have made heads for it
        return None
    found: list[tuple[float, Path]] = []
    for path in sorted(folder.glob(f"*-{digits}.gguf")):
        try:
            heads = read_heads(path, architecture=str(walk(path).values.get("general.architecture")))
            heads.spec.check(header)
        except ModelError as error:
            _log.warning("%s: left aside", error)
        else:
            found.append((_measured_length(heads.spec.provenance), path))
    return max(found)[1] if found else None


def _measured_length(provenance: Mapping[str, Any]) -> float:
    """The mean acceptance length of chains on held-out answers; 0 where nobody measured it."""
    value: Any = provenance
    for key in ("held_out", "chain", "mean_acceptance_length"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else 0.0


def states_of_all(opened: Sequence[OpenedHeads]) -> HiddenStates:
    """The states that several heads read between them."""
    layers = sorted({layer for heads in opened for layer in heads.states.layers})
    return HiddenStates(tuple(layers), last=any(heads.states.last for heads in opened))


def collect_for(opened: Sequence[OpenedHeads], context: LlamaContext, hidden_size: int) -> None:
    """Let the context collect what the heads read, and tell each of them where that is.

    Where the last state is collected, prompts have none: a pass that gives it for every token is split in other chunks,
    and rounds otherwise than plain decoding's. Layers cost a prompt nothing, and change no bit of it.
    """
    if not opened:
        context.collect_hidden(None)
        return
    states = states_of_all(opened)
    context.collect_hidden(states, tail=0 if states.last else WINDOW)
    for heads in opened:
        heads.drafter.columns = _columns(heads.states, states, hidden_size)


def open_heads(
    path: Path, target: LlamaModel, context: LlamaContext, *, threads: int, gpu_layers: int = -1
) -> OpenedHeads:
    """The heads at `path` for a target with its context.

    Raises ModelError; UnsupportedModel where they are not assembled, or do not belong to the target.
    """
    header = read_header(target.path)
    architecture = str(walk(path).values.get("general.architecture"))
    if architecture == "eagle3":
        return _open_eagle3(path, target, context, header, threads=threads, gpu_layers=gpu_layers)
    heads = read_heads(path)
    heads.spec.check(header)
    if not heads.assembled:
        raise UnsupportedModel(
            f"{path}: only the learned part of heads; edgespec heads assemble -m {target.path.name} {path.name} makes "
            "them run"
        )
    states = HiddenStates(heads.spec.states, last=not heads.spec.states)
    return OpenedHeads(_drafter(path, _graph_heads(heads, header, threads), heads.kept_ids, states, target), states)


def _graph_heads(heads: HeadsFile, header: Header, threads: int) -> Heads:
    spec = heads.spec
    size = spec.target.hidden_size
    if spec.states and len(spec.states) != 1:
        raise UnsupportedModel(f"{heads.path}: {spec.kind} heads on {len(spec.states)} states; they read one")
    shape = HeadShape(spec.kind, size, spec.count, spec.depth, len(heads.kept_ids), spec.layer)
    graph = HeadGraph(heads.tensors, shape, threads=threads, positions=4 * WINDOW)
    if spec.kind == "medusa":
        return MedusaHeads(graph, spec.count)
    table: EmbeddingTable = embedding_table(header)
    return HydraHeads(graph, spec.count, table, window=WINDOW if spec.layer else 0)


def _open_eagle3(
    path: Path, target: LlamaModel, context: LlamaContext, header: Header, *, threads: int, gpu_layers: int
) -> OpenedHeads:
    if "edgespec.heads.format" in walk(path).values:  # a head of another program says less of its target
        read_heads(path, architecture="eagle3").spec.check(header)
    history = Eagle3Context(path, target, context, n_ctx=4 * WINDOW, threads=threads, gpu_layers=gpu_layers)
    heads = Eagle3Heads(history, length=EAGLE3_LENGTH, window=WINDOW)
    return OpenedHeads(_drafter(path, heads, history.kept_ids, history.states, target), history.states)


def _drafter(
    path: Path, heads: Heads, kept_ids: npt.NDArray[np.int64], states: HiddenStates, target: LlamaModel
) -> HeadDrafter:
    width = target.n_embd * (len(states.layers) + states.last)
    rows: list[Row] = list(np.zeros((_MEASURED + 1, width), np.float32))
    one, several = (States(0, [0] * count, rows[:count], -count) for count in (1, _MEASURED + 1))
    step = _least_seconds(lambda: heads.start(one, 0))
    read = 0.0
    if heads.window:
        begun = time.perf_counter()
        heads.start(several, 0)
        read = max(time.perf_counter() - begun - step, 0.1 * step) / _MEASURED
    return HeadDrafter(path.stem, heads, kept_ids, step_seconds=step, read_seconds=read)


def _least_seconds(compute: Callable[[], object], times: int = 4) -> float:
    """The least time of a computation in seconds: the first one builds its graph, and others may be disturbed."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _columns(own: HiddenStates, collected: HiddenStates, size: int) -> slice | list[int]:
    """Where the states of some heads are in what is collected."""
    parts = [collected.layers.index(layer) for layer in own.layers] + ([len(collected.layers)] if own.last else [])
    if parts == list(range(parts[0], parts[0] + len(parts))):
        return slice(parts[0] * size, (parts[-1] + 1) * size)
    return [part * size + number for part in parts for number in range(size)]
