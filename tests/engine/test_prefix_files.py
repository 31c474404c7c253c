"""Stored prefixes: what is found is what was written, the folder stays within its bound, damage is a miss."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgespec.core import common_prefix
from edgespec.engine import prefix_files
from edgespec.engine.prefix_files import SHORTEST, PrefixFolder, clear, default_limit, stored_prefixes, trim

ORIGIN = {"model": "abc", "settings": "x"}
LIMIT = 1 << 30
PROMPT = list(range(100))


def folder(root: Path, **origin: str) -> PrefixFolder:
    return PrefixFolder(root, {**ORIGIN, **origin}, "m.gguf")


def write(root: Path, tokens: list[int], data: bytes = b"state", *, limit: int = LIMIT, replaces: bool = True) -> None:
    folder(root).write(tokens, data, 0.01, replaces=replaces, limit=limit)


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.kv"))


def used(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(
        st.tuples(st.sampled_from([0, 5]), st.lists(st.integers(1, 2), max_size=6)).map(
            lambda drawn: [drawn[0]] * SHORTEST + drawn[1]
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_found_begins_like_the_prompt(tmp_path: Path, prompts: list[list[int]]) -> None:
    clear(tmp_path / "prefixes")
    stored = folder(tmp_path / "prefixes")
    *earlier, prompt = prompts
    for tokens in earlier:
        write(tmp_path / "prefixes", tokens, bytes(tokens))
    longest = max((common_prefix(tokens, prompt) for tokens in earlier), default=0)
    found = list(stored.find(prompt))
    assert max((shared for shared, _ in found), default=0) == (longest if longest >= SHORTEST else 0)
    for shared, prefix in found:
        assert prefix.tokens[:shared] == prompt[:shared]
        assert stored.read(prefix) == (prefix.tokens, bytes(prefix.tokens))
    assert not list(folder(tmp_path / "prefixes", model="other").find(prompt))


def test_a_miss_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, PROMPT)
    monkeypatch.setattr(prefix_files, "read_head", pytest.fail)
    assert not list(folder(tmp_path).find([7, *PROMPT]))
    assert not list(folder(tmp_path).find(PROMPT[: SHORTEST - 1]))


def test_only_the_owner_can_read_what_was_said(tmp_path: Path) -> None:
    root = tmp_path / "prefixes"
    root.mkdir(mode=0o755)
    write(root, PROMPT)
    (path,) = files(root)
    assert [each.stat().st_mode & 0o777 for each in (root, path.parent, path)] == [0o700, 0o700, 0o600]


def test_a_longer_prefix_replaces_what_it_begins_with(tmp_path: Path) -> None:
    write(tmp_path, PROMPT[:50])
    write(tmp_path, [*PROMPT[:50], 1])
    write(tmp_path, PROMPT)
    assert [prefix.tokens for prefix in stored_prefixes(tmp_path)] == [PROMPT, [*PROMPT[:50], 1]]
    write(tmp_path, PROMPT[:60], replaces=False)
    write(tmp_path, PROMPT[:70], replaces=False)
    assert len(files(tmp_path)) == 4


def test_those_used_longest_ago_go_first(tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path, [number, *PROMPT])
    by_number = {prefix.tokens[0]: prefix for prefix in stored_prefixes(tmp_path)}
    for age, number in enumerate((3, 0, 4, 2, 1)):
        used(by_number[number].path, 1000.0 - age)
    size = by_number[0].bytes
    folder(tmp_path).read(by_number[2])  # is used now
    trim(tmp_path, 3 * size)
    assert [prefix.tokens[0] for prefix in stored_prefixes(tmp_path)] == [2, 3, 0]
    write(tmp_path, [5, *PROMPT], limit=2 * size)
    assert {prefix.tokens[0] for prefix in stored_prefixes(tmp_path)} == {5, 2}


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    write(tmp_path, PROMPT)
    (path,) = files(tmp_path)
    old, new = path.with_name(f".0.{path.name}"), path.with_name(f".1.{path.name}")
    for each in (old, new):
        each.write_bytes(b"half")
    used(old, 1000.0)
    trim(tmp_path, LIMIT)
    assert not old.exists()
    assert new.exists()
    assert clear(tmp_path)[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"nothing of ours", b"edgespec kv 1\n\xff\xff\xff\xff{}"])
def test_a_damaged_file_is_a_miss(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, PROMPT)
    (path,) = files(tmp_path)
    path.write_bytes(damage)
    assert not list(folder(tmp_path).find(PROMPT))
    assert stored_prefixes(tmp_path) == []
    write(tmp_path, PROMPT)
    assert [shared for shared, _ in folder(tmp_path).find(PROMPT)] == [len(PROMPT)]


def test_damage_that_only_the_checksum_shows_is_removed(tmp_path: Path) -> None:
    write(tmp_path, PROMPT)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    ((_, stored),) = folder(tmp_path).find(PROMPT)
    assert folder(tmp_path).read(stored) is None
    assert not path.exists()
    assert folder(tmp_path).read(stored) is None, "another process may have removed it"


def test_strange_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, PROMPT)
    (path,) = files(tmp_path)
    (path.parent / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(path.parent)
    assert len(stored_prefixes(tmp_path)) == 1
    trim(tmp_path, 0)
    assert clear(tmp_path) == (0, 0)
    assert {each.name for each in tmp_path.iterdir()} == {"file", "link", path.parent.name}
    assert clear(tmp_path / "nowhere") == (0, 0)


def test_the_bound_is_a_share_of_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 20_000_000_000))
    assert default_limit(tmp_path / "not" / "there") == 2_000_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10**12))
    assert default_limit(tmp_path) == 4_000_000_000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_holds_nothing_false_is_found(tmp_path: Path, data: st.DataObject) -> None:
    clear(tmp_path)
    write(tmp_path, PROMPT, b"a state")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(data.draw(st.sampled_from([whole[:place] + damage + whole[place + len(damage) :], damage])))
    for _, stored in folder(tmp_path).find(PROMPT):
        assert folder(tmp_path).read(stored) in (None, (PROMPT, b"a state"))
    stored_prefixes(tmp_path)
    trim(tmp_path, 0)
    assert files(tmp_path) == []
