"""ANPD against a naive version of itself, and what both drafters that read the conversation promise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import ROOT, TokenSequence
from edgespec.drafters.anpd import _OF_SHARE, Anpd
from edgespec.drafters.suffix import Suffix
from edgespec.drafters.texts import agreement
from edgespec.errors import InvalidRequest
from edgespec.policy.tree import HOPELESS, depths, reaches
from tests.drafters.naive import assert_is_tree, ends, ids, letters, path_to

TEXTS = st.integers(0, 4).flatmap(lambda size: st.lists(st.integers(0, size), min_size=1, max_size=60))
BOTH = pytest.mark.parametrize("kind", [Anpd, Suffix])


def naive_draft_token(text: list[int], context: list[int], n: int) -> tuple[int, tuple[int, str]] | None:
    """Section 3 of the paper, read aloud: the highest level that knows the context, counted from scratch."""
    for size in range(min(n - 1, len(context)), 0, -1):
        places = [end for end in range(size, len(text)) if text[end - size : end] == context[-size:]]
        if places:
            counts = Counter(text[end] for end in places)
            latest = {text[end]: end for end in places}
            best = max(counts, key=lambda token: (counts[token], latest[token]))
            return best, (size + 1, agreement(counts[best], len(places)))
    return None


def naive_draft(text: list[int], n: int, k: int) -> list[tuple[int, tuple[int, str]]]:
    context = list(text)
    draft_tokens: list[tuple[int, tuple[int, str]]] = []
    while len(draft_tokens) < k and (draft_token := naive_draft_token(text, context, n)):
        draft_tokens.append(draft_token)
        context.append(draft_token[0])
    return draft_tokens


@pytest.mark.parametrize(
    ("text", "draft", "buckets"),
    [
        ("a", "", []),
        ("abcd", "", []),
        ("abca", "bca", [(2, "once"), (3, "once"), (4, "once")]),
        ("axbxcx", "cxc", [(2, "split"), (3, "once"), (2, "split")]),  # of b and c, the later
        ("xaxaxbx", "axb", [(2, "majority"), (3, "unanimous"), (4, "split")]),  # xax was followed by a, then by b
        ("zabyabxcab", "xca", [(3, "split"), (4, "once"), (4, "once")]),
        ("aaaa", "aaa", [(4, "once"), (4, "once"), (4, "once")]),
    ],
)
def test_small_texts(text: str, draft: str, buckets: list[tuple[int, str]]) -> None:
    found = Anpd(n=4, k=3, branches=False).propose(ids(text), 8)
    assert letters(found.tokens) == draft
    assert list(found.buckets) == buckets


@given(TEXTS, st.integers(2, 6), st.integers(1, 8), st.integers(0, 10))
def test_equals_the_naive_version(text: list[int], n: int, k: int, limit: int) -> None:
    draft = Anpd(n, k, branches=False).propose(text, limit)
    assert list(zip(draft.tokens, draft.buckets, strict=True)) == naive_draft(text, n, min(k, limit))


@given(TEXTS, st.lists(st.integers(1, 60)))
def test_accepted_tokens_update_every_level_once(text: list[int], cuts: list[int]) -> None:
    drafter = Anpd(branches=False)
    for cut in sorted(cuts):
        drafter.propose(text[:cut], 6)
    draft = drafter.propose(text, 6)
    assert list(zip(draft.tokens, draft.buckets, strict=True)) == naive_draft(text, 5, 6)


@given(TEXTS, st.integers(2, 9), st.integers(1, 8), st.integers(-1, 40))
def test_side_branches_stand_behind_the_papers_chain(text: list[int], n: int, k: int, limit: int) -> None:
    draft = Anpd(n, k).propose(text, limit)
    assert_is_tree(draft, limit)
    assert max(depths(draft.parents), default=0) <= k
    chain = Anpd(n, k, branches=False).propose(text, limit)
    assert draft.first(len(chain)) == chain
    for node in range(len(chain), len(draft)):
        context = text + path_to(draft, node)
        guess = naive_draft_token(text, context, n)
        assert guess is not None, "the context occurred"
        size = guess[1][0] - 1
        followers = Counter(text[end] for end in ends(text, context[-size:]) if end < len(text))
        if draft.buckets[node] == guess[1]:
            assert draft.tokens[node] == guess[0]
        else:
            occurrences = followers.total() // followers[draft.tokens[node]]
            assert draft.buckets[node] == ("branch", max(each for each in (2, 3, 4, 6, 8, 12) if each <= occurrences))


@given(TEXTS)
def test_side_branches_come_in_the_order_of_their_reach(text: list[int]) -> None:
    draft = Anpd().propose(text, 1000)
    reach = reaches(draft.parents, draft.probabilities)[len(Anpd(branches=False).propose(text, 1000)) :]
    assert reach == sorted(reach, reverse=True) and all(each >= HOPELESS for each in reach)


def test_what_else_followed_begins_a_side_branch() -> None:
    draft = Anpd(k=2).propose(ids("xaxaxbx"), 20)
    roots = [node for node in range(len(draft)) if draft.parents[node] == ROOT]
    assert letters([draft.tokens[node] for node in roots]) == "ab"
    assert [draft.buckets[node] for node in roots] == [(2, "majority"), ("branch", 3)]
    assert draft.probabilities[roots[1]] == pytest.approx(_OF_SHARE / 3)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.randoms())
def test_sequences_in_turn_get_the_trees_that_each_would_get_alone(
    texts: list[list[int]], chance: random.Random
) -> None:
    drafter = Anpd()
    apart = [[token + 10 * number for token in text] for number, text in enumerate(texts)]
    sequences = [TokenSequence(text[:1]) for text in apart]
    while growing := [n for n in range(len(apart)) if len(sequences[n]) < len(apart[n])]:
        number = chance.choice(growing)
        sequences[number].append(apart[number][len(sequences[number])])
        assert drafter.propose(sequences[number], 9) == Anpd().propose(TokenSequence(sequences[number]), 9)


@pytest.mark.parametrize(("n", "k"), [(1, 6), (5, 0)])
def test_refuses_sizes_that_make_no_draft(n: int, k: int) -> None:
    with pytest.raises(InvalidRequest, match="at least"):
        Anpd(n, k)


# --- what both drafters promise ---


@BOTH
@settings(max_examples=50)
@given(data=st.data())
def test_any_sequence_of_conversations_is_harmless(kind: type[Anpd] | type[Suffix], data: st.DataObject) -> None:
    drafter, twin = kind(max_tokens=64), kind(max_tokens=64)
    tokens = [0]
    seen = {0}
    piece = st.lists(st.integers(0, 5), min_size=1, max_size=40)
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["extend", "back", "other"])):
            case "extend":
                tokens = tokens + data.draw(piece)
            case "back":
                tokens = tokens[: data.draw(st.integers(1, len(tokens)))]
            case _:
                tokens = data.draw(piece)
        seen.update(tokens)
        limit = data.draw(st.integers(-1, 9))
        draft = drafter.propose(tokens, limit)
        assert len(draft) <= max(limit, 0)
        assert seen.issuperset(draft.tokens)
        assert all(0.0 < chance <= 1.0 for chance in draft.probabilities)
        assert len(draft.tokens) == len(draft.buckets) == len(draft.probabilities)
        assert draft == twin.propose(tuple(tokens), limit)


@BOTH
def test_another_conversation_starts_without_a_context(kind: type[Anpd] | type[Suffix]) -> None:
    drafter = kind()
    drafter.propose(ids("abcabc"), 4)
    assert drafter.propose(ids("zb"), 1).tokens == (ord("c"),)  # statistics stay
    assert drafter.propose(ids("q"), 4).tokens == ()


@BOTH
def test_a_prompt_of_equal_length_and_ending_is_read(kind: type[Anpd] | type[Suffix]) -> None:
    ending = list(range(1000, 1040))
    drafter = kind()
    drafter.propose([1, 2, 3, 4, 5, 6, *ending], 4)
    drafter.propose([7, 8, 9, 10, 11, 12, *ending], 4)
    assert drafter.propose([7, 8, 9, 10, 11, 12, *ending, 9], 2).tokens == (10, 11)


@BOTH
def test_what_ctrl_c_kept_from_being_learned_is_read_again(
    kind: type[Anpd] | type[Suffix], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., None] = kind.read

    def interrupted(self: object, text: object, tokens: list[int]) -> None:
        read(self, text, tokens)
        raise KeyboardInterrupt

    drafter = kind()
    drafter.propose(ids("abc"), 4)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            drafter.propose(ids("abcdabc"), 4)
    assert drafter.propose(ids("abcdabc"), 4) == kind().propose(ids("abcdabc"), 4)


@BOTH
def test_memory_stays_bounded(kind: type[Anpd] | type[Suffix]) -> None:
    draw = random.Random(1)
    drafter = kind(max_tokens=1000)
    tokens: list[int] = []
    most = 0
    for _ in range(200):
        tokens.extend(draw.choices(range(300, 340), k=1000))
        drafter.propose(tokens, 8)
        most = max(most, drafter.memory_bytes)
    assert most < 1000 * 600
    assert drafter.propose(tokens, 8).tokens != ()


@BOTH
def test_forgets_the_older_half(kind: type[Anpd] | type[Suffix]) -> None:
    drafter = kind(max_tokens=100)
    tokens = [1, 2, *range(100, 190)]
    drafter.propose(tokens, 4)
    assert drafter.propose([*tokens, 1], 1).tokens == (2,)
    tokens += range(200, 240)
    drafter.propose(tokens, 4)
    assert drafter.propose([*tokens, 1], 1).tokens == ()
    assert drafter.propose([*tokens, 230], 1).tokens == (231,)
