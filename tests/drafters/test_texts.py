"""What drafters have read: every token once, whichever sequences take turns."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import TokenSequence
from edgespec.drafters.texts import Text, Texts


class Recorded:
    """An index that remembers what it was given to read."""

    def __init__(self) -> None:
        self.log: list[list[int]] = []

    def read(self, text: Text, tokens: Sequence[int]) -> None:
        self.log.append(list(tokens))
        text.ids += tokens
        text.states.extend(tokens)

    def first_states(self) -> array[int]:
        return array("i", [0])

    def clear(self) -> None:
        self.log = []

    @property
    def count(self) -> int:
        return sum(map(len, self.log))


def texts(most: int = 1000) -> tuple[Recorded, Texts]:
    index = Recorded()
    return index, Texts(index, most)


def test_a_sequence_that_grows_is_read_once() -> None:
    index, read = texts()
    sequence = TokenSequence([1, 2, 3])
    text = read.read(sequence)
    sequence.extend([4, 5])
    assert read.read(sequence) is text and text.ids == [1, 2, 3, 4, 5] and index.log == [[1, 2, 3], [4, 5]]
    assert read.read(sequence) is text and index.count == 5


def test_sequences_in_turn_read_only_what_is_new_in_each() -> None:
    index, read = texts()
    one, other = TokenSequence([1, 2, 3]), TokenSequence([7, 8])
    for token in range(10, 20):
        read.read(one), read.read(other)
        one.append(token)
        other.append(token)
    assert index.count == 5 + 2 * 9
    assert read.read(one).ids == list(one) and read.read(other).ids == list(other)


def test_what_sequences_have_in_common_is_read_once() -> None:
    index, read = texts()
    first = TokenSequence([1, 2, 3, 4])
    second = TokenSequence([1, 2, 3, 9])
    assert read.read(first).ids == [1, 2, 3, 4]
    assert read.read(second).ids == [1, 2, 3, 9] and index.log == [[1, 2, 3, 4], [9]]


def test_a_text_whose_sequence_is_gone_goes_on_in_another_one() -> None:
    index, read = texts()
    text = read.read(TokenSequence([1, 2, 3]))
    assert read.read(TokenSequence([1, 2, 3, 4])) is text and index.log == [[1, 2, 3], [4]]


def test_a_cut_sequence_goes_on_from_where_it_was_cut() -> None:
    index, read = texts()
    sequence = TokenSequence([1, 2, 3, 4])
    read.read(sequence)
    sequence.cut(2)
    sequence.extend([3, 5])
    assert read.read(sequence).ids == [1, 2, 3, 5] and index.log == [[1, 2, 3, 4], [3, 5]]


def test_after_a_shift_of_the_context_nothing_is_read_again() -> None:
    index, read = texts()
    sequence = TokenSequence(range(100))
    read.read(sequence)
    sequence.extend([100, 101])
    sequence.cut(4, 54)
    text = read.read(sequence)
    assert index.log == [list(range(100)), [100, 101]] and text.end == len(sequence)
    sequence.append(102)
    assert read.read(sequence) is text and index.log[-1] == [102]


def test_plain_lists_are_compared() -> None:
    index, read = texts()
    read.read([1, 2, 3])
    assert read.read((1, 2, 3, 4)).ids == [1, 2, 3, 4]
    assert read.read([1, 2]).ids == [1, 2]
    assert read.read([1, 2, 3, 4, 5]).ids == [1, 2, 3, 4, 5]
    assert index.log == [[1, 2, 3], [4], [], [5]]


@settings(max_examples=100)
@given(data=st.data(), bound=st.integers(4, 60))
def test_the_text_ends_as_its_sequence_does_and_stays_within_the_bound(data: st.DataObject, bound: int) -> None:
    index, read = texts(bound)
    sequences = [TokenSequence([1])]
    piece = st.lists(st.integers(0, 3), min_size=1, max_size=20)
    for _ in range(data.draw(st.integers(1, 15))):
        sequence = data.draw(st.sampled_from(sequences))
        match data.draw(st.sampled_from(["extend", "cut", "shift", "new"])):
            case "extend":
                sequence.extend(data.draw(piece))
            case "cut":
                sequence.cut(data.draw(st.integers(1, len(sequence))))
            case "shift":
                begin = data.draw(st.integers(0, len(sequence) - 1))
                sequence.cut(begin, data.draw(st.integers(begin, len(sequence) - 1)))
            case _:
                sequence = TokenSequence(data.draw(piece))
                sequences.append(sequence)
        text = read.read(sequence)
        assert text.end == len(sequence)
        tail = text.ids[-(bound // 2) :]
        assert tail == list(sequence)[len(sequence) - len(tail) :]
        assert len(text.states) == len(text.ids) + 1
        assert index.count <= max(bound, bound // 2)


def test_the_older_half_is_forgotten() -> None:
    index, read = texts(10)
    old, new = TokenSequence([1, 2, 3, 4, 5, 6]), TokenSequence([7, 8, 9])
    read.read(old), read.read(new)
    new.extend([10, 11])
    assert read.read(new).ids == [7, 8, 9, 10, 11] and index.log == [[], [7, 8, 9, 10, 11]]
    old.append(12)
    text = read.read(old)
    assert (text.ids, text.skipped) == ([12], 6)
    assert isinstance(text, Text)
