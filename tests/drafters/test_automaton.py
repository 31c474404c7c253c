"""The suffix automaton against brute force."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.drafters.automaton import MAX_FOLLOWERS, MAX_WALK, SuffixAutomaton
from tests.drafters.naive import ends, longest_match

TEXTS = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size), min_size=1, max_size=MAX_WALK - 2))


def read(text: list[int]) -> tuple[SuffixAutomaton, int]:
    """The automaton of one text, and the state of its longest suffix that occurred earlier."""
    automaton, state = SuffixAutomaton(), 0
    for place, token in enumerate(text):
        state = automaton.append(state, token, place)
    return automaton, automaton.shorter(state)


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


@given(TEXTS, st.integers(1, 3))
def test_others_are_what_else_followed_so_often(text: list[int], least: int) -> None:
    automaton, state = read(text)
    while state:
        part = text[len(text) - automaton.length(state) :]
        followers = [text[end] for end in ends(text, part) if end < len(text)]
        counts = Counter(followers)
        latest = {token: place for place, token in enumerate(followers)}
        wanted = [token for token in counts if counts[token] >= least and token != automaton.best(state)]
        wanted.sort(key=lambda token: (counts[token], latest[token]), reverse=True)
        found = automaton.others(state, least)
        assert [token for _, token, _ in found] == (wanted if len(counts) > 1 else [])
        for count, token, target in found:
            assert count == automaton.count(target) == counts[token]
        state = automaton.shorter(state)


def test_where_too_many_tokens_followed_there_are_no_others() -> None:
    automaton, state = SuffixAutomaton(), 0
    for place in range(MAX_FOLLOWERS + 1):
        state = automaton.append(automaton.append(state, 0), place + 1)
        comma = automaton.append(0, 0)
        assert len(automaton.others(comma, 1)) == (place if place < MAX_FOLLOWERS else 0)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(100, 400))
def test_degenerate_text_has_exact_matches(period: int, size: int) -> None:
    automaton, match = read([place % period for place in range(size)])
    assert automaton.length(match) == size - period
