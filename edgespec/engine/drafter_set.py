"""The drafters of a target, by the names that people give them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.core import Context, Drafter
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.drafters.model import ModelDrafter, Share
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.options import Resources
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import UnknownDrafter
from edgespec.hub import resolve as catalogue
from edgespec.latency.model import LatencyModel

_log = logging.getLogger("edgespec")


def _nothing() -> None:
    """What there is to do for a drafter that is no model."""


@dataclass(frozen=True, slots=True)
class OpenedDrafter:
    """A drafter, and what those need who do not draft with it. Of a drafter of the user's own, nothing is known.

    `anew` gives one that has read nothing, and `teach` lets it read a text of earlier conversations. The other members
    are a model's: `share`, what it reads for a token as a share of what the target reads; `latency`, the model of its
    forward passes, `passes` their number so far; `context`, and `prefill_seconds`, the time of its prefill by the
    target's T(1); `fingerprint` of its file; `save` stores what was learned of its time, `close` frees it.
    """

    drafter: Drafter
    anew: Callable[[], Drafter]
    teach: Callable[[Sequence[int]], object] = lambda tokens: None
    share: Share | None = None
    latency: LatencyModel | None = None
    passes: Callable[[], int] = lambda: 0
    context: Context | None = None
    n_inputs: int = 0
    """The number of ids that the context evaluates."""
    prefill_seconds: Callable[[float], float] = lambda target_seconds: 0.0
    fingerprint: str = ""
    save: Callable[[], None] = _nothing
    close: Callable[[], None] = _nothing

    @property
    def name(self) -> str:
        """The drafter's name."""
        return self.drafter.name


class NamedDrafters(NamedTuple):
    """What drafts for a target, under which name."""

    drafters: tuple[OpenedDrafter, ...]
    name: str


class DrafterSet:
    """Finds drafters for a target that is loaded, once or again.

    `exact`: only as many rows are evaluated at once as give the very bits of single-token decoding.
    """

    def __init__(
        self, target: LlamaModel, context: LlamaContext, profiles: ProfileStore, resources: Resources, *, exact: bool
    ) -> None:
        self._target, self._context, self._profiles, self._resources = target, context, profiles, resources
        self._exact = exact
        self._exact_rows = 0

    def open(self, drafter: str | Path | Drafter, before: Iterable[OpenedDrafter] = ()) -> NamedDrafters:
        """The drafters that `load` names so; none where nothing can draft, and a warning.

        The models among those `before` store what they learned first: one that is opened again begins with it.

        Raises UnknownDrafter and ModelError.
        """
        drafter = checked(drafter)
        for one in before:
            one.save()
        name = drafter if isinstance(drafter, str) else drafter.name
        if name != "none" and (hindrance := self._hindrance()):
            _log.warning("%s: %s: decoding without drafts", self._target.name, hindrance)
            name = drafter = "none"
        if isinstance(drafter, str):
            return NamedDrafters(tuple(open_drafters(names_of(drafter), self._target, self._resources)), name)
        mine = drafter
        return NamedDrafters((OpenedDrafter(mine, lambda: mine),), name)

    def _hindrance(self) -> str:
        """Why no draft could be verified, or nothing."""
        if not self._target.can_rewind:
            return "it cannot take tokens back (recurrent memory)"
        if self._exact:
            if not self._exact_rows:
                self._exact_rows = self._profiles.exact_rows(self._context, self._target.vocabulary.size)
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
    raise UnknownDrafter(
        f"{drafter!r} is not a drafter: give a name, a .gguf file or an object that implements Drafter"
    )


def open_drafters(names: Sequence[str], target: LlamaModel, resources: Resources) -> list[OpenedDrafter]:
    """The drafters for `target` by `names`, as -d takes them one by one. Raises UnknownDrafter and ModelError."""
    opened: list[OpenedDrafter] = []
    files = {name: catalogue.resolve(name, cache_dir=resources.cache_dir) for name in names if is_model(name)}
    stems = [files[name].stem if name in files else name for name in names]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UnknownDrafter(f"two drafters are called {twice}: what is learned of one would count for the other")
    with contextlib.ExitStack() as undo:
        undo.callback(close_all, opened)
        for name in names:
            opened.append(
                of_model(open_drafter(files[name], target, resources)) if name in files else of_text(make_drafter(name))
            )
        undo.pop_all()
    return opened


def of_text(drafter: Drafter) -> OpenedDrafter:
    """One of our own drafters that learn from text."""
    return OpenedDrafter(drafter, type(drafter), teach=lambda tokens: drafter.propose(tokens, 0))


def of_model(drafter: ModelDrafter) -> OpenedDrafter:
    """A drafter model."""

    def anew() -> Drafter:
        drafter.context.rewind(0)
        return drafter

    return OpenedDrafter(
        drafter,
        anew,
        share=drafter.share,
        latency=drafter.latency,
        passes=lambda: drafter.evaluations,
        context=drafter.context,
        n_inputs=drafter.n_inputs,
        prefill_seconds=drafter.prefill_seconds,
        fingerprint=drafter.fingerprint,
        save=drafter.save,
        close=drafter.close,
    )


def close_all(drafters: Iterable[OpenedDrafter]) -> None:
    """Free the models among them."""
    for drafter in drafters:
        drafter.close()


def is_model(name: str) -> bool:
    """Whether the name of a drafter is that of a model."""
    return name not in KNOWN and (name.endswith(".gguf") or catalogue.is_alias(name) or Path(name).is_file())
