"""What DRAFTER names, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import Drafter
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.errors import UnknownDrafter


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("none", ()),
        ("anpd", ("anpd",)),
        ("suffix+anpd", ("suffix", "anpd")),
        ("anpd+anpd", ("anpd",)),
        ("suffix+auto", ("suffix",)),
        ("small.gguf+suffix", ("small.gguf", "suffix")),
    ],
)
def test_names(names: str, found: tuple[str, ...]) -> None:
    assert names_of(names) == found


def test_auto_is_what_there_is_without_a_model() -> None:
    assert names_of("auto")
    assert set(names_of("auto")) <= set(KNOWN)


def test_a_file_may_have_a_plus_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b.gguf").write_bytes(b"")
    (tmp_path / "a+b.gguf+c").write_bytes(b"")
    assert names_of("suffix+a+b.gguf+anpd") == ("suffix", "a+b.gguf", "anpd")
    assert names_of("a+b.gguf+c") == ("a+b.gguf+c",), "the longest name that is a file"
    assert names_of("a+c.gguf") == ("a", "c.gguf"), "no such file"


@given(st.lists(st.sampled_from([*KNOWN, "x.gguf", "y"]), min_size=1, max_size=6))
def test_each_name_comes_once_in_the_order_given(names: list[str]) -> None:
    assert names_of("+".join(names)) == tuple(dict.fromkeys(names))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_each_known_drafter_drafts_under_its_name(name: str) -> None:
    drafter = make_drafter(name)
    assert isinstance(drafter, Drafter)
    assert drafter.name == name
    assert len(drafter.propose([1, 2, 3, 1, 2], 0)) == 0
    assert make_drafter(name) is not drafter, "each has its own memory"


@pytest.mark.parametrize("name", ["", "none", "auto", "Suffix", "ngram", "suffix+anpd"])
def test_what_no_drafter_is_called_is_told_with_those_there_are(name: str) -> None:
    with pytest.raises(UnknownDrafter, match="choose auto, none, anpd, suffix") as refused:
        make_drafter(name)
    assert repr(name) in str(refused.value)
