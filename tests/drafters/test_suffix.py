"""The suffix drafter against brute force."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from random import Random
from unittest.mock import Mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgespec.core import ROOT, Draft, TokenSequence, Verdict
from edgespec.drafters.automaton import MAX_WALK, SuffixAutomaton
from edgespec.drafters.suffix import _LENGTHS, _OF_SHARE, _PRIOR, Suffix
from edgespec.drafters.texts import agreement
from edgespec.policy.tree import HOPELESS, reaches
from edgespec.testing import without_rows
from tests.drafters.naive import assert_is_tree, ends, ids, letters, longest_match, path_to

TEXTS = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size), min_size=1, max_size=MAX_WALK - 2))


@pytest.mark.parametrize(
    ("text", "limit", "draft", "evidence"),
    [
        ("a", 4, "", []),
        ("abcd", 4, "", []),
        ("abca", 2, "bc", [(1, "once"), (2, "once")]),
        ("abcdab", 2, "cd", [(2, "once"), (3, "once")]),
        ("abcdab", 0, "", []),
        ("abcdefgabcdef", 1, "g", [(5, "once")]),  # a match of 6 is in the class of 5 and 6
        ("axbxcx", 1, "c", [(1, "split")]),  # b and c once each: the later one
        ("xaxaxbx", 1, "a", [(1, "majority")]),  # although the last one was b
        (".xa;xa,xa!x", 1, "a", [(1, "unanimous")]),
        ("aaaaa", 3, "aaa", [(4, "once"), (4, "once"), (4, "once")]),  # on from a shorter match, as a loop does
        ("cabcab", 5, "cabca", [(3, "once"), (4, "once"), (5, "once"), (3, "once"), (4, "once")]),
    ],
)
def test_small_texts(text: str, limit: int, draft: str, evidence: list[tuple[int, str]]) -> None:
    found = Suffix().propose(ids(text), limit)
    assert letters(found.tokens) == draft
    assert list(found.buckets) == [(*bucket, "answer") for bucket in evidence]  # nobody said what the prompt is


def answered(drafter: Suffix, prompt: str, answer: str) -> TokenSequence:
    """A sequence of which the drafter has seen both parts."""
    tokens = TokenSequence(ids(prompt))
    first, *rest = ids(answer)
    drafter.observe(without_rows(tokens), Verdict((), (first,)))
    tokens.append(first)
    for token in rest:
        drafter.observe(without_rows(tokens), Verdict((), (token,)))
        tokens.append(token)
    return tokens


def sources(draft: Draft) -> list[str]:
    """Where the match of each draft token comes from."""
    return [bucket[2] for bucket in draft.buckets]  # type: ignore[index]


def test_a_match_in_the_prompt_is_told_from_one_in_the_answer() -> None:
    drafter = Suffix()
    assert sources(drafter.propose(answered(drafter, "abcdefg;", "xyzabc"), 2)) == ["prompt", "prompt"]
    assert sources(drafter.propose(answered(drafter, "mnop;", "123412"), 2)) == ["answer", "answer"]


def test_a_match_in_another_text_is_told_from_one_in_the_prompt() -> None:
    drafter = Suffix()
    answered(drafter, "abcdefg;", "x")
    drafter.propose(answered(drafter, "abcdefg;", "x"), 1)
    assert sources(drafter.propose(answered(drafter, "qqq", "abc"), 2)) == ["earlier", "earlier"]


def test_what_a_second_turn_copies_from_the_first_answer_is_the_prompt() -> None:
    drafter = Suffix()
    tokens = answered(drafter, "mnop;", "12345")
    tokens.extend(ids("again:"))
    drafter.observe(without_rows(tokens), Verdict((), (ord("1"),)))
    tokens.append(ord("1"))
    assert sources(drafter.propose(tokens, 2)) == ["prompt", "prompt"]


def test_copying_resumes_behind_one_changed_token() -> None:
    drafter = Suffix()
    tokens = answered(drafter, "the old name is in old use;", "the old name is in N")  # instead of o
    draft = drafter.propose(tokens, 3)
    assert letters(draft.tokens) == "ld " and sources(draft) == ["resumed"] * 3


def test_copying_resumes_at_its_place_where_a_short_match_says_otherwise() -> None:
    drafter = Suffix()
    tokens = answered(drafter, "begin alpha,x beta,y beta,y;", "begin alphX,")  # y followed two of three commas
    assert letters(drafter.propose(tokens, 2).tokens) == "x "


def test_lone_long_match_beats_the_majority_of_shorter_ones() -> None:
    assert letters(Suffix().propose(ids("bx bx bx abyab"), 1).tokens) == "y"


def test_stops_where_the_draft_became_unlikely() -> None:
    text = [token for pair in range(40) for token in (0, pair + 1)] + [0]  # 40 different tokens after 0, then 0
    draft = Suffix().propose(text, 8)
    assert draft.tokens == (40, 0)  # the next guess would again be one in 40


def test_step_back_finds_what_was_said_the_last_time() -> None:
    drafter = Suffix()
    drafter.propose(ids("tell me: once upon a time"), 4)
    assert letters(drafter.propose(ids("tell me:"), 5).tokens) == " once"


def test_no_match_spans_a_break() -> None:
    drafter = Suffix()
    drafter.propose(ids("abc"), 4)
    drafter.propose(ids("xyz"), 4)
    assert drafter.propose(ids("pqrc"), 4).tokens == ()  # x followed c only across the break
    assert letters(drafter.propose(ids("mnox"), 2).tokens) == "yz"


def test_interrupted_reading_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = Suffix()
    with monkeypatch.context() as patch:
        patch.setattr(SuffixAutomaton, "_tally", Mock(side_effect=[None, None, KeyboardInterrupt]))
        with pytest.raises(KeyboardInterrupt):
            drafter.propose(ids("abcdabc"), 4)
    assert drafter.propose(ids("abcdabc"), 4) == Suffix().propose(ids("abcdabc"), 4)


def former_chain(text: list[int], limit: int) -> list[tuple[int, tuple[int, str]]]:
    """The chain that is drafted where no run of copying is resumed, by brute force."""
    context, size, unfinished = list(text), longest_match(text), 1
    chain: list[tuple[int, tuple[int, str]]] = []
    reach = 1.0
    while len(chain) < limit:
        while size and not (followers := [text[end] for end in ends(text, context[-size:]) if end < len(text)]):
            size, unfinished = size - 1, 1  # it runs into the end of the text
        if not size:
            break
        counts, latest = Counter(followers), {token: place for place, token in enumerate(followers)}
        best = max(counts, key=lambda token: (counts[token], latest[token]))
        total = len(ends(text, context[-size:])) - unfinished if len(counts) > 1 else counts[best]
        agreed = agreement(counts[best], total)
        column = bisect_right(_LENGTHS, size) - 1
        reach *= _PRIOR[agreed, "answer"][column]
        if reach < HOPELESS:
            break
        chain.append((best, (_LENGTHS[column], agreed)))
        context.append(best)
        size, unfinished = size + 1, 0
    return chain


@given(TEXTS, st.integers(0, 20))
def test_the_first_path_is_the_chain_of_the_longest_match(text: list[int], limit: int) -> None:
    draft = Suffix().propose(text, limit).trunk
    assume(all(bucket[2] != "resumed" for bucket in draft.buckets))  # type: ignore[index]
    found = [(token, bucket[:2]) for token, bucket in zip(draft.tokens, draft.buckets, strict=True)]  # type: ignore[index]
    assert found == former_chain(text, limit)


@given(TEXTS, st.integers(-1, 20))
def test_drafts_are_trees_and_every_node_followed_what_it_claims(text: list[int], limit: int) -> None:
    draft = Suffix().propose(text, limit)
    assert_is_tree(draft, limit)
    for node, (token, bucket) in enumerate(zip(draft.tokens, draft.buckets, strict=True)):
        assert isinstance(bucket, tuple)
        if bucket[-1] == "resumed":  # it goes on behind the token at which a run of copying broke off
            assert token in text
        else:
            size = 1 if bucket[0] == "branch" else bucket[0]
            context = text + path_to(draft, node)
            assert token in [text[end] for end in ends(text, context[-size:]) if end < len(text)]


@given(TEXTS)
def test_nodes_above_the_floor_all_come(text: list[int]) -> None:
    """A draft without a limit is a draft of a limit, and more: what is cut is less likely than what is not."""
    whole = Suffix().propose(text, 1000)
    reach = reaches(whole.parents, whole.probabilities)
    assert all(chance >= HOPELESS * (1 - 1e-9) for chance in reach)
    trunk = len(whole.trunk)
    assert reach[trunk:] == sorted(reach[trunk:], reverse=True)
    if trunk < len(whole):
        assert Suffix().propose(text, len(whole) - 1) == whole.first(len(whole) - 1)


@pytest.mark.parametrize(
    ("text", "first", "buckets"),
    [
        ("xaxbx", "ba", [(1, "split", "answer"), ("branch", 2)]),  # once each: the later comes first
        ("xaxbxcx", "cba", [(1, "split", "answer"), ("branch", 3), ("branch", 3)]),
        ("xaxaxbx", "ab", [(1, "majority", "answer"), ("branch", 3)]),  # b once in three
        ("xaxaxax", "a", [(5, "once", "answer")]),  # they agree
    ],
)
def test_other_tokens_begin_side_branches(text: str, first: str, buckets: list[tuple[object, ...]]) -> None:
    draft = Suffix().propose(ids(text), 20)
    nodes = [node for node in range(len(draft)) if draft.parents[node] == ROOT]
    assert letters(tuple(draft.tokens[node] for node in nodes)) == first
    assert [draft.buckets[node] for node in nodes] == buckets


def test_a_side_branch_goes_on_as_its_match_did() -> None:
    draft = Suffix().propose(ids(" the cat. the dog! the "), 40)
    branch = draft.buckets.index(("branch", 2))
    paths = [letters((*path_to(draft, node), draft.tokens[node])) for node in range(len(draft))]
    assert draft.parents[branch] == ROOT and paths[branch] == "c"
    assert draft.probabilities[branch] == pytest.approx(_OF_SHARE / 2)
    assert "cat." in paths and "dog!" in paths


@given(st.lists(TEXTS, min_size=1, max_size=4), st.randoms())
def test_sequences_in_turn_get_the_trees_that_each_would_get_alone(texts: list[list[int]], chance: Random) -> None:
    drafter = Suffix()
    apart = [[token + 10 * number for token in text] for number, text in enumerate(texts)]
    sequences = [TokenSequence(text[:1]) for text in apart]
    while growing := [n for n in range(len(apart)) if len(sequences[n]) < len(apart[n])]:
        number = chance.choice(growing)
        sequences[number].append(apart[number][len(sequences[number])])
        assert drafter.propose(sequences[number], 9) == Suffix().propose(TokenSequence(sequences[number]), 9)


def test_two_sequences_in_turn_draft_what_each_would_alone() -> None:
    first, second = TokenSequence(ids("abcabc")), TokenSequence(ids("xyzxyz"))
    drafter = Suffix()
    for letter in "abcabc":
        for sequence, kind in ((first, 0), (second, 1)):
            assert drafter.propose(sequence, 2) == Suffix().propose(list(sequence), 2)
            sequence.append(ord(letter) + 23 * kind)


@given(TEXTS)
def test_support_of_the_first_guess_equals_brute_force(text: list[int]) -> None:
    draft = Suffix().propose(text, 1)
    assume(not draft.tokens or draft.buckets[0][2] != "resumed")  # type: ignore[index]
    size = longest_match(text)
    if not draft.tokens:
        assert size == 0
        return
    followers = [text[end] for end in ends(text, text[-size:]) if end < len(text)]
    assert draft.buckets[0][1] == agreement(followers.count(draft.tokens[0]), len(followers))  # type: ignore[index]


@given(TEXTS, st.lists(st.integers(0, 30)))
def test_reading_in_pieces_changes_nothing(text: list[int], cuts: list[int]) -> None:
    drafter = Suffix()
    for cut in sorted(cuts):
        drafter.propose(text[: max(1, cut)], 4)
    assert drafter.propose(text, 8) == Suffix().propose(text, 8)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(100, 400))
def test_degenerate_text_stays_linear_and_its_matches_exact(period: int, size: int) -> None:
    text = [place % period for place in range(size)]
    assert Suffix().propose(text, 20).tokens == tuple((size + place) % period for place in range(20))
