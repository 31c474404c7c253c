"""Several answers at once: each is the one that its prompt gives alone, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.core import Draft, Evaluation, Plan, PlanRequest, Row, TokenSequence
from edgespec.decode.group import Group, Job, Outcome
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Block, Session
from edgespec.errors import ContextOverflow, EvaluationError, GrammarError
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel

Request = tuple[TableModel, Sequence[int], Draft]


def flat(n: int) -> float:
    return 1.0 + 0.05 * (n - 1)


def steep(n: int) -> float:
    return 1.0 + 1.2 * (n - 1)


class Machine:
    """Joint passes of fakes, which take `times(rows)`; `rows` remembers how many sequences each had."""

    def __init__(self, times: Callable[[int], float] = flat) -> None:
        self.times = times
        self.seconds = 0.0
        self.sequences: list[int] = []
        self.failing: TableModel | None = None

    def clock(self) -> float:
        return self.seconds

    def evaluate(self, requests: Sequence[Request]) -> list[Evaluation]:
        if any(context is self.failing for context, _, _ in requests):
            raise EvaluationError("a pass that fails")
        self.sequences.append(len(requests))
        self.seconds += 0.01 * self.times(sum(1 + len(draft) for _, _, draft in requests))
        return [context.evaluate(tokens, draft) for context, tokens, draft in requests]


class Drafting(FixedPolicy):
    """Drafts what a drafter says for every answer, as far as the rows go."""

    def plan_many(self, requests: Sequence[PlanRequest]) -> list[Plan]:
        plans, rows = [], 64 - len(requests)
        for request in requests:
            plan = request.answer.plan(request.tokens, min(request.room, rows), request.noise)
            rows -= len(plan.draft)
            plans.append(plan)
        return plans

    def passed(self, lengths: Sequence[int], rows: int, seconds: float) -> None:
        """It does not look at times."""


def plain() -> AdaptivePolicy:
    return AdaptivePolicy((), LatencyModel(64))


def session_of(
    context: TableModel,
    prompt: Sequence[int],
    policy: AdaptivePolicy | FixedPolicy,
    *,
    temperature: float = 0.0,
    max_tokens: int = 30,
    stop: Sequence[str] = (),
) -> Session:
    sampler = KeyedSampler(7, temperature, len(prompt))
    options = GenerationOptions(max_tokens=max_tokens, stop=stop)
    return Session(context, context, sampler, policy, TokenSequence(prompt), options)


def alone(prompt: Sequence[int], seed: int = 0, **options: object) -> Session:
    session = session_of(TableModel(seed=seed, order=1), prompt, plain(), **options)  # type: ignore[arg-type]
    for _ in session.stream():
        pass
    return session


def job_of(
    prompt: Sequence[int], policy: AdaptivePolicy | FixedPolicy, **options: object
) -> Callable[[TableModel], Iterator[Session]]:
    def job(context: TableModel) -> Iterator[Session]:
        yield session_of(context, prompt, policy, **options)  # type: ignore[arg-type]

    return job


def group_of(
    machine: Machine,
    policy: AdaptivePolicy | Drafting,
    count: int,
    *,
    latency: LatencyModel | None = None,
    seed: int = 0,
    on_block: Callable[[int, Session, Block], None] = lambda index, session, block: None,
    n_ctx: int = 4096,
    serving: bool = False,
) -> Group[TableModel]:
    contexts = [TableModel(seed=seed, order=1, n_ctx=n_ctx) for _ in range(count)]
    if latency is None:
        latency = LatencyModel(64)
        latency.measure({n: 0.01 * flat(n) for n in range(1, 65)})
    return Group(
        contexts, machine.evaluate, policy, latency, share=TableModel.share_prefix, on_block=on_block,
        clock=machine.clock, serving=serving,
    )  # fmt: skip


def by_index(outcomes: list[Outcome]) -> dict[int, Outcome]:
    return {outcome.index: outcome for outcome in outcomes}


def answered(outcome: Outcome) -> Session:
    assert outcome.error is None and outcome.session is not None
    return outcome.session


prompts = st.lists(st.lists(st.integers(1, 31), min_size=1, max_size=12), min_size=1, max_size=7)


@settings(deadline=None)
@given(
    prompts=prompts,
    count=st.integers(1, 4),
    temperature=st.sampled_from([0.0, 1.0]),
    table=st.integers(0, 9),
    stop=st.sampled_from([(), ("ab",), ("h ",)]),
    data=st.data(),
)
def test_each_answer_is_the_one_that_its_prompt_gives_alone(
    prompts: list[list[int]], count: int, temperature: float, table: int, stop: tuple[str, ...], data: st.DataObject
) -> None:
    """Whatever is drafted, whoever is cancelled, and however many are stepped together."""
    options = {"temperature": temperature, "stop": stop}
    expected = [alone(prompt, table, **options) for prompt in prompts]
    whole = {tuple(prompt): [*prompt, *session.emitted] for prompt, session in zip(prompts, expected, strict=True)}

    def guess(tokens: Sequence[int], limit: int) -> list[int]:
        """The truth, or something else."""
        said = next(text for head, text in whole.items() if tuple(tokens[: len(head)]) == head and text >= list(tokens))
        return said[len(tokens) :][: data.draw(st.integers(0, 5))] + data.draw(st.lists(st.integers(0, 31), max_size=2))

    machine, policy = Machine(), Drafting(ScriptedDrafter(lambda tokens, limit: _safely(guess, tokens, limit)), 6)
    cancelled = data.draw(st.sets(st.integers(0, len(prompts) - 1), max_size=2))
    when = data.draw(st.integers(1, 20))

    def on_block(index: int, session: Session, block: Block) -> None:
        if index in cancelled and len(session.emitted) >= when:
            session.cancel()

    speeds = LatencyModel(64)
    best = data.draw(st.integers(1, 4))
    speeds.measure({n: 0.01 * (flat(n) if n <= best else 9.0 * n) for n in range(1, 65)})
    group = group_of(machine, policy, count, latency=speeds, seed=table, on_block=on_block)
    outcomes = list(group.run([job_of(prompt, policy, **options) for prompt in prompts]))
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(prompts)))
    assert max(machine.sequences, default=1) <= min(count, best)
    for outcome in outcomes:
        session, same = answered(outcome), expected[outcome.index]
        if session.finish_reason == "cancelled":
            assert outcome.index in cancelled and same.emitted[: len(session.emitted)] == session.emitted
        else:
            assert session.emitted == same.emitted
            assert (session.text, session.finish_reason) == (same.text, same.finish_reason)


def _safely(guess: Callable[[Sequence[int], int], list[int]], tokens: Sequence[int], limit: int) -> list[int]:
    try:
        return guess(tokens, limit)
    except StopIteration:
        return []


@pytest.mark.parametrize(("times", "width"), [(flat, 8), (steep, 1), (lambda n: flat(n) if n <= 3 else 0.6 * n, 3)])
@pytest.mark.parametrize("known", [False, True])
def test_as_many_are_stepped_together_as_are_fastest(times: Callable[[int], float], width: int, known: bool) -> None:
    machine, latency = Machine(times), LatencyModel(64)
    if known:
        latency.measure({n: 0.01 * times(n) for n in (1, 2, 3, 4, 8)})
    policy = plain()
    jobs = [job_of([3, 1 + number], policy, max_tokens=60) for number in range(24)]
    list(group_of(machine, policy, 8, latency=latency, seed=4).run(jobs))
    passes = sum(machine.sequences)  # one after the other
    assert max(set(machine.sequences), key=machine.sequences.count) == width
    assert machine.seconds <= 0.01 * (passes * times(width) / width) * 1.1 + 0.05 * times(8)


def test_where_not_all_fit_into_a_pass_none_is_left_to_go_alone() -> None:
    """Eight answers, six at once: the six that are least far, not the first six and then two."""
    times: Callable[[int], float] = lambda n: 1.0 + 0.1 * n if n <= 6 else 0.6 * n  # noqa: E731
    machine, latency, policy = Machine(times), LatencyModel(64), plain()
    latency.measure({n: 0.01 * times(n) for n in range(1, 9)})
    far: dict[int, int] = {}
    spread: list[int] = []

    def on_block(index: int, session: Session, block: Block) -> None:
        far[index] = len(session.emitted)
        spread.append(max(far.values()) - min(far.values()))

    jobs = [job_of([3, 1 + number], policy, max_tokens=60) for number in range(8)]
    list(group_of(machine, policy, 8, latency=latency, seed=4, on_block=on_block).run(jobs))
    assert list(far.values()) == [60] * 8
    assert machine.sequences.count(6) >= 0.9 * len(machine.sequences)
    assert max(spread[8:]) <= 2


def test_what_prompts_have_in_common_is_prefilled_once() -> None:
    machine, policy = Machine(), plain()
    head = [1 + number % 30 for number in range(200)]
    jobs = [job_of([*head, 1 + number], policy, max_tokens=5) for number in range(6)]
    outcomes = by_index(list(group_of(machine, policy, 3).run(jobs)))
    assert [answered(outcomes[index]).tally.cached_tokens for index in range(6)] == [0, 200, 200, 200, 200, 200]


def test_answers_come_as_they_end_and_others_take_their_place() -> None:
    machine, policy = Machine(), plain()
    lengths = [20, 3, 9, 2]
    jobs = [job_of([9], policy, max_tokens=length) for length in lengths]
    assert len(alone([9], 4, max_tokens=20).emitted) == 20
    order = [outcome.index for outcome in group_of(machine, policy, 2, seed=4).run(jobs)]
    assert order == [1, 2, 3, 0]


def test_an_error_ends_its_own_answer_only() -> None:
    class Broken(KeyedSampler):
        def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
            if self.noise.position == 8:
                raise GrammarError("no token can follow")
            return super().choose(row)

    machine, policy = Machine(), plain()

    def broken(context: TableModel) -> Iterator[Session]:
        yield Session(context, context, Broken(position=3), policy, TokenSequence([9, 9, 9]), GenerationOptions())
        raise AssertionError("after an error, the job is over")

    def refused(context: TableModel) -> Iterator[Session]:
        yield session_of(context, [1] * 5000, policy)

    jobs: list[Job[TableModel]] = [job_of([9], policy), broken, refused, job_of([5], policy)]
    outcomes = by_index(list(group_of(machine, policy, 2, seed=4).run(jobs)))
    for index, prompt in ((0, [9]), (3, [5])):
        assert answered(outcomes[index]).emitted == alone(prompt, 4).emitted
    error, session = outcomes[1].error, outcomes[1].session
    assert isinstance(error, GrammarError) and session is not None
    assert (len(session.emitted), session.finish_reason) == (5, "cancelled")
    assert isinstance(outcomes[2].error, ContextOverflow) and outcomes[2].session is None


def test_a_pass_that_fails_for_one_is_made_for_the_others() -> None:
    machine, policy = Machine(), plain()

    def failing(context: TableModel) -> Iterator[Session]:
        machine.failing = context
        yield session_of(context, [9, 1], policy)

    jobs: list[Job[TableModel]] = [job_of([9], policy), failing, job_of([5], policy)]
    outcomes = by_index(list(group_of(machine, policy, 3, seed=4).run(jobs)))
    assert isinstance(outcomes[1].error, EvaluationError)
    for index, prompt in ((0, [9]), (2, [5])):
        assert answered(outcomes[index]).emitted == alone(prompt, 4).emitted


def test_a_conversation_keeps_its_context() -> None:
    machine, policy = Machine(), plain()

    def conversation(context: TableModel) -> Iterator[Session]:
        first = session_of(context, [9, 8, 7], policy, max_tokens=6)
        yield first
        assert first.finished
        yield session_of(context, [9, 8, 7, *first.emitted, 3], policy, max_tokens=6)
        yield session_of(context, [1] * 5000, policy)

    jobs: list[Job[TableModel]] = [conversation, job_of([5], policy)]
    outcomes = list(group_of(machine, policy, 2, seed=4).run(jobs))
    first, second, third = [outcome for outcome in outcomes if outcome.index == 0]
    assert answered(second).tally.cached_tokens == 3 + len(answered(first).emitted) - 1
    assert isinstance(third.error, ContextOverflow)


def test_a_group_that_is_cancelled_ends_what_was_begun() -> None:
    machine, policy = Machine(), plain()

    def on_block(index: int, session: Session, block: Block) -> None:
        if len(session.emitted) == 5:
            group.cancel()

    group = group_of(machine, policy, 2, seed=4, on_block=on_block)
    outcomes = list(group.run([job_of([9], policy), job_of([5], policy), job_of([3], policy)]))
    assert [outcome.index for outcome in outcomes] == [0, 1]
    assert all(answered(outcome).finish_reason == "cancelled" for outcome in outcomes)
    assert answered(outcomes[0]).emitted == alone([9], 4).emitted[:5]


def test_an_interrupt_leaves_no_answer_open() -> None:
    machine, policy = Machine(), plain()
    seen: list[Session] = []

    def on_block(index: int, session: Session, block: Block) -> None:
        seen.append(session)
        if len(session.emitted) == 5:
            raise KeyboardInterrupt

    jobs = [job_of([9], policy), job_of([5], policy)]
    with pytest.raises(KeyboardInterrupt):
        list(group_of(machine, policy, 2, seed=4, on_block=on_block).run(jobs))
    assert all(session.finish_reason == "cancelled" for session in seen)


def test_no_jobs_no_answers() -> None:
    assert list(group_of(Machine(), plain(), 2).run([])) == []


def test_answers_are_added_while_others_are_decoded() -> None:
    machine, policy = Machine(), plain()
    group = group_of(machine, policy, 2, seed=4, serving=True)
    assert group.idle and group.step() == []
    outcomes: list[Outcome] = []
    for number in range(5):
        assert group.add(job_of([9, 1 + number], policy, max_tokens=12)) == number
        outcomes += [*group.step(), *group.step(), *group.step()]
    while not group.idle:
        outcomes += group.step()
    found = by_index(outcomes)
    assert len(outcomes) == len(found) == 5
    for number in range(5):
        assert answered(found[number]).emitted == alone([9, 1 + number], 4, max_tokens=12).emitted


def test_a_long_answer_is_not_starved_by_new_ones() -> None:
    """One sequence goes into a pass. Answers that are always new would be least far for ever."""
    machine, policy, latency = Machine(steep), plain(), LatencyModel(64)
    latency.measure({n: 0.01 * steep(n) for n in range(1, 65)})
    far: list[int] = []

    def on_block(index: int, session: Session, block: Block) -> None:
        if index == 0:
            far.append(len(session.emitted))

    group = group_of(machine, policy, 3, latency=latency, seed=4, on_block=on_block, serving=True)
    group.add(job_of([9], policy, max_tokens=20))
    rounds = 0
    while not far or far[-1] < 20:
        if rounds % 2 == 0:
            group.add(job_of([5], policy, max_tokens=2))
        group.step()
        rounds += 1
    assert rounds < 80


def test_a_prompt_that_goes_on_with_a_text_takes_its_context() -> None:
    machine, policy = Machine(), plain()
    head = [1 + number % 30 for number in range(100)]
    group = group_of(machine, policy, 2, seed=4, serving=True)

    def answer(prompt: list[int]) -> Session:
        group.add(job_of(prompt, policy, max_tokens=8), prompt)
        outcomes: list[Outcome] = []
        while not group.idle:
            outcomes += group.step()
        return answered(outcomes[0])

    first = answer([*head, 1])
    other = answer([2, 3, 4] * 20)
    again = answer([*head, 1, *first.emitted, 7, 7])
    assert (first.tally.cached_tokens, other.tally.cached_tokens) == (0, 0)
    assert again.tally.cached_tokens >= len(head) + len(first.emitted)
    onward = answer([*[2, 3, 4] * 20, *other.emitted, 7])
    assert onward.tally.cached_tokens >= 60, "the third answer did not take the second one's context"
    shared = answer([*head, 9, 9])
    assert shared.tally.cached_tokens == 100, "what it has in common with a text that stays is shared"
