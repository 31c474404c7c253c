"""The catalogue that ships, and entries that would be a danger."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.hub.catalogue import DEFAULT_ALIAS, Entry, entries, entry_of_repository, shipped_keep_lists
from edgespec.hub.resolve import is_alias, keep_list_path

SOUND: dict[str, Any] = {"alias": "a", "file": "a.gguf", "licence": "MIT", "repository": "org/name"}


def test_the_catalogue_that_ships_is_sound() -> None:
    found = entries()
    assert DEFAULT_ALIAS in found
    assert len({entry.stored_as for entry in found.values()}) == len(found), "two files of one name in our store"
    for alias, entry in found.items():
        assert alias == entry.alias
        assert "/" not in alias
        assert not alias.endswith(".gguf"), "it would be taken for a file"
        assert entry.licence
        assert entry.drafter is None or entry.drafter in found
        assert entry.kept is None or entry.kept in shipped_keep_lists()
        assert entry.tried == (entry.size is not None), "whoever takes the sha256 has the size too"
        assert entry.size is None or entry.size > 0
        assert entry.context is None or entry.context >= 512


def test_the_default_needs_no_network() -> None:
    assert entries()[DEFAULT_ALIAS].package is not None
    assert entries()[DEFAULT_ALIAS].source == f"package {entries()[DEFAULT_ALIAS].package}"


def test_lists_that_ship_are_found_by_name_or_as_files() -> None:
    for name, path in shipped_keep_lists().items():
        assert keep_list_path(name) == path
        assert keep_list_path(path) == path
        assert json.loads(path.read_text(encoding="utf-8"))["ids"]
    assert str(keep_list_path("nothing")) == "nothing", "whoever opens it says that it is not there"


@pytest.mark.parametrize(
    "file",
    ["", "a", "a.bin", "../a.gguf", "b/a.gguf", "/a.gguf", ".a.gguf", "-a.gguf", "a.gguf\n", "ä.gguf", "a b.gguf"],
)
def test_a_file_name_that_could_lead_elsewhere_is_refused(file: str) -> None:
    with pytest.raises(ValueError, match=r"is no plain name of a \.gguf file"):
        Entry(**{**SOUND, "file": file})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"repository": None}, "name a repository, or a package and its module"),
        ({"package": "p", "module": "m"}, "name a repository, or a package and its module"),
        ({"repository": None, "package": "p"}, "name a repository, or a package and its module"),
        ({"repository": None, "module": "m"}, "name a repository, or a package and its module"),
        ({"repository": "name"}, "is not ORGANISATION/NAME"),
        ({"repository": "a/b/c"}, "is not ORGANISATION/NAME"),
        ({"repository": "../b"}, "is not ORGANISATION/NAME"),
        ({"repository": "a/.."}, "is not ORGANISATION/NAME"),
        ({"repository": "a/b?c"}, "is not ORGANISATION/NAME"),
        ({"sha256": "abc"}, "is no sha256"),
        ({"sha256": "A" * 64}, "is no sha256"),
        ({"sha256": "a" * 65}, "is no sha256"),
    ],
)
def test_entries_that_cannot_be(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Entry(**{**SOUND, **changes})


def test_who_we_had_in_our_hands_is_tried() -> None:
    assert not Entry(**SOUND).tried
    assert Entry(**SOUND, sha256="0" * 64).tried
    assert Entry(**SOUND).source == "org/name"


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("org/name/file.gguf", "org/name", "file.gguf"),
        ("Org-1/Na.me_2/f-q4_k_m.v2.gguf", "Org-1/Na.me_2", "f-q4_k_m.v2.gguf"),
    ],
)
def test_a_model_of_a_repository(name: str, repository: str, file: str) -> None:
    entry = entry_of_repository(name)
    assert entry is not None
    assert (entry.alias, entry.repository, entry.file) == (name, repository, file)
    assert not entry.tried
    assert not is_alias(name)


@pytest.mark.parametrize(
    "name",
    ["", "file.gguf", "name/file.gguf", "org/name/file", "org/name/./file.gguf", "/org/name/file.gguf",
     "../name/file.gguf", "org/../file.gguf", "org/name/../file.gguf", "org/name/.gguf", "org//file.gguf",
     "örg/name/file.gguf", "org/name/file.gguf\n"],
)  # fmt: skip
def test_what_names_no_model_of_a_repository(name: str) -> None:
    assert entry_of_repository(name) is None


_PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@given(_PART, _PART, _PART)
def test_no_name_of_a_repository_leaves_the_store(organisation: str, name: str, stem: str) -> None:
    entry = entry_of_repository(f"{organisation}/{name}/{stem}.gguf")
    assert entry is not None
    assert "/" not in entry.stored_as
    assert not entry.stored_as.startswith(".")
    assert entry.stored_as == f"{organisation}--{name}--{stem}.gguf"
