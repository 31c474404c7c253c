"""ADED: what its matrix counts, and the trees that its search finds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import ROOT, TokenSequence
from edgespec.drafters.aded import Aded
from edgespec.errors import InvalidRequest
from edgespec.policy.tree import HOPELESS, depths, reaches
from tests.drafters.naive import assert_is_tree, ids, letters, path_to

TEXTS = st.integers(1, 5).flatmap(lambda size: st.lists(st.integers(0, size), min_size=1, max_size=60))


def followers(text: list[int], pair: list[int]) -> Counter[int]:
    """How often each token followed two others."""
    return Counter(text[end] for end in range(2, len(text)) if text[end - 2 : end] == pair)


@given(TEXTS, st.integers(-1, 30), st.integers(1, 6))
def test_drafts_are_trees_of_what_followed_each_pair(text: list[int], limit: int, depth: int) -> None:
    draft = Aded(depth).propose(text, limit)
    assert_is_tree(draft, limit)
    assert max(depths(draft.parents), default=0) <= depth
    for node, token in enumerate(draft.tokens):
        pair = (text + path_to(draft, node))[-2:]
        counts = followers(text, pair)
        assert counts[token], "it followed"
        assert draft.probabilities[node] < counts[token] / counts.total()
    for node, reach in enumerate(reaches(draft.parents, draft.probabilities)):
        assert reach >= HOPELESS * (1 - 1e-9), node


@given(TEXTS)
def test_a_draft_without_a_limit_has_everything_above_the_floor(text: list[int]) -> None:
    draft = Aded(depth=4).propose(text, 100_000)
    found = {(*path_to(draft, node), token) for node, token in enumerate(draft.tokens)}

    def expected(path: tuple[int, ...], reach: float) -> int:
        counts, count = followers(text, (text + list(path))[-2:]), 0
        seen = Aded(depth=1).propose([1, 2, 3, 1, 2], 1).probabilities[0]  # of the only token at the first depth
        for token, hits in counts.items() if len(path) < 4 else ():
            below = reach * (1 - (1 - seen) / (len(path) + 1)) * hits / counts.total()
            if below >= HOPELESS * (1 + 1e-9):
                assert (*path, token) in found
                count += 1 + expected((*path, token), below)
        return count

    assert abs(expected((), 1.0) - len(draft)) <= sum(
        reach < HOPELESS * (1 + 1e-9) for reach in reaches(draft.parents, draft.probabilities)
    )


@given(TEXTS, st.integers(1, 30))
def test_a_smaller_limit_stops_the_same_search_earlier(text: list[int], limit: int) -> None:
    assert Aded().propose(text, limit) == Aded().propose(text, 40).first(limit)


def test_the_search_prefers_what_is_likely_and_visits_what_is_less() -> None:
    draft = Aded().propose(ids("xyaxyaxyaxybxyaxy"), 12)
    assert letters(draft.tokens[:1]) == "a"
    roots = [draft.tokens[node] for node in range(len(draft)) if draft.parents[node] == ROOT]
    assert letters(tuple(roots)) == "ab"
    assert draft.tokens[1] != ord("b"), "what is four times as likely is followed first"


def test_small_texts() -> None:
    assert letters(Aded().propose(ids("abcab"), 3).tokens) == "cab"
    assert Aded().propose(ids("abcab"), 3).buckets == (("once", 1, 1), ("once", 1, 2), ("once", 1, 3))
    assert Aded().propose(ids("abcb"), 3).tokens == ()  # cb is new
    assert Aded().propose(ids("a"), 3).tokens == ()


def test_what_the_target_says_changes_the_next_draft() -> None:
    drafter = Aded()
    tokens = TokenSequence(ids("abxab"))
    assert letters(drafter.propose(tokens, 1).tokens) == "x"
    tokens.extend(ids("yabyab"))
    draft = drafter.propose(tokens, 20)
    roots = [node for node in range(len(draft)) if draft.parents[node] == ROOT]
    assert letters(tuple(draft.tokens[node] for node in roots)) == "yx"
    assert draft.probabilities[roots[0]] == pytest.approx(2 * draft.probabilities[roots[1]])


def test_only_the_most_frequent_tokens_after_a_pair_are_kept() -> None:
    text = [token for follower in range(100, 130) for token in (1, 2, 100, 1, 2, follower)]
    drafter = Aded()
    draft = drafter.propose([*text, 1, 2], 60)
    roots = [draft.tokens[node] for node in range(len(draft)) if draft.parents[node] == ROOT]
    assert roots == [100], "the others followed once in 60 occurrences"
    [known] = [known for known in drafter._matrix.values() if 100 in known.counts and known.total > 50]
    assert len(known.counts) == 12 and set(known.counts) == {100, *range(119, 130)}


@given(st.lists(TEXTS, min_size=1, max_size=4), st.randoms())
def test_sequences_in_turn_get_the_trees_that_each_would_get_alone(texts: list[list[int]], chance: Random) -> None:
    drafter = Aded()
    apart = [[token + 10 * number for token in text] for number, text in enumerate(texts)]
    sequences = [TokenSequence(text[:1]) for text in apart]
    while growing := [n for n in range(len(apart)) if len(sequences[n]) < len(apart[n])]:
        number = chance.choice(growing)
        sequences[number].append(apart[number][len(sequences[number])])
        assert drafter.propose(sequences[number], 9) == Aded().propose(TokenSequence(sequences[number]), 9)


@given(TEXTS, st.lists(st.integers(1, 60)))
def test_reading_in_pieces_changes_nothing(text: list[int], cuts: list[int]) -> None:
    drafter = Aded()
    for cut in sorted(cuts):
        drafter.propose(text[:cut], 4)
    assert drafter.propose(text, 8) == Aded().propose(text, 8)


def test_what_ctrl_c_kept_from_being_learned_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., None] = Aded.read

    def interrupted(self: object, text: object, tokens: list[int]) -> None:
        read(self, text, tokens)
        raise KeyboardInterrupt

    drafter = Aded()
    drafter.propose(ids("abc"), 4)
    with monkeypatch.context() as patch:
        patch.setattr(Aded, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            drafter.propose(ids("abcdabc"), 4)
    assert drafter.propose(ids("abcdabc"), 4) == Aded().propose(ids("abcdabc"), 4)


def test_memory_stays_bounded() -> None:
    draw = random.Random(1)
    drafter = Aded(max_tokens=1000)
    tokens: list[int] = []
    most = 0
    for _ in range(100):
        tokens.extend(draw.choices(range(300, 340), k=1000))
        drafter.propose(tokens, 8)
        most = max(most, drafter.memory_bytes)
    assert 1000 < most < 1000 * 500
    assert drafter.propose([*tokens, *tokens[-9:-6]], 8).tokens != ()


def test_refuses_paths_without_a_token() -> None:
    with pytest.raises(InvalidRequest, match="depth is 0"):
        Aded(depth=0)
