"""Drafters for a target, by the names that people give them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.core import Drafter
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.drafters.model import ModelDrafter
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import UnknownDrafter
from edgespec.hub import resolve as catalogue
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy

_log = logging.getLogger("edgespec")


class OpenedDrafters(NamedTuple):
    """What drafts for a target, under which name, and what chooses among it."""

    drafters: tuple[Drafter, ...]
    name: str
    policy: AdaptivePolicy


class DrafterSet:
    """Finds drafters for a target that is loaded, once or again.

    `exact`: only as many rows are evaluated at once as give the very bits of single-token decoding.
    """

    def __init__(
        self,
        target: LlamaModel,
        context: LlamaContext,
        measured: ProfileStore,
        *,
        exact: bool,
        n_ctx: int,
        threads: int,
        gpu_layers: int,
        cache_dir: Path,
    ) -> None:
        self._target, self._context, self._measured, self._exact = target, context, measured, exact
        self._n_ctx, self._threads, self._gpu_layers, self._cache_dir = n_ctx, threads, gpu_layers, cache_dir
        self._cost: LatencyModel | None = None
        self._exact_rows = 0

    def pair(self, drafter: str | Path | Drafter, before: Iterable[Drafter] = ()) -> OpenedDrafters:
        """With a drafter as `load` takes it; plain decoding where nothing can draft, and a warning.

        The models among those `before` store what they learned first: one that is opened again begins with it.

        Raises UnknownDrafter and ModelError.
        """
        drafter = checked(drafter)
        for model in before:
            if isinstance(model, ModelDrafter):
                model.remember()
        name = drafter if isinstance(drafter, str) else drafter.name
        if name != "none" and (hindrance := self._hindrance()):
            _log.warning("%s: %s: decoding without drafts", self._target.name, hindrance)
            name = drafter = "none"
        drafters: Sequence[Drafter] = (drafter,) if not isinstance(drafter, str) else open_drafters(
            names_of(drafter), self._target,
            n_ctx=self._n_ctx, threads=self._threads, gpu_layers=self._gpu_layers, cache_dir=self._cache_dir,
        )  # fmt: skip
        if self._cost is None or self._cost.rows != self._context.max_rows:
            self._cost = self._measured.cost(self._context.max_rows)
        return OpenedDrafters(tuple(drafters), name, AdaptivePolicy(drafters, self._cost))

    def _hindrance(self) -> str:
        """Why no draft could be verified, or nothing."""
        if not self._target.can_rewind:
            return "it cannot take tokens back (recurrent memory)"
        if self._exact:
            if not self._exact_rows:
                self._exact_rows = self._measured.exact_rows(self._context, self._target.vocabulary.size)
            self._context.max_rows = self._exact_rows
            if self._context.max_rows == 1:
                return "no evaluation of several tokens is bit-exact here, so leave --exact out"
        return ""


def checked(drafter: object) -> str | Drafter:
    """A drafter as `load` takes it; a path as a name. Raises UnknownDrafter where nothing of that name drafts."""
    if isinstance(drafter, os.PathLike):
        drafter = os.fspath(drafter)
    if isinstance(drafter, str):
        for name in names_of(drafter):
            if not is_model(name):
                make_drafter(name)
        return drafter
    if isinstance(drafter, Drafter):
        return drafter
    raise UnknownDrafter(f"{drafter!r} is no drafter: give a name, a .gguf file, or an object that implements Drafter")


def open_drafters(
    names: Sequence[str], target: LlamaModel, *, n_ctx: int, threads: int, gpu_layers: int, cache_dir: Path
) -> list[Drafter]:
    """The drafters for `target` by `names`, as -d takes them one by one. Raises UnknownDrafter and ModelError."""
    opened: list[Drafter] = []
    files = {name: catalogue.resolve(name, cache_dir=cache_dir) for name in names if is_model(name)}
    stems = [files[name].stem if name in files else name for name in names]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UnknownDrafter(f"two drafters are called {twice}: what is learned of one would count for the other")
    with contextlib.ExitStack() as undo:
        undo.callback(close_all, opened)
        for name in names:
            opened.append(
                open_drafter(
                    files[name], target, n_ctx=n_ctx, threads=threads, gpu_layers=gpu_layers, cache_dir=cache_dir
                )
                if name in files else make_drafter(name)
            )  # fmt: skip
        undo.pop_all()
    return opened


def close_all(drafters: Iterable[Drafter]) -> None:
    """Free the models among them."""
    for drafter in drafters:
        if isinstance(drafter, ModelDrafter):
            drafter.close()


def is_model(name: str) -> bool:
    """Whether the name of a drafter is that of a model."""
    return name not in KNOWN and (name.endswith(".gguf") or catalogue.is_alias(name) or Path(name).is_file())
