"""Which tokens are kept, against a plain reckoning in sorted lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.vocabtrim.selection import coverage, ranked, ranked_by_list, select_ids, size_for_coverage

N_VOCAB = 12
_COUNTS = st.dictionaries(st.integers(0, N_VOCAB - 1), st.integers(0, 6), max_size=N_VOCAB)
_IDS = st.sets(st.integers(0, N_VOCAB - 1), max_size=N_VOCAB)


@given(st.lists(_COUNTS, max_size=3))
def test_each_count_decides_where_those_before_it_are_equal(counts: list[dict[int, int]]) -> None:
    expected = sorted(range(N_VOCAB), key=lambda token: (*(-table.get(token, 0) for table in counts), token))
    assert ranked(N_VOCAB, *counts).tolist() == expected


@given(_IDS.filter(bool).map(sorted).flatmap(st.permutations))
def test_a_list_comes_first_in_its_own_order_and_then_the_rest(ids: list[int]) -> None:
    rest = [token for token in range(N_VOCAB) if token not in ids]
    assert ranked_by_list(N_VOCAB, np.array(ids, np.int32)).tolist() == [*ids, *rest]


@given(st.permutations(range(N_VOCAB)), _IDS, st.integers(1, N_VOCAB))
def test_forced_tokens_are_kept_and_then_the_best(ranking: list[int], forced: set[int], size: int) -> None:
    if size < len(forced):
        with pytest.raises(InvalidRequest, match="choose a larger --size"):
            select_ids(np.array(ranking, np.int32), forced, size)
        return
    best = [token for token in ranking if token not in forced]
    expected = sorted([*forced, *best[: size - len(forced)]])
    assert select_ids(np.array(ranking, np.int32), forced, size).tolist() == expected


@given(_COUNTS.filter(lambda counts: sum(counts.values()) > 0), _IDS, st.floats(0.01, 1.0))
def test_the_size_for_a_coverage_reaches_it_and_no_smaller_one_does(
    counts: dict[int, int], forced: set[int], wanted: float
) -> None:
    ranking = ranked(N_VOCAB, counts)
    size = size_for_coverage(ranking, forced, counts, wanted)
    assert max(1, len(forced)) <= size <= N_VOCAB
    assert coverage(select_ids(ranking, forced, size), counts) >= wanted - 1e-12
    if size > max(1, len(forced)):
        assert coverage(select_ids(ranking, forced, size - 1), counts) < wanted


@pytest.mark.parametrize(
    ("counts", "forced", "wanted", "size"),
    [
        ({0: 1, 1: 1}, [], 0.5, 1),
        ({0: 1, 1: 1}, [], 0.51, 2),
        ({3: 3, 1: 1}, [], 0.75, 1),
        ({3: 3, 1: 1}, [], 1.0, 2),  # and none of those that never occurred
        ({3: 3, 1: 1}, [3], 0.75, 1),
        ({3: 3, 1: 1}, [7, 8], 0.75, 3),
        ({3: 3, 1: 1}, [3, 1, 7], 0.1, 3),
    ],
)
def test_a_coverage_that_is_reached_exactly_is_reached(
    counts: dict[int, int], forced: list[int], wanted: float, size: int
) -> None:
    assert size_for_coverage(ranked(N_VOCAB, counts), forced, counts, wanted) == size


@given(_IDS, _COUNTS)
def test_coverage_is_a_share(kept: set[int], counts: dict[int, int]) -> None:
    share = coverage(np.array(sorted(kept), np.int32), counts)
    total = sum(counts.values())
    assert share == (sum(Counter(counts)[token] for token in kept) / total if total else 1.0)


@pytest.mark.parametrize("wanted", [0.0, -0.1, 1.0001, float("nan")])
def test_a_coverage_that_cannot_be(wanted: float) -> None:
    with pytest.raises(InvalidRequest, match="it must be above 0 and at most 1"):
        size_for_coverage(ranked(N_VOCAB), [], {1: 1}, wanted)


@pytest.mark.parametrize("counts", [{}, {3: 0}])
def test_a_coverage_of_nothing(counts: dict[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="the counts are empty; count first"):
        size_for_coverage(ranked(N_VOCAB), [], counts, 0.5)


@pytest.mark.parametrize("token", [N_VOCAB, -1])
def test_counts_of_another_vocabulary(token: int) -> None:
    with pytest.raises(InvalidRequest, match="this vocabulary has 12: they are of another tokenizer"):
        ranked(N_VOCAB, {0: 1, token: 1})


def test_the_id_that_there_is_not_is_named() -> None:
    with pytest.raises(InvalidRequest, match="the counts hold token -1"):
        ranked(N_VOCAB, {0: 1, -1: 1})


def test_a_list_of_another_vocabulary() -> None:
    with pytest.raises(InvalidRequest, match="the list holds token 12, and this vocabulary has 12"):
        ranked_by_list(N_VOCAB, np.array([0, N_VOCAB], np.int32))


@pytest.mark.parametrize(
    ("size", "forced", "remedy"),
    [(N_VOCAB + 1, [], "choose a smaller --size"), (0, [], "choose a larger --size"), (2, [1, 2, 3], "a larger")],
)
def test_sizes_that_cannot_be(size: int, forced: list[int], remedy: str) -> None:
    with pytest.raises(InvalidRequest, match=remedy):
        select_ids(ranked(N_VOCAB), forced, size)


def test_all_of_a_vocabulary_is_all_of_it() -> None:
    assert select_ids(ranked(N_VOCAB), [3, 3, 3], N_VOCAB).tolist() == list(range(N_VOCAB))
