"""A context of llama.cpp with its batch and its sequence ids, for one or several token sequences.

Every sequence has an id of its own. A draft tree gets one more id for each root-to-leaf path but the first, and each
node carries the ids of all paths that it lies on, so that one forward pass with llama.cpp's own attention mask
evaluates the tree (Medusa's tree attention, arXiv 2401.10774, section 2.1.2). Sequences that begin alike share cells
of one KV cache: `llama_memory_seq_cp` marks cells and copies nothing.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence

import llama_cpp
import numpy as np

from edgespec.backend import native
from edgespec.backend.batch import Batch, Node
from edgespec.backend.hidden import HiddenReader, HiddenStates
from edgespec.backend.model import LlamaModel
from edgespec.core import MAX_ROWS, ROOT, Draft, Row
from edgespec.errors import InvalidRequest, UnsupportedModel

PREFILL_CHUNK = 128
"""Tokens of one forward pass of a prefill, which also bounds the wait for a cancellation. Chunks end at multiples of
it, so that a prompt is split alike whichever drafter is used."""

EXACT_KV = "f16+bf16"
"""KV cache type of exact mode: with keys and values of different types, llama.cpp's attention takes the same path for
one row and for several."""

_BF16 = 30
"""ggml.h's number of bfloat16, which llama-cpp-python does not name."""

_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q5_1": llama_cpp.GGML_TYPE_Q5_1,
    "q5_0": llama_cpp.GGML_TYPE_Q5_0,
    "q4_1": llama_cpp.GGML_TYPE_Q4_1,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}
KV_TYPES = {name: (kind, kind) for name, kind in _TYPES.items()} | {EXACT_KV: (llama_cpp.GGML_TYPE_F16, _BF16)}
"""KV cache types by name: ggml's types of keys and of values."""

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
"""llama.cpp's flash attention types by name."""


