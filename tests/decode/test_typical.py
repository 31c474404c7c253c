"""Typical acceptance: which draft tokens are taken, and that only who asks for it gets it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgespec
from edgespec import SamplingParams
from edgespec.backend import LlamaModel, LlamaSampler
from edgespec.core import Draft
from edgespec.decode.typical import DELTA, EPSILON, threshold, typical_choice
from edgespec.decode.verification import children
from edgespec.errors import InvalidRequest
from edgespec.testing import ScriptedDrafter
from tests.gguf_files import tiny_model


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=40))
def test_the_threshold_is_epsilon_or_what_the_entropy_leaves(masses: list[float]) -> None:
    probabilities = np.array(masses) / sum(masses)
    entropy = -sum(p * math.log(p) for p in probabilities)
    assert threshold(probabilities) == pytest.approx(min(EPSILON, DELTA * math.exp(-entropy)))
    assert probabilities.max() > threshold(probabilities)  # the likeliest token is always typical


def test_a_sure_target_takes_its_own_token_only_and_an_unsure_one_takes_more() -> None:
    sure = np.log(np.array([0.96, 0.02, 0.02]))
    assert typical_choice(sure, [1, 2]) is None
    assert typical_choice(sure, [2, 0]) == 0
    unsure = np.zeros(100)
    assert [typical_choice(unsure, [token]) for token in (3, 99)] == [3, 99]
    assert typical_choice(np.array([math.nan, 1.0]), [1]) is None
    assert typical_choice(np.array([math.inf, 1.0]), [1]) is None


def test_the_likeliest_of_the_drafted_tokens_is_taken() -> None:
    logits = np.log(np.array([0.1, 0.3, 0.2, 0.4]))
    assert typical_choice(logits, [0, 2, 1]) == 1


def test_children_are_those_of_each_node() -> None:
    draft = Draft((5, 6, 7), (-1, -1, 0), (1.0, 1.0, 1.0), ("a", "a", "a"), "x")
    assert children(draft) == {-1: [5, 6], 0: [7]}


@pytest.mark.parametrize("filters", [{}, {"min_p": 0.05}, {"top_k": 3}, {"repeat_penalty": 1.2}])
def test_a_token_that_a_filter_removes_is_not_taken(tmp_path: Path, filters: dict[str, float]) -> None:
    model = LlamaModel(tiny_model(tmp_path / "m.gguf"), gpu_layers=0)
    row = np.full(model.vocabulary.size, -20.0, np.float32)
    row[10:14] = 5.0, 4.9, 4.8, 4.0
    params = SamplingParams(temperature=1.0, seed=1, acceptance="typical", **filters)  # type: ignore[arg-type]
    assert LlamaSampler(model.vocabulary, params).choose(row, [12]) == 12
    third = LlamaSampler(model.vocabulary, params).choose(row, [13])
    assert third == (13 if "top_k" not in filters else LlamaSampler(model.vocabulary, params).choose(row))
    assert LlamaSampler(model.vocabulary, params).choose(row, [50]) in range(10, 14)  # far too unlikely: it is drawn
    model.close()


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"acceptance": "typical"}, "typical acceptance needs a temperature above 0"),
        ({"acceptance": "typical", "temperature": 0.7, "grammar": 'root ::= "a"'}, "exclude each other"),
        ({"acceptance": "lossy"}, "acceptance is 'lossy': it must be one of lossless, typical"),
    ],
)
def test_what_cannot_be_asked_for(params: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        SamplingParams(**params)  # type: ignore[arg-type]


def test_only_typical_acceptance_changes_the_text(tmp_path: Path) -> None:
    """A drafter that always says the same token: on a flat distribution, typical acceptance takes it."""
    always: list[int] = [40] * 4

    def guess(tokens: Sequence[int], limit: int) -> list[int]:
        return always[:limit]

    path = tiny_model(tmp_path / "m.gguf")
    texts = {}
    for acceptance in ("lossless", "typical"):
        for drafter in ("none", ScriptedDrafter(guess)):
            with edgespec.load(path, n_ctx=256, threads=1, cache_dir=tmp_path, drafter=drafter) as engine:
                sampling = SamplingParams(temperature=20.0, seed=5, acceptance=acceptance)
                session = engine.generate("some words", raw=True, max_tokens=60, sampling=sampling)
                assert session.lossy == (acceptance == "typical")
                texts[acceptance, drafter != "none"] = session.emitted
    assert texts["lossless", True] == texts["lossless", False] == texts["typical", False]
    assert texts["typical", True] != texts["typical", False]


def test_exact_mode_takes_no_typical_acceptance(tmp_path: Path) -> None:
    sampling = SamplingParams(temperature=1.0, acceptance="typical")
    with (
        edgespec.load(
            tiny_model(tmp_path / "m.gguf"), n_ctx=256, threads=1, cache_dir=tmp_path, drafter="none", exact=True
        ) as engine,
        pytest.raises(InvalidRequest, match="typical acceptance is lossy"),
    ):
        engine.generate("some words", raw=True, sampling=sampling)
