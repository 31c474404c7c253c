"""What compares answers in the other tests: it lets a tie pass, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.core import NOTHING, Draft, Evaluation, Row
from edgespec.testing import KeyedSampler, TableModel
from tests.present import present
from tests.rounding import SamplerAfter, assert_same_answer, assert_same_choices, rounding

PROMPT = [1, 2, 3]
TIED = (5, 6)
"""Tokens whose logits are 1 apart, before all others."""


class Undecided(TableModel):
    """A model that is torn between two tokens; evaluations of several rows round the second one's logit up."""

    def __init__(self, noise: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._noise = noise

    def row(self, tokens: Sequence[int]) -> Row:
        row: Row = super().row(tokens).copy()
        row[list(TIED)] = 50.0, 49.0
        return row

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        evaluation = super().evaluate(tokens, draft)
        evaluation.rows[:, TIED[1]] += self._noise * (len(draft) > 0)
        return evaluation


def keyed(temperature: float = 0.0) -> SamplerAfter:
    return lambda tokens: KeyedSampler(7, temperature, len(tokens))


@pytest.mark.parametrize(("noise", "passes"), [(0.0, False), (0.4, False), (0.6, True)])
def test_a_parting_within_the_rounding_passes_and_no_other(noise: float, passes: bool) -> None:
    """Each of the two logits may be off by the noise: from half of the margin on, that explains it."""
    model, answers = Undecided(noise), ([5, 5, 5], [5, 6, 5])
    assert rounding(model, PROMPT).noise == pytest.approx(noise, abs=1e-5)
    if passes:
        assert_same_choices(model, PROMPT, *answers, keyed())
        assert_same_choices(model, PROMPT, *answers[::-1], keyed())
    else:
        with pytest.raises(AssertionError, match=r"after 1 equal tokens one answer says 5, the other 6: \+1.0000"):
            assert_same_choices(model, PROMPT, *answers, keyed())


@settings(max_examples=30)
@given(st.integers(0, 5), st.integers(0, 31), st.sampled_from([0.0, 0.8]))
def test_a_wrong_token_is_found_wherever_it_is(place: int, token: int, temperature: float) -> None:
    model, sampler = TableModel(seed=3), keyed(temperature)
    answer: list[int] = []
    for _ in range(6):
        answer.append(sampler([*PROMPT, *answer]).choose(model.evaluate([*PROMPT, *answer], NOTHING).rows[0]))
    other = [*answer[:place], token, *answer[place + 1 :]]
    if other == answer:
        assert_same_choices(model, PROMPT, answer, other, sampler)
    else:
        with pytest.raises(AssertionError, match=f"after {place} equal tokens"):
            assert_same_choices(model, PROMPT, answer, other, sampler)


def test_an_answer_that_only_ends_sooner_is_another_one() -> None:
    with pytest.raises(AssertionError, match="ends after 2 tokens"):
        assert_same_choices(TableModel(), PROMPT, [5, 5], [5, 5, 5], keyed())


@pytest.mark.model
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8, seed=11),
        SamplingParams(temperature=0.9, top_k=40, top_p=0.95, typical_p=0.98, repeat_penalty=1.1, seed=3),
    ],
    ids=["greedy", "seeded", "filtered"],
)
def test_a_wrong_text_of_a_real_model_is_found(smollm2: Path, tmp_path: Path, sampling: SamplingParams) -> None:
    with edgespec.load(smollm2, drafter="none", n_ctx=256, cache_dir=tmp_path) as engine:
        prompt, misread = (
            engine.tokenize(f"The capital of Spain is Madrid. The capital of {country} is")
            for country in ("France", "Italy")
        )
        answer, of_misread = (answered(engine, tokens, sampling) for tokens in (prompt, misread))
        assert_same_answer(engine, prompt, answer, list(answer), sampling)
        with pytest.raises(AssertionError, match="and rounding explains"):
            assert_same_answer(engine, prompt, answer, of_misread, sampling)
        for place in (0, 3, 7):
            row = present(engine.context.prefill([*prompt, *answer[:place]]))
            unlikely = int(np.argsort(row)[-500])
            with pytest.raises(AssertionError, match=f"after {place} equal tokens"):
                assert_same_answer(engine, prompt, answer, [*answer[:place], unlikely, *answer[place + 1 :]], sampling)


def answered(engine: Engine, tokens: Sequence[int], sampling: SamplingParams) -> list[int]:
    session = engine.session(list(tokens), sampling=sampling, max_tokens=8)
    for _ in session.stream():
        pass
    return session.emitted
