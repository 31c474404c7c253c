"""Where other tools keep a model's file: their variables, their layouts, and whose word counts for what it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgespec.hub.catalogue import Entry
from edgespec.hub.external_caches import LocalFile, external_files, hugging_face_home, is_whole

FILE, DATA = "tiny.gguf", b"abc"
SHA256 = "ab" * 32
KNOWN = Entry("tiny", FILE, "MIT", repository="org/tiny-GGUF", sha256=SHA256, size=len(DATA))
UNTRIED = Entry("untried", FILE, "MIT", repository="org/tiny-GGUF")
_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LLAMA_CACHE", "OLLAMA_MODELS", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def _put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _snapshot(hub: Path, commit: str = "c0", age: int = 0) -> Path:
    path = _put(hub / "models--org--tiny-GGUF" / "snapshots" / commit / FILE)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_nothing_is_found_where_nothing_is() -> None:
    assert list(external_files(KNOWN)) == []


def test_a_packaged_model_is_not_looked_for(tmp_path: Path) -> None:
    _snapshot(tmp_path / ".cache" / "huggingface" / "hub")
    assert list(external_files(Entry("tiny", FILE, "MIT", package="p", module="m"))) == []


@pytest.mark.parametrize(
    ("variable", "value", "hub"),
    [
        ("HF_HUB_CACHE", "{home}/mine", "mine"),
        ("HUGGINGFACE_HUB_CACHE", "{home}/mine", "mine"),
        ("HF_HUB_CACHE", "~/mine", "mine"),
        ("HF_HUB_CACHE", "$HOME/mine", "mine"),
        ("HF_HOME", "{home}/mine", "mine/hub"),
        ("XDG_CACHE_HOME", "{home}/mine", "mine/huggingface/hub"),
        ("HF_HOME", "", ".cache/huggingface/hub"),
    ],
)
def test_the_hugging_face_cache_is_where_its_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hub: str
) -> None:
    monkeypatch.setenv(variable, value.format(home=tmp_path))
    path = _snapshot(tmp_path / hub)
    assert list(external_files(KNOWN)) == [LocalFile(path, "Hugging Face cache", SHA256)]


def test_the_newest_snapshot_comes_first(tmp_path: Path) -> None:
    hub = hugging_face_home() / "hub"
    paths = [_snapshot(hub, commit, age) for commit, age in (("b", 5), ("a", 1), ("c", 9))]
    assert [found.path for found in external_files(UNTRIED)] == [paths[1], paths[0], paths[2]]


def test_where_we_know_no_sha256_the_blobs_name_is_one(tmp_path: Path) -> None:
    hub = hugging_face_home() / "hub" / "models--org--tiny-GGUF"
    for commit, blob in (("a", "cd" * 32), ("b", "0123456789abcdef0123456789abcdef01234567")):
        _put(hub / "blobs" / blob)
        link = hub / "snapshots" / commit / FILE
        link.parent.mkdir(parents=True)
        link.symlink_to(hub / "blobs" / blob)
    assert {found.sha256 for found in external_files(UNTRIED)} == {"cd" * 32, None}, "a git blob's is no sha256"
    assert {found.sha256 for found in external_files(KNOWN)} == {SHA256}, "ours counts more"


def test_a_link_to_nothing_is_passed_by(tmp_path: Path) -> None:
    link = hugging_face_home() / "hub" / "models--org--tiny-GGUF" / "snapshots" / "a" / FILE
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    assert list(external_files(UNTRIED)) == []


@pytest.mark.parametrize("named", [True, False])
def test_llama_cpps_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    if named:
        monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "named"))
    path = _put(tmp_path / ("named" if named else ".cache/llama.cpp") / f"org_tiny-GGUF_{FILE}")
    assert list(external_files(KNOWN)) == [LocalFile(path, "llama.cpp", SHA256)]


def test_llama_cpps_cache_on_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    path = _put(tmp_path / "Library" / "Caches" / "llama.cpp" / f"org_tiny-GGUF_{FILE}")
    assert [found.path for found in external_files(KNOWN)] == [path]


@pytest.mark.parametrize("folder", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studio_has_others_conversions_which_count_where_a_sha256_decides(tmp_path: Path, folder: str) -> None:
    other = _put(tmp_path / folder / "someone" / "else-GGUF" / FILE)
    mine = _put(tmp_path / folder / "org" / "tiny-GGUF" / FILE)
    assert [found.path for found in external_files(KNOWN)] == [mine, other]
    assert [found.path for found in external_files(UNTRIED)] == [mine]


@pytest.mark.parametrize("named", [True, False])
def test_ollama_names_its_blobs_by_their_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    if named:
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "named"))
    path = _put(tmp_path / ("named" if named else ".ollama/models") / "blobs" / f"sha256-{SHA256}")
    assert list(external_files(KNOWN)) == [LocalFile(path, "Ollama", SHA256)]
    assert list(external_files(UNTRIED)) == []


def test_a_file_of_another_size_is_another_file(tmp_path: Path) -> None:
    path = _snapshot(hugging_face_home() / "hub")
    path.write_bytes(DATA + b"x")
    assert list(external_files(KNOWN)) == []
    assert [found.path for found in external_files(UNTRIED)] == [path], "whose size nobody knows"


@pytest.mark.parametrize("file", ["[ab].gguf", "a*.gguf", "a?.gguf"])
def test_names_are_no_patterns(tmp_path: Path, file: str) -> None:
    """No entry has such a name; were one to come, it must not match others' files."""
    entry = Entry("tiny", FILE, "MIT", repository="org/tiny-GGUF", sha256=SHA256, size=len(DATA))
    object.__setattr__(entry, "file", file)
    for name in ("a.gguf", "ab.gguf"):
        _put(hugging_face_home() / "hub" / "models--org--tiny-GGUF" / "snapshots" / "c" / name)
        _put(tmp_path / ".lmstudio" / "models" / "x" / "y" / name)
    assert list(external_files(entry)) == []


def test_whole_is_a_file_of_the_right_size(tmp_path: Path) -> None:
    path = _put(tmp_path / "a")
    assert is_whole(path, 3)
    assert is_whole(path, None)
    assert not is_whole(path, 2)
    assert not is_whole(tmp_path, None)
    assert not is_whole(tmp_path / "b", None)
    assert not is_whole(Path("x" * 5000), None)
