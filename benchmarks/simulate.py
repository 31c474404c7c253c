"""The policy on made-up machines and texts: its time against that of the best fixed choice in hindsight.

    python -m benchmarks.simulate [--json OUT.json]

Nothing is evaluated and no clock runs: T(n), what a draft token costs and how often it is right are chosen, so a case
can be a phone's or a GPU's. A fixed choice is one drafter and one draft length for the whole text, plain decoding
included. The best of them is found by trying all on the same text, which no policy can.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
import random
import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import save
from edgespec.core import (
    MAX_ROWS,
    NOTHING,
    ROOT,
    Draft,
    DraftCost,
    Drafter,
    Evaluation,
    SharedNoise,
    TokenSequence,
    Verdict,
)
from edgespec.decode.verification import verify
from edgespec.doctor.measure import speed_up
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import MAX_DRAFT, AdaptivePolicy
from edgespec.policy.config import PolicyConfig
from edgespec.policy.tree import depths
from edgespec.testing import without_rows

WHAT = "the policy on simulated machines"
LONGEST = MAX_DRAFT
"""The longest fixed draft that is tried: the policy drafts no more either."""

_NOISE = 0.03
"""Spread of an evaluation's time around T(n)."""

_CHANGE = 500
"""The place at which a drafter gets better or worse."""

_OVER = -1
"""What follows the last token of a text."""


@dataclass(frozen=True)
class Machine:
    """T(n) in units of T(1), as points of a curve that is a straight line in log T over log n between them."""

    name: str
    points: Mapping[int, float]

    def ratios(self) -> list[float]:
        """T(n)/T(1) for n = 1 .. MAX_ROWS."""
        logs = np.interp(
            np.log(np.arange(1, MAX_ROWS + 1)), np.log(list(self.points)), np.log(list(self.points.values()))
        )
        return np.exp(logs).tolist()  # type: ignore[no-any-return]


MACHINES = (
    Machine("2 cores, F16", {1: 1, 2: 1.07, 4: 1.42, 8: 2.05, 16: 3.33, 32: 6.14, 64: 12}),
    Machine("2 cores, Q8_0", {1: 1, 2: 1.44, 4: 2.15, 8: 3.69, 16: 6.75, 32: 13.3, 64: 26}),
    Machine("2 cores, Q4_K_M", {1: 1, 2: 1.73, 4: 2.63, 8: 6.18, 16: 8.31, 32: 15, 64: 29}),
    Machine("2 cores, Q4_K_M, dip at 4", {1: 1, 2: 1.73, 3: 1.9, 4: 1.85, 5: 2.9, 8: 4.6, 16: 5.5, 32: 9, 64: 13}),
    # Not measured, but of the shape that these are known to have: a phone's cores are soon busy, a GPU's are not.
    Machine("phone", {1: 1, 2: 1.3, 4: 1.9, 8: 3.4, 16: 6.6, 32: 13, 64: 26}),
    Machine("GPU", {1: 1, 2: 1.02, 4: 1.05, 8: 1.1, 16: 1.3, 32: 1.7, 64: 2.6}),
)


