"""The prefix cache: what was read of a prompt is stored on disk, and later prompts that begin alike start from it.

A state is copied out of the context between two forward passes, and written by a thread when the answer is over. One
rule decides what is stored and what is used: reading from disk has to beat the prefill (`worth_storing`, `saving`).
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edgespec.backend import PREFILL_CHUNK, LlamaContext, LlamaModel, gpus
from edgespec.engine.options import EngineOptions
from edgespec.engine.prefix_files import FOLDER, SHORTEST, PrefixFolder, StoredPrefix, default_limit
from edgespec.system.cpu import cache_directory, cpu_name
from edgespec.system.memory import free_memory

_log = logging.getLogger("edgespec.engine.prefix_cache")

DISK_SPEED = 200e6
"""Bytes per second at which a state is assumed to come from disk into the context: the flash memory of a phone."""

LEAST_SECONDS = 0.25
"""Seconds of prefill below which nothing is written: nobody waits for so little."""

LEAST_RATIO = 4.0
"""How many times longer than the disk a prefill has to take for its state to be written."""

LEAST_SHARE = 0.25
"""The share of a prefix that has to be new for it to be written. So a chat that grows turn by turn writes its whole
state only when it has grown by a third, and not after each turn."""

ENTRY_SHARE = 0.25
"""The share of the cache that one prefix may take."""

MEMORY_SHARE = 0.25
"""The share of the free memory that the copy of a state may take until it is written."""


def load_seconds(size: int) -> float:
    """The time that a state of `size` bytes is assumed to take from disk."""
    return size / DISK_SPEED


def worth_storing(seconds: float, size: int) -> bool:
    """Whether to write a state of `size` bytes whose new tokens took `seconds` to read."""
    return seconds >= max(LEAST_SECONDS, LEAST_RATIO * load_seconds(size))


def saving(tokens: int, seconds_per_token: float, size: int) -> float:
    """The seconds saved by loading a state of `size` bytes instead of reading `tokens`; negative for a loss."""
    return tokens * seconds_per_token - load_seconds(size)


class _Snapshot(NamedTuple):
    """A state to be written."""

    tokens: list[int]
    data: memoryview
    seconds_per_token: float


class PrefixCache:
    """The prefix cache of one context. The engine's lock is held while its answers use it.

    `aligned`: a prefix ends where a chunk of the prefill ends, so that logits are the same to the bit. A stored state
    of more than `max_cuttable` tokens is used whole or not at all (see `LlamaModel`). `max_bytes`: the most that all
    prefixes take; by default, a share of the free disk space.
    """

    def __init__(
        self,
        root: Path,
        context: LlamaContext,
        origin: Mapping[str, str],
        *,
        model: str,
        aligned: bool,
        max_cuttable: int,
        max_bytes: int | None,
    ) -> None:
        self.context = context
        self.folder = PrefixFolder(root, origin, model)
        self.aligned = aligned
        self.max_cuttable = max_cuttable
        self._root = root
        self._max_bytes = max_bytes
        self._writer: threading.Thread | None = None
        self._failed = False

    def limit(self) -> int:
        """The most bytes of all prefixes; 0 where the disk cannot be asked."""
        if self._max_bytes is not None:
            return self._max_bytes
        try:
            return default_limit(self._root)
        except OSError:
            return 0

    def answer(self, prompt: Sequence[int]) -> AnswerPrefix:
        """What the answer to `prompt` takes from the cache and leaves in it."""
        return AnswerPrefix(self, list(prompt))

    def write_later(self, write: Callable[[], None]) -> None:
        """Run `write` in a thread, after the one before it. A failure ends writing: the disk may be full."""

        def run() -> None:
            try:
                write()
            except OSError as error:
                self._failed = True
                _log.info("what was read of prompts is not stored: %s", error)

        self.wait()
        if not self._failed:
            writer = threading.Thread(target=run, name="edgespec-prefix")
            try:
                writer.start()
            except RuntimeError as error:  # the system has no more threads, or Python is ending
                self._failed = True
                _log.info("what was read of prompts is not stored: %s", error)
            else:
                self._writer = writer

    def wait(self) -> None:
        """Wait until everything is written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.join()


