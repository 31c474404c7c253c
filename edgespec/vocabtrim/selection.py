"""Selects the tokens that a trimmed drafter keeps. Pure: counts in, ids out.

Tokens are ranked by their counts in the target's answers (VocabTrim, arXiv 2506.22694, section 3: they are the best
calibration), then by their counts in plain text, then by id: byte-pair vocabularies are in the order of their merges,
so low ids are frequent ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest

TokenIds = npt.NDArray[np.int32]


def ranked(n_vocab: int, *counts: Mapping[int, int]) -> TokenIds:
    """All ids, the most used first; each of `counts` decides where those before it are equal.

    Raises InvalidRequest for counts of an id outside the vocabulary.
    """
    keys: list[npt.NDArray[np.int64]] = [np.arange(n_vocab, dtype=np.int64)]
    for counts_table in reversed(counts):
        ids = np.fromiter(counts_table.keys(), np.int64, len(counts_table))
        unknown = ids[(ids < 0) | (ids >= n_vocab)]
        if len(unknown):
            raise InvalidRequest(
                f"the counts hold token {int(unknown[0])}, and this vocabulary has {n_vocab}: they are of another "
                "tokenizer; count again with this one's target"
            )
        column = np.zeros(n_vocab, np.int64)
        column[ids] = np.fromiter(counts_table.values(), np.int64, len(counts_table))
        keys.append(-column)
    order: TokenIds = np.lexsort(keys).astype(np.int32)
    return order


def ranked_by_list(n_vocab: int, ids: TokenIds) -> TokenIds:
    """All ids: those of a keep list in its order, then the others ascending."""
    if ids.max() >= n_vocab:
        raise InvalidRequest(f"the list holds token {int(ids.max())}, and this vocabulary has {n_vocab}")
    order: TokenIds = np.concatenate([ids, np.setdiff1d(np.arange(n_vocab), ids)]).astype(np.int32)
    return order


def select_ids(ranking: TokenIds, forced: Iterable[int], size: int) -> TokenIds:
    """The `size` ids to keep, ascending: the forced ones, then the first of the ranking.

    Raises InvalidRequest where the size is above the vocabulary or below the number of forced tokens.
    """
    forced_ids = np.unique(np.fromiter(forced, np.int64))
    if size > len(ranking):
        raise InvalidRequest(f"{size} tokens to keep, and the vocabulary has {len(ranking)}: choose a smaller --size")
    if size < max(1, len(forced_ids)):
        raise InvalidRequest(
            f"{size} tokens to keep, and {len(forced_ids)} are needed to end and structure answers: choose a larger "
            "--size"
        )
    rest = ranking[~np.isin(ranking, forced_ids)]
    kept: TokenIds = np.sort(np.concatenate([forced_ids, rest[: size - len(forced_ids)]])).astype(np.int32)
    return kept


def size_for_coverage(ranking: TokenIds, forced: Iterable[int], counts: Mapping[int, int], coverage_goal: float) -> int:
    """The smallest size that covers the share `coverage_goal` of the counted tokens, above 0 and at most 1."""
    if not 0 < coverage_goal <= 1:
        raise InvalidRequest(f"a coverage of {coverage_goal}: it must be above 0 and at most 1")
    total = sum(counts.values())
    if not total:
        raise InvalidRequest("a coverage of no tokens: the counts are empty; count first")
    forced_ids = set(forced)
    covered = sum(counts.get(token, 0) for token in forced_ids)
    size = len(forced_ids)
    for token in ranking:
        if covered >= coverage_goal * total:
            break
        if int(token) not in forced_ids:
            covered += counts.get(int(token), 0)
            size += 1
    return max(size, 1)


def coverage(kept: TokenIds, counts: Mapping[int, int]) -> float:
    """The share of the counted tokens that are among `kept`; 1.0 where nothing was counted."""
    total = sum(counts.values())
    kept_set = set(map(int, kept))
    return sum(count for token, count in counts.items() if token in kept_set) / total if total else 1.0
