"""The policy on all simulated families and recorded answers, in a minute or two: by this the rule is judged.

    python -m benchmarks.quick simulate --json OUT.json [--reference FILE.json]
    python -m benchmarks.quick replay --record record.jsonl [--draft-tokens drafts.jsonl] --json OUT.json
    python -m benchmarks.quick compare BEFORE.json AFTER.json

`simulate` plays the cases of simulate.py once each; what the best fixed draft length takes does not depend on the
policy and is kept in the reference file. `replay` plays recorded answers on measured curves of T(n), beside two rows
of reference: llama-server's ngram-simple, and an oracle that knows how many tokens of each proposal are right. "auto
first" begins each answer with T(n) unknown but for what reading the prompt tells, "auto" with T(n) known; "in a row" is
one policy for all answers; "chains" evaluates no trees. "model" has a drafter model beside, of whose rows "1" takes a
second-best token, too.
An answer's lateness is its time beyond plain decoding, in T(1); the promise allows 10 T(1) or 5%, whichever is more.
"""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.simulate import (
    MACHINES,
    Case,
    Clock,
    Course,
    always,
    best_fixed,
    checked,
    stationary,
    with_a_change,
    with_both,
    with_policy,
    with_reading,
    with_trees,
)
from edgespec.core import (
    MAX_ROWS,
    NOTHING,
    Draft,
    DraftCost,
    Drafter,
    Evaluation,
    Plan,
    SharedNoise,
    TokenSequence,
    Verdict,
    verified,
)
from edgespec.drafters.anpd import Anpd
from edgespec.drafters.suffix import Suffix
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.policy.config import PolicyConfig
from edgespec.testing import without_rows


def experiment() -> PolicyConfig:
    """The config under test: CONFIG holds what it changes."""
    return PolicyConfig(**json.loads(os.environ.get("CONFIG") or "{}"))


PROMISED_TIMES = 10.0
PROMISED_SHARE = 0.05
NEAR_PLAIN = 0.98


def with_throttling() -> Iterator[tuple[str, Case]]:
    """Cases in which the machine becomes slower in the middle of a text."""
    for machine in MACHINES:
        for times in (2.0, 4.0):
            for share in (0.5, 0.8, 0.97):
                label = f"{machine.name}, free, {share}, {times:.0f} times slower from token 400 on"
                yield label, Case(machine, always(share), length=1200, throttled=(400, times, machine))


FAMILIES: dict[str, tuple[Callable[[], Iterator[tuple[str, Case]]], int]] = {
    "stationary": (stationary, 0),
    "changes": (with_a_change, 0),
    "reading": (with_reading, 0),
    "both": (with_both, 0),
    "throttling": (with_throttling, 400),
    "trees": (with_trees, 0),
}
"""The cases of each family, and the token from which on they are compared with the best fixed draft length."""

KNOWN = ("reading", "both", "trees")
"""Families that begin with T(n) known."""


def lateness(course: Course, case: Case) -> tuple[float, float]:
    """At the end, and the most beyond what is promised anywhere (0 or less: the promise is kept)."""
    curves, plain, worst, late = case.curves(), 0.0, -PROMISED_TIMES, 0.0
    for place in range(1, len(course.at)):
        plain += curves(place)[0]
        late = course.at[place] - plain
        worst = max(worst, late - max(PROMISED_TIMES * curves(place)[0], PROMISED_SHARE * plain))
    return late, worst


