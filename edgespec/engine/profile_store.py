"""What is learned of a model, stored from one run to the next: T(n), exact rows, acceptance rates."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgespec.backend import EXACT_KV, LlamaContext, build_name, gpus
from edgespec.engine.exact import depths, exact_rows, probe_tokens
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.system.cpu import cpu_name
from edgespec.system.files import read_json, try_write_json

_log = logging.getLogger("edgespec")

_EXACT_FORMAT = 3
"""Version of the files of exact rows; others are measured again."""

_LATENCY, _EXACT, _ACCEPTANCE = "costs", "exact", "acceptance"
"""Folders in the cache directory."""

PROFILES = {"times of forward passes": _LATENCY, "exact rows": _EXACT, "acceptance rates": _ACCEPTANCE}
"""What is measured, and the folder of its files: one for each model, machine and setting."""

_LOG_INTERVAL = 10.0
"""Seconds between two log lines of a self-test's progress."""

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""Exceptions that restoring from a malformed file raises."""


class ProfileStore:
    """The profiles of one model, stored by its `fingerprint`, the machine and the settings that its times depend on."""

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
        repacked: bool = True,
    ) -> None:
        """`drafts`: the model is a drafter, whose forward passes give logits of their last token only.

        `repacked`: that of the model.
        """
        marks = [*(["drafter"] if drafts else []), *([] if repacked else ["weights as in the file"])]
        settings = (threads, gpu_layers, kv_type, flash_attention, *marks)
        name = _file_name(cpu_name(), build_name(), fingerprint, *settings, *gpus())
        self._base = cache_dir, threads, gpu_layers, repacked
        self._stored: dict[Path, Any] = {}
        """Contents of files when last read or written. What has not changed is not written again."""
        self._latency_path = cache_dir / _LATENCY / name
        self._exact_path = cache_dir / _EXACT / name
        self._acceptance_folder = cache_dir / _ACCEPTANCE
        self._fingerprint = fingerprint

    def with_exact_keys(self) -> ProfileStore:
        """The store of this model with the KV cache types of `load(exact=True)`."""
        cache_dir, threads, gpu_layers, repacked = self._base
        return ProfileStore(
            cache_dir, self._fingerprint, threads=threads, gpu_layers=gpu_layers, kv_type=EXACT_KV, repacked=repacked
        )

    def latency(self, rows: int) -> LatencyModel:
        """The stored latency model for up to `rows` rows; a new one where there is none."""
        latency_model = LatencyModel(rows)
        stored = read_json(self._latency_path)
        if stored is not None:
            try:
                latency_model.restore(stored)
            except _MALFORMED as error:
                _log.warning("%s is left aside: %s", self._latency_path, error)
                latency_model = LatencyModel(rows)
            else:
                self._stored[self._latency_path] = latency_model.as_json()
        return latency_model

    def save(self, latency: LatencyModel) -> None:
        """Store the latency model, where it has been measured."""
        learned = latency.as_json()
        if latency.known or learned["deeper"]:
            self._write(self._latency_path, learned)

    def _write(self, path: Path, learned: Any) -> None:
        """Write `learned`, unless `path` held just that when it was last read or written."""
        if learned != self._stored.get(path):
            try_write_json(path, learned)
            self._stored[path] = learned

    def load_acceptance(self, acceptance: Acceptance, drafter: str, fingerprint: str) -> None:
        """Restore the acceptance rates of a drafter model, by its `fingerprint`, for this target."""
        path = self._acceptance_path(fingerprint)
        stored = read_json(path)
        if stored is not None:
            try:
                acceptance.restore(drafter, stored)
            except _MALFORMED as error:
                _log.warning("%s is left aside: %s", path, error)
            else:
                self._stored[path] = acceptance.as_json(drafter)

    def save_acceptance(self, acceptance: Acceptance, drafter: str, fingerprint: str) -> None:
        """Store the acceptance rates of a drafter model, by its `fingerprint`, for this target."""
        learned = acceptance.as_json(drafter)
        if learned["kinds"]:
            self._write(self._acceptance_path(fingerprint), learned)

    def _acceptance_path(self, fingerprint: str) -> Path:
        """The file of acceptance rates for this target and a drafter: they depend on neither machine nor settings."""
        return self._acceptance_folder / _file_name(self._fingerprint, fingerprint)

    def exact_rows(
        self, context: LlamaContext, n_vocab: int, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """The exact rows for this context, from an earlier run or by a self-test now (see `edgespec.engine.exact`).

        `progress(done, total)` counts forward passes; without it, progress is logged.
        """
        deepest = max(depths(context.n_ctx), default=0)
        stored = read_json(self._exact_path)
        if isinstance(stored, dict) and stored.get("format") == _EXACT_FORMAT:
            rows, tested = stored.get("rows"), stored.get("deepest")
            if isinstance(rows, int) and rows > 0 and isinstance(tested, int) and tested >= deepest:
                return min(rows, context.max_rows)
        begun = time.monotonic()
        if progress is None:
            _log.warning(
                "finding out which evaluations are exact to the bit here: once for a model, up to some minutes "
                "(edgespec doctor does it beforehand)"
            )
        rows = exact_rows(context, probe_tokens(n_vocab), progress or _LoggedProgress())
        context.forget()
        _log.info("up to %d tokens at once are exact to the bit: found in %.1f s", rows, time.monotonic() - begun)
        try_write_json(self._exact_path, {"format": _EXACT_FORMAT, "rows": rows, "deepest": deepest})
        return rows


def stored_profiles(cache_dir: Path) -> dict[str, list[Path]]:
    """The files of each kind of PROFILES."""
    return {kind: sorted((cache_dir / folder).glob("*.json")) for kind, folder in PROFILES.items()}


class _LoggedProgress:
    """Logs the progress of a self-test, once in _LOG_INTERVAL."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > _LOG_INTERVAL:
            self._last = time.monotonic()
            _log.warning("%d of at most %d evaluations are compared", done, total)


def _file_name(*key: object) -> str:
    return f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.json"
