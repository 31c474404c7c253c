"""A file is tried once, in a process that may die of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgespec.backend import load_check
from edgespec.backend.load_check import check_loads
from edgespec.errors import MalformedModel, ModelError, ModelNotFound, UnsupportedModel
from edgespec.gguf.validate import read_header
from tests.gguf_files import tiny_model
from tests.terminal import heeding_signals


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", n_vocab=12)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _loader(directory: Path, body: str = "") -> tuple[str, ...]:
    """A command that notes its path in `tried`, then runs `body`."""
    script = directory / "load.py"
    tried = directory / "tried"
    script.write_text(
        f"import os, signal, sys, time\nopen({str(tried)!r}, 'a').write(sys.argv[1] + '\\n')\n{textwrap.dedent(body)}"
    )
    return sys.executable, str(script)


def _tried(directory: Path) -> Sequence[str]:
    file = directory / "tried"
    return file.read_text().splitlines() if file.exists() else ()


def test_a_good_file_is_tried_once(tmp_path: Path, model: Path, cache: Path) -> None:
    load = _loader(tmp_path)
    assert check_loads(model, cache_dir=cache, load=load) == read_header(model)
    assert check_loads(model, cache_dir=cache, load=load) == read_header(model)
    assert _tried(tmp_path) == [str(model)]

    os.utime(model, ns=(0, 0))
    check_loads(model, cache_dir=cache, load=load)
    assert len(_tried(tmp_path)) == 1, "the same bytes are the same model"
    with model.open("ab") as file:
        file.write(b"more")
    check_loads(model, cache_dir=cache, load=load)
    assert len(_tried(tmp_path)) == 2


def test_another_llama_cpp_tries_again(
    tmp_path: Path, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = _loader(tmp_path)
    for build in ("0.3.36", "0.3.37", "0.3.36"):
        monkeypatch.setattr(load_check, "version", lambda _name, build=build: build)
        check_loads(model, cache_dir=cache, load=load)
    assert len(_tried(tmp_path)) == 2


def test_a_relative_path(tmp_path: Path, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_loads(Path(model.name), cache_dir=cache, load=_loader(tmp_path))
    assert _tried(tmp_path) == [str(model)]


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", MalformedModel, "llama.cpp does not survive it (signal 6, "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", MalformedModel, "(signal 11, "),
        ("os.kill(os.getpid(), signal.SIGKILL)", MalformedModel, "want of memory"),
        (
            "os.write(2, b'/build/a.cpp:7: GGML_ASSERT(n/2) failed\\n'); os.abort()",
            MalformedModel,
            ": a.cpp:7: GGML_ASSERT",
        ),
        ("os.write(2, b'first\\nlast \\x1b[31m\\xff\\n \\n'); sys.exit(9)", MalformedModel, "(exit status 9: last"),
        ("sys.exit(1)", MalformedModel, "(exit status 1)"),
        ("sys.exit('x' * 100_000)", MalformedModel, "exit status 1"),
        (
            "os.write(2, b'/m.gguf: no good; try another\\n'); sys.exit(3)",
            MalformedModel,
            "/m.gguf: no good; try another",
        ),
        ("os.write(2, b'/m.gguf: too new\\n'); sys.exit(4)", UnsupportedModel, "/m.gguf: too new"),
    ],
)
def test_a_bad_file_is_refused_and_not_remembered(
    tmp_path: Path, model: Path, cache: Path, body: str, error: type[ModelError], reason: str
) -> None:
    load = _loader(tmp_path, body)
    for attempt in (1, 2):
        with pytest.raises(ModelError) as caught:
            check_loads(model, cache_dir=cache, load=load)
        assert type(caught.value) is error
        assert reason in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
        assert len(_tried(tmp_path)) == attempt
    assert not cache.exists()


def test_the_header_comes_first(tmp_path: Path, model: Path, cache: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(MalformedModel, match="incomplete"):
        check_loads(model, cache_dir=cache, load=_loader(tmp_path))
    with pytest.raises(ModelNotFound):
        check_loads(tmp_path / "missing", cache_dir=cache, load=_loader(tmp_path))
    assert not _tried(tmp_path)


def test_no_process_can_be_started(tmp_path: Path, model: Path, cache: Path) -> None:
    with pytest.raises(ModelError, match="no process can be started"):
        check_loads(model, cache_dir=cache, load=(str(tmp_path / "missing"),))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null"])
def test_a_corrupt_store_is_an_empty_one(tmp_path: Path, model: Path, cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "vetted.json").write_bytes(content)
    load = _loader(tmp_path)
    check_loads(model, cache_dir=cache, load=load)
    check_loads(model, cache_dir=cache, load=load)
    assert len(_tried(tmp_path)) == 1


def test_the_store_keeps_the_newest(tmp_path: Path, model: Path, cache: Path) -> None:
    cache.mkdir()
    store = cache / "vetted.json"
    store.write_text(json.dumps({f"old {number}": "old.gguf" for number in range(300)}))
    check_loads(model, cache_dir=cache, load=_loader(tmp_path))
    kept = json.loads(store.read_text())
    assert len(kept) == 256
    assert next(iter(kept)) == "old 45"
    assert list(kept.values())[-1] == "tiny.gguf"
    assert list(cache.iterdir()) == [store]


def test_a_store_that_cannot_be_written_is_no_error(tmp_path: Path, model: Path) -> None:
    (tmp_path / "occupied").write_text("a file where the directory would be")
    load = _loader(tmp_path)
    for _ in range(2):
        assert check_loads(model, cache_dir=tmp_path / "occupied", load=load).n_vocab == 12
    assert len(_tried(tmp_path)) == 2


def test_an_interrupt_kills_the_child(tmp_path: Path, model: Path, cache: Path) -> None:
    load = _loader(
        tmp_path,
        f"""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        open({str(tmp_path / "pid.part")!r}, "w").write(str(os.getpid()))
        os.rename({str(tmp_path / "pid.part")!r}, {str(tmp_path / "pid")!r})
        time.sleep(60)
        """,
    )
    call = "from edgespec.backend.load_check import check_loads; from pathlib import Path; "
    call += f"check_loads(Path({str(model)!r}), "
    call += f"cache_dir=Path({str(cache)!r}), load={load!r})"
    with heeding_signals():
        parent = subprocess.Popen(
            [sys.executable, "-c", call], stderr=subprocess.PIPE, cwd=Path(load_check.__file__).parents[1]
        )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert b"KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not cache.exists()


def test_llama_cpp_loads_the_tiny_model(tmp_path: Path, cache: Path) -> None:
    assert check_loads(tiny_model(tmp_path / "tiny.gguf"), cache_dir=cache).n_vocab == 320
    assert list(json.loads((cache / "vetted.json").read_text()).values()) == ["tiny.gguf"]


def test_llama_cpp_dies_of_a_token_that_appears_twice(tmp_path: Path, cache: Path) -> None:
    tokens: dict[str, Any] = {"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "twice", "twice"]}
    model = tiny_model(tmp_path / "twice.gguf", n_vocab=5, metadata=tokens)
    with pytest.raises(MalformedModel, match=r"\(signal 6, .*: llama-vocab\.cpp:\d+: GGML_ASSERT"):
        check_loads(model, cache_dir=cache)


def test_llama_cpp_dies_of_a_text_with_a_byte_that_has_no_token(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(MalformedModel, match=r"\(signal 6, .*unordered_map::at"):
        check_loads(tiny_model(tmp_path / "bytes.gguf", n_vocab=258), cache_dir=cache)


def test_llama_cpp_loads_a_model_without_tokens(tmp_path: Path, cache: Path) -> None:
    values: dict[str, Any] = {"tokenizer.ggml.model": "no_vocab", "tokenizer.ggml.tokens": None, "llama.vocab_size": 5}
    assert check_loads(tiny_model(tmp_path / "trimmed.gguf", n_vocab=5, metadata=values), cache_dir=cache).n_vocab == 5


def test_llama_cpp_refuses_a_missing_tensor(tmp_path: Path, cache: Path) -> None:
    model = tiny_model(tmp_path / "wide.gguf", metadata={"llama.feed_forward_length": 96})
    with pytest.raises(MalformedModel, match=r"wide\.gguf: llama\.cpp refuses it: .*wrong shape"):
        check_loads(model, cache_dir=cache)


def test_llama_cpp_does_not_know_the_architecture(tmp_path: Path, cache: Path) -> None:
    values: dict[str, Any] = {
        "general.architecture": "nonesuch",
        "nonesuch.block_count": 2,
        "nonesuch.context_length": 8,
        "nonesuch.embedding_length": 32,
    }
    model = tiny_model(tmp_path / "new.gguf", metadata=values)
    with pytest.raises(UnsupportedModel, match="a newer llama-cpp-python may know it"):
        check_loads(model, cache_dir=cache)
