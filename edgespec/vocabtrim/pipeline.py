"""From a full drafter and counts to a trimmed file that is proved, or to no file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgespec.backend import QUANTIZATIONS, LlamaModel
from edgespec.errors import InvalidRequest, OutputError
from edgespec.gguf.metadata import numbers, strings
from edgespec.gguf.reader import Part, walk
from edgespec.system.files import replacing, sha256_of
from edgespec.vocabtrim.counts import Counts, merged, tokenizer_hash
from edgespec.vocabtrim.equivalence import Proof, prove
from edgespec.vocabtrim.keep_list import KeptList
from edgespec.vocabtrim.quantized import quantized
from edgespec.vocabtrim.selection import Ids, coverage, keep_by_size, listed_first, ranked, size_for_coverage
from edgespec.vocabtrim.sizes import Sizes, per_token
from edgespec.vocabtrim.writer import trimmable, write_trimmed

_CONTROL = 3
"""llama.cpp's type of tokens that structure a conversation."""

_RESERVED = re.compile(rb"unused|reserved|dummy|^\[PAD", re.IGNORECASE)
"""Control tokens that no model was taught."""

Stage = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_STEP = 64
"""A size that follows from a coverage is a multiple of this: llama.cpp's fast kernels work on rows by the 4 to 32."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What was made: sizes in tokens and bytes, and the share of held-out tokens that the kept ones make up."""

    path: Path
    kept: int
    full_vocab: int
    forced: int
    coverage: float
    held_out_tokens: int
    size: Sizes
    """What a token reads of the trimmed model."""
    full_size: Sizes
    proof: Proof


def trim(
    full: Path,
    out: Path,
    counts: Sequence[Counts],
    *,
    listed: KeptList | None = None,
    size: int | None = None,
    wanted_coverage: float | None = None,
    quantization: str | None = None,
    progress: Stage = lambda _what, _done, _total: None,
) -> Trimmed:
    """Trim `full` to `size` tokens, or to as many as cover that share of the counted ones, and write it to `out`.

    `listed` are tokens in the order of their worth; else that order comes from the counts. `quantization`: bring all
    weights to that one of `QUANTIZATIONS` first; the proof is then against the full model so quantized.
    Raises InvalidRequest (counts of another tokenizer, sizes out of range), ModelError, ProofFailed, OutputError; then
    there is no new file.
    """
    if (size is None) == (wanted_coverage is None):
        raise InvalidRequest("give either a size or a coverage")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise InvalidRequest(f"quantization {quantization!r} is unknown: choose one of {', '.join(QUANTIZATIONS)}")
    part = trimmable(full)
    own = tokenizer_hash(part)
    counted = {one.tokenizer for one in counts} | ({listed.tokenizer} if listed else set())
    if counted - {own}:
        raise InvalidRequest(
            f"the tokens counted are of another tokenizer than {full.name}'s: count with a target that shares it"
        )
    if not counts and listed is None:
        raise InvalidRequest("there is nothing to choose by: give counts, or a list of tokens to keep")
    said, read, held_out = merged(counts)
    forced = forced_tokens(part)
    n_vocab = int(part.values["tokenizer.ggml.tokens"].length)  # type: ignore[union-attr]
    ranking = listed_first(n_vocab, listed.ids) if listed else ranked(n_vocab, said, read)
    if size is None:
        assert wanted_coverage is not None
        exact = size_for_coverage(ranking, forced, said or read, wanted_coverage)
        size = min(-(-exact // _STEP) * _STEP, len(ranking))
    kept = keep_by_size(ranking, forced, size)
    told: dict[str, object] = {
        "listed": listed.told if listed else None,
        "counts": [one.told for one in counts],
        "coverage": round(coverage(kept, held_out), 6),
    }
    try:
        if out.exists() and out.samefile(full):
            raise InvalidRequest(f"{out}: that is the full model itself; choose another name for the trimmed one")
        with (
            quantized(full, out.parent, quantization, partial(progress, "quantizing")) as source,
            replacing(out) as temporary,
        ):
            if source != full:
                told["quantized"] = {"to": quantization, "from_sha256": sha256_of(full)}
            with temporary.open("xb") as file:
                write_trimmed(trimmable(source), kept, file, told, partial(progress, "writing"))
            proof = prove(source, temporary)
            size_now = per_token(walk(temporary))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    return Trimmed(
        out, len(kept), len(ranking), len(forced), coverage(kept, held_out), held_out.total(), size_now,
        per_token(part), proof,
    )  # fmt: skip


def forced_tokens(part: Part) -> Ids:
    """Tokens that are kept however rare: those that end an answer, and control tokens that a model was taught."""
    texts = strings(part, "tokenizer.ggml.tokens")
    typed = "tokenizer.ggml.token_type" in part.values
    kinds = numbers(part, "tokenizer.ggml.token_type") if typed else np.zeros(len(texts), np.int32)
    model = LlamaModel(part.path, gpu_layers=0, repack=False)
    try:
        is_end = model.vocabulary.is_end
        ids = [
            token
            for token, (kind, text) in enumerate(zip(kinds, texts, strict=False))
            if is_end(token) or (kind == _CONTROL and not _RESERVED.search(text))
        ]
    finally:
        model.close()
    return np.array(ids, np.int32)
