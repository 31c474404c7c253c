"""Laws of matching vocabularies by text, and of reading the target's tokens as a drafter's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.drafters.vocab_map import MatchedVocabulary, SameVocabulary, match_texts

_FEW = st.lists(st.sampled_from([b"", b"a", b"b", b"ab", b"\xc3", b"\xa9", " ä".encode(), b"</s>"]), max_size=12)
"""Few enough texts for some to occur twice."""


@given(_FEW, _FEW)
def test_only_texts_that_stand_for_one_token_on_either_side_are_matched(
    target: list[bytes], drafter: list[bytes]
) -> None:
    match = match_texts(target, drafter)
    for token, text in enumerate(target):
        alone = target.count(text) == drafter.count(text) == 1
        assert match.to_drafter[token] == (drafter.index(text) if alone else -1)


@given(_FEW, _FEW)
def test_there_and_back_is_the_same_token(target: list[bytes], drafter: list[bytes]) -> None:
    match = match_texts(target, drafter)
    assert (len(match.to_drafter), len(match.to_target)) == (len(target), len(drafter))
    for token, place in enumerate(match.to_drafter.tolist()):
        assert place == -1 or match.to_target[place] == token
    for place, token in enumerate(match.to_target.tolist()):
        assert token == -1 or match.to_drafter[token] == place


@given(_FEW, _FEW)
def test_it_is_the_same_match_from_the_other_side(target: list[bytes], drafter: list[bytes]) -> None:
    match, mirrored = match_texts(target, drafter), match_texts(drafter, target)
    assert match.to_drafter.tolist() == mirrored.to_target.tolist()
    assert match.overlap == mirrored.overlap


@given(st.sets(st.binary(max_size=4), max_size=20), st.randoms(use_true_random=False))
def test_one_vocabulary_in_another_order_overlaps_in_full(texts: set[bytes], random: object) -> None:
    target = sorted(texts)
    drafter = list(target)
    random.shuffle(drafter)  # type: ignore[attr-defined]
    match = match_texts(target, drafter)
    assert match.overlap == (1.0 if target else 0.0)
    assert [drafter[place] for place in match.to_drafter.tolist()] == target


@pytest.mark.parametrize(
    ("target", "drafter", "overlap"),
    [
        ([], [], 0.0),
        ([b"a"], [], 0.0),
        ([b"a", b"b"], [b"c"], 0.0),
        ([b"a", b"b", b"c", b"d"], [b"a", b"x"], 0.5),
        ([b"a", b"b"], [b"b", b"a", b"[PAD1]", b"[PAD2]"], 1.0),
        ([b"a", b"a", b"b"], [b"a", b"b"], 0.5),
    ],
)
def test_the_overlap_is_a_share_of_the_smaller_vocabulary(
    target: list[bytes], drafter: list[bytes], overlap: float
) -> None:
    assert match_texts(target, drafter).overlap == overlap


class _Spelled:
    """A vocabulary whose tokens are these texts; other texts are spelled byte by byte where it has the bytes."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.texts = list(texts)
        self.asked: list[str] = []

    def piece(self, token: int) -> bytes:
        return self.texts[token]

    def tokenize(self, text: str) -> list[int]:
        self.asked.append(text)
        return [self.texts.index(bytes([byte])) for byte in text.encode() if bytes([byte]) in self.texts]


def _mapped(target: Sequence[bytes], drafter: Sequence[bytes]) -> tuple[MatchedVocabulary, _Spelled]:
    reading = _Spelled(drafter)
    return MatchedVocabulary(match_texts(target, drafter), _Spelled(target), reading), reading


def test_tokens_that_both_have_are_looked_up_and_others_spelled() -> None:
    vocabulary, drafter = _mapped([b"ab", b"c", b"cab"], [b"a", b"b", b"c", b"ab"])
    assert vocabulary.read([0, 1]) == [3, 2]
    assert drafter.asked == [], "nothing had to be spelled"
    assert vocabulary.read([2, 0, 2]) == [2, 0, 1, 3, 2, 0, 1]
    assert drafter.asked == ["cab"], "once a token, however often it occurs"
    assert vocabulary.row_to_target is not None
    assert vocabulary.row_to_target.tolist() == [-1, -1, 1, 0]


def test_a_token_that_nothing_stands_for_is_left_out() -> None:
    vocabulary, drafter = _mapped([b"xyz", b"a", b""], [b"a"])
    assert vocabulary.read([0, 1, 2]) == [0]
    assert drafter.asked == ["xyz", ""]


def test_half_a_character_is_spelled_as_what_stands_for_one() -> None:
    vocabulary, drafter = _mapped(["é".encode()[:1]], [b"a"])
    assert vocabulary.read([0]) == []
    assert drafter.asked == ["\N{REPLACEMENT CHARACTER}"]


def test_nothing_is_read_of_nothing() -> None:
    vocabulary, _ = _mapped([b"a"], [b"a"])
    assert vocabulary.read([]) == []
    assert SameVocabulary().read([]) == []


@given(st.lists(st.integers(0, 200), max_size=30), st.one_of(st.none(), st.integers(1, 150)))
def test_equal_ids_stay_but_for_padding(tokens: list[int], size: int | None) -> None:
    read = SameVocabulary(size=size).read(tokens)
    assert len(read) == len(tokens)
    for token, mine in zip(tokens, read, strict=True):
        assert mine == token if size is None or token < size else 0 <= mine < size


def test_what_is_read_is_a_list_of_its_own() -> None:
    tokens = [1, 2, 3]
    assert SameVocabulary().read(tokens) is not tokens
    rows = np.array([5, 7], np.int32)
    assert SameVocabulary(rows).row_to_target is rows
