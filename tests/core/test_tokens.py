"""Token sequences: what is unchanged since somebody looked, without comparing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import NO_MARK, TokenSequence, common_prefix, mark_of, unchanged

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.lists(st.integers(0, 2), max_size=5)),
        st.tuples(st.just("cut"), st.integers(0, 12), st.integers(0, 6)),
    ),
    max_size=12,
)


@given(STEPS, st.integers(0, 11))
def test_what_is_told_unchanged_is_and_nothing_more_than_was_there(
    steps: list[tuple[str, list[int]] | tuple[str, int, int]], seen_at: int
) -> None:
    sequence, seen, mark = TokenSequence([5, 6, 7]), [5, 6, 7], None
    for number, step in enumerate(steps):
        if number == seen_at:
            seen, mark = list(sequence), sequence.mark()
        if len(step) == 2:
            sequence.extend(step[1])
        else:
            begin = min(step[1], len(sequence))
            sequence.cut(begin, None if not step[2] else begin + step[2])
    if mark is None:
        seen, mark = list(sequence), sequence.mark()
    same = sequence.unchanged(mark)
    assert same <= len(seen)
    assert list(sequence)[:same] == seen[:same]


def test_without_cuts_all_of_it_is_unchanged() -> None:
    sequence = TokenSequence([1, 2])
    mark = sequence.mark()
    sequence.append(3)
    sequence.extend([4, 5])
    assert sequence.unchanged(mark) == 2 and sequence.version == 0
    sequence.cut(1, 2)
    assert list(sequence) == [1, 3, 4, 5] and sequence.version == 1 and sequence.unchanged(mark) == 1


def test_equal_tokens_are_no_identity() -> None:
    one, other = TokenSequence([1, 2]), TokenSequence([1, 2])
    assert one.id != other.id
    assert one.unchanged(other.mark()) == one.unchanged(NO_MARK) == 0
    assert unchanged([1, 2], one.mark()) == 0 and mark_of([1, 2]) == NO_MARK
    assert mark_of(one) == one.mark() and "2 tokens" in repr(one)


def test_it_reads_like_a_list() -> None:
    sequence = TokenSequence([1, 2, 3])
    assert sequence[0] == 1 and sequence[-1] == 3 and sequence[1:] == [2, 3] and list(sequence) == [1, 2, 3]
    assert 2 in sequence and sequence.index(3) == 2


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    shared = common_prefix(left, right)
    assert left[:shared] == right[:shared]
    assert shared == min(len(left), len(right)) or left[shared] != right[shared]
