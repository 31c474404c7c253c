"""A drafter model for a target: loaded, and matched with it token by token.

Two models of one family often have one vocabulary, padded to different sizes. Others share most token texts. What
counts is the text of each token, not the number of tokens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgespec import catalogue
from edgespec.backend import LlamaContext, LlamaModel, LlamaVocabulary
from edgespec.core import Drafter
from edgespec.cost import PROMPT_CHUNK, CostCurve
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.drafters.model import ModelDrafter, Reader, SameVocabulary, Share
from edgespec.errors import UnknownDrafter, UnsupportedModel
from edgespec.gguf_values import entry, strings
from edgespec.gguf_walk import Part, walk
from edgespec.measured import Measured
from edgespec.policy import AdaptivePolicy
from edgespec.vetting import vet
from edgespec.vocabtrim.counts import tokenizer_hash
from edgespec.vocabtrim.prove import load_trimmed
from edgespec.vocabtrim.sizes import Sizes, per_token
from edgespec.vocabtrim.trimmed import trimming_of

_log = logging.getLogger("edgespec")

LEAST_OVERLAP = 0.6
"""The share of the smaller vocabulary that both must have; below, most guesses could not even be spelled."""

_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True, slots=True)
class Match:
    """Two vocabularies: `to_drafter[id of the target]` and `to_target[id of the drafter]`, -1 where there is none."""

    to_drafter: npt.NDArray[np.int32]
    to_target: npt.NDArray[np.int32]

    @property
    def overlap(self) -> float:
        """The share of the smaller vocabulary that has a counterpart in the other."""
        smaller = min(len(self.to_drafter), len(self.to_target))
        return float((self.to_drafter >= 0).sum()) / smaller if smaller else 0.0


def match_texts(target: Sequence[bytes], drafter: Sequence[bytes]) -> Match:
    """Match tokens with equal texts; a text that stands for several tokens of one vocabulary matches none."""
    places = _unambiguous(drafter)
    to_drafter = np.full(len(target), -1, np.int32)
    to_target = np.full(len(drafter), -1, np.int32)
    for text, token in _unambiguous(target).items():
        place = places.get(text)
        if place is not None:
            to_drafter[token], to_target[place] = place, token
    return Match(to_drafter, to_target)


def _unambiguous(texts: Sequence[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    twice: set[bytes] = set()
    for token, text in enumerate(texts):
        if text in found:
            twice.add(text)
        found[text] = token
    return {text: token for text, token in found.items() if text not in twice}


class MatchedVocabulary:
    """Different ids: a `Reader` by a `Match`. What the drafter has no token for, it reads as the text's own tokens."""

    def __init__(self, match: Match, target: LlamaVocabulary, drafter: LlamaVocabulary) -> None:
        self.said: npt.NDArray[np.int32] | None = match.to_target
        self._to_drafter = match.to_drafter
        self._target, self._drafter = target, drafter
        self._spellings: dict[int, list[int]] = {}  # a text is read anew for every price and every draft

    def read(self, tokens: Sequence[int]) -> list[int]:
        ids = self._to_drafter[np.asarray(tokens, np.int64)].tolist()
        if -1 not in ids:
            return list(ids)
        read: list[int] = []
        for token, known in zip(tokens, ids, strict=True):
            read += [known] if known >= 0 else self._spelled(token)
        return read

    def _spelled(self, token: int) -> list[int]:
        known = self._spellings.get(token)
        if known is None:
            piece = self._target.piece(token).decode(errors="replace")
            known = self._spellings[token] = self._drafter.tokenize(piece)
        return known


class Paired(NamedTuple):
    """What drafts for a target, under which name, and what chooses among it."""

    drafters: tuple[Drafter, ...]
    name: str
    policy: AdaptivePolicy


class Pairing:
    """Finds drafters for a target that is loaded, once or again.

    `exact`: only as many rows are evaluated at once as give the very bits of single-token decoding.
    """

    def __init__(
        self,
        target: LlamaModel,
        context: LlamaContext,
        measured: Measured,
        *,
        exact: bool,
        n_ctx: int,
        threads: int,
        gpu_layers: int,
        cache_dir: Path,
    ) -> None:
        self._target, self._context, self._measured, self._exact = target, context, measured, exact
        self._n_ctx, self._threads, self._gpu_layers, self._cache_dir = n_ctx, threads, gpu_layers, cache_dir
        self._cost: CostCurve | None = None
        self._exact_rows = 0

    def pair(self, drafter: str | Drafter) -> Paired:
        """With a drafter as `load` takes it; plain decoding where nothing can draft, and a warning.

        Raises UnknownDrafter and ModelError.
        """
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
        return Paired(tuple(drafters), name, AdaptivePolicy(drafters, self._cost))

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


