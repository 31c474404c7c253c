"""The loop over blocks, on fakes: whatever is drafted, the answer is the plain one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgespec.core import (
    NOTHING,
    Context,
    Draft,
    DraftCost,
    Policy,
    Row,
    Sampler,
    SharedNoise,
    TokenSequence,
    Vocabulary,
)
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Session
from edgespec.drafters import make_drafter
from edgespec.errors import ContextOverflow, GrammarError, InvalidRequest
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel


def session_of(
    target: Context,
    vocabulary: Vocabulary,
    sampler: Sampler,
    policy: Policy,
    tokens: TokenSequence,
    *,
    keep: int = 0,
    on_prefill: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Session:
    chosen = GenerationOptions(**options)
    return Session(target, vocabulary, sampler, policy, tokens, chosen, keep=keep, on_prefill=on_prefill)


def nothing() -> Policy:
    return AdaptivePolicy((), LatencyModel(64))


def answer(
    model: TableModel, policy: Policy, prompt: Sequence[int], *, seed: int = 0, temperature: float = 0.0, **options: Any
) -> Session:
    options = {"max_tokens": 60, **options}
    sampler = KeyedSampler(seed, temperature, len(prompt))
    session = session_of(model, model, sampler, policy, TokenSequence(prompt), **options)
    for _ in session.stream():
        pass
    return session


prompts = st.lists(st.integers(1, 31), min_size=1, max_size=20)


@given(
    prompt=prompts,
    table=st.integers(0, 20),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    size=st.integers(1, 30),
    drafter=st.sampled_from(["anpd", "suffix", "recycle", "aded"]),
    stop=st.sampled_from([(), ("ab",), ("h ", "c?")]),
)
def test_drafted_answers_equal_plain_ones(
    prompt: list[int], table: int, temperature: float, size: int, drafter: str, stop: tuple[str, ...]
) -> None:
    model = TableModel(seed=table, order=1)  # order 1 repeats itself soon, so that drafts are accepted
    plain = answer(model, nothing(), TokenSequence(prompt), temperature=temperature, seed=table, stop=stop)
    for policy in (
        FixedPolicy(make_drafter(drafter), size),
        FixedPolicy(make_drafter(drafter), size, trees=True),
        AdaptivePolicy([make_drafter(drafter)], LatencyModel(64)),
        AdaptivePolicy([make_drafter("anpd"), make_drafter("suffix")], LatencyModel(64)),
    ):
        drafted = answer(model, policy, prompt, temperature=temperature, seed=table, stop=stop)
        assert drafted.emitted == plain.emitted
        assert (drafted.text, drafted.finish_reason) == (plain.text, plain.finish_reason)


def test_no_drafter_is_asked_before_the_first_token_is_there() -> None:
    asked = []

    class Model(ScriptedDrafter):
        """One with a price, which is not asked for either."""

        def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
            asked.append("price")
            return DraftCost(first=0.0, next=0.0)

        def draft(
            self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
        ) -> Draft:
            asked.append("draft")
            return NOTHING

    def nothing_of_it(tokens: Sequence[int], limit: int) -> list[int]:
        asked.append("propose")
        return []

    free = ScriptedDrafter(nothing_of_it)
    cost = LatencyModel(64)
    cost.measure(dict.fromkeys((1, 2, 4, 8), 1.0))
    policy = AdaptivePolicy([free, Model(lambda tokens, limit: [], "model")], cost)
    model = TableModel()
    session = session_of(model, model, KeyedSampler(0, 0.0, 5), policy, TokenSequence([1, 2, 3, 4, 5]), max_tokens=9)
    assert session.step().tokens and not asked
    session.step()
    assert set(asked) >= {"propose", "price", "draft"}


@given(prompt=prompts, data=st.data())
def test_arbitrary_drafts_change_nothing(prompt: list[int], data: st.DataObject) -> None:
    model = TableModel()
    plain = answer(model, nothing(), prompt)
    scripted = ScriptedDrafter(lambda tokens, limit: data.draw(st.lists(st.integers(0, 31), max_size=limit)))
    assert answer(model, FixedPolicy(scripted, 5), prompt).emitted == plain.emitted


@given(prompt=prompts, table=st.integers(0, 20), size=st.integers(0, 9), stop=st.sampled_from([(), ("ab",), ("h ",)]))
def test_an_answer_leaves_the_same_tokens_cached_whatever_was_drafted(
    prompt: list[int], table: int, size: int, stop: tuple[str, ...]
) -> None:
    model = TableModel(seed=table, order=1)
    whole = prompt + answer(model, nothing(), TokenSequence(prompt), stop=stop).emitted
    oracle = ScriptedDrafter(lambda tokens, limit: [*whole, 9, 9, 9][len(tokens) :])
    answer(model, FixedPolicy(oracle, size), prompt, stop=stop)
    assert model.cached([*whole, 9, 9, 9]) == len(whole) - 1


@given(prompt=prompts, table=st.integers(0, 20), size=st.integers(1, 9), stop=st.sampled_from([(), ("ab",), ("h ",)]))
def test_a_block_tells_which_of_its_text_was_drafted(
    prompt: list[int], table: int, size: int, stop: tuple[str, ...]
) -> None:
    model = TableModel(seed=table, order=1)
    whole = prompt + answer(model, nothing(), prompt).emitted
    oracle = ScriptedDrafter(lambda tokens, limit: whole[len(tokens) :])
    session = session_of(
        model, model, KeyedSampler(position=len(prompt)), FixedPolicy(oracle, size), TokenSequence(prompt),
        max_tokens=60, stop=stop,
    )  # fmt: skip
    for block in session.stream():
        drafted = sum(len(model.piece(token)) for token in block.tokens[: block.accepted])
        assert block.drafted_characters <= len(block.text)
        if not stop:  # nothing of the text waits for the next block
            assert block.drafted_characters == drafted
        if not block.accepted:
            assert block.drafted_characters == 0


def test_a_drafter_that_knows_the_answer_saves_evaluations() -> None:
    model = TableModel(order=3, seed=4)
    prompt = [3, 1, 4]
    plain = answer(model, nothing(), TokenSequence(prompt), max_tokens=41)
    assert plain.tally.tokens == 41 and plain.tally.blocks == 40
    whole = prompt + plain.emitted
    oracle = ScriptedDrafter(lambda tokens, limit: whole[len(tokens) :])
    drafted = answer(model, FixedPolicy(oracle, 3), prompt, max_tokens=41)
    assert drafted.emitted == plain.emitted
    assert drafted.tally.blocks == 10
    assert drafted.tally.mean_block_length == 4.0
    assert drafted.tally.of("scripted").acceptance == 1.0
    assert drafted.tally.of("scripted").acceptance_by_depth == [1.0, 1.0, 1.0]


def test_drafts_stay_within_budget_and_context() -> None:
    model = TableModel(n_ctx=24, order=3, seed=5)
    everything = ScriptedDrafter(lambda tokens, limit: [1] * limit)
    session = answer(model, FixedPolicy(everything, 63), [1, 2, 3], max_tokens=500)
    assert session.finish_reason == "length"
    assert (
        session.emitted
        == answer(TableModel(n_ctx=24, order=3, seed=5), nothing(), TokenSequence([1, 2, 3]), max_tokens=500).emitted
    )
    assert 3 + len(session.emitted) == 25, "the last token needs no place: it is not evaluated"


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_shift_keeps_the_head_and_says_the_same_with_drafts(size: int) -> None:
    def run(policy: Policy) -> Session:
        return answer(
            TableModel(n_ctx=30, order=2, seed=9), policy, [5, 6, 7, 8], max_tokens=200, overflow="shift", keep=3,
            temperature=1.0,
        )  # fmt: skip

    plain = run(nothing())
    assert plain.tally.dropped_tokens > 0
    drafted = run(FixedPolicy(make_drafter("suffix"), size))
    assert (drafted.emitted, drafted.finish_reason) == (plain.emitted, plain.finish_reason)


def test_a_shift_of_what_another_session_pushed_out_of_the_cache() -> None:
    def shifting(model: TableModel) -> Session:
        sampler, tokens = KeyedSampler(0, 1.0, 4), TokenSequence([5, 6, 7, 8])
        return session_of(model, model, sampler, nothing(), tokens, keep=3, max_tokens=60, overflow="shift")

    alone = shifting(TableModel(n_ctx=30, order=2, seed=9))
    for _ in alone.stream():
        pass
    model = TableModel(n_ctx=30, order=2, seed=9)
    session, other = (
        shifting(model),
        session_of(model, model, KeyedSampler(), nothing(), TokenSequence([1]), max_tokens=60),
    )
    for _ in session.stream():
        other.finished or other.step()
    assert session.tally.dropped_tokens > 0 and session.emitted == alone.emitted


def test_a_cancelled_answer_leaves_the_cache_to_whoever_has_it() -> None:
    model = TableModel(order=3, seed=4)
    one, other = (
        session_of(model, model, KeyedSampler(), nothing(), TokenSequence([n] * 9), max_tokens=60) for n in (1, 2)
    )
    for session in (one, one, other):
        session.step()
    one.cancel()
    one.step()
    assert one.finish_reason == "cancelled" and model.cached([2] * 9) == 9


def test_a_late_step_of_a_cancelled_answer_leaves_what_goes_on_from_it() -> None:
    model = TableModel(order=3, seed=4)
    first = session_of(model, model, KeyedSampler(), nothing(), TokenSequence([1]), max_tokens=60)
    first.step()
    going_on = [1, *first.emitted, *range(2, 12)]
    second = session_of(model, model, KeyedSampler(), nothing(), TokenSequence(going_on), max_tokens=60)
    second.step()
    first.cancel()
    first.step()
    assert first.finish_reason == "cancelled" and model.cached(going_on) >= len(going_on) - 1


def test_cancel_ends_the_reading_of_what_another_session_pushed_out() -> None:
    model = TableModel(order=3, seed=4)
    session, other = (
        session_of(model, model, KeyedSampler(), nothing(), TokenSequence([n] * 9), max_tokens=60) for n in (1, 2)
    )
    for one in (session, other):
        one.step()
    before = len(model.widths)
    session._on_prefill = lambda *_: session.cancel()
    assert session.step().finish_reason == "cancelled" and len(model.widths) == before


def test_cancel_from_another_thread_ends_the_answer() -> None:
    model = TableModel(order=3, seed=4)
    session = session_of(model, model, KeyedSampler(), nothing(), TokenSequence([1]), max_tokens=10_000)
    blocks = session.stream()
    next(blocks)
    thread = threading.Thread(target=session.cancel)
    thread.start()
    thread.join()
    assert [block.finish_reason for block in blocks][-1] == "cancelled"
    assert session.finish_reason == "cancelled"


def test_a_prompt_in_two_pieces_is_not_learned_as_one_evaluation() -> None:
    learned = []

    class Learning(LatencyModel):
        def observe_prompt(self, n: int, seconds: float) -> None:
            learned.append(n)

    model = TableModel(n_ctx=1024)
    for cached, total in ((0, 128), (100, 128), (100, 129), (100, 300), (128, 150)):
        model.prefill([1] * cached or [2])
        answer(model, AdaptivePolicy((), Learning(64)), [1] * total, max_tokens=2)
    assert learned == [128, 28, 200, 22]


def test_cancel_during_the_prompt() -> None:
    model = TableModel()
    session = session_of(
        model,
        model,
        KeyedSampler(),
        nothing(),
        TokenSequence([1, 2]),
        max_tokens=5,
        on_prefill=lambda *_: session.cancel(),
    )
    assert [block.finish_reason for block in session.stream()] == ["cancelled"]
    assert session.emitted == []


def test_an_exception_leaves_the_answer_so_far() -> None:
    model = TableModel(order=3, seed=4)

    def fail(tokens: Sequence[int], limit: int) -> list[int]:
        if len(tokens) > 6:
            raise KeyboardInterrupt
        return []

    session = session_of(
        model, model, KeyedSampler(), FixedPolicy(ScriptedDrafter(fail), 4), TokenSequence([1]), max_tokens=50
    )
    with pytest.raises(KeyboardInterrupt):
        for _ in session.stream():
            pass
    assert session.finish_reason == "cancelled"
    assert session.emitted == answer(TableModel(order=3, seed=4), nothing(), [1]).emitted[:6]


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ([], {}, InvalidRequest),
        ([1], {"max_tokens": 0}, InvalidRequest),
        ([1] * 50, {}, ContextOverflow),
        ([1], {"stop": ("",)}, InvalidRequest),
    ],
)
def test_bad_requests(prompt: list[int], options: dict[str, Any], error: type[Exception]) -> None:
    model = TableModel(n_ctx=50)
    with pytest.raises(error):
        session_of(model, model, KeyedSampler(), nothing(), TokenSequence(prompt), **{"max_tokens": 5, **options})


class FailingSampler(KeyedSampler):
    """Raises at the choice of one number, every time that it is asked for it."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.chosen = 0
        self._failing = failing

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        if self.chosen == self._failing:
            raise GrammarError("the grammar allows no token here")
        self.chosen += 1
        return super().choose(row)


@given(prompt=prompts, table=st.integers(0, 20), failing=st.integers(1, 30), size=st.integers(0, 8))
def test_what_was_said_before_an_error_is_kept_whatever_is_drafted(
    prompt: list[int], table: int, failing: int, size: int
) -> None:
    plain = answer(TableModel(seed=table, order=1), nothing(), prompt)
    model = TableModel(seed=table, order=1)
    policy = FixedPolicy(make_drafter("suffix"), size)
    session = session_of(model, model, FailingSampler(failing), policy, TokenSequence(prompt), max_tokens=60)
    fails = failing < len(plain.emitted)
    with pytest.raises(GrammarError) if fails else nullcontext():
        for _ in session.stream():
            pass
    assert session.finish_reason == ("cancelled" if fails else plain.finish_reason)
    assert session.emitted == plain.emitted[:failing]
    assert session.text == b"".join(map(model.piece, session.emitted)).decode()