class Sequences:
    """The KV cache of a model for `count` token sequences of `n_ctx` tokens each, with ids from 0 on.

    `total` bounds the tokens of all sequences together, for those that are not all that long at once. `trees` asks for
    the ids of draft trees, which a model has where `LlamaModel.can_branch`. `apart`: each sequence has cells of its
    own, so that attention walks over these alone; it has no trees, and shares no cells. Not thread-safe.
    Raises UnsupportedModel where llama.cpp makes no such context.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        threads: int,
        count: int = 1,
        total: int | None = None,
        trees: bool = False,
        apart: bool = False,
        kv_type: str = "f16",
        flash_attention: str = "auto",
    ) -> None:
        self.trees = trees and not apart and model.can_branch
        """Whether a draft may have branches."""
        self.can_cut = model.can_rewind and (count == 1 or not model.sliding_window)
        """Whether tokens can be taken back. llama.cpp gives cells that a sliding window has left to other sequences."""
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(total or count * n_ctx, PREFILL_CHUNK)  # llama.cpp limits n_batch to it
        params.n_batch = params.n_ubatch = max(PREFILL_CHUNK, MAX_ROWS)
        params.n_outputs_max = MAX_ROWS
        # A tree has fewer leaves than its pass has rows: MAX_ROWS ids are enough for the trees of all sequences.
        params.n_seq_max = MAX_ROWS if self.trees else count
        params.kv_unified = params.n_seq_max > 1 and not apart
        params.n_threads = params.n_threads_batch = threads
        params.type_k, params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.no_perf = True
        pointer = native.new_context(model.pointer, params)
        if not pointer:
            reason = native.last_error() or "no reason given"
            answers = f" for {count} answers" if count > 1 else ""
            raise UnsupportedModel(
                f"{model.path}: no context of {n_ctx} tokens can be made{answers} ({reason}); try a smaller --ctx"
                + (" or fewer at once" if count > 1 else "")
            )
        self.model = model  # outlives the context
        self.pointer = pointer
        self.count = count
        self._apart = apart
        # The model is held too, since llama.cpp reads it while it frees a context.
        self._release = weakref.finalize(self, lambda pointer, _model: llama_cpp.llama_free(pointer), pointer, model)
        self._batch = Batch(int(llama_cpp.llama_n_batch(pointer)), model.inputs, params.n_seq_max)
        self.memory = llama_cpp.llama_get_memory(pointer)
        self._path_ids = range(count, params.n_seq_max)
        self._taken: list[list[int]] = []  # a list of each sequence: an id is taken while it is in one of them
        self._hidden: HiddenReader | None = None
        self._unasked = 0  # tokens of the last forward pass that have rows before those that were asked for
        self._logits_address = 0
        self._logits: Row = np.empty((0, 0), np.float32)
        self.n_ctx = n_ctx if total else int(llama_cpp.llama_n_ctx(pointer)) // count
        """The number of tokens of each sequence."""

    @property
    def is_open(self) -> bool:
        """Whether the memory is still there."""
        return self._release.alive

    def close(self) -> None:
        """Free the KV cache."""
        self._release()
        self._batch.close()

    def length(self, sequence: int) -> int:
        """The number of tokens that llama.cpp holds of a sequence."""
        return int(llama_cpp.llama_memory_seq_pos_max(self.memory, sequence)) + 1

    def remove(self, sequence: int, begin: int) -> bool:
        """Remove the tokens of a sequence from `begin` on; False where its memory cannot be cut."""
        return bool(llama_cpp.llama_memory_seq_rm(self.memory, sequence, begin, -1))

    def share(self, source: int, target: int, begin: int, end: int) -> None:
        """Let `target` have the cells of `source` from position `begin` to before `end`."""
        if self._apart:  # llama.cpp would end the process
            raise InvalidRequest("these sequences have cells of their own, and share none")
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, begin, end)

    def path_ids(self) -> list[int]:
        """A list for `take_ids` and `end_paths`: the ids of the paths of one sequence's tree."""
        self._taken.append([])
        return self._taken[-1]

    def take_ids(self, ids: list[int], count: int) -> None:
        """Put so many free ids into `ids`. There are enough for MAX_ROWS rows."""
        taken = {path for others in self._taken for path in others}
        ids[:] = [path for path in self._path_ids if path not in taken][:count]

    def end_paths(self, sequence: int, ids: list[int]) -> None:
        """End the paths with these ids, which belong to the tree of `sequence`, and clear the list."""
        if self.count == 1:
            llama_cpp.llama_memory_seq_keep(self.memory, sequence)  # one walk over the cells, however many paths
        else:
            for path in ids:
                self.remove(path, -1)
        ids.clear()  # last: after an interrupt, it is all done again

    def collect(self, states: HiddenStates | None) -> None:
        """Collect these hidden states in the forward passes to come, or none. Raises as HiddenReader does."""
        if states == self.collects:
            return
        reader = None if states is None else HiddenReader(self.pointer, self.model, states)
        before, self._hidden, self._unasked = self._hidden, None, 0
        if before is not None:
            before.stop()
        if reader is not None:
            reader.start()
            self._hidden = reader  # last: llama.cpp ends the process over layers that are read and not asked for

    @property
    def collects(self) -> HiddenStates | None:
        """The hidden states that are collected."""
        return self._hidden.states if self._hidden else None

    @property
    def states_limit(self) -> int:
        """The most tokens of a forward pass whose states are read."""
        return MAX_ROWS if self._hidden is not None and self._hidden.states.last else PREFILL_CHUNK

    def decode(self, sequence: int, tokens: Sequence[int], position: int, rows: int, *, states: bool = True) -> None:
        """One forward pass of tokens in a row, with logits for the last `rows` of them.

        `states`: its hidden states are read afterwards, where they are collected.
        """
        if self._hidden is not None:
            self._unasked = len(tokens) - rows if self._hidden.switch(states) else 0
        native.decode(self.pointer, self._batch.fill(tokens, position, rows, sequence))

    def decode_nodes(self, nodes: Sequence[Node]) -> None:
        """One forward pass of `nodes`, with logits for those of which they are asked: the first ones may not be."""
        if self._hidden is not None:
            self._unasked = sum(not node.output for node in nodes) if self._hidden.switch(True) else 0
        native.decode(self.pointer, self._batch.fill_nodes(nodes))

    def rows(self, count: int) -> Row:
        """The logits of the last forward pass, without a copy, shape (count, n_vocab). Waits for a GPU.

        They are those of its last `count` tokens for which logits were asked.
        """
        pointer = llama_cpp.llama_get_logits(self.pointer)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_address:
            # Rows past those of the pass are never read.
            self._logits = native.logits(pointer, MAX_ROWS, self.model.vocabulary.size)
            self._logits_address = address
        return self._logits[self._unasked : self._unasked + count]

    def states(self, begin: int, count: int) -> Row | None:
        """The hidden states of the last forward pass for `count` tokens from its token `begin` on, if collected."""
        return None if self._hidden is None else self._hidden.read(begin, count)


def paths(draft: Draft) -> list[list[int]]:
    """The nodes of every root-to-leaf path, from the root down: the first path is the one of the earliest children."""
    is_leaf = [True] * len(draft)
    for parent in draft.parents:
        if parent != ROOT:
            is_leaf[parent] = False
    found: list[list[int]] = []
    for leaf, last in enumerate(is_leaf):
        if last:
            path = [leaf]
            while (parent := draft.parents[path[-1]]) != ROOT:
                path.append(parent)
            found.append(path[::-1])
    return sorted(found)
