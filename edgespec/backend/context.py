"""A KV cache and the forward passes that fill it: a prefix cache of one token list.

Every call takes the whole token list. The shared prefix stays in the cache, what differs is removed, the rest is
evaluated. The length of the cache is read from llama.cpp at each call (`llama_memory_seq_pos_max`), so that an
exception or an interrupt at any moment needs no clean-up.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgespec.backend import native
from edgespec.backend.batch import SEQUENCE_ID, Batch
from edgespec.backend.model import LlamaModel
from edgespec.core import MAX_ROWS, NO_MARK, Draft, Evaluation, Row, common_prefix, mark_of, unchanged
from edgespec.errors import ContextOverflow, InvalidRequest, UnsupportedModel

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


class LlamaContext:
    """The KV cache of a model, n_ctx tokens long, for one sequence. Implements `core.Context`.

    Not thread-safe; another thread stops a prefill by its `proceed`.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        threads: int,
        kv_type: str = "f16",
        flash_attention: str = "auto",
    ) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(n_ctx, PREFILL_CHUNK)  # llama.cpp limits n_batch to it
        params.n_batch = params.n_ubatch = max(PREFILL_CHUNK, MAX_ROWS)
        params.n_outputs_max = MAX_ROWS
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.type_k, params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        params.no_perf = True
        pointer = native.new_context(model.pointer, params)
        if not pointer:
            reason = native.last_error() or "no reason given"
            raise UnsupportedModel(
                f"{model.path}: no context of {n_ctx} tokens can be made ({reason}); try a smaller --ctx"
            )
        self._model = model  # outlives the context
        self._pointer = pointer
        self._batch = Batch(int(llama_cpp.llama_n_batch(pointer)), model.inputs)
        # The model is held too, since llama.cpp reads it while it frees a context.
        self._release = weakref.finalize(self, lambda pointer, _model: llama_cpp.llama_free(pointer), pointer, model)
        self._memory = llama_cpp.llama_get_memory(pointer)
        self._tokens: list[int] = []  # the cached tokens; after an interrupt the cache holds fewer
        self._mark = NO_MARK  # of the sequence that the cached tokens are a prefix of
        self._unrotated_from: int | None = (
            None  # first position whose keys were shifted; the next forward pass rotates them
        )
        self._shifted_from: int | None = None  # first position that was computed with dropped tokens in view
        self._uncuttable = 0  # tokens of a restored state that is complete only as a whole
        self._logits_address = 0
        self._logits: Row = np.empty((0, 0), np.float32)
        self.max_rows = MAX_ROWS
        """The most rows that one forward pass returns; may be lowered."""
        self.n_ctx = int(llama_cpp.llama_n_ctx(pointer))
        self.threads = threads
        self.settings = f"{native.build_name()}; keys and values {kv_type}, flash attention {flash_attention}"
        if (first := model.n_ctx_before_scaling) is not None:  # llama.cpp rotates keys by other factors beyond it
            self.settings += f"; {'more than' if self.n_ctx > first else 'at most'} {first} tokens"
        if not model.repacked:
            self.settings += "; weights as in the file"
        """The build and settings that a saved state depends on, besides the model."""

    @property
    def input_size(self) -> int:
        """The number of token ids that it evaluates, from 0 on; a trimmed model has fewer logits than that."""
        inputs = self._model.inputs
        return self._model.vocabulary.size if inputs is None else inputs.rows

    def close(self) -> None:
        """Free the cache. Any later use raises InvalidRequest."""
        self._release()
        self._batch.close()

    def cached(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens that are in the cache; 0 where it is closed."""
        return self._shared(tokens) if self._release.alive else 0

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the cache to `tokens` (not empty) in chunks; the logits after the last, shape (n_vocab,).

        `proceed(done, total)` is called before every chunk; on False, the result is None and the cache holds the first
        `done` tokens. Raises ContextOverflow when they do not fit, EvaluationError when llama.cpp fails.
        """
        if not tokens:
            raise InvalidRequest("there is nothing to evaluate: the prompt has no tokens")
        total = len(tokens)
        done = self._rewind(tokens, total - 1)  # the last token is evaluated in any case, for its logits
        while done < total:
            if not proceed(done, total):
                return None
            end = min(total, (done // PREFILL_CHUNK + 1) * PREFILL_CHUNK)
            self._decode(tokens[done:end], done, rows=int(end == total))
            done = end
        self._mark = mark_of(tokens)
        row: Row = self._rows(1)[0]
        return row

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        """One forward pass: logits after the last of `tokens` and after every node of `draft` (a chain).

        Where more than the last token is missing in the cache, the others are prefilled first. Raises InvalidRequest
        for a draft that is too long or no chain; other errors as for `prefill`.
        """
        if not draft.is_chain:
            raise InvalidRequest(f"{draft.drafter} drafted a tree with branches: this context evaluates chains")
        if len(draft) >= self.max_rows:
            raise InvalidRequest(f"a draft of {len(draft)} tokens: one evaluation checks at most {self.max_rows - 1}")
        last = len(tokens) - 1
        done = self._rewind(tokens, last)
        if done < last:
            self.prefill(tokens[:last])
        self._decode([tokens[last], *draft.tokens], last, rows=1 + len(draft))
        self._mark = mark_of(tokens)
        return Evaluation(tokens, len(tokens), draft, self._rows(1 + len(draft)))

    def shift(self, keep: int, drop: int) -> None:
        """Drop `drop` tokens after the first `keep` and move the rest up, without a forward pass.

        The rest was computed with the dropped tokens in view. Where llama.cpp cannot shift (positions of several
        dimensions, M-RoPE), the rest leaves the cache, and the next call evaluates it again.
        """
        held = len(self._cached_tokens())
        if keep < 0 or drop < 1 or keep + drop > held:
            raise InvalidRequest(f"cannot drop {drop} tokens after {keep}: the cache holds {held}")
        if not llama_cpp.llama_memory_can_shift(self._memory):
            self._truncate(keep)
            return
        tail = self._tokens[keep + drop :]
        self._mark = self._mark._replace(length=min(self._mark.length, keep))
        del self._tokens[keep:]  # an interrupt from here on only loses the tail
        self._unrotated_from = keep if self._unrotated_from is None else min(keep, self._unrotated_from)
        self._shifted_from = keep if self._shifted_from is None else min(keep, self._shifted_from)
        self._uncuttable = max(0, self._uncuttable - drop)
        llama_cpp.llama_memory_seq_rm(self._memory, SEQUENCE_ID, keep, keep + drop)
        llama_cpp.llama_memory_seq_add(self._memory, SEQUENCE_ID, keep + drop, -1, -drop)
        self._tokens += tail

    def rewind(self, length: int) -> None:
        """Cut the cache to at most `length` tokens."""
        if len(self._cached_tokens()) > length:
            self._truncate(length)

    def forget(self) -> None:
        """Empty the cache."""
        self._check_open()
        self._tokens.clear()
        self._mark = NO_MARK
        self._unrotated_from = self._shifted_from = None
        self._uncuttable = 0
        llama_cpp.llama_memory_clear(self._memory, False)

    @property
    def unshifted(self) -> int:
        """The number of leading cached tokens that were computed with the tokens before them in view, and no others."""
        held = len(self._cached_tokens())
        return held if self._shifted_from is None else min(held, self._shifted_from)

    @property
    def state_bytes(self) -> int:
        """The size of `state`."""
        self._check_open()
        return int(llama_cpp.llama_state_seq_get_size(self._pointer, SEQUENCE_ID))

    def state(self) -> tuple[list[int], memoryview]:
        """The cached tokens, and a copy of their keys and values as llama.cpp writes them.

        Tokens that a shift moved since the last forward pass are dropped: llama.cpp would write their old keys.
        """
        if self._unrotated_from is not None:
            self.rewind(self._unrotated_from)
        tokens = list(self._cached_tokens())
        buffer = np.empty(self.state_bytes, np.uint8)
        written = int(llama_cpp.llama_state_seq_get_data(self._pointer, _address(buffer), len(buffer), SEQUENCE_ID))
        return tokens, buffer.data[:written]

    def set_state(self, tokens: Sequence[int], data: bytes | memoryview, *, unshifted: bool = False) -> bool:
        """Restore a `state` of the same model and settings; False, and an empty cache, where llama.cpp refuses it.

        `unshifted`: all of its tokens were. The data has to be complete: llama.cpp ends the process over data that is
        not.
        """
        self.forget()
        if len(tokens) > self.n_ctx:
            return False
        buffer = np.frombuffer(data, np.uint8)
        taken = int(llama_cpp.llama_state_seq_set_data(self._pointer, _address(buffer), len(buffer), SEQUENCE_ID))
        if not taken or self._n_cells() != len(tokens):
            self.forget()
            return False
        self._tokens[:] = tokens
        self._shifted_from = None if unshifted else 0
        self._uncuttable = len(tokens) if len(tokens) > self._model.max_cuttable else 0
        return True

    def _check_open(self) -> None:
        """Raises InvalidRequest where the context is closed: llama.cpp would read freed memory."""
        if not self._release.alive:
            raise InvalidRequest("the engine is closed: an answer has to be finished before that")

    def _cached_tokens(self) -> list[int]:
        """The tokens in the cache, by llama.cpp's own count."""
        self._check_open()
        held = self._n_cells()
        if held < len(self._tokens):
            del self._tokens[held:]
        return self._tokens

    def _n_cells(self) -> int:
        """The number of tokens that llama.cpp holds."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, SEQUENCE_ID)) + 1

    def _shared(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens that the cache shares with `tokens`: first by the mark, then by comparison."""
        held = self._cached_tokens()
        known = min(unchanged(tokens, self._mark), len(held))
        return known + common_prefix(held[known:], tokens[known:])

    def _rewind(self, tokens: Sequence[int], limit: int) -> int:
        """Remove all that differs from tokens[:limit]; returns the number of tokens that stay."""
        self._check_open()
        if len(tokens) > self.n_ctx:
            raise ContextOverflow(f"{len(tokens)} tokens do not fit into a context of {self.n_ctx}: enlarge --ctx")
        length = min(self._shared(tokens), limit)
        self._mark = mark_of(tokens)._replace(length=length)
        return self._truncate(length)

    def _truncate(self, length: int) -> int:
        """Remove all but the first `length` tokens; returns the number of tokens that stay."""
        self._mark = self._mark._replace(length=min(self._mark.length, length))
        del self._tokens[length:]
        if self._shifted_from is not None and length <= self._shifted_from:
            self._shifted_from = None
        if self._n_cells() <= length:
            return length  # nothing to remove: llama.cpp would search all cells
        if length < self._uncuttable or not llama_cpp.llama_memory_seq_rm(self._memory, SEQUENCE_ID, length, -1):
            self.forget()  # a recurrent state cannot be cut: start over
            return 0
        return length

    def _decode(self, tokens: Sequence[int], position: int, rows: int) -> None:
        if position + len(tokens) > self.n_ctx:
            raise ContextOverflow(
                f"{position + len(tokens)} tokens do not fit into a context of {self.n_ctx}: enlarge --ctx"
            )
        self._tokens += tokens
        native.decode(self._pointer, self._batch.fill(tokens, position, rows))
        self._unrotated_from = None

    def _rows(self, count: int) -> Row:
        """The logits of the last forward pass, without a copy, shape (count, n_vocab). Waits for a GPU."""
        pointer = llama_cpp.llama_get_logits(self._pointer)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_address:
            # Rows past `count` are never read.
            self._logits = native.logits(pointer, MAX_ROWS, self._model.vocabulary.size)
            self._logits_address = address
        return self._logits[:count]


def _address(buffer: npt.NDArray[np.uint8]) -> Any:
    """The address of a buffer's bytes, as ctypes wants it; the buffer has to outlive its use."""
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
