"""A drafter model for a target: loaded, and matched with it token by token.

Two models of one family often have one vocabulary, padded to different sizes. Others share most token texts. What
counts is the text of each token, not the number of tokens.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.backend.load_check import vet
from edgespec.drafters.model import ModelDrafter, Share
from edgespec.drafters.vocab_map import LEAST_OVERLAP, Match, MatchedVocabulary, SameVocabulary, TokenMap, match_texts
from edgespec.engine.options import Resources
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import entry, strings
from edgespec.gguf.reader import Part
from edgespec.latency.model import PROMPT_CHUNK
from edgespec.vocabtrim.counts import tokenizer_hash
from edgespec.vocabtrim.equivalence import load_trimmed
from edgespec.vocabtrim.format import trimming_of
from edgespec.vocabtrim.sizes import Sizes, per_token

_TOKENS = "tokenizer.ggml.tokens"


def open_drafter(path: Path, target: LlamaModel, resources: Resources, *, window: int | None = None) -> ModelDrafter:
    """The model at `path`, plain or trimmed, as a drafter for `target`.

    It begins reading `window` tokens back; without one, as far as that is cheap.

    Raises ModelError, and UnsupportedModel saying what differs where the vocabularies do not go together.
    """
    header = vet(path, cache_dir=resources.cache_dir)
    part, target_part = header.part, target.part
    trimming = trimming_of(part)
    same = entry(part, _TOKENS) == entry(target_part, _TOKENS) if _TOKENS in part.spans else False
    with contextlib.ExitStack() as undo:
        if trimming is not None:
            if not same and tokenizer_hash(part) != tokenizer_hash(target_part):
                raise _different(path, target, part, target_part)
            model = load_trimmed(path, part, trimming, gpu_layers=resources.gpu_layers)
            undo.callback(model.close)
            row_to_target = np.where(trimming.kept < target.vocabulary.size, trimming.kept, -1).astype(np.int32)
            token_map: TokenMap = SameVocabulary(row_to_target, None if same else trimming.full_vocab)
        else:
            model = LlamaModel(path, part=part, gpu_layers=resources.gpu_layers)
            undo.callback(model.close)
            token_map = SameVocabulary() if same else _matched(model, target, part, target_part)
        if not model.can_rewind:
            raise UnsupportedModel(f"{path}: cannot take tokens back (recurrent memory), and a drafter must")
        context = LlamaContext(model, n_ctx=min(resources.n_ctx, model.n_ctx_train), threads=resources.threads)
        undo.pop_all()

    profiles = ProfileStore(
        resources.cache_dir,
        header.fingerprint,
        threads=resources.threads,
        gpu_layers=resources.gpu_layers,
        drafts=True,
    )
    latency = profiles.latency(PROMPT_CHUNK)
    save = functools.partial(profiles.save, latency)

    def close() -> None:
        save()
        context.close()
        model.close()

    own, theirs = _sizes(model, part), _sizes(target, target_part)
    share = Share(own.parameters / theirs.parameters, own.bytes / theirs.bytes)
    return ModelDrafter(
        path.stem, context, token_map, share=share, latency=latency, window=window, fingerprint=header.fingerprint,
        n_inputs=context.input_size, save=save, close=close,
    )  # fmt: skip


def _sizes(model: LlamaModel, part: Part) -> Sizes:
    """What it reads for a token; of a file in several parts, of which `part` is the first, all that there is."""
    return Sizes(model.parameters, model.size_bytes) if part.values.get("split.count") else per_token(part)


def _matched(model: LlamaModel, target: LlamaModel, part: Part, target_part: Part) -> TokenMap:
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