@dataclass
class Clock:
    """Simulated time, in units of T(1)."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Text:
    """What the target says, and at which places a drafter will be right: `acceptance(place)` of the time."""

    def __init__(self, length: int, acceptance: Callable[[int], float], seed: int) -> None:
        chance = random.Random(seed)
        self.length = length
        self.right = [chance.random() < acceptance(place) for place in range(length + MAX_ROWS)]

    def said(self, place: int) -> int:
        return place % 50_000 + 1 if place < self.length else _OVER


class FreeDrafter:
    """Draft tokens that cost nothing. Of itself it thinks that `belief` of them are right.

    `bucket` is the feature bucket of a place, as the length of a repeat is.
    """

    name = "free"

    def __init__(self, text: Text, belief: float, bucket: Callable[[int], Hashable] = lambda place: "any") -> None:
        self._text = text
        self._belief = belief
        self._bucket = bucket

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        places = range(len(tokens), len(tokens) + limit)
        draft_tokens = [self._text.said(place) if self._text.right[place] else 0 for place in places]
        return Draft.chain(draft_tokens, [self._belief] * limit, [self._bucket(place) for place in places], self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


class TreeDrafter:
    """Draft trees that cost nothing: `ranks` is how often the first, second, ... token after a node is right.

    Which one is right at a place is drawn once, for the places of the text; after a wrong node none is.
    """

    name = "tree"

    def __init__(self, text: Text, ranks: Sequence[float], seed: int) -> None:
        self._text, self._ranks = text, ranks
        chance = random.Random(seed)
        bounds = list(itertools.accumulate(ranks))
        self._right = [bisect.bisect(bounds, chance.random()) for _ in range(text.length + MAX_ROWS)]

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """The `limit` nodes of the largest reach."""
        place = len(tokens)
        nodes: list[tuple[int, int, float, int]] = []  # token, parent, probability, bucket
        heap = [(-chance, rank, ROOT, 0, True) for rank, chance in enumerate(self._ranks)]
        heapq.heapify(heap)
        while len(nodes) < limit:
            reach, rank, parent, depth, on_path = heapq.heappop(heap)
            right = on_path and self._right[place + depth] == rank
            for below, chance in enumerate(self._ranks):
                heapq.heappush(heap, (reach * chance, below, len(nodes), depth + 1, right))
            nodes.append((self._text.said(place + depth) if right else -2 - rank, parent, self._ranks[rank], rank))
        found, parents, probabilities, buckets = zip(*nodes, strict=True)
        return Draft(found, parents, probabilities, buckets, self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


class CostedDrafterOfText:
    """Draft tokens that cost `token_cost` each, after reading for `reading` once. It knows as little of itself."""

    name = "priced"

    def __init__(self, text: Text, clock: Clock, token_cost: float, reading: float = 0.0) -> None:
        self._text, self._clock = text, clock
        self._token_cost, self._reading = token_cost, reading

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        return DraftCost(first=self._token_cost + self._reading, next=self._token_cost)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self.draft(tokens, limit, SharedNoise(), lambda probability, bucket: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        self._clock.now += self._reading
        self._reading = 0.0
        draft_tokens: list[int] = []
        while len(draft_tokens) < limit:
            place = len(tokens) + len(draft_tokens)
            self._clock.now += self._token_cost
            draft_tokens.append(self._text.said(place) if self._text.right[place] else 0)
            if not go_on(0.75, "any"):
                break
        return Draft.chain(draft_tokens, [0.75] * len(draft_tokens), ["any"] * len(draft_tokens), self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


@dataclass(frozen=True)
class Case:
    """One machine, one kind of drafter, and how often that is right along the text.

    `token_cost` is that of a draft token in units of T(1), and `reading` what comes before the first one; None is a
    drafter whose draft tokens are free. `throttled`: from a place in the text on, one token takes that many times as
    long, and several what they take on that machine. `beside`: how often a second drafter is right, whose draft tokens
    are free, and which says that much of itself. `ranks`: a third one drafts trees, see `TreeDrafter`.
    """

    machine: Machine
    acceptance: Callable[[int], float]
    token_cost: float | None = None
    reading: float = 0.0
    belief: float = 0.75
    length: int = 1000
    seed: int = 0
    throttled: tuple[int, float, Machine] | None = None
    beside: Callable[[int], float] | None = None
    ranks: tuple[float, ...] = ()

    def curves(self) -> Callable[[int], list[float]]:
        """The time of evaluations of 1, 2, ... tokens at a place in the text, in units of T(1) at its beginning."""
        before = self.machine.ratios()
        if self.throttled is None:
            return lambda place: before
        begin, times, machine = self.throttled
        after = [times * ratio for ratio in machine.ratios()]
        return lambda place: before if place < begin else after

    def text(self) -> Text:
        return Text(self.length, self.acceptance, self.seed)

    def drafters(self, text: Text, clock: Clock) -> list[Drafter]:
        free = Text(self.length, self.beside, self.seed + 1) if self.beside else None
        return [
            FreeDrafter(text, self.belief)
            if self.token_cost is None
            else CostedDrafterOfText(text, clock, self.token_cost, self.reading),
            *([FreeDrafter(free, self.belief, self.beside)] if free and self.beside else []),
            *([TreeDrafter(text, self.ranks, self.seed + 2)] if self.ranks else []),
        ]


@dataclass
class Course:
    """When each token of a text was there, in units of T(1)."""

    at: list[float]

    def took(self, begin: int = 0, end: int | None = None) -> float:
        """The time from one place to another."""
        return self.at[(end or len(self.at)) - 1] - (self.at[begin - 1] if begin else 0.0)


def with_policy(case: Case, *, known: bool = False, config: PolicyConfig | None = None, trees: bool = True) -> Course:
    """The text made block by block with the adaptive policy; `known`: it has seen T(n) before."""
    text, clock, chance = case.text(), Clock(), random.Random(case.seed + 1)
    curves = case.curves()
    ratios = curves(0)
    cost = LatencyModel(MAX_ROWS)
    for n in range(1, MAX_ROWS + 1) if known else ():
        for _ in range(3):
            cost.observe(n, ratios[n - 1])
    policy = AdaptivePolicy(case.drafters(text, clock), cost, trees=trees, clock=clock, config=config).begin()
    tokens, course = TokenSequence([text.said(0)]), Course([0.0])
    policy.prefilled(without_rows([0] * 64), Verdict((), (tokens[0],)), cached=0, seconds=ratios[63])
    again = 0
    while len(tokens) < text.length:
        plan = policy.plan(tokens, text.length - len(tokens) - 1)
        draft = plan.draft
        verdict = _checked(text, tokens, draft)
        seconds = curves(len(tokens))[min(len(draft) + again, MAX_ROWS - 1)] * chance.lognormvariate(0.0, _NOISE)
        clock.now += seconds
        policy.settle(plan, without_rows(tokens, draft, again), verdict, seconds)
        again = verdict.off_trunk
        tokens.extend(verdict.emitted)
        course.at += [clock.now] * len(verdict.emitted)
    return course


def fixed(case: Case, size: int, which: int = 0) -> Course:
    """The same with drafts of `size` tokens of one of the drafters, always."""
    text, clock = case.text(), Clock()
    curves = case.curves()
    drafter = case.drafters(text, clock)[which]
    tokens, course = [text.said(0)], Course([0.0])
    while len(tokens) < text.length:
        limit = min(size, text.length - len(tokens) - 1)
        draft = drafter.propose(tokens, limit) if limit > 0 else NOTHING
        verdict = _checked(text, tokens, draft)
        clock.now += curves(len(tokens))[len(draft)]
        tokens += verdict.emitted
        course.at += [clock.now] * len(verdict.emitted)
    return course


def _checked(text: Text, tokens: Sequence[int], draft: Draft) -> Verdict:
    place = len(tokens)
    return checked(draft, lambda depth: text.said(place + depth), text.length - place)


def checked(draft: Draft, said: Callable[[int], int], budget: int) -> Verdict:
    """The verdict on a draft, chain or tree, where `said(0)`, `said(1)`, ... are the target's next tokens."""
    deep = [0, *depths(draft.parents)]
    return verify(draft, lambda row: said(deep[row]), lambda token: False, budget)