def simulated(task: tuple[str, int], references: dict[str, float], *, trees: bool = True) -> dict[str, Any]:
    """One case of one family."""
    family, number = task
    cases, begin = FAMILIES[family]
    label, case = next(islice(cases(), number, None))
    course = with_policy(case, known=family in KNOWN, config=experiment(), trees=trees)
    curves = case.curves()
    plain = sum(curves(place)[0] for place in range(1, case.length))
    late, beyond = lateness(course, case)
    key = f"{family}: {label}"
    best = references.get(key) or best_fixed(case, begin)[1]
    return {
        "case": key, "family": family, "plain": plain, "seconds": course.took(), "beyond": beyond, "late": late,
        "best": best, "of_best": best / course.took(begin),
    }  # fmt: skip


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one family."""
    ratios = [row["plain"] / row["seconds"] for row in rows]
    summary = {
        "answers": len(rows),
        "total": sum(row["plain"] for row in rows) / sum(row["seconds"] for row in rows),
        "mean": statistics.mean(ratios),
        "least": min(ratios),
        "below": sum(ratio < NEAR_PLAIN for ratio in ratios),
        "beyond": sum(row["beyond"] > 1e-9 for row in rows),
    }
    if "of_best" in rows[0]:
        shares = [row["of_best"] for row in rows]
        summary |= {"of_best": statistics.mean(shares), "of_best_least": min(shares)}
    return summary


def show(name: str, summary: dict[str, Any]) -> None:
    """One line."""
    print(f"{name:<44}" + " ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
                                   for key, value in summary.items()), flush=True)  # fmt: skip


@click.group()
def main() -> None:
    """Judge a rule."""


@main.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), help="Times of the best fixed draft lengths.")
@click.option("--family", multiple=True, help="Only these.")
@click.option("--chains", is_flag=True, help="Contexts evaluate no trees.")
def simulate(out: Path | None, reference: Path | None, family: tuple[str, ...], *, chains: bool) -> None:
    """Play the simulated families."""
    references = json.loads(reference.read_text()) if reference and reference.exists() else {}
    tasks = [(name, number) for name in family or FAMILIES for number, _ in enumerate(FAMILIES[name][0]())]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(partial(simulated, references=references, trees=not chains), tasks, chunksize=4))
    if reference:
        references |= {row["case"]: row["best"] for row in rows}
        reference.write_text(json.dumps(references))
    figures = {name: summed([row for row in rows if row["family"] == name]) for name in family or FAMILIES}
    for name, summary in figures.items():
        show(name, summary)
    if out:
        out.write_text(json.dumps({"figures": figures, "rows": rows}))


# Recorded answers


def interpolated(points: dict[int, float]) -> list[float]:
    """T(n)/T(1) for n = 1 .. MAX_ROWS, a straight line between the sizes that were measured."""
    sizes = sorted(points)
    ratios = np.interp(np.arange(1, MAX_ROWS + 1), sizes, [points[n] / points[1] for n in sizes])
    beyond = (points[sizes[-1]] - points[sizes[-2]]) / (sizes[-1] - sizes[-2]) / points[1]
    return [float(r) if n <= sizes[-1] else float(ratios[sizes[-1] - 1] + beyond * (n - sizes[-1]))
            for n, r in enumerate(ratios, start=1)]  # fmt: skip


RESULTS = Path(__file__).parent / "results"
MEASURED = {
    "F16 AVX-512": "bench-qwen-1.5b-f16",
    "F16 flat": "warm-qwen-1.5b-f16-xeon",
    "Q8_0": "bench-qwen-1.5b-q8_0",
    "Q4_K_M a": "bench-qwen-1.5b-q4_k_m",
    "Q4_K_M b": "edits-qwen-1.5b-q4_k_m",
    "Q4_K_M c": "bench-qwen-1.5b-q4_k_m-first",
}
AVX2 = {
    "F16 AVX2": {1: 1, 2: 1.67, 3: 1.85, 4: 2.38, 6: 2.67, 8: 3.27, 16: 5.43, 32: 9.6},
    "Q4_K_M AVX2": {1: 1, 2: 1.72, 3: 2.42, 4: 3.01, 6: 4.41, 8: 7.49, 16: 9.85, 32: 17.6},
    "Q4_0 AVX2": {1: 1, 2: 1.93, 3: 2.70, 4: 3.41, 6: 4.89, 8: 6.80, 16: 10.3, 32: 19.2},
}
"""Measured on two AVX2 cores; beyond 32 rows continued in a straight line."""
FLAT = {
    "Xeon F16": {1: 1, 2: 1.01, 3: 1.06, 4: 1.13, 6: 1.31, 8: 1.67, 16: 2.48, 32: 4.8},
    "phone": next(machine.points for machine in MACHINES if machine.name == "phone"),
    "GPU": next(machine.points for machine in MACHINES if machine.name == "GPU"),
}
"""A Xeon with AVX-512, measured; a phone and a GPU, made up: see simulate.py."""


def curves() -> dict[str, list[float]]:
    """All curves by name."""
    measured = {
        name: {int(n): ms for n, ms in json.loads((RESULTS / f"{file}.json").read_text())["curve"]["ms"].items()}
        for name, file in MEASURED.items()
    }
    return {name: interpolated(dict(points)) for name, points in {**measured, **AVX2, **FLAT}.items()}


class RecordedModel:
    """A drafter model whose best tokens along an answer are on record: {"tokens", "probabilities"} by place, one list
    of each, the best first. `sides` of the others begin side branches.

    A draft token takes `token_cost` T(1); its first draft in an answer reads for `prefill` T(1). Draft tokens after a
    wrong one are never verified, so those on record stand for them.
    """

    name = "model"

    def __init__(self, clock: Clock, token_cost: float, prefill: float, sides: int = 0) -> None:
        self._clock, self._token_cost, self._prefill, self._sides = clock, token_cost, prefill, sides
        self.begin({"tokens": [], "probabilities": []}, 0)

    def begin(self, record: dict[str, Any], prompt: int) -> None:
        """An answer begins, whose prompt has so many tokens."""
        self._record, self._prompt, self._prefill_left, self._read = record, prompt, self._prefill, 0

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        return DraftCost(first=self._start(tokens), next=self._token_cost)

    def _start(self, tokens: Sequence[int]) -> float:
        if not self._read:
            return self._token_cost + self._prefill_left
        unread = len(tokens) - self._read  # a few are read together, in the time of two draft tokens
        return self._token_cost * (1.0 if unread <= 1 else min(2.0 + unread / 8, 17.0))

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return self.draft(tokens, limit, SharedNoise(), lambda probability, bucket: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Any], bool]
    ) -> Draft:
        self._clock.now += self._start(tokens) - self._token_cost
        place = len(tokens) - self._prompt
        recorded, probabilities = self._record["tokens"], self._record["probabilities"]
        nodes: list[tuple[int, int, float, Hashable]] = []  # token, parent, probability, bucket
        sides: list[tuple[int, int, float, Hashable]] = []
        for size in range(min(limit, len(recorded) - place)):
            self._clock.now += self._token_cost
            best, *others = zip(recorded[place + size], probabilities[place + size], strict=True)
            nodes.append((best[0], size - 1, best[1], (min(int(20 * best[1]), 19), False)))
            sides += [
                (token, size - 1, chance, (min(int(20 * chance), 19), False, rank))
                for rank, (token, chance) in enumerate(others[: self._sides], start=2)
            ]
            if not go_on(best[1], nodes[-1][3]):
                break
        self._read = len(tokens)
        if not nodes:
            return NOTHING
        found, parents, chances, buckets = zip(*nodes, *sides[: limit - len(nodes)], strict=True)
        return Draft(found, parents, chances, buckets, self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """It learns nothing."""


TOKEN_COST, PREFILL = 0.15, 2.6
"""A small model in Q4_0 beside a target in F16: a draft token and its prefill, in T(1) of the target."""


def played(
    answer: dict[str, Any], policy: Any, truth: Sequence[float], clock: Clock, room: int, *, timed: bool = False
) -> dict[str, Any]:
    """One answer: its seconds by the clock, and plainly; `timed` tells the policy what reading the prompt takes."""
    policy, said = policy.begin(), answer["answer"]
    tokens = TokenSequence(answer["prompt"])
    cached, seconds = (0, truth[-1] * len(tokens) / len(truth)) if timed else (len(tokens) - 1, 0.0)
    policy.prefilled(without_rows(tokens), Verdict((), (said[0],)), cached=cached, seconds=seconds)
    tokens.append(said[0])
    begun, place, drafted, accepted, passes, beyond = clock.now, 1, 0, 0, 0, -PROMISED_TIMES
    again = 0
    while place < len(said):
        plan = policy.plan(tokens, room - place)
        draft = plan.draft
        seconds = truth[min(len(draft) + again, len(truth) - 1)]
        clock.now += seconds
        verdict = checked(draft, said[place:].__getitem__, len(said) - place)
        policy.settle(plan, without_rows(tokens, draft, again), verdict, seconds)
        again = verdict.off_trunk
        tokens.extend(verdict.emitted)
        place, passes = place + len(verdict.emitted), passes + 1
        drafted, accepted = drafted + len(draft), accepted + len(verdict.accepted)
        late = clock.now - begun - (place - 1)
        beyond = max(beyond, late - max(PROMISED_TIMES, PROMISED_SHARE * (place - 1)))
    count = len(said) - 1
    return {
        "id": answer["question_id"], "subtask": answer["subtask"], "tokens": count, "plain": float(count),
        "seconds": clock.now - begun, "drafted": drafted, "accepted": accepted, "beyond": beyond,
        "passes": passes,
    }  # fmt: skip


class NgramSimple:
    """llama-server's rule: the `size` tokens that followed the last time the last `match` tokens occurred."""

    def __init__(self, match: int = 12, size: int = 48) -> None:
        self._match, self._size = match, size

    def begin(self) -> NgramSimple:
        """Answers have nothing of their own."""
        return self

    def plan(self, tokens: Sequence[int], room: int) -> Plan:
        last = list(tokens[-self._match :])
        for end in range(len(tokens) - 1, self._match - 1, -1):
            if tokens[end - 1] == last[-1] and list(tokens[end - self._match : end]) == last:
                found = list(tokens[end : end + min(self._size, room)])
                return Plan(Draft.chain(found, [1.0] * len(found), [0] * len(found), "ngram"))
        return Plan()

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float | None) -> None:
        """It learns nothing."""

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        """Nor here."""


