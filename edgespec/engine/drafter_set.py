"""The drafters of a target, by the names that people give them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.core import Context, Drafter, arguments
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.drafters.heads import HeadDrafter
from edgespec.drafters.model import ModelDrafter, Share
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.open_heads import OpenedHeads, collect_for, heads_for, is_heads_file, open_heads
from edgespec.engine.options import Resources
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import ModelError, UnknownDrafter
from edgespec.gguf.validate import Header
from edgespec.hub.resolve import is_address, is_alias, resolve
from edgespec.latency.model import LatencyModel

_log = logging.getLogger("edgespec")


def _nothing() -> None:
    """The default of `save` and `close`: only models have something to save or free."""


@dataclass(frozen=True, slots=True)
class OpenedDrafter:
    """A drafter with its resources; a user's own drafter has only `drafter` and `fresh`.

    `fresh` returns a drafter that has seen no text; `teach` lets it learn from the tokens of earlier conversations. The
    other members are a model's: `share`, the bytes and parameters that it reads for a token, over the target's;
    `latency`, the latency model of its forward passes; `passes`, their number so far; `context`; `prefill_seconds`, the
    seconds of its prefill, given the target's T(1) in seconds; `fingerprint` of its file; `save` stores `latency`,
    `close` frees the model.
    """

    drafter: Drafter
    fresh: Callable[[], Drafter]
    teach: Callable[[Sequence[int]], object] = lambda tokens: None
    share: Share | None = None
    latency: LatencyModel | None = None
    passes: Callable[[], int] = lambda: 0
    context: Context | None = None
    n_inputs: int = 0
    """The number of token ids that the context can evaluate, from 0 on."""
    prefill_seconds: Callable[[float], float] = lambda target_seconds: 0.0
    fingerprint: str = ""
    save: Callable[[], None] = _nothing
    close: Callable[[], None] = _nothing

    @property
    def name(self) -> str:
        """The drafter's name."""
        return self.drafter.name


class NamedDrafters(NamedTuple):
    """The drafters of a target, and their joint name as -d takes it."""

    drafters: tuple[OpenedDrafter, ...]
    name: str


class DrafterSet:
    """Opens drafters for a loaded target.

    `exact`: a forward pass has only as many rows as are bit-identical to single-token decoding. `headers`: those of
    drafter models that were read already, for the first `open`.
    """

    def __init__(
        self,
        target: LlamaModel,
        context: LlamaContext,
        profiles: ProfileStore,
        resources: Resources,
        *,
        exact: bool,
        headers: Mapping[Path, Header] | None = None,
    ) -> None:
        self._target, self._context, self._profiles, self._resources = target, context, profiles, resources
        self.exact = exact
        self._headers = headers or {}
        self._exact_rows = 0

    def open(self, drafter: str | Path | Drafter, previous: Iterable[OpenedDrafter] = ()) -> NamedDrafters:
        """The drafters that `drafter` names, as `load` takes it; none, with a warning, where no draft can be verified.

        The models among `previous` save their latency models first, so that one that is opened again starts with it.

        Raises UnknownDrafter and ModelError.
        """
        drafter = validated_drafter(drafter)
        for opened in previous:
            opened.save()
        name = drafter if isinstance(drafter, str) else drafter.name
        if name != "none" and (reason := self._why_not()):
            _log.warning("%s: %s: decoding without drafts", self._target.name, reason)
            name = drafter = "none"
        elif name != "none" and not (self.exact or self._target.can_branch):
            _log.info("%s: drafts are chains: no trees with a sliding window or positions of several dimensions",
                      self._target.name)  # fmt: skip
        if isinstance(drafter, str):
            headers, self._headers = self._headers, {}  # by the next time, a file may have changed
            return NamedDrafters(tuple(self._open(drafter, headers)), name)
        users_own = drafter
        return NamedDrafters((OpenedDrafter(users_own, lambda: users_own),), name)

    def _open(self, drafter: str, headers: Mapping[Path, Header]) -> list[OpenedDrafter]:
        parts = names_of(drafter)
        if drafter == "auto" and (heads := heads_for(self._target)) is not None:
            try:
                with_heads = (*parts, str(heads))
                return open_drafters(with_heads, self._target, self._resources, headers, self._context)
            except ModelError as error:
                _log.warning("%s: drafting without heads", error)
        return open_drafters(parts, self._target, self._resources, headers, self._context)

    def _why_not(self) -> str:
        """Why no draft can be verified; empty where drafts can."""
        if not self._target.can_rewind:
            return "it cannot take tokens back (recurrent memory)"
        if self.exact:
            if not self._exact_rows:
                self._exact_rows = self._profiles.exact_rows(self._context, self._target.vocabulary.size)
            self._context.max_rows = self._exact_rows
            if self._context.max_rows == 1:
                return "no evaluation of several tokens is bit-exact here, so leave --exact out"
        return ""