def recovered(case: Case, change: int, blocks: int = 50) -> float:
    """How the policy's time compares with the best fixed one's from `blocks` after a change on, to the text's end."""
    course = with_policy(case)
    times = sorted(set(course.at[change:]))
    begin = course.at.index(times[blocks])
    return best_fixed(case, begin)[1] / course.took(begin)


def best_fixed(case: Case, begin: int = 0, end: int | None = None) -> tuple[int, float]:
    """The draft length, 0 for plain decoding, that makes that part of the text in the least time, and that time.

    Of two drafters, with the one that brings more of it.
    """
    times = {
        (size, which): fixed(case, size, which).took(begin, end)
        for which in range(1 + bool(case.beside) + bool(case.ranks))
        for size in range(LONGEST + 1)
    }
    best = min(times, key=times.__getitem__)
    return best[0], times[best]


def foreknown(case: Case) -> int:
    """The draft length that is the best by expectation, to one who knows T(n), the cost and the acceptance."""
    ratios, share, token_cost = case.machine.ratios(), case.acceptance(0), case.token_cost or 0.0
    return max(range(LONGEST + 1), key=lambda size: speed_up(size, share, ratios[size], token_cost))


def always(share: float) -> Callable[[int], float]:
    """The same acceptance all along."""
    return lambda place: share


def changing(place: int, before: float, after: float) -> Callable[[int], float]:
    """Another acceptance from `place` on."""
    return lambda at: before if at < place else after


def stationary() -> Iterator[tuple[str, Case]]:
    """Cases in which nothing changes: all machines, drafts free and at three costs, seldom to nearly always right."""
    for machine in MACHINES:
        for token_cost in (None, 0.05, 0.15, 0.3):
            for share in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97):
                label = f"{machine.name}, {'free' if token_cost is None else token_cost}, {share}"
                yield label, Case(machine, always(share), token_cost)


def with_a_change() -> Iterator[tuple[str, Case]]:
    """Cases in which a drafter gets better or worse in the middle of a text."""
    for machine in MACHINES:
        for token_cost in (None, 0.15):
            for before, after in ((0.9, 0.1), (0.1, 0.9), (0.3, 0.8), (0.8, 0.3)):
                label = f"{machine.name}, {'free' if token_cost is None else token_cost}, {before} and then {after}"
                yield label, Case(machine, changing(_CHANGE, before, after), token_cost, length=1200)


