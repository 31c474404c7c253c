"""Counts of tokens: what is held out, what is saved, what is refused, and what several come to together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.gguf.reader import walk
from edgespec.vocabtrim.counts import HELD_OUT_INTERVAL, Counts, CountSource, load_counts, merged, tokenizer_hash
from tests.gguf_files import changed, encode, strings

_TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=35)
_SOURCES: tuple[CountSource, ...] = ("target", "answers", "text")
_COUNTERS = st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=6).map(Counter)


def _counts(texts: list[list[int]], source: CountSource = "target") -> Counts:
    counts = Counts(source, "hash")
    for text in texts:
        counts.add(text)
    return counts


@given(_TEXTS)
def test_every_tenth_text_is_held_out_and_nothing_is_lost(texts: list[list[int]]) -> None:
    counts = _counts(texts)
    assert counts.texts == len(texts)
    assert counts.tokens + counts.held_out == Counter(token for text in texts for token in text)
    held = [text for number, text in enumerate(texts, 1) if number % HELD_OUT_INTERVAL == 0]
    assert counts.held_out == Counter(token for text in held for token in text)


@pytest.mark.parametrize("source", _SOURCES)
def test_what_is_saved_is_loaded(tmp_path: Path, source: CountSource) -> None:
    counts = _counts([[3, 3, 1], [], *[[2]] * 9], source)
    counts.origin = {"model": "größe.gguf", "prompts": {"sha256": "ab"}}
    counts.save(tmp_path / "c.json")
    assert load_counts(tmp_path / "c.json") == counts


def test_counts_that_go_on_hold_out_as_if_they_had_never_stopped(tmp_path: Path) -> None:
    texts = [[number] for number in range(25)]
    begun = _counts(texts[:13])
    begun.save(tmp_path / "c.json")
    goes_on = load_counts(tmp_path / "c.json")
    for text in texts[13:]:
        goes_on.add(text)
    whole = _counts(texts)
    assert (goes_on.tokens, goes_on.held_out) == (whole.tokens, whole.held_out)


def test_a_file_lists_the_most_frequent_first(tmp_path: Path) -> None:
    counts = _counts([[5, 5, 1, 9, 9, 0]])
    counts.save(tmp_path / "c.json")
    stored = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert list(stored["counts"].items()) == [("5", 2), ("9", 2), ("0", 1), ("1", 1)]
    assert stored["tokens"] == 6
    assert stored["distinct"] == 4


def test_a_file_tells_of_the_counts_what_a_trimmed_model_carries() -> None:
    counts = _counts([[1, 1]] * HELD_OUT_INTERVAL)
    counts.origin = {"model": "m"}
    assert counts.provenance == {
        "source": "target",
        "texts": 10,
        "tokens": 18,
        "distinct": 1,
        "held_out_tokens": 2,
        "model": "m",
    }


def _stored(**changes: Any) -> dict[str, Any]:
    sound = {"format": 1, "source": "text", "tokenizer": "h", "texts": 1, "counts": {"1": 2}, "held_out": {}}
    return {key: value for key, value in {**sound, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "text",
        3,
        {},
        *(_stored(**{key: ...}) for key in _stored()),
        _stored(format=2),
        _stored(format="1"),
        _stored(source="elsewhere"),
        _stored(texts="many"),
        _stored(texts=None),
        _stored(counts=[1, 2]),
        _stored(counts={"a": 1}),
        _stored(counts={"1": "a"}),
        _stored(counts={"1": None}),
        _stored(counts={"-1": 1}),
        _stored(held_out={"1": -1}),
    ],
    ids=json.dumps,
)
def test_what_is_no_counts_is_refused(tmp_path: Path, stored: Any) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InvalidRequest, match=r"no counts of edgespec calibrate .*; make them again") as refused:
        load_counts(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InvalidRequest, match="make them again"):
        load_counts(tmp_path / "c.json")


def test_counts_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InvalidRequest, match="no such file; make one with edgespec calibrate"):
            load_counts(path)


@given(st.lists(st.tuples(st.sampled_from(_SOURCES), _COUNTERS, _COUNTERS), max_size=5))
def test_what_was_said_and_what_was_read_are_counted_apart(
    parts: list[tuple[CountSource, Counter[int], Counter[int]]],
) -> None:
    said, read, held_out = merged([Counts(source, "h", tokens, held) for source, tokens, held in parts])
    empty: Counter[int] = Counter()
    assert said == sum((tokens for source, tokens, _ in parts if source != "text"), empty)
    assert read == sum((tokens for source, tokens, _ in parts if source == "text"), empty)
    of_said = sum((held for source, _, held in parts if source != "text"), empty)
    assert held_out == (of_said or sum((held for source, _, held in parts if source == "text"), empty))


def test_merging_leaves_the_counts_as_they_were() -> None:
    one, two = _counts([[1]]), _counts([[1, 2]])
    merged([one, two])
    assert (one.tokens, two.tokens) == (Counter([1]), Counter([1, 2]))


def _hash(folder: Path, *tokens: str) -> str:
    path = folder / "m.gguf"
    path.write_bytes(encode(changed("tokenizer.ggml.tokens", strings(*tokens))))
    return tokenizer_hash(walk(path))


def test_a_vocabulary_is_told_by_its_texts_in_their_order(tmp_path: Path) -> None:
    known = _hash(tmp_path, "a", "b", "ü")
    assert known == _hash(tmp_path, "a", "b", "ü")
    assert known == _hash(tmp_path, "a", "b", "ü", "[PAD3]", "[PAD4]"), "padding does not count"
    others = {
        _hash(tmp_path, *tokens)
        for tokens in (("b", "a", "ü"), ("a", "b"), ("a", "b", "ü", "c"), ("ab", "", "ü"), ("a", "b", "[PAD2]", "ü"))
    }
    assert known not in others
    assert len(others) == 5
