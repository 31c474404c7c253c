"""The suffix drafter against brute force."""

from __future__ import annotations

from collections import Counter
from random import Random
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import Draft, TokenSequence, Verdict
from edgespec.drafters.suffix import MAX_WALK, Suffix, SuffixAutomaton
from edgespec.drafters.texts import agreement
from edgespec.testing import without_rows

TEXTS = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size), min_size=1, max_size=MAX_WALK - 2))


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def letters(tokens: tuple[int, ...]) -> str:
    return "".join(map(chr, tokens))


def read(text: list[int]) -> tuple[SuffixAutomaton, int]:
    """The automaton of one text, and the state of its longest suffix that occurred earlier."""
    automaton, state = SuffixAutomaton(), 0
    for token in text:
        state = automaton.append(state, token)
    return automaton, automaton.shorter(state)


def ends(text: list[int], part: list[int]) -> list[int]:
    """The positions after every occurrence of `part`."""
    return [end for end in range(len(part), len(text) + 1) if text[end - len(part) : end] == part]


def longest_match(text: list[int]) -> int:
    """The length of the longest suffix that occurred earlier."""
    return max((size for size in range(1, len(text)) if len(ends(text, text[-size:])) > 1), default=0)


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


@given(TEXTS)
def test_match_is_the_longest_suffix_that_occurred_earlier(text: list[int]) -> None:
    automaton, match = read(text)
    assert automaton.length(match) == longest_match(text)


@given(TEXTS)
def test_counts_equal_brute_force_for_every_suffix(text: list[int]) -> None:
    automaton, state = read(text)
    while state:
        part = text[len(text) - automaton.length(state) :]
        found = ends(text, part)
        followers = [text[end] for end in found if end < len(text)]
        latest = {token: place for place, token in enumerate(followers)}
        counts = Counter(followers)
        best = max(counts, key=lambda token: (counts[token], latest[token]))
        assert automaton.count(state) == len(found)
        assert automaton.best(state) == best
        assert automaton.count(automaton.follow(state)) == counts[best]
        assert automaton.diverges(state) == (len(counts) > 1)
        state = automaton.shorter(state)


@given(TEXTS, st.integers(0, 12))
def test_every_guess_followed_the_suffix_it_claims(text: list[int], limit: int) -> None:
    draft = Suffix().propose(text, limit)
    assert len(draft) <= limit
    assert draft.is_chain
    context = list(text)
    for token, chance, kind in zip(draft.tokens, draft.probabilities, draft.buckets, strict=True):
        assert isinstance(kind, tuple)
        length, _, source = kind
        assert 0.0 < chance <= 1.0
        if source == "resumed":  # it goes on behind the token at which a run of copying broke off
            assert token in text
        else:
            assert token in [text[end] for end in ends(text, context[-length:]) if end < len(text)]
        context.append(token)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=10), min_size=1, max_size=4), st.randoms())
def test_texts_that_grow_in_turn_are_counted_as_if_they_stood_apart(texts: list[list[int]], chance: Random) -> None:
    automaton, states, places = SuffixAutomaton(), [0] * len(texts), [0] * len(texts)
    while growing := [one for one, text in enumerate(texts) if places[one] < len(text)]:
        one = chance.choice(growing)
        states[one] = automaton.append(states[one], texts[one][places[one]])
        places[one] += 1
    for one, text in enumerate(texts):
        state = states[one]
        assert automaton.length(state) == len(text), "a whole text is the longest of its state"
        while state:
            part = text[len(text) - automaton.length(state) :]
            found = [(other, end) for other in texts for end in ends(other, part)]
            assert automaton.count(state) == len(found)
            followers = Counter(other[end] for other, end in found if end < len(other))
            if followers:
                assert followers[automaton.best(state)] == max(followers.values())
            else:
                assert automaton.best(state) < 0
            state = automaton.shorter(state)


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
    automaton, match = read(text)
    assert automaton.length(match) == size - period
    assert Suffix().propose(text, 20).tokens == tuple((size + place) % period for place in range(20))
