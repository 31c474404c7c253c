"""The policy on recorded answers: how fast they would have come where T(n) is what it was measured to be.

    python -m benchmarks.replay record -m TARGET.gguf --prompts FILE.jsonl --per-subtask 5 -n 96 -o record.jsonl
    python -m benchmarks.policy_replay -m TARGET.gguf --record record.jsonl -d SMALL.gguf --curve RESULT.json

The drafters really draft; the target does not answer, since the record says what of a draft it would have accepted.
Time is counted: T(n) is the curve of a result of `edgespec bench`, the drafter model's evaluations take what its stored
costs say. So the same choices have the same figures at any moment, in minutes: this is how the policy's constants are
chosen. Every answer begins with a policy that has seen nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import digest, save
from benchmarks.simulate import Clock, checked
from edgespec.backend import LlamaModel
from edgespec.core import MAX_ROWS, Context, Draft, Drafter, Evaluation, Row, TokenSequence, Verdict
from edgespec.drafters import make_drafter
from edgespec.drafters.model import ModelDrafter
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.options import Resources
from edgespec.latency.model import PROMPT_CHUNK, LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.system.cpu import cache_directory, default_threads
from edgespec.testing import without_rows

WHAT = "the policy on recorded answers"
FREE = "suffix"


class Counted:
    """A drafter's context, whose evaluations take the time that a curve says."""

    def __init__(self, context: Context, cost: LatencyModel, clock: Clock) -> None:
        self._context, self._cost, self._clock = context, cost, clock
        self.n_ctx, self.max_rows, self.trees = context.n_ctx, context.max_rows, context.trees
        self.cached, self.rewind, self.shift = context.cached, context.rewind, context.shift
        self.prompt_states = None

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        self._clock.now += self._cost.t1 * self._cost.ratio(min(self._uncached(tokens), PROMPT_CHUNK))
        return self._context.prefill(tokens, proceed)

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        self._clock.now += self._cost.t1 * self._uncached(tokens)
        return self._context.evaluate(tokens, draft)

    def _uncached(self, tokens: Sequence[int]) -> int:
        return len(tokens) - min(self.cached(tokens), len(tokens) - 1)


def played(answer: dict[str, Any], drafters: Sequence[Drafter], curve: LatencyModel, clock: Clock) -> dict[str, Any]:
    """One answer: tokens, and the seconds that they take by the clock and plainly. What `curve` is stays the truth."""
    truth = [curve.t1 * curve.ratio(n) for n in range(1, MAX_ROWS + 1)]
    learned = LatencyModel(MAX_ROWS)
    learned.measure({n: truth[n - 1] for n in range(1, MAX_ROWS + 1)})
    policy = AdaptivePolicy(drafters, learned, clock=clock).begin()
    prompt, said = answer["prompt"], answer["answer"]
    tokens = TokenSequence(prompt)
    policy.prefilled(without_rows(tokens), Verdict((), (said[0],)), cached=len(prompt) - 1, seconds=0.0)
    tokens.append(said[0])
    begun, place, drafted, accepted, again = clock.now, 1, 0, 0, 0
    while place < len(said):
        plan = policy.plan(tokens, answer["room"] - place)
        draft = plan.draft
        seconds = truth[min(len(draft) + again, MAX_ROWS - 1)]
        clock.now += seconds
        verdict = checked(draft, said[place:].__getitem__, len(said) - place)
        policy.settle(plan, without_rows(tokens, draft, again), verdict, seconds)
        again = verdict.off_trunk
        tokens.extend(verdict.emitted)
        place += len(verdict.emitted)
        drafted, accepted = drafted + len(draft), accepted + len(verdict.accepted)
    count = len(said) - 1
    return {
        "subtask": answer["subtask"], "tokens": count, "seconds": clock.now - begun, "plain": count * truth[0],
        "drafted": drafted, "accepted": accepted,
    }  # fmt: skip


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Times plain decoding: over all tokens, the median answer, the slowest one, and how many are below 0.98."""
    ratios = [row["plain"] / row["seconds"] for row in rows]
    return {
        "answers": len(rows),
        "total": sum(row["plain"] for row in rows) / sum(row["seconds"] for row in rows),
        "median": statistics.median(ratios),
        "least": min(ratios),
        "slower": sum(ratio < 0.98 for ratio in ratios),
    }


def curve_of(result: dict[str, Any]) -> LatencyModel:
    """T(n) that a benchmark measured on purpose at its end."""
    cost = LatencyModel(MAX_ROWS)
    cost.measure({int(n): milliseconds / 1e3 for n, milliseconds in result["curve"]["ms"].items()})
    return cost


@click.command()
@click.option("-m", "--model", type=click.Path(path_type=Path), required=True, help="The target, for its vocabulary.")
@click.option("--record", "recorded", type=click.Path(path_type=Path), required=True)
@click.option("-d", "--drafter", type=click.Path(path_type=Path), help="A small model. Without it, n-grams alone.")
@click.option("--curve", type=click.Path(path_type=Path), required=True, help="A result of `edgespec bench`.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: Path, recorded: Path, drafter: Path | None, curve: Path, out: Path | None) -> None:
    """Let the policy draft along recorded answers."""
    answers = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    longest = max(len(answer["answer"]) for answer in answers)
    target = LlamaModel(model, repack=False)
    cost, clock = curve_of(json.loads(curve.read_text())), Clock()
    opened: ModelDrafter | None = None
    if drafter is not None:
        opened = open_drafter(drafter, target, Resources(4096, default_threads(), -1, cache_directory()))
        if not opened.latency.known:
            raise click.ClickException(f"what {drafter} takes is not known: edgespec doctor -m {model} -d {drafter}")
        truth = LatencyModel(PROMPT_CHUNK)
        truth.restore(opened.latency.as_json())
        opened.clock, opened.context = clock, Counted(opened.context, truth, clock)
    rows = []
    for number, answer in enumerate(answers):
        drafters: list[Drafter] = [make_drafter(FREE), *([opened] if opened else [])]
        rows.append(played({**answer, "room": longest}, drafters, cost, clock))
        print(f"{number + 1}/{len(answers)}", end="\r", flush=True)
    groups = {"overall": rows} | {name: [row for row in rows if row["subtask"] == name] for name in subtasks(rows)}
    figures = {name: summed(group) for name, group in groups.items()}
    for name, group in figures.items():
        print(
            f"{name:<16} {group['answers']:>3} answers: {group['total']:.3f} times plain decoding, "
            f"median {group['median']:.2f}, least {group['least']:.2f}, {group['slower']} below 0.98"
        )
    settings = {"record": digest(recorded), "curve": curve.name, "tokens": longest}
    result = {"settings": settings, "drafter": opened and opened.latency.as_json(), "figures": figures, "answers": rows}
    save(out, WHAT, [model, *([drafter] if drafter else [])], result)


def subtasks(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({row["subtask"] for row in rows})


if __name__ == "__main__":
    main()
