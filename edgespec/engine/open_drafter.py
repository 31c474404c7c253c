"""Opens a drafter model for a target, with a vocabulary map from the one to the other.

Two models of one family often have one vocabulary, padded to different sizes. Others share most token texts. What
counts is the text of each token, not the size of the vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.backend.load_check import check_loads
from edgespec.drafters.model import ModelDrafter, Share
from edgespec.drafters.vocab_map import LEAST_OVERLAP, Match, MatchedVocabulary, SameVocabulary, TokenMap, match_texts
from edgespec.engine.options import Resources
from edgespec.engine.profile_store import ProfileStore
from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import entry, strings
from edgespec.gguf.reader import Part
from edgespec.gguf.validate import Header
from edgespec.latency.model import PROMPT_CHUNK
from edgespec.vocabtrim.counts import tokenizer_hash
from edgespec.vocabtrim.equivalence import load_trimmed
from edgespec.vocabtrim.format import trimming_of
from edgespec.vocabtrim.sizes import Sizes, per_token

_TOKENS = "tokenizer.ggml.tokens"


def open_drafter(
    path: Path, target: LlamaModel, resources: Resources, *, window: int | None = None, header: Header | None = None
) -> ModelDrafter:
    """The model at `path`, plain or trimmed, as a drafter for `target`.

    Its prefill starts `window` tokens before the end of the text; None lets the drafter choose by the cost. `header` is
    given where it was read already.

    Raises ModelError, and UnsupportedModel where the vocabularies do not match, saying what differs.
    """
    header = check_loads(path, cache_dir=resources.cache_dir, header=header)
    part, target_part = header.part, target.part
    trimming = trimming_of(part)
    same_tokens = entry(part, _TOKENS) == entry(target_part, _TOKENS) if _TOKENS in part.spans else False
    with contextlib.ExitStack() as cleanup:
        if trimming is not None:
            if not same_tokens and tokenizer_hash(part) != tokenizer_hash(target_part):
                raise _vocabulary_error(path, target, part, target_part)
            model = load_trimmed(path, part, trimming, gpu_layers=resources.gpu_layers, repack=resources.repack)
            cleanup.callback(model.close)
            row_to_target = np.where(trimming.kept_ids < target.vocabulary.size, trimming.kept_ids, -1).astype(np.int32)
            token_map: TokenMap = SameVocabulary(row_to_target, None if same_tokens else trimming.full_vocab)
        else:
            model = LlamaModel(path, part=part, gpu_layers=resources.gpu_layers, repack=resources.repack)
            cleanup.callback(model.close)
            token_map = SameVocabulary() if same_tokens else _matched(model, target, part, target_part)
        if not model.can_rewind:
            raise UnsupportedModel(f"{path}: cannot take tokens back (recurrent memory), and a drafter must")
        context = LlamaContext(model, n_ctx=min(resources.n_ctx, model.n_ctx_train), threads=resources.threads)
        cleanup.pop_all()

    profiles = ProfileStore(
        resources.cache_dir,
        header.fingerprint,
        threads=resources.threads,
        gpu_layers=resources.gpu_layers,
        drafts=True,
        repacked=model.repacked,
    )
    latency = profiles.latency(PROMPT_CHUNK)
    save = functools.partial(profiles.save, latency)

    def close() -> None:
        save()
        context.close()
        model.close()

    drafter_sizes, target_sizes = _sizes_per_token(model, part), _sizes_per_token(target, target_part)
    share = Share(drafter_sizes.parameters / target_sizes.parameters, drafter_sizes.bytes / target_sizes.bytes)
    return ModelDrafter(
        path.stem, context, token_map, share=share, latency=latency, window=window, fingerprint=header.fingerprint,
        n_inputs=context.input_size, save=save, close=close,
    )  # fmt: skip


def _sizes_per_token(model: LlamaModel, part: Part) -> Sizes:
    """The parameters and bytes that the model reads for a token; for a split file, all of them."""
    return Sizes(model.parameters, model.size_bytes) if part.values.get("split.count") else per_token(part)


def _matched(model: LlamaModel, target: LlamaModel, part: Part, target_part: Part) -> TokenMap:
    """The vocabulary map by the tokens' texts. Raises UnsupportedModel where too few are shared."""
    match = match_texts(strings(target_part, _TOKENS), strings(part, _TOKENS))
    if match.overlap < LEAST_OVERLAP:
        raise _vocabulary_error(part.path, target, part, target_part, match)
    return MatchedVocabulary(match, target.vocabulary, model.vocabulary)


def _vocabulary_error(
    path: Path, target: LlamaModel, part: Part, target_part: Part, match: Match | None = None
) -> UnsupportedModel:
    """The error that names the first token that differs, and the share of texts in both."""
    target_texts, drafter_texts = strings(target_part, _TOKENS), strings(part, _TOKENS)
    pairs = enumerate(zip(target_texts, drafter_texts, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(target_texts), len(drafter_texts)))
    first_texts = [
        texts[first].decode(errors="replace") if first < len(texts) else "nothing"
        for texts in (target_texts, drafter_texts)
    ]
    share = f", and {match.overlap:.0%} of the texts are in both ({LEAST_OVERLAP:.0%} are needed)" if match else ""
    return UnsupportedModel(
        f"{path}: its vocabulary is another one than {target.path.name}'s: token {first} is {first_texts[1]!r} and not "
        f"{first_texts[0]!r}{share}; choose a drafter of the target's family"
    )