def oracle(answer: dict[str, Any], truth: Sequence[float]) -> dict[str, Any]:
    """The least time of one who knows how many tokens of each of the suffix drafter's proposals are right."""
    said, prompt = answer["answer"], answer["prompt"]
    drafter, tokens = Suffix(), TokenSequence([*prompt, said[0]])
    drafter.observe(without_rows(tokens), Verdict((), ()))
    right = [0] * len(said)
    for place in range(1, len(said)):
        right[place] = sum(accepted for _, accepted in verified(drafter.propose(tokens, 48), said[place:]))
        tokens.append(said[place])
    best = [0.0] * (len(said) + 50)
    for place in range(len(said) - 1, 0, -1):
        best[place] = min(truth[n] + best[place + n + 1] for n in range(min(right[place], len(said) - place) + 1))
    return {
        "id": answer["question_id"], "subtask": answer["subtask"], "tokens": len(said) - 1,
        "plain": float(len(said) - 1), "seconds": best[1], "beyond": -PROMISED_TIMES,
    }  # fmt: skip


def measured_cost(truth: Sequence[float]) -> LatencyModel:
    """T(n) as the doctor leaves it."""
    cost = LatencyModel(MAX_ROWS)
    cost.measure({n: truth[n - 1] for n in range(1, MAX_ROWS + 1)})
    return cost


