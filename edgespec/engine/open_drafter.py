"""A drafter model for a target: loaded, and matched with it token by token.

Two models of one family often have one vocabulary, padded to different sizes. Others share most token texts. What
counts is the text of each token, not the number of tokens.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgespec.backend import LlamaContext, LlamaModel, LlamaVocabulary
from edgespec.backend.load_check import vet
from edgespec.drafters.model import ModelDrafter, Reader, SameVocabulary, Share
from edgespec.engine.profile_store import Measured
from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import entry, strings
from edgespec.gguf.reader import Part, walk
from edgespec.latency.model import PROMPT_CHUNK
from edgespec.vocabtrim.counts import tokenizer_hash
from edgespec.vocabtrim.equivalence import load_trimmed
from edgespec.vocabtrim.format import trimming_of
from edgespec.vocabtrim.sizes import Sizes, per_token

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

    remember = functools.partial(measured.remember, cost)

    def close() -> None:
        remember()
        context.close()
        model.close()

    own, theirs = _sizes(model, part), _sizes(target, target_part)
    share = Share(own.parameters / theirs.parameters, own.bytes / theirs.bytes)
    return ModelDrafter(
        path.stem, context, reader, share=share, cost=cost, window=window, fingerprint=header.fingerprint,
        remember=remember, close=close,
    )  # fmt: skip


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
