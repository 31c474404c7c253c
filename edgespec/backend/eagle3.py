"""An EAGLE-3 head (arXiv 2503.01840) in llama.cpp: one decoder layer that drafts from a target's hidden states.

llama.cpp runs the head as a model of its own, whose encoder joins the target's states to one vector g, and whose
decoder reads pairs of a token and the g of the token before it. Its output is the next g, while it drafts. Some of its
functions are not in the public header: their symbols are looked up by name, as in `edgespec.backend.hidden`.

Every row of a pass pays the output layer, whether its logits are asked for or not, and llama.cpp mixes rows up where
they are asked for of some only. So a pass has logits of its only row, or none.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgespec.backend import native
from edgespec.backend.context import LlamaContext
from edgespec.backend.hidden import HiddenReader, HiddenStates, find_function, published_layers
from edgespec.backend.model import LlamaModel
from edgespec.backend.sequences import FLASH_ATTENTION, KV_TYPES
from edgespec.core import Row
from edgespec.errors import ContextOverflow, InvalidRequest, MalformedModel, UnsupportedModel
from edgespec.gguf.eagle3 import Eagle3Header, read_eagle3

_CHUNK = 32
"""Pairs of one forward pass. llama.cpp keeps room for the whole vocabulary's logits after each of them."""

_SET = (
    "llama_set_embeddings_nextn",
    "_Z26llama_set_embeddings_nextnP13llama_contextbb",
    "?llama_set_embeddings_nextn@@YAXPEAUllama_context@@_N1@Z",
)
_GET = (
    "llama_get_embeddings_nextn",
    "_Z26llama_get_embeddings_nextnP13llama_context",
    "?llama_get_embeddings_nextn@@YAPEAMPEAUllama_context@@@Z",
)
"""The names of a function in C, and as the C++ compilers of Linux and macOS, and of Windows, write them."""