def make_policy(drafters: Sequence[Drafter], cost: LatencyModel, clock: Clock, *, trees: bool = True) -> Any:
    """The policy under test."""
    return AdaptivePolicy(drafters, cost, trees=trees, clock=clock, config=experiment())


def replayed(task: tuple[str, str], answers: list[dict[str, Any]], drafts: dict[str, Any]) -> list[dict[str, Any]]:
    """All answers on one curve, by one contestant."""
    curve, who = task
    truth = curves()[curve]
    longest = max(len(answer["answer"]) for answer in answers)
    rows = []
    clock = Clock()
    sides = next((int(word) for word in who.split() if word.isdigit()), 0)
    model = RecordedModel(clock, TOKEN_COST, PREFILL, sides)
    drafters: list[Drafter] = []
    policy: Any = None
    for answer in answers:
        if who == "oracle":
            rows.append(oracle(answer, truth))
            continue
        if who == "ngram-simple":
            rows.append(played(answer, NgramSimple(), truth, clock, longest))
            continue
        if policy is None or "in a row" not in who:
            drafters = [Suffix(), *([Anpd()] if "anpd" in who else []), *([model] if "model" in who else [])]
            cost = LatencyModel(MAX_ROWS) if "first" in who else measured_cost(truth)
            policy = make_policy(drafters, cost, clock, trees="chains" not in who)
        if "model" in who:
            if answer["question_id"] not in drafts:
                continue
            model.begin(drafts[answer["question_id"]], len(answer["prompt"]))
        rows.append(played(answer, policy, truth, clock, longest, timed="first" in who))
    return [{**row, "curve": curve, "who": who} for row in rows]


