"""Many answers at once: one sequence for each slot, one token of each in every forward pass.

This is for throughput. Logits of several rows are rounded differently from those of one, so an answer may differ at a
near-tie from the one that the model gives alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import llama_cpp

from edgespec.backend import native
from edgespec.backend.model import LlamaModel
from edgespec.core import Row, arguments
from edgespec.errors import InvalidRequest, UnsupportedModel

_BATCH_TOKENS = 256
"""The most tokens of one forward pass."""

Key = TypeVar("Key")


@dataclass(slots=True)
class _Slot(Generic[Key]):
    """One answer in progress; `position` is the number of tokens that were evaluated."""

    key: Key
    position: int
    answer: list[int] = field(default_factory=list)


class ParallelContext:
    """`slots` sequences of `n_ctx` tokens each. Not thread-safe."""

    def __init__(self, model: LlamaModel, *, slots: int, n_ctx: int, threads: int) -> None:
        slots = arguments.integer("slots", slots, 1, 64, "answers at once")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = slots * n_ctx
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        pointer = native.new_context(model.pointer, params)
        if not pointer:
            raise UnsupportedModel(
                f"{model.path}: no context for {slots} answers of {n_ctx} tokens can be made "
                f"({native.last_error() or 'no reason given'}); try fewer at once"
            )
        self._model = model
        self._pointer = pointer
        # The model is held too, since llama.cpp reads it while it frees a context.
        self._release = weakref.finalize(self, lambda pointer, _model: llama_cpp.llama_free(pointer), pointer, model)
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)
        self._release_batch = weakref.finalize(self, llama_cpp.llama_batch_free, self._batch)
        self._memory = llama_cpp.llama_get_memory(pointer)
        self._slots = slots
        self.n_ctx = n_ctx

    def close(self) -> None:
        """Free the memory."""
        self._release()
        self._release_batch()

    def answers(
        self, prompts: Iterable[tuple[Key, list[int]]], max_tokens: int, choose: Callable[[Row, int], int]
    ) -> Iterator[tuple[Key, list[int]]]:
        """The answer to each prompt (not empty, shorter than `n_ctx`), in the order in which they finish.

        `choose(row, position)` returns the next token. An answer has at most `max_tokens`, its end token included.
        """
        waiting = iter(prompts)
        active: dict[int, _Slot[Key]] = {}
        while True:
            for slot in range(self._slots):
                if slot not in active and (prompt := next(waiting, None)) is not None:
                    active[slot] = self._begin(slot, *prompt, choose)
            if not active:
                return
            for slot in [slot for slot, slot_state in active.items() if self._finished(slot_state, max_tokens)]:
                finished = active.pop(slot)
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
                yield finished.key, finished.answer
            if active:
                self._step(active, choose)

    def _finished(self, slot_state: _Slot[Key], max_tokens: int) -> bool:
        return (
            self._model.vocabulary.is_end(slot_state.answer[-1])
            or len(slot_state.answer) >= max_tokens
            or slot_state.position + 1 >= self.n_ctx
        )

    def _begin(self, slot: int, key: Key, tokens: list[int], choose: Callable[[Row, int], int]) -> _Slot[Key]:
        """Prefill a prompt in a slot, and choose the first token of its answer."""
        if not 0 < len(tokens) < self.n_ctx:
            raise InvalidRequest(f"a prompt of {len(tokens)} tokens, where 1 to {self.n_ctx - 1} fit")
        for start in range(0, len(tokens), _BATCH_TOKENS):
            chunk = tokens[start : start + _BATCH_TOKENS]
            last = start + len(chunk) == len(tokens)
            self._evaluate([(token, start + index, slot, False) for index, token in enumerate(chunk[:-1])]
                           + [(chunk[-1], start + len(chunk) - 1, slot, last)])  # fmt: skip
        slot_state = _Slot(key, len(tokens))
        slot_state.answer.append(choose(self._rows(1)[0], slot_state.position))
        return slot_state

    def _step(self, active: dict[int, _Slot[Key]], choose: Callable[[Row, int], int]) -> None:
        """One forward pass, with one more token for every slot."""
        ordered = sorted(active.items())  # llama.cpp evaluates ascending sequences together, others apart
        self._evaluate([(slot_state.answer[-1], slot_state.position, slot, True) for slot, slot_state in ordered])
        for row, (_, slot_state) in zip(self._rows(len(ordered)), ordered, strict=True):
            slot_state.position += 1
            slot_state.answer.append(choose(row, slot_state.position))

    def _evaluate(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """One forward pass of (token, position, slot, has_logits) entries."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for index, (token, position, slot, has_logits) in enumerate(entries):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = slot
            batch.logits[index] = has_logits
        native.decode(self._pointer, batch)

    def _rows(self, count: int) -> Row:
        return native.logits(llama_cpp.llama_get_logits(self._pointer), count, self._model.vocabulary.size)
