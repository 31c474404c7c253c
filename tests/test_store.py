"""Small JSON files: whole or not there."""

from __future__ import annotations

import json

import pytest

from edgespec.store import read_json, remember, write_json


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "down" / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("spoilt", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_spoilt_file_is_no_file(tmp_path, spoilt):
    path = tmp_path / "x.json"
    path.write_bytes(spoilt)
    assert read_json(path) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [1, object()])
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_remembering_is_no_duty(tmp_path):
    (tmp_path / "file").write_text("in the way")
    remember(tmp_path / "file" / "x.json", 1)  # a folder that cannot be made: a log line, no error
    assert (tmp_path / "file").read_text() == "in the way"