def target_type(curve: str) -> str:
    """Curves whose figures are added up."""
    return "Q4" if curve.startswith("Q4") else "F16" if curve.startswith("F16") else curve


def read_record(path: Path, order: int = 1) -> list[dict[str, Any]]:
    """Recorded answers of more than a few tokens, topics mixed."""
    answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(order).shuffle(answers)
    return [answer for answer in answers if len(answer["answer"]) > 8]


def read_drafts(path: Path) -> dict[str, Any]:
    """What a drafter model's best tokens are along answers, see `RecordedModel`; `trees record` makes that."""
    return {line["question_id"]: line for line in map(json.loads, path.read_text().splitlines())}


def grouped(rows: Sequence[dict[str, Any]], curve_groups: Sequence[Callable[[str], str]]) -> dict[str, Any]:
    """The figures by curves, subtask and contestant."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for group in curve_groups:
            groups.setdefault(f"{group(row['curve'])} | {row['subtask']} | {row['who']}", []).append(row)
    return {name: summed(chosen) for name, chosen in sorted(groups.items())}


@main.command()
@click.option("--record", type=click.Path(path_type=Path), required=True)
@click.option("--draft-tokens", type=click.Path(path_type=Path), help="What a drafter model said along them.")
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Every curve for itself, too.")
@click.option("--who", multiple=True, help="Only these contestants.")
@click.option("--curve", "only", multiple=True, help="Only these curves.")
def replay(
    record: Path, draft_tokens: Path | None, out: Path | None, every: bool, who: tuple[str, ...], only: tuple[str, ...]
) -> None:
    """Play recorded answers."""
    answers = read_record(record)
    drafts = read_drafts(draft_tokens) if draft_tokens else {}
    contestants = list(who) or ["ngram-simple", "oracle", "auto first", "auto", "auto in a row"]
    chosen_curves = [name for name in curves() if name in (only or name)]
    tasks = [(curve, name) for curve in chosen_curves for name in contestants]
    if drafts and not who:
        tasks += [(curve, name) for curve in chosen_curves if target_type(curve) != "Q4"
                  for name in ("auto + model", "auto + model in a row")]  # fmt: skip
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(2) as pool:
        for replayed_rows in pool.map(partial(replayed, answers=answers, drafts=drafts), tasks):
            rows += replayed_rows
    figures = grouped(rows, [target_type, str] if every else [target_type])
    for name, summary in figures.items():
        show(name, summary)
    if out:
        out.write_text(json.dumps({"figures": figures, "rows": rows}))


@main.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Two results beside each other; * where the second is out of the bar."""
    old_figures, new_figures = (json.loads(path.read_text())["figures"] for path in (before, after))
    for name in [name for name in old_figures if name in new_figures]:
        old, new = old_figures[name], new_figures[name]
        bad = new["total"] < 0.99 * old["total"] or new["below"] * 20 > new["answers"] or new["beyond"]
        print(
            f"{'*' if bad else ' '} {name:<44} total {old['total']:.3f} -> {new['total']:.3f}, "
            f"least {old['least']:.3f} -> {new['least']:.3f}, below {old['below']} -> {new['below']} "
            f"of {new['answers']}, beyond {old['beyond']} -> {new['beyond']}"
            + (f", of best {old['of_best']:.3f} -> {new['of_best']:.3f}, least {old['of_best_least']:.3f} -> "
               f"{new['of_best_least']:.3f}" if "of_best" in old else "")
        )  # fmt: skip


if __name__ == "__main__":
    main()
