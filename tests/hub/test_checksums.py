"""Checksums taken once: remembered as long as the file is the one it was, and no longer."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgespec.hub import checksums
from edgespec.hub.checksums import cached_sha256, save_sha256


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose checksum was really taken."""
    found: list[Path] = []

    def sha256_of(path: Path) -> str:
        found.append(path)
        return _sha256(path.read_bytes())

    monkeypatch.setattr(checksums, "sha256_of", sha256_of)
    return found


def _file(folder: Path, data: bytes, name: str = "größe.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_it_is_taken_once_for_each_file(tmp_path: Path, taken: list[Path]) -> None:
    first, second = _file(tmp_path, b"1", "one"), _file(tmp_path, b"2", "two")
    for _ in range(3):
        assert cached_sha256(first, tmp_path / "cache") == _sha256(b"1")
        assert cached_sha256(second, tmp_path / "cache") == _sha256(b"2")
    assert taken == [first, second]


def test_a_file_of_another_size_or_time_is_another_file(tmp_path: Path, taken: list[Path]) -> None:
    path = _file(tmp_path, b"abc")
    status = path.stat()
    cached_sha256(path, tmp_path)
    path.write_bytes(b"abcd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cached_sha256(path, tmp_path) == _sha256(b"abcd")
    path.write_bytes(b"dcba")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cached_sha256(path, tmp_path) == _sha256(b"dcba")
    assert len(taken) == 3


def test_what_was_noted_is_not_taken_again(tmp_path: Path, taken: list[Path]) -> None:
    path = _file(tmp_path, b"abc")
    other = _file(tmp_path, b"other", "other")
    cached_sha256(other, tmp_path)
    save_sha256(path, "f" * 64, tmp_path)
    assert cached_sha256(path, tmp_path) == "f" * 64
    assert cached_sha256(other, tmp_path) == _sha256(b"other"), "what was known of others stays known"
    assert taken == [other]


@pytest.mark.parametrize(
    "memory",
    ["", "{", "[]", "null", '"text"', '{"PATH": 1}', '{"PATH": []}', '{"PATH": [3]}', '{"PATH": [3, TIME]}',
     '{"PATH": [3, TIME, "x", 4]}', '{"PATH": {"0": 3}}'],
)  # fmt: skip
def test_a_memory_that_makes_no_sense_is_no_memory(tmp_path: Path, taken: list[Path], memory: str) -> None:
    path = _file(tmp_path, b"abc")
    text = memory.replace("PATH", str(path)).replace("TIME", str(path.stat().st_mtime_ns))
    (tmp_path / "checked.json").write_text(text, encoding="utf-8")
    assert cached_sha256(path, tmp_path) == _sha256(b"abc")
    assert cached_sha256(path, tmp_path) == _sha256(b"abc")
    assert taken == [path], "and it makes sense from then on"


@pytest.mark.parametrize("remembered", [None, "", "abc", 7, []])
def test_a_memory_that_holds_no_sha256_is_no_memory(tmp_path: Path, remembered: object) -> None:
    path = _file(tmp_path, b"abc")
    memory = {str(path): [3, path.stat().st_mtime_ns, remembered]}
    (tmp_path / "checked.json").write_text(json.dumps(memory), encoding="utf-8")
    assert cached_sha256(path, tmp_path) == _sha256(b"abc")


def test_without_a_place_to_remember_it_is_taken_each_time(
    tmp_path: Path, taken: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = _file(tmp_path, b"abc")
    _file(tmp_path, b"", "cache")  # a file where the folder should be
    for _ in range(2):
        assert cached_sha256(path, tmp_path / "cache") == _sha256(b"abc")
    assert taken == [path, path]
    assert caplog.text.count("cannot be") == 1


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cached_sha256(tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize(("size", "n_messages"), [(3, 0), (4, 1)])
def test_what_takes_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: int, n_messages: int
) -> None:
    monkeypatch.setattr(checksums, "_SLOW_BYTES", 4)
    path = _file(tmp_path, b"x" * size)
    for _ in range(2):
        cached_sha256(path, tmp_path)
    lines: list[Any] = [record.getMessage() for record in caplog.records]
    assert len(lines) == n_messages
    assert all("checking" in line and line.endswith("once") for line in lines)


def test_the_memory_is_json_with_the_paths_as_they_are(tmp_path: Path) -> None:
    path = _file(tmp_path, b"abc")
    cached_sha256(path, tmp_path)
    stored = json.loads((tmp_path / "checked.json").read_text(encoding="utf-8"))
    assert stored == {str(path): [3, path.stat().st_mtime_ns, _sha256(b"abc")]}
