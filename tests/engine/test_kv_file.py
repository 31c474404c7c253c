"""A KV cache in a file: what comes back is what was written, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespec.engine.kv_file import DamagedKvFile, ForeignKvFile, read_head, read_kv, write_kv

ABOUT = {"model": "abc", "settings": "x"}
NOTES = st.dictionaries(st.text(max_size=5), st.integers(0, 99) | st.text(max_size=5), max_size=2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.lists(st.integers(0, 2**31 - 1), max_size=50), data=st.binary(max_size=300), note=NOTES)
def test_what_is_written_is_read(tmp_path: Path, tokens: list[int], data: bytes, note: dict[str, int | str]) -> None:
    write_kv(tmp_path / "a.kv", ABOUT, tokens, memoryview(data), note)
    assert read_kv(tmp_path / "a.kv", ABOUT) == (tokens, data)
    assert read_head(tmp_path / "a.kv") == (ABOUT, tokens, len(data), note)
    (path,) = tmp_path.iterdir()
    assert path.name == "a.kv" and path.stat().st_mode & 0o777 == 0o600


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.kv"
    write_kv(path, ABOUT, [1, 2, 3], b"keys and values", data.draw(NOTES))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["cut", "flip", "longer"]))
    if damage == "cut":
        path.write_bytes(whole[:place])
    elif damage == "flip":
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :])
    else:
        path.write_bytes(whole + b"x")
    with pytest.raises((DamagedKvFile, ForeignKvFile)):
        read_kv(path, ABOUT)


@pytest.mark.parametrize(
    ("about", "key"),
    [
        ({**ABOUT, "model": "other"}, "model: abc"),
        ({"model": "abc"}, "settings: x"),
        ({**ABOUT, "new": "y"}, "new: None"),
    ],
)
def test_what_something_else_made_is_refused(tmp_path: Path, about: dict[str, str], key: str) -> None:
    write_kv(tmp_path / "a.kv", ABOUT, [1], b"x")
    with pytest.raises(ForeignKvFile, match=key):
        read_kv(tmp_path / "a.kv", about)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_kv(tmp_path / "a.kv", ABOUT, [1], b"x")
    (tmp_path / "f").write_text("")
    with pytest.raises(OSError):
        write_kv(tmp_path / "f" / "a.kv", ABOUT, [2], b"y")
    with pytest.raises(FileNotFoundError):
        read_kv(tmp_path / "b.kv", ABOUT)
    assert read_kv(tmp_path / "a.kv", ABOUT) == ([1], b"x")