class Eagle3Context:
    """The head in the file at `path`, with a history of one sequence: `n_ctx` pairs at most, drafted ones included.

    A pair is a hidden state of the target and the token after it. Positions count from 0, wherever the history stands
    in the text: attention depends on distances alone. Not thread-safe.

    The head may read embeddings and output layer of its target, so it must be used before `target_context` closes.
    Raises UnsupportedModel for a head that is not for this target, or where llama.cpp has no such heads, MalformedModel
    for a file that contradicts itself.
    """

    def __init__(
        self,
        path: Path,
        target: LlamaModel,
        target_context: LlamaContext,
        *,
        n_ctx: int,
        threads: int = 1,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        gpu_layers: int = -1,
    ) -> None:
        functions = _functions()
        if functions is None:
            raise UnsupportedModel(
                f"{path}: llama-cpp-python {llama_cpp.__version__} lets out no states of EAGLE-3 heads; "
                "choose another kind of head"
            )
        if n_ctx < 1:
            raise InvalidRequest(f"a history of {n_ctx} pairs: at least 1 makes sense")
        cells = target_context._cells
        hidden_size, n_vocab = int(llama_cpp.llama_model_n_embd(target.pointer)), target.vocabulary.size
        header = read_eagle3(path, target=target.path.name, hidden_size=hidden_size, n_vocab=n_vocab)
        self.states = _states(header, target, cells.pointer)
        """The hidden states of the target that the head reads."""
        self.width = hidden_size * max(1, len(header.layers))
        """The numbers of one state."""
        self.kept_ids: npt.NDArray[np.int64] = header.kept_ids
        """The target's ids of the rows of logits, shape (n_kept,)."""
        self.n_ctx = n_ctx
        self._path, self._n_vocab, self._target_name, self._target_cells = path, n_vocab, target.path.name, cells
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(n_ctx, _CHUNK)  # llama.cpp limits n_batch to it
        params.n_batch = params.n_ubatch = _CHUNK
        params.n_threads = params.n_threads_batch = threads
        params.type_k, params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.no_perf = True
        params.ctx_other = cells.pointer
        self._pointer, model = _load(path, params, gpu_layers)
        self._release = weakref.finalize(self, _free, self._pointer, model, target)
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        functions[0](self._pointer, True, True)
        self._get_vectors = functions[1]
        self._states_batch = _Batch(header.state_width, tokens=False)
        self._pairs_batch = _Batch(header.hidden_size, tokens=True)
        self._known = 0  # pairs with a state of the target; after an interrupt the memory holds fewer
        self._next: Row | None = None  # g of the next pair: of the last state, or of the head's own last output
        self._drafting = False  # whether that is the head's own

    @property
    def length(self) -> int:
        """The number of pairs in the history, those of drafted tokens not counted."""
        self._check_open()
        return min(self._known, self._held())

    def extend(self, tokens: Sequence[int], states: Row) -> None:
        """Add to the history, from its `length` on; what was drafted after it is dropped.

        `states`, shape (n, width), are those of tokens in a row, and `tokens` the n - 1 that follow the first of them:
        `step` gets the one that follows the last. Raises InvalidRequest, ContextOverflow, EvaluationError.
        """
        self._check_open()
        if states.ndim != 2 or states.shape[1] != self.width or len(states) != len(tokens) + 1:
            raise InvalidRequest(
                f"{len(tokens)} tokens with states of shape {states.shape}: a head reads one state more, each of "
                f"{self.width} numbers"
            )
        self._check(tokens)
        begin = self.length
        self._check_room(begin + len(tokens))
        self._cut(begin)
        joined = self._join(states)
        for done in range(0, len(tokens), _CHUNK):
            chunk = tokens[done : done + _CHUNK]
            self._known = begin + done + len(chunk)
            self._decode(chunk, joined[done : done + len(chunk)], begin + done, outputs=False)
        self._next = joined[-1]

    def step(self, token: int) -> Row:
        """The logits over `kept_ids` after `token`, shape (n_kept,).

        After `extend`, `token` follows the last state, and is part of the history. After that, it is a drafted one.
        """
        self._check_open()
        if self._next is None:
            raise InvalidRequest("no state to draft from: extend the history first")
        self._check([token])
        begin = self._held()
        self._check_room(begin + 1)
        g, self._next = self._next, None
        if not self._drafting:
            self._known = begin + 1
        self._decode([token], g[np.newaxis], begin, outputs=True)
        self._next = self._outputs(1)[0].copy()
        self._drafting = True
        row = native.logits(llama_cpp.llama_get_logits(self._pointer), 1, self._n_vocab)[0]
        kept: Row = row[self.kept_ids]
        return kept

    def rewind(self, length: int) -> None:
        """Cut the history to at most its first `length` pairs."""
        self._check_open()
        if length < 0:
            raise InvalidRequest(f"a history of {length} pairs: 0 is the shortest")
        self._cut(min(length, self.length))

    def close(self) -> None:
        """Free the memory. Any later use raises InvalidRequest."""
        self._release()

    def _cut(self, length: int) -> None:
        self._next, self._drafting = None, False
        self._known = length
        if self._held() > length:
            llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1)

    def _held(self) -> int:
        """The number of pairs in llama.cpp's memory."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def _join(self, states: Row) -> Row:
        """The vectors g of states, shape (n, hidden size)."""
        parts: list[Row] = []
        begin = self._held()  # llama.cpp demands positions that go on, and does not use them
        for done in range(0, len(states), _CHUNK):
            chunk = states[done : done + _CHUNK]
            native.encode(self._pointer, self._states_batch.fill(chunk, begin, outputs=True))
            parts.append(self._outputs(len(chunk)).copy())
        return np.concatenate(parts)

    def _decode(self, tokens: Sequence[int], g: Row, begin: int, *, outputs: bool) -> None:
        batch = self._pairs_batch
        batch.tokens[: len(tokens)] = tokens
        native.decode(self._pointer, batch.fill(g, begin, outputs=outputs))

    def _outputs(self, count: int) -> Row:
        """The vectors that the last pass gave, without a copy."""
        return native.logits(self._get_vectors(self._pointer), count, self._pairs_batch.width)

    def _check(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self._n_vocab:
                raise InvalidRequest(f"{token} is no token of {self._target_name}, which has {self._n_vocab}")

    def _check_room(self, count: int) -> None:
        if count > self.n_ctx:
            raise ContextOverflow(
                f"{self._path.name}: {count} pairs do not fit into a history of {self.n_ctx}: cut it, or enlarge n_ctx"
            )

    def _check_open(self) -> None:
        """Raises InvalidRequest where the head or its target is closed: llama.cpp would read freed memory."""
        if not self._release.alive or not self._target_cells.is_open:
            raise InvalidRequest(f"{self._path.name} is closed, or its target is: load it again")


class _Batch:
    """One llama_batch of at most _CHUNK vectors of `width` numbers, of one sequence; `tokens` stand beside them."""

    def __init__(self, width: int, *, tokens: bool) -> None:
        self.width = width
        self._vectors = np.zeros((_CHUNK, width), np.float32)
        self.tokens = np.zeros(_CHUNK, np.int32)
        self._positions = np.zeros(_CHUNK, np.int32)
        self._outputs = np.zeros(_CHUNK, np.int8)
        self._struct = llama_cpp.llama_batch()  # without sequence ids, all are 0
        self._struct.embd = self._vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self._struct.pos = self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._struct.logits = self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if tokens:
            self._struct.token = self.tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))

    def fill(self, vectors: Row, begin: int, *, outputs: bool) -> Any:
        """The batch of `vectors`, filled up with zeros, at positions from `begin` on."""
        count, width = vectors.shape
        self._vectors[:count, :width] = vectors
        self._positions[:count] = np.arange(begin, begin + count)
        self._outputs[:count] = outputs
        self._struct.n_tokens = count
        return self._struct


def _load(path: Path, params: Any, gpu_layers: int) -> Any:
    """A context of llama.cpp with the head, and its model."""
    native.initialise()
    native.forget_errors()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = gpu_layers
    model_params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
    model = native.load_model(path, model_params)
    if not model:
        raise MalformedModel(f"{path}: llama.cpp cannot load it ({native.last_error() or 'no reason given'})")
    try:
        if context := native.new_context(model, params):
            return context, model
    except BaseException:
        llama_cpp.llama_model_free(model)
        raise
    llama_cpp.llama_model_free(model)
    raise UnsupportedModel(
        f"{path}: no history of {params.n_ctx} pairs can be made ({native.last_error() or 'no reason given'})"
    )


def _free(context: Any, model: Any, _target: object) -> None:
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def _states(header: Eagle3Header, target: LlamaModel, context: Any) -> HiddenStates:
    """The states that a head joins. Raises UnsupportedModel where its target does not give them."""
    states = HiddenStates(header.layers, last=not header.layers)
    count = published_layers(target)
    if count and not all(0 <= layer < count for layer in header.layers):
        raise UnsupportedModel(
            f"{header.part.path}: a head for the layers {header.layers}, and {target.path.name} has 0 to {count - 1}; "
            "choose a head that was made for it"
        )
    HiddenReader(context, target, states)
    return states


@lru_cache(maxsize=1)
def _functions() -> tuple[Any, Any] | None:
    """llama.cpp's functions (set, get) for the vectors of a head; None where this build does not export them."""
    setter, getter = find_function(_SET), find_function(_GET)
    if setter is None or getter is None:
        return None
    setter.argtypes, setter.restype = (ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool), None
    getter.argtypes, getter.restype = (ctypes.c_void_p,), ctypes.POINTER(ctypes.c_float)
    return setter, getter
