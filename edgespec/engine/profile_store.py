"""What was learned of a model, kept from one run to the next: T(n), which widths are exact, whose guesses are right."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgespec.backend import EXACT_KV, LlamaContext, build_name, gpus
from edgespec.engine.exact import depths, exact_rows, sample
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.system import cpu as machine
from edgespec.system import files as store

_log = logging.getLogger("edgespec")

_FORMAT = 3

_PATIENCE = 10.0
"""Seconds of a wait after which it is said how far it is."""

_NONSENSE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading a file raises that is none of ours."""


class ProfileStore:
    """The files of one model, by its `fingerprint`, the machine, and whatever else its times depend on."""

    def __init__(
        self,
        cache_dir: Path,
        fingerprint: str,
        *,
        threads: int,
        gpu_layers: int,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        drafts: bool = False,
    ) -> None:
        """`drafts`: as a drafter, which evaluates several tokens for the logits of the last one."""
        settings = (threads, gpu_layers, kv_type, flash_attention, *(["drafter"] if drafts else []))
        name = _file_name(machine.cpu_name(), build_name(), fingerprint, *settings, *gpus())
        self._place = cache_dir, threads, gpu_layers
        self._found: dict[Path, Any] = {}
        """What files held when they were last read or written: who learned nothing must not write over who did."""
        self._costs = cache_dir / "costs" / name
        self._exact = cache_dir / "exact" / name
        self._acceptance = cache_dir / "acceptance"
        self._fingerprint = fingerprint

    def with_exact_keys(self) -> ProfileStore:
        """The same model's where keys and values are as `load(exact=True)` has them."""
        cache_dir, threads, gpu_layers = self._place
        return ProfileStore(cache_dir, self._fingerprint, threads=threads, gpu_layers=gpu_layers, kv_type=EXACT_KV)

    def latency(self, rows: int) -> LatencyModel:
        """T(n) as the last run left it, else a fresh curve."""
        cost = LatencyModel(rows)
        stored = store.read_json(self._costs)
        if stored is not None:
            try:
                cost.restore(stored)
            except _NONSENSE as error:
                _log.warning("%s is left aside: %s", self._costs, error)
                cost = LatencyModel(rows)
            else:
                self._found[self._costs] = cost.as_json()
        return cost

    def save(self, latency: LatencyModel) -> None:
        """Keep T(n), as far as it is known."""
        learned = latency.as_json()
        if latency.known or learned["deeper"]:
            self._keep(self._costs, learned)

    def _keep(self, path: Path, learned: Any) -> None:
        if learned != self._found.get(path):
            store.remember(path, learned)
            self._found[path] = learned

    def load_acceptance(self, acceptance: Acceptance, drafter: str, fingerprint: str) -> None:
        """Let `acceptance` begin with what was learned of a drafter model, by its `fingerprint`, for this target."""
        path = self._pair(fingerprint)
        stored = store.read_json(path)
        if stored is not None:
            try:
                acceptance.restore(drafter, stored)
            except _NONSENSE as error:
                _log.warning("%s is left aside: %s", path, error)
            else:
                self._found[path] = acceptance.as_json(drafter)

    def save_acceptance(self, acceptance: Acceptance, drafter: str, fingerprint: str) -> None:
        """Keep what is known by now."""
        learned = acceptance.as_json(drafter)
        if learned["kinds"]:
            self._keep(self._pair(fingerprint), learned)

    def _pair(self, fingerprint: str) -> Path:
        """Whose guesses are right does not depend on the machine, nor on threads and the like."""
        return self._acceptance / _file_name(self._fingerprint, fingerprint)

    def exact_rows(
        self, context: LlamaContext, n_vocab: int, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """What `edgespec.engine.exact` finds for this context: now, or in an earlier run.

        `progress(done, total)` counts evaluations; without it the log tells.
        """
        deepest = max(depths(context.n_ctx), default=0)
        stored = store.read_json(self._exact)
        if isinstance(stored, dict) and stored.get("format") == _FORMAT:
            rows, tested = stored.get("rows"), stored.get("deepest")
            if isinstance(rows, int) and rows > 0 and isinstance(tested, int) and tested >= deepest:
                return min(rows, context.max_rows)
        begun = time.monotonic()
        if progress is None:
            _log.warning(
                "finding out which evaluations are exact to the bit here: once for a model, up to some minutes "
                "(edgespec doctor does it beforehand)"
            )
        rows = exact_rows(context, sample(n_vocab), progress or _Told())
        context.forget()
        _log.info("up to %d tokens at once are exact to the bit: found in %.1f s", rows, time.monotonic() - begun)
        store.remember(self._exact, {"format": _FORMAT, "rows": rows, "deepest": deepest})
        return rows


class _Told:
    """Says now and then in the log how far a test for exact evaluations is."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > _PATIENCE:
            self._last = time.monotonic()
            _log.warning("%d of at most %d evaluations are compared", done, total)


def _file_name(*key: object) -> str:
    return f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"
