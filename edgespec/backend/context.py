"""A KV cache and the evaluations that fill it: a prefix cache of one token list.

Every call names the whole token list. What the cache shares with it is kept, what differs is taken back, the rest is
evaluated. How much of the cache is true is never remembered across calls but read from llama.cpp each time
(`llama_memory_seq_pos_max`), so an exception or an interrupt at any moment needs no clean-up.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence

import llama_cpp
import numpy as np

from edgespec.backend import native
from edgespec.backend.batch import SEQUENCE, Batch
from edgespec.backend.model import LlamaModel
from edgespec.core import MAX_ROWS, NO_MARK, Draft, Evaluation, Row, common_prefix, mark_of, unchanged
from edgespec.errors import ContextOverflow, InvalidRequest, UnsupportedModel

CHUNK = 128
"""Tokens of a prefill evaluated at once: the wait for a cancellation. Borders lie at multiples of it, so that a prompt
is split alike whatever drafts it."""

EXACT_KV = "f16+bf16"
"""With keys and values of different types llama.cpp's attention takes one path for one row and for several."""

_BF16 = 30
"""ggml.h's number of that type, which llama-cpp-python does not name."""

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
"""Types of keys and of values."""

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


class LlamaContext:
    """The KV cache of a model, n_ctx tokens long, for one sequence. Implements `core.Context`.

    Not for two threads at once; `proceed` of `prefill` is how another thread stops it.
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
        for value, known, what in (
            (kv_type, KV_TYPES, "KV cache type"),
            (flash_attention, FLASH_ATTENTION, "flash attention"),
        ):
            if value not in known:
                raise InvalidRequest(f"{what} {value!r} is unknown: choose one of {', '.join(known)}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(n_ctx, CHUNK)  # llama.cpp cuts n_batch down to it
        params.n_batch = params.n_ubatch = max(CHUNK, MAX_ROWS)
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
        self._tokens: list[int] = []  # the cache holds these or, after an interrupt, fewer of them
        self._mark = NO_MARK  # of the sequence that they begin with
        self._unturned: int | None = None  # keys from here on are shifted, and will be rotated by the next evaluation
        self._logits_address = 0
        self._logits: Row = np.empty((0, 0), np.float32)
        self.max_rows = MAX_ROWS
        """The largest number of rows that one evaluation returns; may be set to fewer."""
        self.n_ctx = int(llama_cpp.llama_n_ctx(pointer))
        self.threads = threads
        self.settings = f"{native.build_name()}; keys and values {kv_type}, flash attention {flash_attention}"
        """What a state depends on besides the model."""

    @property
    def input_size(self) -> int:
        """The number of ids, from 0 on, that it evaluates: a trimmed model reads more of them than it says."""
        inputs = self._model.inputs
        return self._model.vocabulary.size if inputs is None else inputs.rows

    def close(self) -> None:
        """Free the cache. Whoever uses it afterwards gets an InvalidRequest."""
        self._release()
        self._batch.close()

    def cached(self, tokens: Sequence[int]) -> int:
        """How many leading entries of `tokens` need no evaluation: none where the cache is closed."""
        return self._shared(tokens) if self._release.alive else 0

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the cache to `tokens` (not empty) in chunks; the logits after the last, shape (n_vocab,).

        `proceed(done, total)` is asked before every chunk; on no, the result is None and the cache holds what is done.
        Raises ContextOverflow when they do not fit, EvaluationError when llama.cpp fails.
        """
        if not tokens:
            raise InvalidRequest("there is nothing to evaluate: the prompt has no tokens")
        total = len(tokens)
        done = self._rewind(tokens, total - 1)  # the last token is evaluated in any case, for its logits
        while done < total:
            if not proceed(done, total):
                return None
            end = min(total, (done // CHUNK + 1) * CHUNK)
            self._decode(tokens[done:end], done, rows=int(end == total))
            done = end
        self._mark = mark_of(tokens)
        row: Row = self._rows(1)[0]
        return row

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        """One forward pass: logits after the last of `tokens` and after every node of `draft` (a chain).

        Normally one token besides the draft is new; where more are, those before the last are prefilled. Errors as for
        `prefill`.
        """
        if not draft.is_chain:
            raise InvalidRequest(f"{draft.drafter} drafted a tree with branches: this context evaluates chains")
        if len(draft) >= self.max_rows:
            raise InvalidRequest(f"a draft of {len(draft)} tokens: one evaluation checks at most {self.max_rows - 1}")
        certain = len(tokens) - 1
        done = self._rewind(tokens, certain)
        if done < certain:
            self.prefill(tokens[:certain])
        self._decode([tokens[certain], *draft.tokens], certain, rows=1 + len(draft))
        self._mark = mark_of(tokens)
        return Evaluation(tokens, len(tokens), draft, self._rows(1 + len(draft)))

    def shift(self, keep: int, drop: int) -> None:
        """Forget `drop` tokens after the first `keep` and move the rest up, without evaluating them again.

        What stays was computed with the dropped tokens in view. Raises UnsupportedModel where llama.cpp cannot.
        """
        held = len(self._true_tokens())
        if keep < 0 or drop < 1 or keep + drop > held:
            raise InvalidRequest(f"cannot drop {drop} tokens after {keep}: the cache holds {held}")
        if not llama_cpp.llama_memory_can_shift(self._memory):
            raise UnsupportedModel(
                f"{self._model.path.name} cannot shift its context: start a new one or enlarge --ctx"
            )
        tail = self._tokens[keep + drop :]
        self._mark = self._mark._replace(length=min(self._mark.length, keep))
        del self._tokens[keep:]  # an interrupt from here on loses the tail, never the truth
        self._unturned = keep if self._unturned is None else min(keep, self._unturned)
        llama_cpp.llama_memory_seq_rm(self._memory, SEQUENCE, keep, keep + drop)
        llama_cpp.llama_memory_seq_add(self._memory, SEQUENCE, keep + drop, -1, -drop)
        self._tokens += tail

    def rewind(self, length: int) -> None:
        """Keep `length` tokens at most."""
        if len(self._true_tokens()) > length:
            self._keep(length)

    def forget(self) -> None:
        """Empty the cache: what comes next is evaluated from its first token on."""
        self._need_open()
        self._tokens.clear()
        self._mark = NO_MARK
        self._unturned = None
        llama_cpp.llama_memory_clear(self._memory, False)

    def state(self) -> tuple[list[int], bytes]:
        """The tokens that the cache holds, and their keys and values as llama.cpp writes them.

        Those that a shift moved since the last evaluation are given up: llama.cpp would write their old keys.
        """
        if self._unturned is not None:
            self.rewind(self._unturned)
        tokens = list(self._true_tokens())
        size = int(llama_cpp.llama_state_seq_get_size(self._pointer, SEQUENCE))
        buffer = (ctypes.c_uint8 * size)()
        written = int(llama_cpp.llama_state_seq_get_data(self._pointer, buffer, size, SEQUENCE))
        return tokens, bytes(memoryview(buffer)[:written])

    def set_state(self, tokens: Sequence[int], data: bytes) -> bool:
        """Take over what `state` gave, of the same model and settings; whether llama.cpp took it. Else nothing is held.

        The data has to be whole: llama.cpp ends the process over some that is not.
        """
        self.forget()
        if len(tokens) > self.n_ctx:
            return False
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        taken = int(llama_cpp.llama_state_seq_set_data(self._pointer, buffer, len(data), SEQUENCE))
        held = int(llama_cpp.llama_memory_seq_pos_max(self._memory, SEQUENCE)) + 1
        if not taken or held != len(tokens):
            self.forget()
            return False
        self._tokens[:] = tokens
        return True

    def _need_open(self) -> None:
        """llama.cpp would read freed memory."""
        if not self._release.alive:
            raise InvalidRequest("the engine is closed: an answer has to be finished before that")

    def _true_tokens(self) -> list[int]:
        """The tokens the cache really holds."""
        self._need_open()
        held = self._held()
        if held < len(self._tokens):
            del self._tokens[held:]
        return self._tokens

    def _held(self) -> int:
        """How many cells llama.cpp holds; more than `_tokens` after an interrupt."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, SEQUENCE)) + 1

    def _shared(self, tokens: Sequence[int]) -> int:
        """How many leading tokens the cache shares with `tokens`: by the mark as far as that tells, then compared."""
        held = self._true_tokens()
        known = min(unchanged(tokens, self._mark), len(held))
        return known + common_prefix(held[known:], tokens[known:])

    def _rewind(self, tokens: Sequence[int], most: int) -> int:
        """Take back all that differs from tokens[:most]; the number of tokens that stay."""
        self._need_open()
        if len(tokens) > self.n_ctx:
            raise ContextOverflow(f"{len(tokens)} tokens do not fit into a context of {self.n_ctx}: enlarge --ctx")
        stay = min(self._shared(tokens), most)
        self._mark = mark_of(tokens)._replace(length=stay)
        return self._keep(stay)

    def _keep(self, stay: int) -> int:
        """Take back all but the first `stay` tokens; the number of tokens that stay."""
        self._mark = self._mark._replace(length=min(self._mark.length, stay))
        del self._tokens[stay:]
        if self._held() <= stay:
            return stay  # llama.cpp would look through all cells for nothing
        if not llama_cpp.llama_memory_seq_rm(self._memory, SEQUENCE, stay, -1):
            self._tokens.clear()  # a recurrent state cannot go back: begin again
            self._mark = NO_MARK
            llama_cpp.llama_memory_clear(self._memory, False)
            return 0
        return stay

    def _decode(self, tokens: Sequence[int], position: int, rows: int) -> None:
        if position + len(tokens) > self.n_ctx:
            raise ContextOverflow(
                f"{position + len(tokens)} tokens do not fit into a context of {self.n_ctx}: enlarge --ctx"
            )
        self._tokens += tokens
        native.decode(self._pointer, self._batch.fill(tokens, position, rows))
        self._unturned = None

    def _rows(self, count: int) -> Row:
        """The logits of the last evaluation, without a copy. Waits for a GPU that is still at work."""
        pointer = llama_cpp.llama_get_logits(self._pointer)
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_address:
            # Rows past `count` are never read.
            self._logits = native.logits(pointer, MAX_ROWS, self._model.vocabulary.size)
            self._logits_address = address
        return self._logits[:count]
