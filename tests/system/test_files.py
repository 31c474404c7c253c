"""Small JSON files: whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgespec.errors import OutputError
from edgespec.system.files import check_writable, private_folder, read_json, try_write_json, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}


def test_a_byte_order_mark_is_no_part_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]


@pytest.mark.parametrize("spoilt", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_spoilt_file_is_no_file(tmp_path: Path, spoilt: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(spoilt)
    assert read_json(path) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [1, object()])
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_remembering_is_no_duty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    try_write_json(tmp_path / "file" / "x.json", 1)  # a folder that cannot be made: a log line, no error
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_file_is_replaced_where_that_is_wanted_and_a_device_never(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "x.json", replace=False)
    there, link = tmp_path / "x.json", tmp_path / "link.json"
    there.write_text("{}")
    link.symlink_to(tmp_path / "gone")
    for path in (there, link):
        check_writable(path)
        with pytest.raises(OutputError, match="there is one already: choose another name, or replace it with --force"):
            check_writable(path, replace=False)
    os.mkfifo(tmp_path / "pipe")
    for path in (Path(os.devnull), tmp_path / "pipe"):
        with pytest.raises(OutputError, match="that is no file but a device or a pipe"):
            check_writable(path)
    assert there.read_text() == "{}" and link.is_symlink()


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_private_nobody_else_reads(tmp_path: Path, no_umask: None) -> None:
    path = tmp_path / "x.json"
    write_json(path, 1)
    assert path.stat().st_mode & 0o777 == 0o666
    write_json(path, 2, private=True)
    assert path.stat().st_mode & 0o777 == 0o600 and read_json(path) == 2


def test_a_folder_becomes_private(tmp_path: Path, no_umask: None) -> None:
    folder = tmp_path / "data" / "sessions"
    private_folder(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    folder.parent.chmod(0o755)  # that one may hold what is for everybody
    private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.parent.stat().st_mode & 0o777 == 0o755


def test_a_home_that_cannot_be_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "occupied"
    folder.write_text("a file where the folder would be")
    for name in ("a.json", "b.json", "c.json"):
        assert read_json(folder / name) is None
        try_write_json(folder / name, [1])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{folder / 'a.json'} cannot be read (Not a directory): measurements are not kept for the next start"
    ]
