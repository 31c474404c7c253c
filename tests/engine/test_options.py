"""What an engine may be loaded with, and what it then takes of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.engine.options import DEFAULT_CONTEXT, EngineOptions, Resources
from edgespec.errors import InvalidRequest
from edgespec.system import cpu


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_out_of_range(threads: int) -> None:
    with pytest.raises(InvalidRequest, match=f"threads is {threads}: it must be a whole number from 1 to 1024"):
        EngineOptions(threads=threads)


@pytest.mark.parametrize("n_ctx", [0, 7, -8, (1 << 22) + 1])
def test_contexts_out_of_range(n_ctx: int) -> None:
    with pytest.raises(InvalidRequest, match=f"n_ctx is {n_ctx}: it must be a whole number from 8 to 4194304"):
        EngineOptions(n_ctx=n_ctx)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 1024}, {"n_ctx": 8}, {"n_ctx": 1 << 22}])
def test_the_limits_themselves_are_in_range(options: dict[str, int]) -> None:
    EngineOptions(**options)  # type: ignore[arg-type]


@given(st.integers(1, 1 << 20))
def test_a_context_is_as_long_as_the_model_was_trained_for_and_no_longer_than_most_need(n_ctx_train: int) -> None:
    found = Resources.of(EngineOptions(threads=1), n_ctx_train)
    assert found.n_ctx == min(n_ctx_train, DEFAULT_CONTEXT)


def test_who_asks_for_a_context_gets_it_whatever_the_model_was_trained_for() -> None:
    assert Resources.of(EngineOptions(n_ctx=16_384, threads=1), 2048).n_ctx == 16_384


def test_what_is_not_asked_for_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "default_threads", lambda: 5)
    assert Resources.of(EngineOptions(), 512) == Resources(512, 5, -1, cpu.cache_directory())


def test_what_is_asked_for_is_passed_on(tmp_path: Path) -> None:
    options = EngineOptions(n_ctx=64, threads=3, gpu_layers=7, cache_dir=tmp_path)
    assert Resources.of(options, 512) == Resources(64, 3, 7, tmp_path)
