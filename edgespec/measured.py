"""What was measured of a model on this machine, kept from one run to the next: T(n), and which widths are exact."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from edgespec import machine, store
from edgespec.backend import LlamaContext, build_name
from edgespec.cost import CostCurve
from edgespec.exact import exact_rows, sample

_log = logging.getLogger("edgespec")

_FORMAT = 1


class Measured:
    """The files of one model, by its `fingerprint`, and whatever else its times depend on: `settings`."""

    def __init__(self, cache_dir: Path, fingerprint: str, *settings: object) -> None:
        described = repr((machine.cpu_name(), build_name(), fingerprint, *settings))
        name = f"{hashlib.sha256(described.encode()).hexdigest()[:24]}.json"
        self._costs = cache_dir / "costs" / name
        self._exact = cache_dir / "exact" / name

    def cost(self, rows: int) -> CostCurve:
        """T(n) as the last run left it, else a fresh curve."""
        cost = CostCurve(rows)
        stored = store.read_json(self._costs)
        if stored is not None:
            try:
                cost.restore(stored)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                _log.warning("%s is left aside: %s", self._costs, error)
                cost = CostCurve(rows)
        return cost

    def remember(self, cost: CostCurve) -> None:
        """Keep T(n), as far as it is known."""
        if cost.known:
            store.remember(self._costs, cost.as_json())

    def exact_rows(self, context: LlamaContext, n_vocab: int) -> int:
        """What `edgespec.exact` finds for this context: now, or in an earlier run."""
        stored = store.read_json(self._exact)
        known = stored.get("rows") if isinstance(stored, dict) and stored.get("format") == _FORMAT else None
        if isinstance(known, int) and known > 0:
            return min(known, context.max_rows)
        _log.info("finding out which evaluations are exact to the bit, once for this model and machine")
        rows = exact_rows(context, sample(n_vocab))
        context.forget()
        store.remember(self._exact, {"format": _FORMAT, "rows": rows})
        return rows