def validated_drafter(drafter: object) -> str | Drafter:
    """The argument `drafter` of `load`, a path as its name. Raises InvalidRequest, UnknownDrafter."""
    if isinstance(drafter, str | os.PathLike):
        drafter = arguments.path("drafter", drafter)
        for name in names_of(drafter):
            if not is_model(name):
                make_drafter(name)
        return drafter
    if isinstance(drafter, Drafter):
        return drafter
    raise UnknownDrafter(
        f"{drafter!r} is not a drafter: give a name, a .gguf file or an object that implements Drafter"
    )


def open_drafters(
    names: Sequence[str],
    target: LlamaModel,
    resources: Resources,
    headers: Mapping[Path, Header] | None = None,
    context: LlamaContext | None = None,
) -> list[OpenedDrafter]:
    """One drafter for `target` by each of `names`, the parts of -d. Raises UnknownDrafter and ModelError.

    `headers`: those of drafter models that were read already. `context`: the target's, which from then on collects the
    hidden states that heads among the drafters read, and no others.
    """
    opened: list[OpenedDrafter] = []
    heads: list[OpenedHeads] = []
    files = {name: resolve(name, cache_dir=resources.cache_dir) for name in names if is_model(name)}
    stems = [files[name].stem if name in files else name for name in names]
    if repeated := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise UnknownDrafter(f"two drafters are called {repeated}: what is learned of one would count for the other")
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(close_all, opened)
        for name in names:
            path = files.get(name)
            if path is not None and context is not None and path not in (headers or {}) and is_heads_file(path):
                heads.append(open_heads(path, target, context, threads=resources.threads))
                opened.append(opened_heads(heads[-1].drafter))
            elif path is not None:
                opened.append(
                    opened_model_drafter(open_drafter(path, target, resources, header=(headers or {}).get(path)))
                )
            else:
                opened.append(opened_text_drafter(make_drafter(name)))
        if context is not None:
            collect_for(heads, context, target.n_embd)
        cleanup.pop_all()
    return opened


def opened_heads(drafter: HeadDrafter) -> OpenedDrafter:
    """Heads, which keep states of each answer apart."""
    return OpenedDrafter(drafter, lambda: drafter, passes=lambda: drafter.steps, close=drafter.heads.close)


def opened_text_drafter(drafter: Drafter) -> OpenedDrafter:
    """One of edgespec's n-gram drafters, which learn from text."""
    return OpenedDrafter(drafter, type(drafter), teach=lambda tokens: drafter.propose(tokens, 0))


def opened_model_drafter(drafter: ModelDrafter) -> OpenedDrafter:
    """A drafter model, whose KV cache `fresh` empties."""

    def fresh() -> Drafter:
        drafter.context.rewind(0)
        return drafter

    return OpenedDrafter(
        drafter,
        fresh,
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
    """Close all of `drafters`, which frees the models among them."""
    for drafter in drafters:
        drafter.close()


def is_model(name: str) -> bool:
    """Whether `name` is a drafter model: a .gguf file or an alias of the catalogue."""
    return name not in KNOWN and (name.endswith(".gguf") or is_alias(name) or is_address(name) or Path(name).is_file())
