"""JSON lines as people have them: odd line ends, half a file, files joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.errors import InvalidRequest
from edgespec.system.jsonl import read_objects, read_value

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_OBJECTS = st.dictionaries(_TEXT, st.one_of(_TEXT, st.integers(), st.booleans(), st.none()), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jsonl")


@given(objects=st.lists(_OBJECTS, max_size=6), escaped=st.booleans(), blank=st.sampled_from(["\n", "\n\n", "\n \t\n"]))
def test_objects_come_back_with_the_numbers_of_their_lines(
    folder: Path, objects: list[dict[str, Any]], escaped: bool, blank: str
) -> None:
    path = folder / "objects.jsonl"
    text = blank.join(json.dumps(one, ensure_ascii=escaped) for one in objects)
    path.write_text(text, encoding="utf-8", newline="")
    step = blank.count("\n")
    assert read_objects(path) == [(1 + place * step, one) for place, one in enumerate(objects)]


def test_a_text_may_hold_what_elsewhere_ends_a_line(folder: Path) -> None:
    path = folder / "separators.jsonl"
    path.write_text('{"a": "one\u2028two\x85three\u2029"}\r\n{"a": 2}\r\n', encoding="utf-8", newline="")
    assert read_objects(path) == [(1, {"a": "one\u2028two\x85three\u2029"}), (2, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"a": 1', "not JSON"),
        ("{'a': 1}", "not JSON"),
        ('{"a": 1} {"b": 2}', "not JSON"),
        (r'{"a": "\ud800"}', "a text in it is not UTF-8"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "it must be an object"),
        ('"text"', "it must be an object"),
        ("null", "it must be an object"),
    ],
)
def test_what_is_no_object_is_told_with_its_line(folder: Path, line: str, complaint: str) -> None:
    path = folder / "wrong.jsonl"
    path.write_text(f'{{"a": 1}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidRequest, match=f"wrong.jsonl, line 3: {complaint}"):
        read_objects(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\t\n"])
def test_a_file_without_lines_has_no_objects(folder: Path, content: bytes) -> None:
    path = folder / "empty.jsonl"
    path.write_bytes(content)
    assert read_objects(path) == []


def test_files_that_were_joined_keep_the_mark_of_each(folder: Path) -> None:
    path = folder / "joined.jsonl"
    path.write_bytes(2 * b'\xef\xbb\xbf{"a": 1}\n')
    assert read_objects(path) == [(1, {"a": 1}), (2, {"a": 1})]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "is not JSON"), (b"\xff", "is not UTF-8"), (None, "Is a directory")]
)
def test_a_value_that_cannot_be_read(
    tmp_path: Path, data: bytes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "value.json"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(InvalidRequest, match=f"value.json.*{reason}|cannot read .*value.json: {reason}"):
        read_value(path)
    assert not caplog.messages
    (tmp_path / "right.json").write_text("\ufeff[1]", encoding="utf-8")
    assert read_value(tmp_path / "right.json") == [1]
