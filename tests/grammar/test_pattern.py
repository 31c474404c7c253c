"""Regular expressions: the grammar allows the strings in which Python's `re` finds the pattern."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import LlamaVocabulary
from edgespec.grammar import pattern
from edgespec.grammar.formats import FORMATS
from edgespec.grammar.gbnf import Impossible, Rules, Unsupported
from tests.grammar.matcher import accepts, answer


def _grammar(regex: str) -> str:
    rules = Rules()
    rules.define("text", pattern.expression(rules, pattern.parse(regex)))
    rules.define("root", '"\\"" text "\\""')
    return rules.text()


def _allowed(vocabulary: LlamaVocabulary, regex: str, *texts: str) -> list[str]:
    grammar = _grammar(regex)
    return [text for text in texts if accepts(vocabulary, grammar, json.dumps(text, ensure_ascii=False))]


ITEMS = st.sampled_from([
    "a", "b", "7", " ", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[a-c]", "[^a]", r"[^\d]", r"[\]\-\\]", r"\.",
    r"\"", r"\\", r"\n", r"\t", r"\x41", r"\u00e9", "é", "[a-]", "/", r"\/", "{", "}", "]", "(?:ab|c)", "(a)", "(b|)",
])  # fmt: skip
QUANTIFIERS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,}", "{0,2}", "+?", "{3}?"])


@st.composite
def regexes(draw: st.DrawFn) -> str:
    def sequence() -> str:
        parts = draw(st.lists(st.tuples(ITEMS, QUANTIFIERS), min_size=1, max_size=4))
        text = "".join(item + quantifier for item, quantifier in parts)
        return draw(st.sampled_from(["", "^"])) + text + draw(st.sampled_from(["", "$"]))

    return "|".join(sequence() for _ in range(draw(st.integers(1, 2))))


@settings(max_examples=100)
@given(regex=regexes(), data=st.data())
def test_a_string_is_allowed_where_the_pattern_is_found(
    vocabulary: LlamaVocabulary, regex: str, data: st.DataObject
) -> None:
    try:
        grammar = _grammar(regex)
    except Unsupported as refused:
        assert "may be empty" in str(refused)
        return
    characters = st.sampled_from('abc7 .A{}]-\\"\n\té/\x01')
    for text in (data.draw(st.text(characters, max_size=6)), data.draw(st.from_regex(regex)).strip("\n")):
        if text.isascii():  # beyond, \D and the like allow less than Python does
            found = re.search(regex.replace("$", r"\Z"), text)
            assert accepts(vocabulary, grammar, json.dumps(text, ensure_ascii=False)) == bool(found), text
            assert pattern.matches(regex, text) == bool(found), text
    written = answer(vocabulary, grammar, data.draw(st.integers(0, 99)))
    if written.ended:
        text = json.loads(written.text)
        assert re.search(regex, text), text
        shortest, longest = pattern.lengths(pattern.parse(regex))
        assert shortest <= len(text) and (longest is None or len(text) <= longest)


@pytest.mark.parametrize(
    ("regex", "yes", "no"),
    [
        (r"^\d{3}-\d{4}$", ["123-4567"], ["1234567", "x123-4567", "123-45678"]),
        ("b+", ["b", "abc", "xbbx", "\x01b"], ["", "acd"]),
        ("^a|b$", ["a", "ax", "xb"], ["xa", "bx"]),
        ("^(?:a|bc)*$", ["", "abca"], ["ab"]),
        ("^(?<year>[0-9]{4})$", ["2024"], ["24"]),
        ("((^ab$)|(^c$))", ["ab", "c"], ["abc", "cab"]),
        (r"^[^\x00-\x1f]$", [" ", "é", '"'], ["\n", "ab"]),
        (r"^\u00e9\ud83d\ude00$", ["é😀"], ["é"]),
        (r"^\cA\0\v$", ["\x01\x00\x0b"], ["A0v"]),
        ("^.$", ["x", "日"], ["\n", "\u2028", "xy"]),
        ("", ["", "anything"], []),
        ("^$", [""], ["x"]),
        ("^a{\u0663}$", ["a{\u0663}"], ["aaa"]),  # a digit, and none of a quantifier
    ],
)
def test_some_patterns(vocabulary: LlamaVocabulary, regex: str, yes: list[str], no: list[str]) -> None:
    assert _allowed(vocabulary, regex, *yes, *no) == yes


def test_a_match_is_found_in_bounded_time() -> None:
    assert not pattern.matches("^(?:a+b?)+$", "a" * 500 + "c")


@pytest.mark.parametrize(
    ("regex", "construct"),
    [
        (r"a\bc", r"\\b \(word boundaries\) at character 3 of /a\\bc/"),
        (r"(a)\1", r"\\1 \(backreferences\)"),
        (r"\p{L}", r"\\p \(Unicode properties\)"),
        ("(?=a)", r"lookahead \(\?="),
        ("(?!a)", r"lookahead \(\?!"),
        ("(?<=a)", r"lookbehind \(\?<="),
        ("(?<!a)", r"lookbehind \(\?<!"),
        ("(?i)a", r"\(\?i"),
        ("a(^b)", r"\^ or \$ that is not at an end"),
        ("^*", r"a repeated \^"),
        ("a**", r"\* with nothing to repeat"),
        ("*a", r"\* with nothing to repeat"),
        ("(a?)*", "a repetition of what may be empty"),
        ("a{3,1}", "a repetition from 3 to 1"),
        ("a{5000}", "a repetition beyond 2000"),
        ("a{,3}", r"\{, without a number"),
        ("(a", r"an unclosed \("),
        ("a)", r"an unopened \)"),
        ("[a", r"an unclosed \["),
        ("[]", "an empty class"),
        ("[z-a]", "a range that is none"),
        (r"[\d-z]", "a range that is none"),
        ("\\", "a backslash at the end"),
        (r"\q", r"\\q"),
        (r"\u{110000}", r"a character beyond U\+10FFFF at"),
        (r"[a\u{FFFFFF}]", r"a character beyond U\+10FFFF at"),
        (r"\ud800", "half a surrogate pair"),
        (r"[^\d\D]", "a class without characters"),
    ],
)
def test_what_a_grammar_cannot_say_is_named(regex: str, construct: str) -> None:
    with pytest.raises(Unsupported, match=construct):
        pattern.parse(regex)


@settings(max_examples=60)
@given(regex=regexes(), low=st.integers(0, 4), span=st.none() | st.integers(0, 3), seed=st.integers(0, 99))
def test_lengths_that_can_be_kept_are_kept(
    vocabulary: LlamaVocabulary, regex: str, low: int, span: int | None, seed: int
) -> None:
    high = None if span is None else low + span
    try:
        node = pattern.within(pattern.parse(regex), low, high)
    except (Unsupported, Impossible):
        return
    if node is None:
        return
    rules = Rules()
    rules.define("text", pattern.expression(rules, node))
    rules.define("root", '"\\"" text "\\""')
    written = answer(vocabulary, rules.text(), seed)
    if written.ended:
        text = json.loads(written.text)
        assert re.search(regex, text) and low <= len(text) and (high is None or len(text) <= high)


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-04-31", "0000-01-01"]),
        ("time", ["23:59:59Z", "00:00:00.25+01:00"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
        ("date-time", ["2024-02-29T10:00:00Z"], ["2024-02-30T10:00:00Z", "2024-02-29 10:00:00Z"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("ipv4", ["0.0.0.0", "255.1.20.199"], ["256.1.1.1", "1.1.1", "01.1.1.1"]),
        ("email", ["ada.lovelace@mail.example.org"], ["ada", "a..b@c.de", "@x.org", "a@b"]),
        ("uri", ["https://example.org/a.html"], ["example.org", "ftp://x.org"]),
    ],
)
def test_formats(vocabulary: LlamaVocabulary, name: str, yes: list[str], no: list[str]) -> None:
    assert _allowed(vocabulary, FORMATS[name], *yes, *no) == yes
