"""Drafters in llama-cpp-python's `Llama`: the same text, with drafts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import Llama

import edgespec
from edgespec import SamplingParams
from edgespec.core import Draft, Evaluation, Verdict
from edgespec.errors import InvalidRequest, UnknownDrafter
from edgespec.integrations.llama_cpp import DraftModel
from tests.rounding import assert_same_answer


class Fixed:
    """Proposes one chain."""

    name = "fixed"

    def __init__(self, probabilities: Sequence[float]) -> None:
        self._probabilities = probabilities

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        chances = self._probabilities[:limit]
        return Draft.chain(list(range(len(chances))), chances, [0] * len(chances), "fixed")

    def observe(self, draft: Evaluation, verdict: Verdict) -> None:
        raise AssertionError("Llama does not tell")


@given(st.lists(st.floats(0.01, 1.0), max_size=12), st.integers(1, 9), st.floats(0, 1))
def test_a_draft_ends_where_it_becomes_doubtful(probabilities: list[float], most: int, confidence: float) -> None:
    drafted = DraftModel(Fixed(probabilities), max_tokens=most, confidence=confidence)(np.array([1, 2], np.intc))
    assert drafted.dtype == np.intc and len(drafted) <= most
    assert np.prod(probabilities[: len(drafted)]) >= confidence * 0.999999
    if len(drafted) < min(most, len(probabilities)):
        assert np.prod(probabilities[: len(drafted) + 1]) < confidence * 1.000001


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"drafter": "x"}, UnknownDrafter),
        ({"drafter": "none"}, UnknownDrafter),
        ({"drafter": "suffix+anpd"}, UnknownDrafter),
        ({"drafter": "recycle"}, UnknownDrafter),
        ({"max_tokens": 0}, InvalidRequest),
        ({"confidence": 2}, InvalidRequest),
    ],
)
def test_what_makes_no_sense(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        DraftModel(**arguments)


def test_only_what_can_be_chosen_is_named() -> None:
    assert [DraftModel(name).drafter.name for name in ("auto", "suffix", "anpd")] == ["suffix", "suffix", "anpd"]
    with pytest.raises(UnknownDrafter, match="for Llama: choose auto, anpd, suffix"):
        DraftModel("none")


def test_nothing_follows_nothing() -> None:
    assert len(DraftModel()(np.empty(0, np.intc))) == 0


@pytest.mark.model
def test_llama_says_the_same_with_drafts(smollm2: Path, tmp_path: Path) -> None:
    prompt = "Repeat after me: one two three four five six seven. one two three four five six seven. one two three"
    answers: list[list[int]] = []
    calls: list[int] = []

    class Counted(DraftModel):
        def __call__(self, input_ids: npt.NDArray[np.intc], /, **options: Any) -> npt.NDArray[np.intc]:
            calls.append(len(input_ids))
            return super().__call__(input_ids, **options)

    class Recorded(Llama):  # type: ignore[misc]  # llama-cpp-python has no types
        def generate(self, *arguments: Any, **options: Any) -> Iterator[int]:
            for token in super().generate(*arguments, **options):
                answers[-1].append(token)
                yield token

    for draft_model in (None, Counted()):
        llama = Recorded(
            str(smollm2), n_ctx=256, verbose=False, draft_model=draft_model, logits_all=draft_model is not None
        )
        answers.append([])
        text = llama.create_completion(prompt, max_tokens=24, temperature=0.0)["choices"][0]["text"]
        assert text.strip() and len(answers[-1]) == 24
        tokens = llama.tokenize(prompt.encode())
        llama.close()
    assert 0 < len(calls) < 24, "with accepted drafts there are fewer evaluations than tokens"
    plain, drafted = answers
    # without flash attention, as `Llama` has it: rounding depends on it
    with edgespec.load(smollm2, drafter="none", cache_dir=tmp_path, n_ctx=256, flash_attention="off") as engine:
        assert_same_answer(engine, tokens, plain, drafted, SamplingParams())


@pytest.mark.parametrize("drafter", ["x" * 5000, "a+" + "0" * 5000 + "+b", "nul\0+nul", [10**300, "a+b"]])
def test_a_name_that_no_file_can_have_is_no_drafter(drafter: Any) -> None:
    with pytest.raises(UnknownDrafter, match="no drafter"):
        DraftModel(drafter)
