"""Trims a drafter: from the full model and counts to a trimmed file that passed the equivalence check."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgespec.backend import QUANTIZATIONS, LlamaModel
from edgespec.core import arguments
from edgespec.errors import InvalidRequest, OutputError
from edgespec.gguf.metadata import numbers, strings
from edgespec.gguf.reader import Part, walk
from edgespec.system.files import replacing, sha256_of
from edgespec.vocabtrim.counts import Counts, merged, tokenizer_hash
from edgespec.vocabtrim.equivalence import Proof, check_equivalence
from edgespec.vocabtrim.keep_list import KeepList
from edgespec.vocabtrim.quantized import quantized
from edgespec.vocabtrim.selection import TokenIds, coverage, ranked, ranked_by_list, select_ids, size_for_coverage
from edgespec.vocabtrim.sizes import Sizes, per_token
from edgespec.vocabtrim.writer import read_trimmable, write_trimmed

_CONTROL_TYPE = 3
"""llama.cpp's token type of control tokens."""

_UNUSED_TOKEN = re.compile(rb"unused|reserved|dummy|^\[PAD", re.IGNORECASE)
"""Texts of control tokens that models are not trained on."""

TrimProgress = Callable[[str, int, int], None]
"""Called with the name of the stage, and what is done of it and in all."""

_SIZE_STEP = 64
"""Sizes by coverage are rounded up to multiples of this: llama.cpp's fast kernels work on 4 to 32 rows together."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The trimmed file, its sizes in tokens, and the share of held-out tokens that it covers."""

    path: Path
    kept: int
    full_vocab: int
    forced: int
    coverage: float
    held_out_tokens: int
    size: Sizes
    """What the trimmed model reads for a token."""
    full_size: Sizes
    proof: Proof


def trim(
    full: Path,
    out: Path,
    counts: Sequence[Counts],
    *,
    keep_list: KeepList | None = None,
    size: int | None = None,
    wanted_coverage: float | None = None,
    quantization: str | None = None,
    progress: TrimProgress = lambda _what, _done, _total: None,
) -> Trimmed:
    """Trim `full` to `size` tokens, or to as many as reach `wanted_coverage` of the counts, and write it to `out`.

    `keep_list` gives the order in which tokens are kept; else the counts do. `quantization`: quantize all
    weights to that one of `QUANTIZATIONS` first; the proof is then against the full model so quantized.
    Raises InvalidRequest (counts of another tokenizer, sizes out of range), ModelError, ProofFailed, OutputError; then
    there is no new file.
    """
    size, wanted_coverage = _checked_goal(size, wanted_coverage)
    if quantization is not None:
        quantization = arguments.choice("quantization", quantization, QUANTIZATIONS)
    part = read_trimmable(full)
    tokenizer = tokenizer_hash(part)
    counted_tokenizers = {part_counts.tokenizer for part_counts in counts} | (
        {keep_list.tokenizer} if keep_list else set()
    )
    if counted_tokenizers - {tokenizer}:
        raise InvalidRequest(
            f"the tokens counted are of another tokenizer than {full.name}'s: count with a target that shares it"
        )
    if not counts and keep_list is None:
        raise InvalidRequest("there is nothing to choose by: give counts, or a list of tokens to keep")
    answer_counts, text_counts, held_out = merged(counts)
    forced = forced_tokens(part)
    n_vocab = int(part.values["tokenizer.ggml.tokens"].length)  # type: ignore[union-attr]
    ranking = ranked_by_list(n_vocab, keep_list.ids) if keep_list else ranked(n_vocab, answer_counts, text_counts)
    if size is None:
        assert wanted_coverage is not None
        exact_size = size_for_coverage(ranking, forced, answer_counts or text_counts, wanted_coverage)
        size = min(-(-exact_size // _SIZE_STEP) * _SIZE_STEP, len(ranking))
    kept = select_ids(ranking, forced, size)
    provenance: dict[str, object] = {
        "listed": keep_list.provenance if keep_list else None,
        "counts": [part_counts.provenance for part_counts in counts],
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
                provenance["quantized"] = {"to": quantization, "from_sha256": sha256_of(full)}
            with temporary.open("xb") as file:
                write_trimmed(read_trimmable(source), kept, file, provenance, partial(progress, "writing"))
            proof = check_equivalence(source, temporary)
            trimmed_size = per_token(walk(temporary))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    return Trimmed(
        out, len(kept), len(ranking), len(forced), coverage(kept, held_out), held_out.total(), trimmed_size,
        per_token(part), proof,
    )  # fmt: skip


def _checked_goal(size: int | None, coverage: float | None) -> tuple[int | None, float | None]:
    """The one of the two that is given, checked. Raises InvalidRequest."""
    if (size is None) == (coverage is None):
        raise InvalidRequest("give either a size or a coverage")
    if size is not None:
        return arguments.integer("size", size, 0, arguments.MAX_INT32, "tokens to keep"), None
    return None, arguments.number("coverage", coverage, 0.0, 1.0)


def forced_tokens(part: Part) -> TokenIds:
    """Tokens that are always kept: end tokens, and control tokens that a model is trained on."""
    texts = strings(part, "tokenizer.ggml.tokens")
    typed = "tokenizer.ggml.token_type" in part.values
    kinds = numbers(part, "tokenizer.ggml.token_type") if typed else np.zeros(len(texts), np.int32)
    model = LlamaModel(part.path, gpu_layers=0, repack=False)
    try:
        is_end = model.vocabulary.is_end
        ids = [
            token
            for token, (kind, text) in enumerate(zip(kinds, texts, strict=False))
            if is_end(token) or (kind == _CONTROL_TYPE and not _UNUSED_TOKEN.search(text))
        ]
    finally:
        model.close()
    return np.array(ids, np.int32)
