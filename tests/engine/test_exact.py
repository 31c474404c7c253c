"""Widths that are exact to the bit: found where they end, and kept to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgespec
from edgespec import SamplingParams
from edgespec.backend import LlamaContext
from edgespec.core import NOTHING, Context, Draft, Evaluation
from edgespec.drafters import make_drafter
from edgespec.engine.exact import DEPTHS, MAX_EXACT_ROWS, depths, exact_rows, probe_tokens
from edgespec.testing import FixedPolicy, TableModel
from tests.gguf_files import tiny_model


class Rounding(TableModel):
    """A model whose rows are a bit off in evaluations of more than `exact` rows, from `depth` tokens of context on.

    `lasting`: the error is only in what such an evaluation leaves in the KV cache.
    """

    def __init__(self, exact: int, depth: int = 0, lasting: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._exact, self._depth, self._lasting = exact, depth, lasting
        self._spoilt = 0

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        if self._spoilt > len(tokens):
            self._spoilt = 0
        evaluation = super().evaluate(tokens, draft)
        wide = len(draft) >= self._exact and len(tokens) > self._depth
        if (wide and not self._lasting) or self._spoilt:
            evaluation = replace(evaluation, rows=np.nextafter(evaluation.rows, np.float32(np.inf)))
        if wide and self._lasting:
            self._spoilt = len(tokens)
        return evaluation


@settings(max_examples=40)
@given(st.integers(1, MAX_EXACT_ROWS), st.sampled_from([0, 100, 500]), st.booleans())
def test_the_widest_exact_evaluation_is_found(exact: int, depth: int, lasting: bool) -> None:
    assert exact_rows(Rounding(exact, depth, lasting), probe_tokens(32)) == exact


class Crossing(TableModel):
    """A model whose rows are a bit off in evaluations that begin in one piece of 256 cells and end in the next."""

    def __init__(self, exact: int) -> None:
        super().__init__()
        self._exact = exact

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        evaluation = super().evaluate(tokens, draft)
        rows = evaluation.rows
        first, last = len(tokens) - 1, len(tokens) + len(draft) - 1
        crossing = len(draft) >= self._exact and first // 256 != last // 256
        return replace(evaluation, rows=np.nextafter(rows, np.float32(9))) if crossing else evaluation


@pytest.mark.parametrize("exact", [1, 2, 5, MAX_EXACT_ROWS])
def test_an_evaluation_across_the_border_of_two_pieces_is_compared_at_every_width(exact: int) -> None:
    assert exact_rows(Crossing(exact), probe_tokens(32)) == exact


@pytest.mark.parametrize(("exact", "evaluations"), [(1, 5), (MAX_EXACT_ROWS, 5 + 4 * (3 * MAX_EXACT_ROWS - 1))])
def test_the_wait_is_told_and_short_where_nothing_is_exact(exact: int, evaluations: int) -> None:
    progress = []
    exact_rows(Rounding(exact), probe_tokens(32), lambda *count: progress.append(count))
    *counted, end = progress
    assert counted == [(n + 1, end[1]) for n in range(evaluations)]
    assert end[0] == end[1] == 5 + 4 * (3 * MAX_EXACT_ROWS - 1)


def test_a_long_test_says_in_the_log_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespec.engine.profile_store._LOG_INTERVAL", -1.0)
    model = tiny_model(tmp_path / "tiny.gguf")
    with caplog.at_level(logging.INFO, "edgespec"):
        edgespec.load(model, drafter="suffix", exact=True, n_ctx=128, cache_dir=tmp_path).close()
    assert "edgespec doctor" in caplog.text and "evaluations are compared" in caplog.text
    assert "exact to the bit: found in" in caplog.text


@given(st.integers(1, 5000))
def test_depths_fit_the_context_and_reach_as_deep_as_it_does(n_ctx: int) -> None:
    found = depths(n_ctx)
    assert all(0 < depth < n_ctx - MAX_EXACT_ROWS for depth in found)
    assert max(found, default=0) == max(0, min(n_ctx - MAX_EXACT_ROWS - 1, DEPTHS[-1]))


def test_a_width_that_rounds_only_beyond_the_context_is_exact() -> None:
    assert exact_rows(Rounding(3, depth=DEPTHS[1] + 99, n_ctx=DEPTHS[1] + 50), probe_tokens(32)) == MAX_EXACT_ROWS
    assert exact_rows(Rounding(3, n_ctx=8), probe_tokens(32)) == MAX_EXACT_ROWS, (
        "nothing fits: nothing speaks against it"
    )


def assert_same_bits(context: LlamaContext, tokens: Sequence[int]) -> None:
    """Of the last tokens, evaluated together and one by one."""
    drafted = context.max_rows - 1
    certain = len(tokens) - drafted
    draft = Draft.chain(tokens[certain:], [1.0] * drafted, [0] * drafted, "test")
    together = context.evaluate(tokens[:certain], draft).rows.copy()
    for row in range(drafted + 1):
        assert np.array_equal(context.evaluate(tokens[: certain + row], NOTHING).rows[0], together[row])


@pytest.mark.model
def test_smollm2_drafts_to_the_bit_beyond_512_tokens_of_context(
    smollm2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = "Repeat every word of this list: " + " ".join(f"a {number} the {number}" for number in range(90))
    texts = {}
    with caplog.at_level(logging.INFO, "edgespec"):
        for drafter in ("none", "suffix"):
            with edgespec.load(smollm2, drafter=drafter, exact=True, n_ctx=1024, cache_dir=tmp_path) as engine:
                if drafter == "suffix":
                    rows = engine.context.max_rows
                    engine.policy = FixedPolicy(make_drafter("suffix"), MAX_EXACT_ROWS)
                session = engine.generate(prompt, sampling=SamplingParams(temperature=0.8, seed=3), max_tokens=60)
                texts[drafter] = session.emitted
                assert session.tally.prompt_tokens > 512
                if drafter == "suffix":
                    assert session.tally.drafted > 20 or rows < 3, "of two rows one is drafted"
                    assert_same_bits(engine.context, engine.tokenize(prompt)[:600])
    assert texts["suffix"] == texts["none"]
    assert caplog.text.count("finding out") == 1


@pytest.mark.model
def test_what_was_found_out_is_remembered(
    smollm2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for _ in range(2):
        with edgespec.load(smollm2, drafter="suffix", exact=True, n_ctx=128, cache_dir=tmp_path) as engine:
            found.append(engine.context.max_rows)
        monkeypatch.setattr("edgespec.engine.profile_store.exact_rows", None)
    assert found[0] == found[1]


@pytest.mark.model
def test_a_longer_context_is_not_taken_for_tested(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = []

    def two(context: Context, *_: object) -> int:
        tested.append(context.n_ctx)
        return 2

    monkeypatch.setattr("edgespec.engine.profile_store.exact_rows", two)
    for n_ctx in (256, 512, 300, 2048, 4096):
        edgespec.load(smollm2, drafter="suffix", exact=True, n_ctx=n_ctx, cache_dir=tmp_path).close()
    assert tested == [256, 512, 2048]


@pytest.mark.model
def test_where_no_width_is_exact_nothing_is_drafted(
    smollm2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgespec.engine.profile_store.exact_rows", lambda *_: 1)
    with edgespec.load(smollm2, drafter="suffix", exact=True, n_ctx=256, cache_dir=tmp_path) as engine:
        assert engine.drafters == () and engine.drafter_name == "none"
        assert engine.generate("Say a a a a a a.", max_tokens=8).tally.drafted == 0
    assert "decoding without drafts" in caplog.text