def open_drafters(
    names: Sequence[str], target: LlamaModel, *, n_ctx: int, threads: int, gpu_layers: int, cache_dir: Path
) -> list[Drafter]:
    """The drafters for `target` by `names`, as -d takes them one by one. Raises UnknownDrafter and ModelError."""
    opened: list[Drafter] = []
    files = {name: catalogue.resolve(name, cache_dir=cache_dir) for name in names if is_model(name)}
    stems = [path.stem for path in files.values()]
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


def open_drafter(
    path: Path,
    target: LlamaModel,
    *,
    n_ctx: int,
    threads: int,
    gpu_layers: int,
    cache_dir: Path,
    window: int | None = None,
) -> ModelDrafter:
    """The model at `path`, plain or trimmed, as a drafter for `target`.

    It begins reading `window` tokens back; without one, as far as that is cheap.

    Raises ModelError, and UnsupportedModel saying what differs where the vocabularies do not go together.
    """
    header = vet(path, cache_dir=cache_dir)
    part, target_part = walk(path), walk(target.path)
    trimming = trimming_of(part)
    same = entry(part, _TOKENS) == entry(target_part, _TOKENS) if _TOKENS in part.spans else False
    with contextlib.ExitStack() as undo:
        if trimming is not None:
            if not same and tokenizer_hash(part) != tokenizer_hash(target_part):
                raise _different(path, target, part, target_part)
            model = load_trimmed(path, part, trimming, gpu_layers=gpu_layers)
            undo.callback(model.close)
            said = np.where(trimming.kept < target.vocabulary.size, trimming.kept, -1).astype(np.int32)
            reader: Reader = SameVocabulary(said, None if same else trimming.full_vocab)
        else:
            model = LlamaModel(path, gpu_layers=gpu_layers)
            undo.callback(model.close)
            reader = SameVocabulary() if same else _matched(model, target, part, target_part)
        if not model.can_rewind:
            raise UnsupportedModel(f"{path}: cannot take tokens back (recurrent memory), and a drafter must")
        context = LlamaContext(model, n_ctx=min(n_ctx, model.n_ctx_train), threads=threads)
        undo.pop_all()

    measured = Measured(cache_dir, header.fingerprint, threads=threads, gpu_layers=gpu_layers, drafts=True)
    cost = measured.cost(PROMPT_CHUNK)

    def close() -> None:
        measured.remember(cost)
        context.close()
        model.close()

    own, theirs = _sizes(model, part), _sizes(target, target_part)
    share = Share(own.parameters / theirs.parameters, own.bytes / theirs.bytes)
    return ModelDrafter(
        path.stem, context, reader, share=share, cost=cost, window=window, fingerprint=header.fingerprint, close=close
    )


def _sizes(model: LlamaModel, part: Part) -> Sizes:
    """What it reads for a token; of a file in several parts, of which `part` is the first, all that there is."""
    return Sizes(model.parameters, model.size_bytes) if part.values.get("split.count") else per_token(part)


def _matched(model: LlamaModel, target: LlamaModel, part: Part, target_part: Part) -> Reader:
    match = match_texts(strings(target_part, _TOKENS), strings(part, _TOKENS))
    if match.overlap < LEAST_OVERLAP:
        raise _different(part.path, target, part, target_part, match)
    return MatchedVocabulary(match, target.vocabulary, model.vocabulary)


def _different(
    path: Path, target: LlamaModel, part: Part, target_part: Part, match: Match | None = None
) -> UnsupportedModel:
    """What differs, in one line."""
    theirs, ours = strings(target_part, _TOKENS), strings(part, _TOKENS)
    first = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    shown = [texts[first].decode(errors="replace") if first < len(texts) else "nothing" for texts in (theirs, ours)]
    share = f", and {match.overlap:.0%} of the texts are in both ({LEAST_OVERLAP:.0%} are needed)" if match else ""
    return UnsupportedModel(
        f"{path}: its vocabulary is another one than {target.path.name}'s: token {first} is {shown[1]!r} and not "
        f"{shown[0]!r}{share}; choose a drafter of the target's family"
    )
