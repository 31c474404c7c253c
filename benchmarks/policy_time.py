"""What deciding costs: the policy's own time for a block, in microseconds, without the drafters'.

    python -m benchmarks.policy_time [--json OUT.json]

The text is made as in `drafting.py`: docstrings that go on, and docstrings that are said a second time, where whole
proposals of 48 tokens come true. Nothing is evaluated: T(n) is that of a simulated machine. A drafter whose draft
tokens cost time stands for a model; "trees" are two drafters that propose trees of 48 nodes, which differ in part. What
drafters take to draft is left out. Of several rounds the fastest counts.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import click

from benchmarks.common import save
from benchmarks.drafting import texts
from benchmarks.simulate import MACHINES, Clock, checked
from edgespec.core import MAX_ROWS, ROOT, Draft, DraftCost, Drafter, Evaluation, SharedNoise, TokenSequence, Verdict
from edgespec.drafters.suffix import Suffix
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import without_rows

WHAT = "the policy's own time"
CONTEXT = 1500
ROUNDS = 9
ROOM = 60
WHO = ("suffix", "suffix and model", "trees", "trees and model")

_SINGLE = 0.1
"""T(1) of the simulated machine in seconds."""

_TOKEN_COST = 0.015
_RIGHT = 0.7
_NOISE = 0.03


class Watch:
    """The time that passed while it ran."""

    def __init__(self) -> None:
        self.total = 0.0

    def start(self) -> None:
        self.total -= time.perf_counter()

    def stop(self) -> None:
        self.total += time.perf_counter()


class WatchedSuffix(Suffix):
    """The suffix drafter, with the watch stopped while it works."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        self.watch.stop()
        proposal = super().propose(tokens, limit)
        self.watch.start()
        return proposal


class Trees:
    """Proposes trees of 48 nodes: three tokens after every node, one of them mostly right."""

    def __init__(self, name: str, watch: Watch, text: Sequence[int], seed: int) -> None:
        self.name = name
        self._watch, self._text, self._seed = watch, text, seed

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        self._watch.stop()
        chance, place = random.Random(self._seed + len(tokens)), len(tokens)
        found: list[int] = []
        parents: list[int] = []
        deep: list[int] = []
        for node in range(min(limit, 48)):
            parent = node // 3 - 1
            deep.append(1 if parent == ROOT else deep[parent] + 1)
            said = self._text[place + deep[node] - 1]
            found.append(said if node % 3 == 0 and chance.random() < _RIGHT else -1 - node % 3 - chance.randrange(2))
            parents.append(parent)
        estimates = [(0.5, 0.2, 0.1)[node % 3] for node in range(len(found))]
        buckets = [node % 3 for node in range(len(found))]
        draft = Draft(tuple(found), tuple(parents), tuple(estimates), tuple(buckets), self.name)
        self._watch.start()
        return draft

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


class Model:
    """Stands for a drafter model that knows the text and is right of _RIGHT of it."""

    name = "model"

    def __init__(self, watch: Watch, clock: Clock, text: Sequence[int]) -> None:
        self._watch, self._clock = watch, clock
        chance = random.Random(1)
        self._draft_tokens = [token if chance.random() < _RIGHT else -1 for token in text]

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        return DraftCost(first=_TOKEN_COST, next=_TOKEN_COST)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self.draft(tokens, limit, SharedNoise(), lambda probability, bucket: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        self._watch.stop()
        size, wanted = 0, True
        buckets = [(place % 20, False) for place in range(len(tokens), len(tokens) + limit)]
        while size < limit and wanted:
            self._watch.start()
            wanted = go_on(_RIGHT, buckets[size])
            self._watch.stop()
            size += 1
            self._clock.now += _TOKEN_COST
        draft_tokens = self._draft_tokens[len(tokens) : len(tokens) + size]
        draft = Draft.chain(draft_tokens, [_RIGHT] * size, buckets[:size], self.name)
        self._watch.start()
        return draft

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


def measure(text: Sequence[int], who: str, *, known: bool) -> tuple[list[float], list[int]]:
    """The policy's microseconds for every block from CONTEXT on, and the sizes drafted."""
    watch, clock, ratios, chance = Watch(), Clock(), MACHINES[0].ratios(), random.Random(0)
    cost = LatencyModel(MAX_ROWS)
    for n in range(1, MAX_ROWS + 1) if known else ():
        for _ in range(3):
            cost.observe(n, _SINGLE * ratios[n - 1])
    drafters: list[Drafter] = [WatchedSuffix(watch)] if "suffix" in who else []
    if "trees" in who:
        drafters += [Trees("one", watch, text, 1), Trees("two", watch, text, 2)]
    if "model" in who:
        drafters.append(Model(watch, clock, text))
    policy = AdaptivePolicy(drafters, cost, clock=clock).begin()
    tokens = TokenSequence(text[:CONTEXT])
    policy.prefilled(without_rows([0] * MAX_ROWS), Verdict((), (0,)), cached=0, seconds=_SINGLE * ratios[-1])
    times, sizes = [], []
    while len(tokens) + ROOM < len(text):
        watch.total = 0.0
        watch.start()
        plan = policy.plan(tokens, ROOM)
        watch.stop()
        draft = plan.draft
        place = len(tokens)
        verdict = checked(draft, text[place : place + ROOM].__getitem__, ROOM)
        seconds = _SINGLE * ratios[len(draft)] * chance.lognormvariate(0.0, _NOISE)
        clock.now += seconds
        watch.start()
        policy.settle(plan, without_rows(tokens, draft), verdict, seconds)
        watch.stop()
        times.append(1e6 * watch.total)
        sizes.append(len(draft))
        tokens.extend(verdict.emitted)
    return times, sizes


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """One line for each kind of text, with and without a model, with T(n) known and not."""
    prose = texts()["prose"]
    texts_by_name = {"goes on": prose[: 2 * CONTEXT], "said again": prose[:CONTEXT] * 2}
    rows = []
    for name, text in texts_by_name.items():
        for who in WHO:
            for known in (False, True):
                runs = [measure(text, who, known=known) for _ in range(ROUNDS)]
                # What else runs makes a round slower and never faster.
                times = sorted(min((run for run, _ in runs), key=statistics.median))
                sizes = runs[0][1]
                rows.append(
                    {
                        "text": name, "drafters": who, "known": known, "blocks": len(sizes),
                        "drafted": statistics.mean(sizes), "us": statistics.median(times), "us_least": times[0],
                        "us_90": times[len(times) * 9 // 10],
                    }
                )  # fmt: skip
                print(
                    f"{name:11} {who:17} T(n) {'known' if known else 'new':6}"
                    f"{rows[-1]['us']:7.0f} us, least {rows[-1]['us_least']:4.0f}, "
                    f"90% below {rows[-1]['us_90']:5.0f} us; {len(sizes):5} blocks, "
                    f"{rows[-1]['drafted']:.1f} tokens drafted"
                )
    save(out, WHAT, [], {"context": CONTEXT, "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
