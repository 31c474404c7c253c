"""A forked child lacks llama.cpp's threads: it is told so at once, and does not hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgespec
from edgespec.errors import InvalidRequest
from tests.gguf_files import tiny_model

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # Python 3.12 warns of what is tested here
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[edgespec.Engine]:
    with edgespec.load(tiny_model(tmp_path / "tiny.gguf"), threads=2, cache_dir=tmp_path) as engine:
        engine.generate("hello", raw=True, max_tokens=4)
        yield engine


def in_a_fork(action: Callable[[], object]) -> str:
    """What `action` raises in a forked child; "hangs" where it does not end within some seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            action()
        except InvalidRequest as error:
            text = str(error)
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.02)
    with os.fdopen(reading, encoding="utf-8") as file:
        return file.read()


REFUSAL = f"was forked from {os.getpid()} after that had started llama.cpp"


def test_an_answer_in_a_fork_is_refused_with_the_remedy(engine: edgespec.Engine) -> None:
    text = in_a_fork(lambda: engine.generate("hello", raw=True, max_tokens=4))
    assert REFUSAL in text
    assert '"spawn"' in text
    assert engine.generate("hello", raw=True, max_tokens=4).emitted, "the parent goes on"


def test_an_answer_in_progress_is_refused_too(engine: edgespec.Engine) -> None:
    session = engine.stream("hello", raw=True, max_tokens=8)
    session.step()
    assert REFUSAL in in_a_fork(session.step)


def test_another_load_in_a_fork_is_refused(engine: edgespec.Engine, tmp_path: Path) -> None:
    assert REFUSAL in in_a_fork(lambda: edgespec.load(engine.model.path, threads=2, cache_dir=tmp_path))


def test_a_fork_during_another_threads_forward_pass_does_not_wait_for_it(engine: edgespec.Engine) -> None:
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.lock:
            held.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert REFUSAL in in_a_fork(lambda: engine.generate("hello", raw=True))
    finally:
        ended.set()
        thread.join()


def test_an_engine_can_be_closed_in_a_fork(engine: edgespec.Engine) -> None:
    assert in_a_fork(engine.close) == "nothing"


def test_a_child_that_is_forked_before_loads_for_itself(tmp_path: Path) -> None:
    """edgespec was imported in the parent; nothing was loaded there."""
    path = tiny_model(tmp_path / "tiny.gguf")
    program = f"""
import os, sys
from pathlib import Path
import edgespec
edgespec.load
child = os.fork()
if child == 0:
    with edgespec.load({str(path)!r}, threads=2, cache_dir=Path({str(tmp_path)!r})) as engine:
        print(len(engine.generate("hello", raw=True, max_tokens=4).emitted), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.stdout.strip(), result.stderr) == ("4", "")
