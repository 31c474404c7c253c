"""The policy on simulated machines: near the best fixed choice, soon after a change too, and never far behind plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from benchmarks.simulate import (
    MACHINES,
    Case,
    Clock,
    CostedDrafterOfText,
    Machine,
    Text,
    always,
    best_fixed,
    changing,
    fixed,
    recovered,
    with_policy,
)
from edgespec.core import Draft, DraftCost
from edgespec.decode.verification import verify
from edgespec.latency.model import LatencyModel
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.costed import StoppingRule
from edgespec.testing import ScriptedDrafter
from tests.answering import Answering

LAPTOP, SMALL, PHONE, GPU = (
    machine for machine in MACHINES if machine.name in ("2 cores, F16", "2 cores, Q8_0", "phone", "GPU")
)
PRICES = (None, 0.15)


def test_a_fixed_choice_takes_what_its_blocks_take() -> None:
    class Known(Case):
        def text(self) -> Text:
            text = super().text()
            text.right = [True, False, True] * 40
            return text

    case = Known(LAPTOP, always(0.5), length=9)
    block = LAPTOP.ratios()[2]
    # Places 1 and 2 are drafted: 1 is wrong. Then 2 and 3: both right. Then 5 and 6: both right. Then there is no room.
    assert fixed(case, 2).at == pytest.approx([0, block, *[2 * block] * 3, *[3 * block] * 3, 3 * block + 1])
    assert fixed(case, 0).took() == 8


@pytest.mark.parametrize("token_cost", PRICES)
@pytest.mark.parametrize("machine", [LAPTOP, SMALL, GPU], ids=lambda machine: machine.name)
def test_where_nothing_changes_it_is_near_the_best_fixed_length(machine: Machine, token_cost: float | None) -> None:
    for share in (0.3, 0.7, 0.9):
        case = Case(machine, always(share), token_cost, length=800)
        assert with_policy(case, known=True).took() < best_fixed(case)[1] / 0.93, share


@pytest.mark.parametrize("token_cost", PRICES)
@pytest.mark.parametrize(("before", "after"), [(0.9, 0.1), (0.1, 0.9), (0.8, 0.3)])
def test_fifty_blocks_after_a_change_it_is_there_again(before: float, after: float, token_cost: float | None) -> None:
    case = Case(LAPTOP, changing(400, before, after), token_cost, length=1000)
    assert recovered(case, 400) > 0.93


@pytest.mark.parametrize("times", [2, 4, 0.5], ids=lambda times: f"{times} times the time")
@pytest.mark.parametrize("share", [0.7, 0.9])
@pytest.mark.parametrize("machine", [LAPTOP, PHONE, GPU], ids=lambda machine: machine.name)
def test_fifty_blocks_after_a_throttling_it_is_there_again(machine: Machine, share: float, times: float) -> None:
    case = Case(machine, always(share), length=3000, throttled=(500, times, machine))
    assert recovered(case, 500) > 0.93


@pytest.mark.parametrize("token_cost", PRICES)
@pytest.mark.parametrize("times", [1, 2], ids=lambda times: f"{times} times the time")
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_fifty_blocks_after_arithmetic_got_slower_than_memory_it_is_there_again(
    share: float, times: int, token_cost: float | None
) -> None:
    case = Case(LAPTOP, always(share), token_cost, length=3000, throttled=(500, times, PHONE))
    assert recovered(case, 500) > 0.93


@pytest.mark.parametrize("token_cost", PRICES)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_drafters_that_boast_cost_next_to_nothing(machine: Machine, token_cost: float | None) -> None:
    case = Case(machine, always(0.02), token_cost, belief=0.95, length=400)
    assert with_policy(case).took() < 399 / 0.98


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
@pytest.mark.parametrize("length", [32, 96, 400])
def test_what_a_model_that_has_to_read_first_may_cost_an_answer(machine: Machine, length: int) -> None:
    for share, least in ((0.3, 0.88), (0.6, 0.975), (0.9, 0.975)):
        case = Case(machine, always(share), 0.15, reading=2.0, length=length)
        assert with_policy(case, known=True).took() < (length - 1) / least, share


def test_a_model_that_seldom_pays_on_this_machine_is_tried_in_a_long_text() -> None:
    pays = Case(PHONE, always(0.9), 0.15, reading=2.0, length=1600)
    assert with_policy(pays, known=True).took() < best_fixed(pays)[1] / 0.9
    does_not = Case(PHONE, always(0.4), 0.15, reading=2.0, length=400)
    assert with_policy(does_not, known=True).took() < 399 / 0.975


def test_a_step_of_the_curve_is_drafted_across() -> None:
    dip = next(machine for machine in MACHINES if "dip" in machine.name)  # 4 rows are cheap, 5 are not
    rule = StoppingRule("priced", Acceptance(), dip.ratios(), [0.97] * 63, 0.05, 0.05)
    size = next(size for size in range(1, 64) if not rule(0.97, "any"))
    assert size > 8  # and not the 3 up to the step
    doubtful = StoppingRule("priced", Acceptance(), dip.ratios(), [0.7] * 63, 0.05, 0.05)
    assert next(size for size in range(1, 64) if not doubtful(0.7, "any")) == 3


@pytest.mark.parametrize("machine", [LAPTOP, PHONE, GPU], ids=lambda machine: machine.name)
def test_of_two_drafters_each_has_its_part_of_a_text(machine: Machine) -> None:
    case = Case(machine, always(0.8), 0.15, beside=lambda place: 0.95 if place % 200 >= 140 else 0.2)
    assert with_policy(case, known=True).took() < best_fixed(case)[1] / 1.05


def drafted(case: Case) -> Iterator[Draft]:
    """The drafts for a case whose T(n) is known."""
    text, clock, ratios = case.text(), Clock(), case.machine.ratios()
    cost = LatencyModel(64)
    cost.measure({n: ratios[n - 1] for n in range(1, 65)})
    return played(Answering(AdaptivePolicy(case.drafters(text, clock), cost, clock=clock)), text, ratios)


def played(policy: Answering, text: Text, ratios: Sequence[float]) -> Iterator[Draft]:
    """The drafts of a policy for a whole text, each before it is judged."""
    policy.prefilled(64, ratios[63])
    tokens = [text.said(0)]
    while len(tokens) < text.length:
        draft = policy.plan(tokens, text.length - len(tokens) - 1)
        yield draft
        place = len(tokens)
        verdict = verify(draft, lambda row: text.said(place + row), lambda token: False, text.length - place)  # noqa: B023
        policy.settle(draft, verdict, ratios[len(draft)])
        tokens += verdict.emitted


def test_all_guesses_of_a_model_are_counted_and_anew_for_each_answer() -> None:
    class Counting(CostedDrafterOfText):
        made = 0

        def draft(self, *arguments: Any) -> Draft:
            draft = super().draft(*arguments)
            self.made += len(draft)
            return draft

    case = Case(LAPTOP, always(0.9), 0.05, length=200)
    text, clock, ratios = case.text(), Clock(), LAPTOP.ratios()
    drafter = Counting(text, clock, 0.05)
    policy = Answering(AdaptivePolicy([drafter], LatencyModel(64), clock=clock))
    drafted_by: Counter[str] = Counter()
    for _ in played(policy, text, ratios):
        drafted_by.update(policy.made.drafted)
    assert drafted_by == {"priced": drafter.made} and drafter.made > 50


def test_where_a_model_drafts_now_and_then_looking_for_repeats_goes_on() -> None:
    class Moody(CostedDrafterOfText):
        asked = 0

        def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
            self.asked += 1
            return super().draft_cost(tokens, target_seconds) if self.asked % 2 else DraftCost(first=9.0, next=9.0)

    def nothing(tokens: Sequence[int], limit: int) -> list[int]:
        clock.now += 0.02
        looked.append(len(tokens))
        return []

    text, clock, ratios = Case(LAPTOP, always(0.9), 0.05, length=400).text(), Clock(), LAPTOP.ratios()
    looked: list[int] = []
    policy = Answering(
        AdaptivePolicy([ScriptedDrafter(nothing), Moody(text, clock, 0.05)], LatencyModel(64), clock=clock)
    )
    drafts = list(played(policy, text, ratios))
    assert sum(draft.drafter == "priced" for draft in drafts) > 40
    assert len(looked) > 0.98 * len(drafts)
