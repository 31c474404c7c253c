"""Drafters by their names: what is opened, what is refused, and what is freed when one of several cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgespec.drafters import make_drafter
from edgespec.engine import drafter_set
from edgespec.engine.drafter_set import (
    DrafterSet,
    OpenedDrafter,
    is_model,
    open_drafters,
    opened_text_drafter,
    validated_drafter,
)
from edgespec.engine.options import Resources
from edgespec.errors import ModelError, ModelNotFound, UnknownDrafter
from edgespec.testing import ScriptedDrafter


@dataclass
class _Profiles:
    """Tells how many rows are exact, and counts how often it was asked."""

    rows: int = 8
    asked: int = 0

    def exact_rows(self, context: object, n_vocab: int) -> int:
        self.asked += 1
        return self.rows


@dataclass
class _Target:
    """A target without weights."""

    can_rewind: bool = True
    can_branch: bool = True
    name: str = "target"
    n_embd: int = 64
    vocabulary: Any = field(default_factory=lambda: SimpleNamespace(size=32))


def _resources(folder: Path) -> Resources:
    return Resources(64, 1, 0, folder)


def _set(
    folder: Path, target: _Target | None = None, profiles: _Profiles | None = None, *, exact: bool = False
) -> tuple[DrafterSet, Any]:
    context = SimpleNamespace(max_rows=64, collect_hidden=lambda states: None)
    return (
        DrafterSet(
            cast(Any, target or _Target()), cast(Any, context), cast(Any, profiles or _Profiles()),
            _resources(folder), exact=exact,
        ),
        context,
    )  # fmt: skip


def _names(opened: Iterable[OpenedDrafter]) -> list[str]:
    return [one.name for one in opened]


def test_drafters_are_opened_in_the_order_of_their_names(tmp_path: Path) -> None:
    drafters, name = _set(tmp_path)[0].open("suffix+anpd")
    assert (_names(drafters), name) == (["suffix", "anpd"], "suffix+anpd")
    assert _set(tmp_path)[0].open("none") == ((), "none")


def test_a_drafter_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    mine = ScriptedDrafter(lambda tokens, limit: (), name="mine")
    (opened,), name = _set(tmp_path)[0].open(mine)
    assert (opened.drafter, opened.fresh(), name) == (mine, mine, "mine")
    opened.teach([1, 2])
    opened.save()
    opened.close()
    assert (opened.passes(), opened.prefill_seconds(0.1), opened.share, opened.context) == (0, 0.0, None, None)


def test_those_before_keep_what_they_learned_first(tmp_path: Path) -> None:
    events: list[str] = []
    before = OpenedDrafter(
        ScriptedDrafter(lambda tokens, limit: ()), cast(Any, None), save=lambda: events.append("saved")
    )
    _set(tmp_path)[0].open("suffix", [before, before])
    assert events == ["saved", "saved"]


def test_a_target_that_cannot_take_tokens_back_gets_no_drafter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = _set(tmp_path, _Target(can_rewind=False))[0]
    assert found.open("suffix") == ((), "none")
    assert found.open(ScriptedDrafter(lambda tokens, limit: ())) == ((), "none")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "target: it cannot take tokens back" in caplog.text
    caplog.clear()
    assert found.open("none") == ((), "none")
    assert not caplog.records, "who wants none misses none"


def test_a_target_without_trees_says_so_to_who_wants_to_know(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="edgespec"):
        _set(tmp_path, _Target(can_branch=False))[0].open("none")
        _set(tmp_path, _Target(can_branch=False), exact=True)[0].open("suffix")
        assert not caplog.records
        assert _set(tmp_path, _Target(can_branch=False))[0].open("suffix")[1] == "suffix"
    assert "target: drafts are chains: no trees with a sliding window" in caplog.text


def test_with_exact_the_context_evaluates_no_more_rows_than_are_exact(tmp_path: Path) -> None:
    profiles = _Profiles(rows=5)
    found, context = _set(tmp_path, profiles=profiles, exact=True)
    assert found.open("none").name == "none"
    assert profiles.asked == 0, "nothing is tested where nothing is drafted"
    assert _names(found.open("suffix").drafters) == ["suffix"]
    assert context.max_rows == 5
    found.open("anpd")
    assert profiles.asked == 1, "it is a matter of minutes"


def test_with_exact_nothing_drafts_where_one_row_alone_is_exact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found, context = _set(tmp_path, profiles=_Profiles(rows=1), exact=True)
    assert found.open("suffix") == ((), "none")
    assert context.max_rows == 1
    assert "no evaluation of several tokens is bit-exact here, so leave --exact out" in caplog.text


@pytest.mark.parametrize("drafter", [None, 3, object(), ["suffix"]])
def test_what_is_no_drafter_is_told(drafter: object) -> None:
    with pytest.raises(UnknownDrafter, match=r"is not a drafter: give a name, a .gguf file or an object"):
        validated_drafter(drafter)


def test_a_drafter_as_it_may_be_given(tmp_path: Path) -> None:
    mine = ScriptedDrafter(lambda tokens, limit: ())
    assert validated_drafter(mine) is mine
    assert validated_drafter("suffix+anpd") == "suffix+anpd"
    assert validated_drafter(tmp_path / "small.gguf") == str(tmp_path / "small.gguf"), (
        "whether it is there is seen later"
    )
    with pytest.raises(UnknownDrafter, match="'sufix'"):
        validated_drafter("sufix")
    with pytest.raises(UnknownDrafter, match="'nothing'"):
        validated_drafter("suffix+nothing")


def test_what_names_a_model(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    assert is_model("anything.gguf")
    assert is_model("smollm2-135m")
    assert is_model(str(tmp_path / "plain"))
    assert not is_model(str(tmp_path)), "a folder is none"
    assert not is_model("suffix")
    assert not is_model("nothing")


def test_a_file_called_like_a_drafter_is_not_in_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("suffix").write_bytes(b"")
    assert not is_model("suffix")


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "small.gguf").write_bytes(b"")
    names = [str(tmp_path / folder / "small.gguf") for folder in ("a", "b")]
    with pytest.raises(UnknownDrafter, match="two drafters are called small"):
        open_drafters(names, cast(Any, _Target()), _resources(tmp_path))


def test_those_already_open_are_freed_when_another_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def opened(path: Path, target: object, resources: object, header: object = None) -> Any:
        if path.stem == "bad":
            raise ModelError("bad")
        return path.stem

    def opened_model_drafter(stem: str) -> OpenedDrafter:
        return OpenedDrafter(
            ScriptedDrafter(lambda tokens, limit: (), stem), cast(Any, None), close=lambda: closed.append(stem)
        )

    monkeypatch.setattr(drafter_set, "open_drafter", opened)
    monkeypatch.setattr(drafter_set, "opened_model_drafter", opened_model_drafter)
    with pytest.raises(ModelError, match="bad"):
        open_drafters(["good.gguf", "suffix", "bad.gguf"], cast(Any, _Target()), _resources(tmp_path))
    assert closed == ["good"]
    closed.clear()
    assert len(open_drafters(["good.gguf", "suffix"], cast(Any, _Target()), _resources(tmp_path))) == 2
    assert closed == [], "what all went well with stays open"


def test_a_model_that_is_not_there_is_found_out_before_any_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(drafter_set, "open_drafter", never)
    with pytest.raises(ModelNotFound):
        open_drafters(["there.gguf", "no-org/no-model/file.gguf"], cast(Any, _Target()), _resources(tmp_path))


def _draft(drafter: Any, tokens: Sequence[int]) -> tuple[int, ...]:
    return tuple(drafter.propose(tokens, 4).tokens)


@pytest.mark.parametrize("name", ["suffix", "anpd"])
def test_what_is_taught_is_drafted_and_one_begun_anew_knows_nothing(name: str) -> None:
    opened = opened_text_drafter(make_drafter(name))
    text = list(range(10, 40))
    opened.teach(text)
    fresh = opened.fresh()
    assert type(fresh) is type(opened.drafter)
    assert _draft(fresh, [1, 2, *text[3:9]]) == ()
    if name == "suffix":
        assert _draft(opened.drafter, [1, 2, *text[3:9]])[:1] == (text[9],)
