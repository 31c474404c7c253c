"""The fakes keep the protocols that they stand for, so that what passes with them means something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import (
    MAX_ROWS,
    NO_NOISE,
    NOTHING,
    AnswerPolicy,
    Context,
    CostedDrafter,
    Draft,
    Drafter,
    Policy,
    Sampler,
    SharedNoise,
    Verdict,
    Vocabulary,
)
from edgespec.errors import ContextOverflow, InvalidRequest
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel, without_rows

_TOKENS = st.lists(st.integers(0, 31), min_size=1, max_size=20)


def _chain(tokens: Sequence[int]) -> Draft:
    return Draft.chain(tokens, [1.0] * len(tokens), [0] * len(tokens), "test")


def test_each_fake_is_what_it_stands_for() -> None:
    """mypy checks the assignments; those protocols that can be checked are."""
    model = TableModel()
    context: Context = model
    vocabulary: Vocabulary = model
    sampler: Sampler = KeyedSampler()
    drafter: Drafter = ScriptedDrafter(lambda tokens, limit: ())
    policy: Policy = FixedPolicy(drafter, 3)
    answer: AnswerPolicy = policy.begin()
    assert isinstance(drafter, Drafter)
    assert not isinstance(drafter, CostedDrafter)
    assert (context.max_rows, vocabulary.is_end(0), sampler.noise) == (MAX_ROWS, True, NO_NOISE)
    assert answer.plan([1], 0).draft is NOTHING


@settings(max_examples=50)
@given(_TOKENS, st.lists(st.integers(0, 31), max_size=6), st.integers(0, 3))
def test_rows_depend_on_the_last_tokens_alone_whatever_was_evaluated_before(
    tokens: list[int], drafted: list[int], seed: int
) -> None:
    used, fresh = TableModel(seed=seed), TableModel(seed=seed)
    used.evaluate([7, 8, 9], _chain([1, 2]))
    rows = used.evaluate(tokens, _chain(drafted)).rows
    assert rows.shape == (1 + len(drafted), 32)
    for place, row in enumerate(rows):
        alone = fresh.prefill([*tokens, *drafted[:place]])
        assert alone is not None
        assert np.array_equal(row, alone)


@given(_TOKENS, _TOKENS)
def test_the_cache_holds_what_was_evaluated_last(before: list[int], after: list[int]) -> None:
    model = TableModel()
    model.prefill(before)
    shared = next((n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    assert model.cached(after) == (min(len(before), len(after)) if shared is None else shared)
    model.evaluate(after, _chain([3, 4]))
    assert model.cached([*after, 3, 4, 5]) == len(after) + 2
    model.rewind(len(after))
    assert model.cached([*after, 3, 4, 5]) == len(after)


def test_the_width_of_every_evaluation_is_known() -> None:
    model = TableModel()
    model.prefill([1, 2, 3])
    model.evaluate([1, 2, 3, 4], _chain([5, 6]))
    model.evaluate([1, 2, 3, 4, 5], _chain([]))
    model.evaluate([1, 2, 3, 4, 9], _chain([]))
    assert model.widths == [3, 3, 1, 1], "a row that is wanted is evaluated, held or not"


def test_a_prefill_that_is_not_to_go_on() -> None:
    model = TableModel()
    asked: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> bool:
        asked.append((done, total))
        return False

    assert model.prefill([1, 2, 3], stop) is None
    assert asked == [(0, 3)]
    assert model.cached([1, 2, 3]) == 0


def test_what_does_not_fit_and_what_is_no_chain() -> None:
    model = TableModel(n_ctx=3)
    model.evaluate([1, 2], _chain([3]))
    with pytest.raises(ContextOverflow, match="4 tokens do not fit into 3"):
        model.evaluate([1, 2], _chain([3, 4]))
    tree = Draft((2, 3), (-1, -1), (0.5, 0.5), (0, 0), "tree")
    with pytest.raises(ContextOverflow, match="4 tokens do not fit into 3"):
        model.evaluate([1, 2], tree)
    model.trees = False
    with pytest.raises(InvalidRequest, match="this fake was told to evaluate chains only"):
        model.evaluate([1], tree)


def test_of_a_tree_the_path_that_goes_on_stays() -> None:
    model = TableModel()
    tree = Draft((2, 3, 4, 5), (-1, -1, 1, 0), (0.5, 0.5, 1.0, 1.0), (0,) * 4, "tree")
    rows = model.evaluate([1, 9], tree).rows
    paths = [[], [2], [3], [3, 4], [2, 5]]
    assert all(np.array_equal(row, model.row([1, 9, *path])) for row, path in zip(rows, paths, strict=True))
    assert model.widths == [6]
    assert model.cached([1, 9, 3, 4, 8]) == 4
    assert model.cached([1, 9, 2]) == 2


def test_a_shift_moves_the_rest_up() -> None:
    model = TableModel()
    model.prefill([1, 2, 3, 4, 5])
    model.shift(1, 2)
    assert model.cached([1, 4, 5]) == 3
    with pytest.raises(InvalidRequest, match="cannot drop 3 tokens after 1: the cache holds 3"):
        model.shift(1, 3)


def test_every_token_but_the_end_has_a_text() -> None:
    model = TableModel(n_vocab=12, alphabet=b"xy")
    assert model.piece(0) == b""
    assert [model.piece(token) for token in (1, 2, 3)] == [b"y", b"x", b"y"]
    assert [token for token in range(12) if model.is_end(token)] == [0]


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.7, 3.0]), st.integers(0, 50))
def test_a_choice_depends_on_the_row_the_seed_and_the_position(seed: int, temperature: float, position: int) -> None:
    rows = [TableModel().row([n]) for n in range(4)]
    one, other = (KeyedSampler(seed, temperature, position) for _ in range(2))
    chosen = [one.choose(row) for row in rows]
    assert one.noise == SharedNoise(temperature, seed, position + 4)
    assert chosen == [other.choose(row) for row in rows]
    assert KeyedSampler(seed, temperature, position + 2).choose(rows[2]) == chosen[2]
    if temperature == 0.0:
        assert chosen == [int(row.argmax()) for row in rows]


def test_a_scripted_drafter_drafts_its_script_and_remembers() -> None:
    drafter = ScriptedDrafter(lambda tokens, limit: [tokens[-1]] * 9)
    draft = drafter.propose([1, 2], 3)
    assert (draft.tokens, draft.probabilities, draft.drafter) == ((2, 2, 2), (1.0, 1.0, 1.0), "scripted")
    assert draft.is_chain
    verdict = Verdict((0,), (2, 5))
    drafter.observe(without_rows([1, 2], draft), verdict)
    assert drafter.verdicts == [(draft, verdict)]


@pytest.mark.parametrize(("size", "room", "drafted"), [(3, 10, 3), (10, 3, 3), (0, 5, 0), (5, 0, 0), (100, 100, 63)])
def test_a_fixed_policy_drafts_as_much_as_it_may(size: int, room: int, drafted: int) -> None:
    drafter = ScriptedDrafter(lambda tokens, limit: [1] * 200)
    policy = FixedPolicy(drafter, size)
    plan = policy.begin().plan([1], room)
    assert len(plan.draft) == drafted
    policy.settle(plan, without_rows([1], plan.draft), Verdict((), (4,)), 0.1)
    policy.prefilled(without_rows([1]), Verdict((), (5,)), cached=0, seconds=0.1)
    assert [verdict.emitted for _, verdict in drafter.verdicts] == [(4,), (5,)]


def test_an_evaluation_without_rows() -> None:
    evaluation = without_rows([1, 2], _chain([3]))
    assert (evaluation.length, evaluation.draft.tokens, evaluation.rows.size) == (2, (3,), 0)