def prefix_cache(options: EngineOptions, target: LlamaModel, context: LlamaContext, fingerprint: str) -> PrefixCache:
    """The prefix cache of an engine that is loaded with `options`.

    A prefix is used again only where it would be computed alike: rounding differs with processor and threads.
    """
    machine = f"{cpu_name()}, {context.threads} threads, {options.gpu_layers} layers on {', '.join(gpus()) or 'no GPU'}"
    return PrefixCache(
        Path(options.cache_dir or cache_directory()) / FOLDER,
        context,
        {
            "model": fingerprint,
            "settings": context.settings,
            "machine": machine,
            "exact": "yes" if options.exact else "no",
        },
        model=target.path.name,
        aligned=options.exact,
        max_cuttable=target.max_cuttable,
        max_bytes=None if options.prefix_cache is True else int(1e9 * options.prefix_cache),
    )


class AnswerPrefix:
    """The prefix cache as one answer uses it. Implements `core.PromptStore`."""

    def __init__(self, cache: PrefixCache, prompt: list[int]) -> None:
        self._cache = cache
        self._prompt = prompt
        self._start = 0
        self._begun = 0.0
        self._off = False
        self._snapshots: list[_Snapshot] = []
        last = (len(prompt) - 1) // PREFILL_CHUNK * PREFILL_CHUNK
        if len(prompt) > cache.max_cuttable:  # with two states, the last 128 tokens of a prompt may be others
            self._borders = {last, last - PREFILL_CHUNK}
        else:
            self._borders = {last} if cache.aligned else set()

    def restore(self) -> None:
        """Load the stored prefix that saves most, if one saves anything."""
        context = self._cache.context
        cached = context.cached(self._prompt)
        if self._cache.aligned and cached:  # what is in the context may not be split as a prefill would be
            self._off = True
        elif len(self._prompt) - cached > SHORTEST:
            self._load_best(cached)
        self._start, self._begun = context.cached(self._prompt), time.perf_counter()

    def _load_best(self, cached: int) -> None:
        cache, found = self._cache, list(self._cache.folder.find(self._prompt))
        if not found:
            return
        rate = statistics.median(stored.seconds_per_token for _, stored in found)  # each was timed once, and roughly
        choices = [(self._usable(shared, stored), stored) for shared, stored in found]
        gains = [(saving(usable - cached, rate, stored.bytes), usable, stored) for usable, stored in choices]
        for gain, usable, stored in sorted(gains, reverse=True):
            if gain <= 0.0:
                return
            state = cache.folder.read(stored)
            if state is not None:
                if cache.context.set_state(*state, unshifted=True):
                    cache.context.rewind(usable)
                return

    def _usable(self, shared: int, stored: StoredPrefix) -> int:
        """How many tokens of a stored prefix this prompt can start from."""
        context = self._cache.context
        shared = min(shared, len(self._prompt) - 1)  # the last token is evaluated in any case
        if len(stored.tokens) > context.n_ctx:
            return 0
        if len(stored.tokens) > self._cache.max_cuttable:
            return shared if shared == len(stored.tokens) else 0
        return shared // PREFILL_CHUNK * PREFILL_CHUNK if self._cache.aligned else shared

    def before_chunk(self, done: int) -> None:
        """The prefill has read `done` tokens."""
        if done in self._borders:
            self._copy(time.perf_counter() - self._begun)

    def take(self, seconds: float) -> None:
        """The prefill took `seconds`; it may have been cancelled."""
        if self._borders and self._cache.context.cached(self._prompt) % PREFILL_CHUNK:
            return
        self._copy(seconds)

    def _copy(self, seconds: float) -> None:
        """Copy the state, where that is worth it, after `seconds` of prefill."""
        context = self._cache.context
        done = context.cached(self._prompt)
        read = done - self._start
        if self._off or read < max(1.0, LEAST_SHARE * done) or done < SHORTEST or context.unshifted < done:
            return
        size = context.state_bytes
        if not worth_storing(seconds, size) or size > ENTRY_SHARE * self._cache.limit():
            return
        if size > MEMORY_SHARE * free_memory().available:
            return
        try:
            tokens, data = context.state()
        except MemoryError:
            return
        if tokens == self._prompt[:done] and all(tokens != snapshot.tokens for snapshot in self._snapshots):
            self._snapshots.append(_Snapshot(tokens, data, seconds / read))

    def write(self) -> None:
        """The answer is over: store what was copied."""
        snapshots, self._snapshots = self._snapshots, []
        if not snapshots:
            return
        cache = self._cache

        def write() -> None:
            for tokens, data, seconds_per_token in snapshots:
                replaces = len(tokens) <= cache.max_cuttable
                cache.folder.write(tokens, data, seconds_per_token, replaces=replaces, limit=cache.limit())

        cache.write_later(write)