def with_reading() -> Iterator[tuple[str, Case]]:
    """Cases in which a model has to read the text before its first draft token, in answers of several lengths."""
    for machine in MACHINES:
        for length in (32, 96, 400, 1600):
            for share in (0.3, 0.6, 0.8, 0.9):
                label = f"{machine.name}, reading 2, 0.15, {length} tokens, {share}"
                yield label, Case(machine, always(share), 0.15, reading=2.0, length=length)


def with_both() -> Iterator[tuple[str, Case]]:
    """Cases in which a text can be copied in parts, and a model's draft tokens are right everywhere, so often."""
    for machine in MACHINES:
        for share in (0.3, 0.6, 0.8):
            label = f"{machine.name}, copied for 60 of 200 tokens, beside a model at 0.15, {share}"
            yield label, Case(machine, always(share), 0.15, beside=lambda place: 0.95 if place % 200 >= 140 else 0.2)


def with_trees() -> Iterator[tuple[str, Case]]:
    """Cases in which two drafters of free draft tokens do not know of each other, one of chains and one of trees."""
    for machine in MACHINES:
        for ranks in ((0.3, 0.15, 0.1), (0.5, 0.2, 0.1), (0.7, 0.15, 0.05)):
            for share in (0.2, 0.6):
                label = f"{machine.name}, chains right {share}, trees {', '.join(map(str, ranks))}"
                yield label, Case(machine, always(share), ranks=ranks)


def stationary_figures(case: Case, seeds: int) -> dict[str, Any]:
    """The means over texts."""
    rows = []
    for seed in range(seeds):
        seeded = dataclasses.replace(case, seed=seed)
        size, least = best_fixed(seeded)
        took, later = with_policy(seeded).took(), with_policy(seeded, known=True).took()
        rows.append({"best": size, "of_best": least / took, "of_best_later": least / later,
                      "of_best_foreknown": least / fixed(seeded, foreknown(seeded)).took(),
                      "of_plain": (seeded.length - 1) / took})  # fmt: skip
    mean = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
    return {"machine": case.machine.name, "guess": case.token_cost, "acceptance": case.acceptance(0), **mean}


def changing_figures(case: Case, seeds: int) -> dict[str, Any]:
    """From the 50th block after the change on."""
    shares = [recovered(dataclasses.replace(case, seed=seed), _CHANGE) for seed in range(seeds)]
    return {"of_best": statistics.mean(shares)}


def whole_figures(case: Case, seeds: int) -> dict[str, Any]:
    """All texts together, with T(n) known."""
    texts = [dataclasses.replace(case, seed=seed) for seed in range(seeds)]
    took = sum(with_policy(text, known=True).took() for text in texts)
    return {
        "of_best": sum(best_fixed(text)[1] for text in texts) / took,
        "of_plain": sum(text.length - 1 for text in texts) / took,
    }


FAMILIES: dict[str, tuple[Callable[[], Iterator[tuple[str, Case]]], Callable[[Case, int], dict[str, Any]]]] = {
    "cases": (stationary, stationary_figures),
    "changes": (with_a_change, changing_figures),
    "reading": (with_reading, whole_figures),
    "both": (with_both, whole_figures),
    "trees": (with_trees, whole_figures),
}


def figures_of(task: tuple[str, int, int]) -> dict[str, Any]:
    """Those of the case with that number, of a family."""
    family, number, seeds = task
    cases, measure = FAMILIES[family]
    label, case = next(islice(cases(), number, None))
    return {"case": label, **measure(case, seeds)}


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True)
def main(out: Path | None, seeds: int) -> None:
    """All cases."""
    result: dict[str, Any] = {"length": Case.length, "seeds": seeds}
    with ProcessPoolExecutor() as pool:
        for family, (cases, _) in FAMILIES.items():
            tasks = [(family, number, seeds) for number, _ in enumerate(cases())]
            result[family] = []
            for row in pool.map(figures_of, tasks):
                result[family].append(row)
                print(row["case"], *(f"{key} {row[key]:.3f}" for key in row if key.startswith("of_")), flush=True)
    for family in FAMILIES:
        for key in (key for key in result[family][0] if key.startswith("of_")):
            shares = [row[key] for row in result[family]]
            print(f"{family}, {key}: {min(shares):.3f} to {max(shares):.3f}, mean {statistics.mean(shares):.3f}")
    save(out, WHAT, [], result)


if __name__ == "__main__":
    main()
