"""Whether a model with its context and drafters fits into the memory that is free."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgespec.backend import KV_TYPES, PREFILL_CHUNK
from edgespec.core import MAX_ROWS
from edgespec.errors import InvalidRequest
from edgespec.gguf.footprint import Footprint
from edgespec.system.memory import FreeMemory, free_memory

_log = logging.getLogger("edgespec")

_STEP = 256
"""Tokens by which context lengths are proposed: llama.cpp rounds to it."""
_OTHER_BYTES = 2 << 20
"""Bytes of small buffers of each context."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory that a target (the first of `models`) and its drafters take with a context of `n_ctx` tokens.

    It is of loads on the CPU. Weights count once: pages of the file can be dropped again, and where llama.cpp repacks
    them for speed, the copy replaces them.
    """

    models: Sequence[Footprint]
    n_ctx: int
    kv_type: str
    free: FreeMemory

    @property
    def weights(self) -> int:
        return sum(model.weights for model in self.models)

    @property
    def kv_cache(self) -> int:
        return self._kv_cache(self.models, self.n_ctx)

    @property
    def buffers(self) -> int:
        return self._buffers(self.n_ctx)

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.buffers

    @property
    def fits(self) -> bool:
        """Whether all of it fits without swapping."""
        return self.total <= self.free.available

    @property
    def can_repack(self) -> bool:
        """Whether there is memory for weights that llama.cpp repacks: those cannot be dropped and read again."""
        return self.total <= self.free.most

    @property
    def impossible(self) -> bool:
        """Whether the KV cache alone takes more than there is, swap space included: nothing of it can be dropped."""
        return self._kv_cache([model for model in self.models if model.certain], self.n_ctx) > self.free.most

    def longest(self, limit: int) -> int:
        """The longest context, at most `limit` tokens, with which all fits; 0 where none does."""
        low, high = 0, limit // _STEP
        while low < high:
            middle = (low + high + 1) // 2
            if self._total(middle * _STEP) <= self.free.available:
                low = middle
            else:
                high = middle - 1
        return low * _STEP

    def check(self) -> None:
        """Log a warning where memory is short. Raises InvalidRequest where the KV cache surely finds no place."""
        if self.fits:
            return
        name, longest = self.models[0].name, self.longest(self.n_ctx)
        if len(self.models) > 1:
            name += f" with {' and '.join(model.name for model in self.models[1:])}"
        remedy = f"--ctx {longest} fits" if longest else "choose a smaller model, or close other programs"
        if self.impossible:
            raise InvalidRequest(
                f"{name} does not fit: the KV cache of --ctx {self.n_ctx} takes {size_text(self.kv_cache)}, and "
                f"{size_text(self.free.most)} of memory are free; {remedy}"
            )
        _log.warning(
            "%s may not fit: with --ctx %d it takes about %s (weights %s, KV cache %s), and %s of memory are free; %s",
            name, self.n_ctx, size_text(self.total), size_text(self.weights), size_text(self.kv_cache),
            size_text(self.free.available), remedy,
        )  # fmt: skip

    def at_once(self, needs: Sequence[int]) -> int:
        """How many answers fit at once beside what is loaded, where each needs that many tokens; at least 1.

        The largest come first. Logs a warning where that is fewer than all.
        """
        free = free_memory().available
        sizes = [self._one_more(n_ctx) for n_ctx in accumulate(needs)]
        count = max(1, sum(size <= free for size in sizes))
        if count < len(needs):
            _log.warning(
                "%d answers at once take %s for their KV cache, and %s of memory are free: %s",
                len(needs), size_text(sizes[-1]), size_text(free),
                f"{count} at once" if count > 1 else "one after the other",
            )  # fmt: skip
        return count

    def _one_more(self, n_ctx: int) -> int:
        """The memory of one more context of the target."""
        return self._kv_cache(self.models[:1], n_ctx) + _pass_buffers(self.models[0], n_ctx)

    def _total(self, n_ctx: int) -> int:
        return self.weights + self._kv_cache(self.models, n_ctx) + self._buffers(n_ctx)

    def _kv_cache(self, models: Sequence[Footprint], n_ctx: int) -> int:
        """A drafter's is of f16, and no longer than the drafter was trained for."""
        total = 0
        for model in models:
            is_target = model is self.models[0]
            types = KV_TYPES[self.kv_type if is_target else "f16"]
            total += model.kv_cache(n_ctx if is_target else min(n_ctx, model.n_ctx_train), types)
        return total

    def _buffers(self, n_ctx: int) -> int:
        """The vocabularies, and what forward passes take."""
        return sum(model.vocabulary + _pass_buffers(model, n_ctx) for model in self.models)


def _pass_buffers(model: Footprint, n_ctx: int) -> int:
    """The logits of a forward pass, its attention mask (of f16), and small things."""
    return 4 * MAX_ROWS * model.n_vocab + 2 * PREFILL_CHUNK * n_ctx + _OTHER_BYTES


def size_text(size: float) -> str:
    """A number of bytes for people: 98 MB, 1.2 GB."""
    if math.isinf(size):
        return "an unknown amount"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def check_trained(model: Footprint, n_ctx: int) -> None:
    """Log a warning where the context is longer than the model was trained for."""
    if model.keys and n_ctx > model.n_ctx_scaled:  # a recurrent model has no positions that it could not know
        _log.warning(
            "--ctx %d: %s was trained for %d tokens, and writes worse text beyond them",
            n_ctx, model.name, model.n_ctx_scaled,
        )  # fmt: skip
