"""Text leaves the engine whole: no broken characters, nothing lost, nothing of a stop string shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.decode.detokenizer import AnswerText, Detokenizer, StopStrings, continuation
from edgespec.errors import InvalidRequest

REPLACEMENT = "\ufffd"
END = -1


@dataclass(frozen=True, slots=True)
class Pieces:
    """A vocabulary in which token i is the i-th of some byte strings, and END ends the answer.

    `controls`: the tokens whose text is that of a control token.
    """

    pieces: Sequence[bytes]
    controls: Sequence[int] = ()

    def piece(self, token: int) -> bytes:
        return b"<end>" if token == END else b"" if token in self.controls else self.pieces[token]

    def control_text(self, token: int) -> str:
        return "<end>" if token == END else self.pieces[token].decode() if token in self.controls else ""

    def is_end(self, token: int) -> bool:
        return token == END


def cut(data: bytes, borders: Sequence[int]) -> list[bytes]:
    """`data` in pieces: borders may repeat, which gives empty pieces."""
    edges = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


borders = st.lists(st.integers(0, 1000), max_size=30)
characters = st.characters(exclude_categories=["Cs"])
unicode_text = st.text(characters | st.sampled_from("é€😀\u200d\ufeff"), max_size=40)
few_letters = st.text("abc", max_size=24)
stop_strings = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


# --- Detokenizer


@given(unicode_text.filter(lambda text: REPLACEMENT not in text), borders)
def test_valid_text_survives_any_cut(text: str, borders: list[int]) -> None:
    pieces = cut(text.encode(), borders)
    detokenizer = Detokenizer(Pieces(pieces))
    shown = ""
    for token in range(len(pieces)):
        shown += detokenizer.push(token)
        assert text.startswith(shown)
        seen = b"".join(pieces[: token + 1])
        assert shown == seen.decode(errors="ignore")  # as early as possible, too
        assert detokenizer.at_border == (shown.encode() == seen)
    assert detokenizer.flush() == ""
    assert shown == text


@given(st.binary(max_size=40), borders)
def test_invalid_bytes_are_replaced_whatever_the_cut(data: bytes, borders: list[int]) -> None:
    pieces = cut(data, borders)
    detokenizer = Detokenizer(Pieces(pieces))
    shown = "".join(detokenizer.push(token) for token in range(len(pieces))) + detokenizer.flush()
    assert shown == data.decode(errors="replace")


def test_a_character_never_finished_is_replaced_at_the_end() -> None:
    detokenizer = Detokenizer(Pieces([b"a\xf0\x9f"]))
    assert detokenizer.push(0) == "a"
    assert detokenizer.flush() == REPLACEMENT
    assert detokenizer.flush() == ""


# --- StopStrings


def stopped_at(text: str, stops: Sequence[str], tokens: Sequence[tuple[str, bool]] = ()) -> int | None:
    """Where the stop string begins at which a reader of one character after the other stops; the long way round.

    `tokens` are those of the text, each with whether it is hidden.
    """
    owners = [place if hidden else -1 for place, (token, hidden) in enumerate(tokens) for _ in token]
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        begins = [begin for begin in begins if not _cuts(owners, begin, end)]
        if begins:
            return min(begins)
    return None


def _cuts(owners: Sequence[int], begin: int, end: int) -> bool:
    """Whether shown text and a part of a hidden token are from `begin` to `end`."""
    return -1 in owners[begin:end] and any(
        0 < place < len(owners) and owners[place - 1] == owners[place] >= 0 for place in (begin, end)
    )


@given(few_letters, stop_strings, borders)
def test_text_is_cut_where_the_reference_cuts(text: str, stops: list[str], borders: list[int]) -> None:
    filtered = StopStrings(stops)
    begin = stopped_at(text, stops)
    shown, seen = "", ""
    for piece in cut(text.encode(), borders):
        safe, stopped = filtered.push(piece.decode())
        shown, seen = shown + safe, seen + piece.decode()
        assert text[:begin].startswith(shown)
        assert stopped == (stopped_at(seen, stops) is not None)
    assert shown + filtered.flush() == text[:begin]
    assert filtered.flush() == ""


def test_shown_text_is_no_stop_string_by_a_part_of_a_control_token() -> None:
    pushes = [("Done.\n", False), ("<|end|>", True), ("<|end|>", True), ("> so", False)]
    for stop, text in {
        "\n<": "Done.\n> so", "|>>": "Done.\n> so", "|>> s": "Done.\n> so",
        "\n<|end|>": "Done.", "<|end|>": "Done.\n", "<|end|>> s": "Done.\n", ".\n": "Done", "> s": "Done.\n",
        "|end|": "Done.\n", "|><|": "Done.\n",
    }.items():  # fmt: skip
        filtered = StopStrings([stop])
        shown = "".join(filtered.push(piece, hidden=hidden)[0] for piece, hidden in pushes)
        assert shown + filtered.flush() == text, stop


@given(few_letters, stop_strings)
def test_no_more_is_held_back_than_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    filtered = StopStrings(stops)
    shown, stopped = filtered.push(text)
    held = filtered.flush()
    if stopped:
        assert held == ""
    elif held:
        assert any(stop.startswith(held) and stop != held for stop in stops)
    assert not any(stop in shown + held for stop in stops)


@pytest.mark.parametrize(
    ("stops", "pushes", "expected"),
    [
        ([], ["anything"], ("anything", False)),
        (["\n\n"], ["one\n", "two\n", "\nthree"], ("one\ntwo", True)),
        (["<end>"], ["a <e", "n", "d of it"], ("a <end of it", False)),
        (["abcd", "ab"], ["xabcd"], ("x", True)),  # begin at the same place: the one completed first
        (["cd", "bcd"], ["ab", "cd"], ("a", True)),  # completed at the same place: the one that began first
        (["abc", "b"], ["ab", "c"], ("a", True)),  # a stop string inside another one
        (["abc", "b"], ["abc"], ("a", True)),  # and the same in one push
        (["aab"], ["aa", "ab"], ("a", True)),  # the held tail is given up letter by letter
    ],
)
def test_stop_string_cases(stops: list[str], pushes: list[str], expected: tuple[str, bool]) -> None:
    filtered = StopStrings(stops)
    results = [filtered.push(piece) for piece in pushes]
    shown = "".join(safe for safe, _ in results) + filtered.flush()
    assert (shown, results[-1][1]) == expected


def test_nothing_passes_after_a_stop() -> None:
    filtered = StopStrings(["."])
    assert filtered.push("one. two") == ("one", True)
    assert filtered.push("three") == ("", True)
    assert filtered.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty stop string"):
        StopStrings(["a", ""])


# --- AnswerText


@given(unicode_text, st.lists(unicode_text.filter(bool).map(lambda text: text[:3]), max_size=2), borders)
def test_an_answer_is_its_text_up_to_the_stop(text: str, stops: list[str], borders: list[int]) -> None:
    pieces = cut(text.encode(), borders)
    answer = AnswerText(Pieces(pieces), stops)
    begin = stopped_at(text, stops)
    shown = ""
    for token in range(len(pieces)):
        safe, stopped = answer.push(token)
        shown += safe
        assert answer.text == shown
        if stopped:
            break
    assert shown + answer.finish() == answer.text == text[:begin]

    count, whole = answer.whole_tokens(99)
    assert b"".join(pieces[:count]) == whole.encode()
    assert answer.text.startswith(whole)
    longer = b"".join(pieces[: count + 1])
    assert count == len(pieces) or not answer.text.encode().startswith(longer) or _ends_inside_a_character(longer)


def _ends_inside_a_character(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() != data


def test_end_tokens_have_no_text() -> None:
    answer = AnswerText(Pieces([b"yes"]), ["<end>"])
    assert answer.push(0) == ("yes", False)
    assert answer.push(END) == ("", True)
    assert answer.finish() == ""
    assert answer.text == "yes"
    assert answer.whole_tokens(99) == (1, "yes")


@given(st.lists(st.tuples(st.text("ab<", min_size=1, max_size=3), st.booleans()), max_size=8), stop_strings)
def test_control_tokens_count_in_stop_strings_and_are_not_shown(
    tokens: list[tuple[str, bool]], stops: list[str]
) -> None:
    stops = [*stops, "<a"]
    vocabulary = Pieces(
        [text.encode() for text, _ in tokens], [token for token, (_, hidden) in enumerate(tokens) if hidden]
    )
    answer = AnswerText(vocabulary, stops)
    begin = stopped_at("".join(text for text, _ in tokens), stops, tokens)
    stopped = any(answer.push(token)[1] for token in range(len(tokens)))  # ends with the token that stops it
    answer.finish()
    assert stopped == (begin is not None)

    left, visible, whole = begin, "", 0
    for text, hidden in tokens:
        released = text[:left]
        visible += "" if hidden else released
        whole += released == text
        left = None if left is None else left - len(released)
    assert answer.text == visible
    count, known = answer.whole_tokens(99)
    assert known == "".join(text for text, hidden in tokens[:count] if not hidden)
    assert count == whole


def test_a_control_token_stops_the_answer() -> None:
    answer = AnswerText(Pieces([b"Hello", b"<|im_start|>", b"user"], controls=[1]), ["<|im_start|>"])
    assert [answer.push(0), answer.push(1)] == [("Hello", False), ("", True)]
    assert answer.finish() == ""
    assert answer.whole_tokens(99) == (1, "Hello")


def test_a_stop_string_may_span_text_and_control_tokens() -> None:
    answer = AnswerText(Pieces([b"one\n", b"<|im_start|>", b"user"], controls=[1]), ["\n<|im_start|>user"])
    assert [answer.push(token) for token in range(3)] == [("one", False), ("", False), ("", True)]
    assert answer.whole_tokens(99) == (0, "")


def test_what_was_held_back_comes_at_the_end() -> None:
    answer = AnswerText(Pieces([b"a \xe2\x82", b"\xac\n", b"\xe2"]), ["\n\n"])
    assert [answer.push(token) for token in range(3)] == [("a ", False), ("€", False), ("", False)]
    assert answer.finish() == "\n" + REPLACEMENT
    assert answer.text == "a €\n" + REPLACEMENT
    assert answer.whole_tokens(99) == (2, "a €\n")


def test_a_stop_string_may_be_completed_by_the_end() -> None:
    answer = AnswerText(Pieces([b"a\xe2"]), [REPLACEMENT])
    assert answer.push(0) == ("a", False)
    assert answer.finish() == ""
    assert answer.text == "a"
    assert answer.whole_tokens(99) == (0, "")


def test_a_token_cut_by_a_stop_string_is_not_whole() -> None:
    answer = AnswerText(Pieces([b"one", b" two.", b" three"]), ["."])
    assert [answer.push(token) for token in range(2)] == [("one", False), (" two", True)]
    assert answer.whole_tokens(99) == (1, "one")


# --- continuation

PROMPT = "<user>Hi</s><assistant>"
NEXT = "</s><user>More</s><assistant>"


@pytest.mark.parametrize(
    ("known", "rendered", "expected"),
    [
        (PROMPT + "Hello.", PROMPT + "Hello." + NEXT, NEXT),  # ended by itself, or by length
        (PROMPT + "Hello", PROMPT + "Hello the" + NEXT, " the" + NEXT),  # a stop string began inside a token
        (PROMPT, PROMPT + NEXT, NEXT),  # an empty answer
        (PROMPT + " Hello.\n", PROMPT + "Hello." + NEXT, None),  # the template strips whitespace
        (PROMPT + "<think>Hm</think>Hello.", PROMPT + "Hello." + NEXT, None),  # the template drops reasoning
        (PROMPT + "Hello.", "<system>Be brief</s>" + PROMPT + "Hello." + NEXT, None),  # the history changed
        (PROMPT + "Hello." + NEXT, PROMPT, None),  # a step back in the conversation
        ("", PROMPT, PROMPT),  # the first turn
    ],
)
def test_what_is_left_to_tokenize(known: str, rendered: str, expected: str | None) -> None:
    assert continuation(known, rendered) == expected


@given(unicode_text, unicode_text)
def test_a_continuation_completes_the_text(known: str, rendered: str) -> None:
    rest = continuation(known, rendered)
    assert (rest is None) != rendered.startswith(known)
    if rest is not None:
        assert known + rest == rendered
