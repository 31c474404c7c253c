"""Heads as a drafter, on heads that know the table of the fake target: what they read, draft and cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import NOTHING, ROOT, Evaluation, Policy, Row, SharedNoise, TokenSequence, Verdict
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Session
from edgespec.decode.verification import verify
from edgespec.drafters.heads import HeadDrafter, Heads, States
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.tree import depths
from edgespec.testing import FixedPolicy, KeyedSampler, TableModel

N_VOCAB = 32


class Endless(TableModel):
    """A table model that never ends its answer, and has states."""

    def __init__(self) -> None:
        super().__init__(N_VOCAB, seed=1, states=True)

    def is_end(self, token: int) -> bool:
        return False


class TableHeads:
    """Heads that look the next rows up in the target's table, so that they are always right; `wrong` ones shift them.

    They see a state, which is the last tokens of the text, and the tokens drafted after it.
    """

    def __init__(
        self, model: TableModel, *, length: int = 4, window: int = 0, together: bool = False, kept: Any = None,
        wrong: int = 0,
    ) -> None:  # fmt: skip
        self.length, self.window, self.together = length, window, together
        self.seen: list[States] = []
        self.closed = False
        self._model, self._wrong = model, wrong
        self._kept = np.arange(N_VOCAB) if kept is None else kept
        self._read = (0, 0)  # generation, and states read of it
        self._text: list[int] = []

    def unread(self, states: States) -> int:
        if not self.window:
            return 0
        generation, read = self._read
        return len(states.rows) - 1 - (min(read, len(states.rows) - 1) if generation == states.generation else 0)

    def start(self, states: States, token: int) -> Row:
        self.seen.append(states)
        self._read = states.generation, len(states.rows) - 1
        self._text = [*states.rows[-1].astype(int).tolist(), token]
        return self._row()

    def extend(self, token: int) -> Row:
        self._text.append(token)
        return self._row()

    def close(self) -> None:
        self.closed = True

    def _row(self) -> Row:
        row: Row = np.roll(self._model.row(self._text), self._wrong)[self._kept]
        return row


def heads_of(model: TableModel, **options: Any) -> tuple[HeadDrafter, TableHeads]:
    kept = options.get("kept")
    heads = TableHeads(model, **options)
    ids = np.arange(N_VOCAB) if kept is None else kept
    return HeadDrafter("heads", heads, ids, step_seconds=0.001, read_seconds=0.0005), heads


def answer(
    policy: Policy, *, seed: int = 0, temperature: float = 0.0, prompt: Sequence[int] = (1, 2, 3), count: int = 60
) -> Session:
    target = Endless()
    sampler = KeyedSampler(seed, temperature, len(prompt))
    session = Session(target, target, sampler, policy, TokenSequence(prompt), GenerationOptions(max_tokens=count))
    for _ in session.stream():
        pass
    return session


def plain(**options: Any) -> list[int]:
    return answer(FixedPolicy(heads_of(TableModel(N_VOCAB, seed=1))[0], 0), **options).emitted


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
@pytest.mark.parametrize("window", [0, 3])
def test_heads_that_know_the_target_are_always_right(temperature: float, window: int) -> None:
    drafter, _ = heads_of(TableModel(N_VOCAB, seed=1), window=window)
    session = answer(FixedPolicy(drafter, 4), seed=3, temperature=temperature)
    assert session.tally.drafted == session.tally.accepted > 10
    assert session.emitted == plain(seed=3, temperature=temperature)


@settings(max_examples=60, deadline=None)
@given(
    wrong=st.integers(0, 3),
    together=st.booleans(),
    window=st.integers(0, 5),
    size=st.integers(1, 12),
    trees=st.booleans(),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 5),
    kept=st.sets(st.integers(0, N_VOCAB - 1), min_size=1),
)
def test_whatever_heads_draft_the_text_is_the_target_s(
    wrong: int, together: bool, window: int, size: int, trees: bool, temperature: float, seed: int, kept: set[int]
) -> None:
    options: dict[str, Any] = {"wrong": wrong, "together": together, "window": window, "kept": np.array(sorted(kept))}
    drafter, _ = heads_of(TableModel(N_VOCAB, seed=1), **options)
    session = answer(FixedPolicy(drafter, size, trees=trees), seed=seed, temperature=temperature)
    assert session.emitted == plain(seed=seed, temperature=temperature)


@settings(max_examples=40, deadline=None)
@given(together=st.booleans(), limit=st.integers(1, 20), length=st.integers(1, 6), noise=st.sampled_from([0.0, 1.0]))
def test_a_draft_is_a_tree_whose_trunk_is_the_likeliest_chain(
    together: bool, limit: int, length: int, noise: float
) -> None:
    model = TableModel(N_VOCAB, seed=1, states=True)
    drafter, heads = heads_of(model, together=together, length=length)
    tokens = TokenSequence([3, 4, 5])
    drafter.observe(Evaluation(tokens, 2, NOTHING, model.row([3, 4])[None], np.array([[3.0, 4.0]])), Verdict((), (5,)))
    draft = drafter.draft(tokens, limit, SharedNoise(noise, 1, 3), lambda probability, bucket: True)
    assert 0 < len(draft) <= limit
    assert all(parent < node for node, parent in enumerate(draft.parents))
    siblings = list(zip(draft.parents, draft.tokens, strict=True))
    assert len(set(siblings)) == len(siblings)
    assert len(draft.trunk) >= min(limit, length)
    assert max(depths(draft.parents)) <= length
    assert all(0 < probability <= 1 for probability in draft.probabilities)
    best = model.row([3, 4, 5]) if not noise else None
    assert best is None or draft.tokens[0] == int(best.argmax())
    if not together:  # a side branch has one token: the rows behind it are of another path
        assert all(parent == ROOT or parent < len(draft.trunk) for parent in draft.parents)
    assert heads.seen[0].tokens == [4]


def test_go_on_ends_a_chain_of_heads_one_after_the_other_and_none_of_heads_together() -> None:
    for together, expected in ((False, 2), (True, 4)):
        model = TableModel(N_VOCAB, seed=1, states=True)
        drafter, _ = heads_of(model, together=together)
        tokens = TokenSequence([3, 4, 5])
        states = np.array([[3.0, 4.0]], np.float32)
        drafter.observe(Evaluation(tokens, 2, NOTHING, model.row([3, 4])[None], states), Verdict((), (5,)))
        asked = iter([True, False])
        draft = drafter.draft(tokens, 4, SharedNoise(), lambda probability, bucket, asked=asked: next(asked))  # type: ignore[misc]
        assert len(draft.trunk) == expected
        assert drafter.steps == (1 if together else 2)


def test_nothing_is_drafted_without_the_state_of_the_token_before() -> None:
    drafter, heads = heads_of(TableModel(N_VOCAB, seed=1))
    tokens = TokenSequence([3, 4, 5])
    assert drafter.draft_cost(tokens, 0.1).first == math.inf
    assert drafter.propose(tokens, 4) is NOTHING
    hidden = np.array([[3.0, 4.0]], np.float32)
    drafter.observe(Evaluation(tokens, 2, NOTHING, np.zeros((1, N_VOCAB), np.float32), hidden), Verdict((), (5,)))
    assert drafter.draft_cost(tokens, 0.1).first < 1.0
    assert len(drafter.propose(tokens, 1)) == 1
    tokens.ids.append(6)  # a step that nobody observed
    assert drafter.propose(tokens, 4) is NOTHING and drafter.draft_cost(tokens, 0.1).first == math.inf
    tokens.cut(2)
    tokens.ids.append(7)  # the token after the state is another one: that is what is drafted after
    assert len(drafter.propose(tokens, 1)) == 1
    tokens.cut(1)
    tokens.ids.extend([9, 9])  # the token of the state is another one
    assert drafter.propose(tokens, 4) is NOTHING
    assert drafter.propose([3, 4, 5], 4) is NOTHING  # a plain list has no states
    assert len(heads.seen) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 4), st.integers(0, 6))
def test_the_states_are_those_of_the_last_tokens(accepted: list[int], window: int, prompt: int) -> None:
    model = TableModel(N_VOCAB, seed=1, states=True)
    drafter, _ = heads_of(model, window=window)
    tokens = TokenSequence([1, *range(2, 2 + prompt)])
    model.prefill(tokens)
    states = model.prompt_states
    assert states is not None
    evaluation = Evaluation(
        tokens, len(tokens), NOTHING, model.row(tokens.ids)[None], states[-1:], prefilled=states[:-1]
    )
    drafter.observe(evaluation, Verdict((), (int(evaluation.rows[0].argmax()),)))
    tokens.ids.append(int(evaluation.rows[0].argmax()))
    for count in accepted:
        draft = drafter.propose(tokens, count) if count else NOTHING
        assert len(draft) == count
        evaluation = model.evaluate(tokens, draft)
        nodes = tuple(range(count))
        emitted = (*draft.tokens, int(evaluation.rows[-1].argmax()))
        drafter.observe(evaluation, Verdict(nodes, emitted))
        tokens.ids.extend(emitted)
        kept = drafter._states[tokens]
        assert kept.end == len(tokens) - 1 and kept.tokens == tokens.ids[kept.first : kept.end]
        assert [int(row[-1]) for row in kept.rows] == kept.tokens
        assert min(len(tokens) - 1, 1 + window) <= len(kept.rows) <= 1 + 2 * window


def test_two_answers_in_turn_have_states_of_their_own() -> None:
    model = TableModel(N_VOCAB, seed=1)
    drafter, _ = heads_of(model, window=3)
    policy = FixedPolicy(drafter, 4)
    sessions = []
    for prompt in ([1, 2, 3], [4, 5]):
        target = Endless()
        options = GenerationOptions(max_tokens=40)
        sessions.append(Session(target, target, KeyedSampler(), policy, TokenSequence(prompt), options))
    while not all(session.finished for session in sessions):
        for session in sessions:
            if not session.finished:
                session.step()
    for session, prompt in zip(sessions, ([1, 2, 3], [4, 5]), strict=True):
        assert session.emitted == plain(prompt=prompt, count=40)
        assert session.tally.accepted == session.tally.drafted


def test_the_cost_of_heads_together_recurs_and_that_of_reading_does_not() -> None:
    model = TableModel(N_VOCAB, seed=1, states=True)
    for together, window in ((True, 0), (False, 3)):
        drafter, _ = heads_of(model, together=together, window=window)
        tokens = TokenSequence([1, 2, 3, 4, 5])
        states = np.array([[1, 2], [2, 3], [3, 4]], np.float32)
        rows = np.zeros((1, N_VOCAB), np.float32)
        evaluation = Evaluation(tokens, 4, NOTHING, rows, states[-1:], prefilled=states[:-1])
        drafter.observe(evaluation, Verdict((), (5,)))
        cost = drafter.draft_cost(tokens, 0.1)
        if together:
            assert cost.first == pytest.approx(0.001) and cost.next == 0.0 and cost.recurring
        else:
            assert cost.first == pytest.approx(0.001 + 2 * 0.0005) and cost.next == pytest.approx(0.001)
            assert not cost.recurring
            drafter.propose(tokens, 2)
            assert drafter.draft_cost(tokens, 0.1).first == drafter.draft_cost(tokens, 0.1).next


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("wrong", [0, 1])
def test_the_policy_drafts_with_heads_that_pay_and_hardly_with_others(together: bool, wrong: int) -> None:
    """On a flat curve of T(n), with T(1) of 0.1 s and heads of 1 ms."""
    ticks = itertools.count()
    drafter, _ = heads_of(Endless(), together=together, wrong=wrong)
    drafter.clock = lambda: 0.001 * next(ticks)
    cost = LatencyModel(64)
    cost.measure({n: 0.1 * (1 + 0.02 * (n - 1)) for n in range(1, 65)})
    target, tokens = Endless(), TokenSequence([1, 2, 3])
    policy = AdaptivePolicy([drafter], cost, clock=drafter.clock).begin()
    passes = 0
    while len(tokens) < 300:
        plan = policy.plan(tokens, 1000)
        evaluation = target.evaluate(tokens, plan.draft)
        rows = evaluation.rows
        verdict = verify(plan.draft, lambda row, rows=rows: int(rows[row].argmax()), lambda token: False, 1000)  # type: ignore[misc]
        policy.settle(plan, evaluation, verdict, 0.1 * cost.ratio(1 + len(plan.draft)))
        tokens.ids.extend(verdict.emitted)
        passes += 1
    if wrong:
        assert passes > 280 and drafter.steps < 60
    else:
        assert passes < 100


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_no_numbers_draft_nothing(bad: float) -> None:
    class Broken(TableHeads):
        def _row(self) -> Row:
            return np.full(N_VOCAB, bad, np.float32)

    heads: Heads = Broken(TableModel(N_VOCAB, seed=1))
    drafter = HeadDrafter("heads", heads, np.arange(N_VOCAB), step_seconds=0.001)
    session = answer(FixedPolicy(drafter, 4))
    assert session.tally.drafted == 0 and session.emitted == plain()
