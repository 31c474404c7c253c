"""Paths as they are typed, and as terminals paste a dropped file."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.cli.chat.typed_paths import typed_path, unquoted
from edgespec.errors import InvalidRequest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a backslash is part of a path there")


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("/tmp/my dir/notes.txt", "/tmp/my dir/notes.txt"),
        ('"/tmp/my dir/notes.txt"', "/tmp/my dir/notes.txt"),
        ("'/tmp/my dir/notes.txt' ", "/tmp/my dir/notes.txt"),
        (r"/tmp/my\ dir/notes.txt", "/tmp/my dir/notes.txt"),
        ("'/tmp/it'\\''s.txt'", "/tmp/it's.txt"),
        ("file:///tmp/my%20dir/notes.txt", "/tmp/my dir/notes.txt"),
        ("FILE://localhost/tmp/a.txt", "/tmp/a.txt"),
        ("x y.json", "x y.json"),
        ('"x y.json"', "x y.json"),
        ("it's mine.json", "it's mine.json"),
        ('"unfinished.json', '"unfinished.json'),
    ],
)
def test_a_path_is_the_files(typed: str, path: str) -> None:
    assert typed_path(typed) == Path(path)


@given(st.text(st.characters(exclude_characters="\x00\n\r", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_name_that_a_shell_would_quote_or_an_address_escapes_is_found(name: str) -> None:
    path = Path("/nowhere") / name
    assert unquoted(shlex.quote(str(path))) == str(path)
    assert unquoted(path.as_uri()) == str(path)


def test_a_file_of_that_very_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / '"quoted"').write_text("")
    assert unquoted('"quoted"') == '"quoted"'


def test_the_home_is_found_in_quotes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed_path('"~/x y.json"') == tmp_path / "x y.json"


def test_a_file_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="file of another machine"):
        unquoted("file://server/share/notes.txt")
