"""Many answers at once: one sequence a slot, one token of each in every evaluation.

For throughput, where nobody waits for a single answer. A row of many rounds differently from a row alone, so these
answers are the model's own, but not to the bit those that it gives one at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import llama_cpp

from edgespec.backend import native
from edgespec.backend.model import LlamaModel
from edgespec.core import Row
from edgespec.errors import InvalidRequest, UnsupportedModel

_CHUNK = 256

Key = TypeVar("Key")


@dataclass(slots=True)
class _Slot(Generic[Key]):
    """One answer in progress."""

    key: Key
    position: int
    answer: list[int] = field(default_factory=list)


class ParallelContext:
    """`slots` sequences of `n_ctx` tokens each. Not for two threads."""

    def __init__(self, model: LlamaModel, *, slots: int, n_ctx: int, threads: int) -> None:
        if not 1 <= slots <= 64:
            raise InvalidRequest(f"{slots} answers at once: it must be from 1 to 64")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = slots * n_ctx
        params.n_batch = params.n_ubatch = _CHUNK
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
        self._batch = llama_cpp.llama_batch_init(_CHUNK, 0, 1)
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
        """The answer to each prompt (not empty, shorter than `n_ctx`), in the order in which they are finished.

        `choose(row, position)` is the next token. An answer has at most `max_tokens`, its end token included.
        """
        waiting = iter(prompts)
        active: dict[int, _Slot[Key]] = {}
        while True:
            for slot in range(self._slots):
                if slot not in active and (prompt := next(waiting, None)) is not None:
                    active[slot] = self._begin(slot, *prompt, choose)
            if not active:
                return
            for slot in [slot for slot, one in active.items() if self._finished(one, max_tokens)]:
                done = active.pop(slot)
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
                yield done.key, done.answer
            if active:
                self._step(active, choose)

    def _finished(self, one: _Slot[Key], max_tokens: int) -> bool:
        return (
            self._model.vocabulary.is_end(one.answer[-1])
            or len(one.answer) >= max_tokens
            or one.position + 1 >= self.n_ctx
        )

    def _begin(self, slot: int, key: Key, tokens: list[int], choose: Callable[[Row, int], int]) -> _Slot[Key]:
        """Read the prompt into a slot and choose the first token of its answer."""
        if not 0 < len(tokens) < self.n_ctx:
            raise InvalidRequest(f"a prompt of {len(tokens)} tokens, where 1 to {self.n_ctx - 1} fit")
        for start in range(0, len(tokens), _CHUNK):
            part = tokens[start : start + _CHUNK]
            last = start + len(part) == len(tokens)
            self._evaluate([(token, start + place, slot, False) for place, token in enumerate(part[:-1])]
                           + [(part[-1], start + len(part) - 1, slot, last)])  # fmt: skip
        one = _Slot(key, len(tokens))
        one.answer.append(choose(self._rows(1)[0], one.position))
        return one

    def _step(self, active: dict[int, _Slot[Key]], choose: Callable[[Row, int], int]) -> None:
        """One more token for every slot."""
        ordered = sorted(active.items())  # llama.cpp evaluates ascending sequences together, others apart
        self._evaluate([(one.answer[-1], one.position, slot, True) for slot, one in ordered])
        for row, (_, one) in zip(self._rows(len(ordered)), ordered, strict=True):
            one.position += 1
            one.answer.append(choose(row, one.position))

    def _evaluate(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """Decode (token, position, slot, wanted) entries, one batch."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for place, (token, position, slot, wanted) in enumerate(entries):
            batch.token[place] = token
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = slot
            batch.logits[place] = wanted
        native.decode(self._pointer, batch)

    def _rows(self, count: int) -> Row:
        return native.logits(llama_cpp.llama_get_logits(self._pointer), count, self._model.vocabulary.size)
