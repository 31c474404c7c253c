"""What a chat's sampling parameters are: the user's, else the file's, else the catalogue's, else edgespec's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.engine.sampling_defaults import GUARD, MODERATE
from edgespec.errors import InvalidRequest
from edgespec.hub.catalogue import entries, entry_of_file
from tests.gguf_files import tiny_model

Loaded = Callable[..., Engine]


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    """Loads a tiny model of that file name, whose file recommends what is given."""
    engines: list[Engine] = []

    def loaded(name: str = "own.gguf", **recommended: Any) -> Engine:
        metadata = {f"general.sampling.{key}": value for key, value in recommended.items()}
        path = tiny_model(tmp_path / name, metadata=metadata)
        engines.append(edgespec.load(path, n_ctx=64, threads=1, drafter="none", cache_dir=tmp_path / "cache"))
        return engines[-1]

    yield loaded
    for engine in engines:
        engine.close()


def test_of_an_unknown_model_a_moderate_temperature_and_the_guard(loaded: Loaded) -> None:
    engine = loaded()
    assert engine.chat_sampling(seed=1) == SamplingParams(**MODERATE, **GUARD, seed=1)
    assert engine.sampling_defaults.describe({}) == "temperature 0.7, min-p 0.05 (edgespec's), repetition guard"


def test_what_the_file_says(loaded: Loaded) -> None:
    engine = loaded(temp=0.25, top_k=30, top_p=0.75, min_p=0.125, penalty_repeat=1.25, penalty_last_n=100)
    assert engine.chat_sampling(seed=1) == SamplingParams(
        temperature=0.25, top_k=30, top_p=0.75, min_p=0.125, repeat_penalty=1.25, penalty_last_n=100, seed=1
    )
    assert engine.sampling_defaults.describe({}) == (
        "temperature 0.25, top-k 30, top-p 0.75, min-p 0.125, repeat penalty 1.25 (the file's)"
    )


def test_the_file_comes_before_the_catalogue_which_fills_in(loaded: Loaded) -> None:
    engine = loaded("qwen2.5-coder-1.5b-instruct-q8_0.gguf", temp=0.5, penalty_repeat=1.0)
    assert engine.chat_sampling(seed=1) == SamplingParams(temperature=0.5, top_k=20, top_p=0.8, **GUARD, seed=1)
    assert engine.sampling_defaults.describe({}) == (
        "temperature 0.5, repeat penalty 1 (the file's), top-k 20, top-p 0.8 (recommended), repetition guard"
    )


def test_a_recommended_repetition_penalty_stands_in_for_the_guard(loaded: Loaded) -> None:
    sampling = loaded(entries()["smollm2-135m"].file).chat_sampling()
    assert (sampling.temperature, sampling.repeat_penalty, sampling.dry_multiplier) == (0.2, 1.1, 0.0)
    assert not sampling.penalty_prompt


@pytest.mark.parametrize(
    ("key", "value", "parameter", "taken"),
    [
        ("temp", -1.0, "temperature", 0.0),
        ("top_k", "-1", "top_k", 0),
        ("top_k", "40.0", "top_k", 40),
        ("top_p", 7.0, "top_p", None),
        ("min_p", float("nan"), "min_p", None),
        ("temp", "warm", "temperature", None),
        ("penalty_last_n", "-2", "penalty_last_n", None),
        ("penalty_repeat", 0.0, "repeat_penalty", None),
        ("penalty_last_n", "inf", "penalty_last_n", None),
    ],
)
def test_a_file_may_say_anything(
    loaded: Loaded, caplog: pytest.LogCaptureFixture, key: str, value: Any, parameter: str, taken: float | None
) -> None:
    """As llama.cpp takes it, or not at all, with a warning."""
    with caplog.at_level(logging.WARNING):
        engine = loaded(**{key: value})
    recommended = engine.sampling_defaults.recommended
    if taken is None:
        assert recommended.get(parameter, (None, "edgespec's"))[1] == "edgespec's"
        assert f"own.gguf: general.sampling.{key} is " in caplog.text
    else:
        assert recommended[parameter] == (taken, "the file's") and not caplog.records
    engine.chat_sampling()


@pytest.mark.parametrize(
    ("chosen", "expected", "words"),
    [
        ({"temperature": 0.0}, {"temperature": 0.0}, "temperature 0 (yours)"),
        (
            {"temperature": 1.5},
            {"temperature": 1.5, "top_k": 20, "top_p": 0.8, **GUARD},
            "temperature 1.5 (yours), top-k 20, top-p 0.8 (recommended), repetition guard",
        ),
        (
            {"repeat_penalty": 1.2},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repeat_penalty": 1.2},
            "temperature 0.7, top-k 20, top-p 0.8 (recommended), repeat penalty 1.2 (yours)",
        ),
        (
            {"dry_multiplier": 0.5},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "dry_multiplier": 0.5},
            "temperature 0.7, top-k 20, top-p 0.8 (recommended), DRY 0.5 (yours)",
        ),
        (
            {"dry_allowed_length": 9},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, **GUARD, "dry_allowed_length": 9},
            "temperature 0.7, top-k 20, top-p 0.8 (recommended), repetition guard",
        ),
    ],
)
def test_what_the_user_chooses_comes_first(
    loaded: Loaded, chosen: dict[str, Any], expected: dict[str, Any], words: str
) -> None:
    engine = loaded(entries()["qwen2.5-coder-1.5b"].file)
    assert engine.chat_sampling(seed=1, **chosen) == SamplingParams(**expected, seed=1)
    assert engine.sampling_defaults.describe(chosen) == words


def test_a_choice_out_of_range_is_refused(loaded: Loaded) -> None:
    with pytest.raises(InvalidRequest, match="top_p is 3"):
        loaded().chat_sampling(top_p=3)


def test_generate_stays_greedy(loaded: Loaded) -> None:
    engine = loaded()
    assert len({tuple(engine.generate("w300", raw=True, max_tokens=6).emitted) for _ in range(3)}) == 1


def test_each_recommendation_of_the_catalogue_is_sound_and_warm() -> None:
    for entry in entries().values():
        assert entry.sampling and SamplingParams(**dict(entry.sampling)).temperature > 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "alias"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("smollm2-135m-instruct-f16.gguf", "smollm2-135m"),
        ("Qwen--Qwen3-8B-GGUF--Qwen3-8B-IQ4_XS-00001-of-00002.gguf", "qwen3-8b"),
        ("Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf", "qwen2.5-coder-1.5b"),
        ("Qwen3-8B-Base-Q4_K_M.gguf", None),
        ("model.gguf", None),
    ],
)
def test_a_model_is_known_in_every_quantization(file: str, alias: str | None) -> None:
    entry = entry_of_file(Path("/anywhere") / file)
    assert (entry.alias if entry else None) == alias
