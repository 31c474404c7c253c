"""Which tokens a trimmed drafter keeps. Pure: counts in, ids out.

Ranked by how often the target said them (VocabTrim, arXiv 2506.22694, section 3: target-generated text is the best
calibration), then by how often they occur in plain text, then by id: the vocabularies of byte-pair encodings are in
the order of their merges, so low ids are frequent ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from edgespec.errors import InvalidRequest

Ids = npt.NDArray[np.int32]


def ranked(n_vocab: int, *counts: Mapping[int, int]) -> Ids:
    """All ids, the one most worth keeping first; each of `counts` decides where those before it are equal.

    Raises InvalidRequest for counts of an id outside the vocabulary.
    """
    keys: list[npt.NDArray[np.int64]] = [np.arange(n_vocab, dtype=np.int64)]
    for table in reversed(counts):
        ids = np.fromiter(table.keys(), np.int64, len(table))
        if len(ids) and not 0 <= ids.min() <= ids.max() < n_vocab:
            raise InvalidRequest(
                f"the counts hold token {int(ids.max())}, and this vocabulary has {n_vocab}: they are of another "
                "tokenizer; count again with this one's target"
            )
        column = np.zeros(n_vocab, np.int64)
        column[ids] = np.fromiter(table.values(), np.int64, len(table))
        keys.append(-column)
    order: Ids = np.lexsort(keys).astype(np.int32)
    return order


def listed_first(n_vocab: int, ids: Ids) -> Ids:
    """All ids, those of a list first and in its order, the others ascending."""
    if ids.max() >= n_vocab:
        raise InvalidRequest(f"the list holds token {int(ids.max())}, and this vocabulary has {n_vocab}")
    order: Ids = np.concatenate([ids, np.setdiff1d(np.arange(n_vocab), ids)]).astype(np.int32)
    return order


def keep_by_size(ranking: Ids, forced: Iterable[int], size: int) -> Ids:
    """The `size` ids to keep, ascending: the forced ones, then the first of the ranking.

    Raises InvalidRequest where the size is above the vocabulary or below the number of forced tokens.
    """
    must = np.unique(np.fromiter(forced, np.int64))
    if size > len(ranking):
        raise InvalidRequest(f"{size} tokens to keep, and the vocabulary has {len(ranking)}: choose a smaller --size")
    if size < max(1, len(must)):
        raise InvalidRequest(
            f"{size} tokens to keep, and {len(must)} are needed to end and structure answers: choose a larger --size"
        )
    rest = ranking[~np.isin(ranking, must)]
    kept: Ids = np.sort(np.concatenate([must, rest[: size - len(must)]])).astype(np.int32)
    return kept


def size_for_coverage(ranking: Ids, forced: Iterable[int], counts: Mapping[int, int], wanted: float) -> int:
    """The smallest size at which the kept ids make up the share `wanted` (0 < wanted <= 1) of what was counted."""
    if not 0 < wanted <= 1:
        raise InvalidRequest(f"a coverage of {wanted}: it must be above 0 and at most 1")
    total = sum(counts.values())
    if not total:
        raise InvalidRequest("a coverage of no tokens: the counts are empty; count first")
    must = set(forced)
    covered = sum(counts.get(token, 0) for token in must)
    size = len(must)
    for token in ranking:
        if covered >= wanted * total:
            break
        if int(token) not in must:
            covered += counts.get(int(token), 0)
            size += 1
    return max(size, 1)


def coverage(kept: Ids, counts: Mapping[int, int]) -> float:
    """The share of the counted tokens that are among `kept`; 1.0 of nothing."""
    total = sum(counts.values())
    held = set(map(int, kept))
    return sum(count for token, count in counts.items() if token in held) / total if total else 1.0
