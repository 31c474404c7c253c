"""Many answers at once: one sequence for each slot, one token of each in every forward pass.

This is for throughput. Logits of several rows are rounded differently from those of one, so an answer may differ at a
near-tie from the one that the model gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edgespec.backend.context import LlamaContext, evaluate_together
from edgespec.backend.model import LlamaModel
from edgespec.backend.sequences import Sequences
from edgespec.core import NOTHING, Row, arguments
from edgespec.errors import InvalidRequest

Key = TypeVar("Key")

Choose = Callable[[Key, Row, int], int]
"""The next token, by the key of its answer, its logits, and its position."""


def shared_contexts(
    model: LlamaModel,
    count: int,
    *,
    n_ctx: int,
    threads: int,
    trees: bool,
    apart: bool = False,
    total: int | None = None,
    kv_type: str = "f16",
    flash_attention: str = "auto",
) -> list[LlamaContext]:
    """Contexts of `n_ctx` tokens each on one memory, for `evaluate_together`. Closing one of them closes all.

    `total`: the most tokens that all of them hold at once, by default `count` times `n_ctx`. `apart`: they share no
    cells, as `Sequences` has it.
    """
    cells = Sequences(
        model, n_ctx=n_ctx, threads=threads, count=count, total=total, trees=trees, apart=apart,
        kv_type=kv_type, flash_attention=flash_attention,
    )  # fmt: skip
    return [
        LlamaContext(
            model, n_ctx=n_ctx, threads=threads, kv_type=kv_type, flash_attention=flash_attention,
            cells=cells, sequence=sequence,
        )
        for sequence in range(count)
    ]  # fmt: skip


@dataclass(slots=True)
class _Slot(Generic[Key]):
    """One answer in progress; `tokens` are the prompt and the answer."""

    key: Key
    context: LlamaContext
    tokens: list[int]
    answer: list[int] = field(default_factory=list)

    def add(self, row: Row, choose: Choose[Key]) -> None:
        """Choose the next token."""
        token = choose(self.key, row, len(self.tokens))
        self.answer.append(token)
        self.tokens.append(token)


class ParallelContext:
    """`slots` sequences of `n_ctx` tokens each. Not thread-safe."""

    def __init__(self, model: LlamaModel, *, slots: int, n_ctx: int, threads: int) -> None:
        slots = arguments.integer("slots", slots, 1, 64, "answers at once")
        self._contexts = shared_contexts(model, slots, n_ctx=n_ctx, threads=threads, trees=False, apart=True)
        self._model = model
        self.n_ctx = n_ctx

    def close(self) -> None:
        """Free the memory."""
        self._contexts[0].close()

    def answers(
        self,
        prompts: Iterable[tuple[Key, list[int]]],
        max_tokens: int,
        choose: Choose[Key],
        stop: Callable[[Sequence[int]], bool] = lambda answer: False,
    ) -> Iterator[tuple[Key, list[int]]]:
        """The answer to each prompt (not empty, shorter than `n_ctx`), in the order in which they finish.

        `choose(key, row, position)` returns the next token. An answer has at most `max_tokens`, its end token included;
        `stop(answer)` is asked after each token whether it ends here.
        """
        waiting = iter(prompts)
        free = list(self._contexts)
        active: list[_Slot[Key]] = []
        while True:
            while free and (prompt := next(waiting, None)) is not None:
                active.append(self._begin(free.pop(0), *prompt, choose))
                active.sort(key=lambda slot: self._contexts.index(slot.context))
            if not active:
                return
            for slot in [slot for slot in active if self._finished(slot, max_tokens) or stop(slot.answer)]:
                active.remove(slot)
                slot.context.forget()
                free.append(slot.context)
                yield slot.key, slot.answer
            if active:
                together = evaluate_together([(slot.context, slot.tokens, NOTHING) for slot in active])
                for slot, evaluation in zip(active, together, strict=True):
                    slot.add(evaluation.rows[0], choose)

    def _finished(self, slot: _Slot[Key], max_tokens: int) -> bool:
        return (
            self._model.vocabulary.is_end(slot.answer[-1])
            or len(slot.answer) >= max_tokens
            or len(slot.tokens) >= self.n_ctx
        )

    def _begin(self, context: LlamaContext, key: Key, tokens: list[int], choose: Choose[Key]) -> _Slot[Key]:
        """Prefill a prompt in a slot, and choose the first token of its answer."""
        if not 0 < len(tokens) < self.n_ctx:
            raise InvalidRequest(f"a prompt of {len(tokens)} tokens, where 1 to {self.n_ctx - 1} fit")
        row = context.prefill(tokens)
        assert row is not None
        slot = _Slot(key, context, list(tokens))
        slot.add(row, choose)
        return slot
