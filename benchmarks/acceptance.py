"""Mean acceptance length of one drafter alone, by the number of nodes that it may draft, on a real target.

    python -m benchmarks.acceptance -m TARGET.gguf --prompts FILE.jsonl --per-subtask 4 -n 96 \\
        -d recycle,suffix --nodes 8,16,32,48 --json OUT.json

A name may be a file of heads that can run; with 4 nodes they draft chains of 4. Every step drafts what the drafter
proposes, whether or not that pays: these are counts, not times. Drafters are new for each answer; with `--warm` one
drafter answers all prompts in turn, and remembers the answers before. The result says also how often the nodes of each
feature bucket were right, if their parents were, and the tokens at each position, if those before were.
Ctrl-C stops, and the same command
goes on, with `--warm` from the last number of nodes that was finished.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from benchmarks.common import begun, digest, read_prompts, save, subtask
from benchmarks.replay import progress
from edgespec import load
from edgespec.core import Drafter, Evaluation, Verdict, verified
from edgespec.decode.stats import Tally
from edgespec.drafters import make_drafter
from edgespec.engine import Engine
from edgespec.testing import FixedPolicy

WHAT = "mean acceptance length of drafters alone"


@click.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--prompts", "file", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--per-subtask", type=int, help="Prompts of each subtask. Default: all.")
@click.option("-n", "count", type=int, default=96, show_default=True, help="Tokens of an answer.")
@click.option("-d", "--drafters", required=True, help="Names, with commas between them.")
@click.option("--nodes", default="8,16,32,48", show_default=True, help="Nodes of a draft at most.")
@click.option("--warm", is_flag=True, help="One drafter for all answers, which remembers those before.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    model: str | None,
    file: Path,
    per_subtask: int | None,
    count: int,
    drafters: str,
    nodes: str,
    warm: bool,
    out: Path | None,
) -> None:
    """One line for each drafter and number of nodes."""
    settings = {"prompts": digest(file), "per_subtask": per_subtask, "n": count, "warm": warm}
    prompts = read_prompts(file, per_subtask)
    with load(model, drafter="none", n_ctx=4096) as engine:
        models = [engine.model.path, *(Path(name) for name in drafters.split(",") if name.endswith(".gguf"))]
        results: dict[str, Any] = begun(out, WHAT, models, settings, holds="results").get("results", {})
        for name in drafters.split(","):
            for size in map(int, nodes.split(",")):
                key = f"{Path(name).stem} {size}"
                known = results.get(key, {})
                if warm and len(known.get("answers", {})) < len(prompts):
                    known = {}
                answers, buckets = known.get("answers", {}), Counter[str](known.get("buckets", {}))
                drafter = made(engine, name)
                for prompt in progress([each for each in prompts if str(each["question_id"]) not in answers], key):
                    if not warm:
                        drafter = made(engine, name)
                    watched = Watched(drafter)
                    answers[str(prompt["question_id"])] = counts(engine, watched, size, prompt, count)
                    buckets += watched.counts
                    results[key] = {**figures(list(answers.values())), "buckets": buckets, "answers": answers}
                    save(out, WHAT, models, {"settings": settings, "results": results}, quiet=True)
                show(key, results[key])
    save(out, WHAT, models, {"settings": settings, "results": results})


def made(engine: Engine, name: str) -> Drafter:
    """A drafter that has seen no text: heads keep the states of each answer apart, and need not be opened again."""
    if not name.endswith(".gguf"):
        return make_drafter(name)
    if [opened.name for opened in engine.drafters] != [Path(name).stem]:
        engine.change_drafter(name)
    return engine.drafters[0].fresh()


class Watched:
    """A drafter, with the number of right and of wrong nodes in each of its feature buckets."""

    def __init__(self, drafter: Drafter) -> None:
        self.name = drafter.name
        self.propose = drafter.propose
        self.counts: Counter[str] = Counter()
        self._drafter = drafter

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        for node, right in verified(evaluation.draft, verdict.emitted):
            self.counts[f"{evaluation.draft.buckets[node]} {'right' if right else 'wrong'}"] += 1
        self._drafter.observe(evaluation, verdict)


def counts(engine: Engine, drafter: Drafter, size: int, prompt: dict[str, Any], count: int) -> dict[str, Any]:
    """What became of the drafts in one answer; its first token comes from the prefill, and does not count."""
    text = prompt["turns"][0]
    if engine.model.chat_template:
        text = engine.model.render([{"role": "user", "content": text}])
    engine.policy = FixedPolicy(drafter, size, trees=True)
    session = engine.session(engine.tokenize(text)[-3900:], max_tokens=count)
    for _ in session.stream():
        pass
    tally = session.tally
    return {
        "subtask": subtask(prompt["category"]), "tokens": len(session.emitted) - 1, "passes": tally.blocks,
        "drafted": tally.drafted, "accepted": tally.accepted,
        "judged_at": positions(tally, "judged_at"), "accepted_at": positions(tally, "accepted_at"),
    }  # fmt: skip


def positions(tally: Tally, what: str) -> list[int]:
    """Counts of draft tokens by position: the n-th token after the last one of the text, whichever branch it is on."""
    total = Counter[int]()
    for drafter in tally.drafters.values():
        total.update(getattr(drafter, what))
    return [total[place] for place in range(max(total, default=-1) + 1)]


def figures(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean acceptance length and nodes for each forward pass, over all answers and for each subtask."""

    def means(group: list[dict[str, Any]]) -> dict[str, float]:
        passes = max(1, sum(answer["passes"] for answer in group))
        return {
            "mean_acceptance_length": sum(answer["tokens"] for answer in group) / passes,
            "nodes": sum(answer["drafted"] for answer in group) / passes,
        }

    subtasks = sorted({answer["subtask"] for answer in answers})
    by_subtask = {name: means([answer for answer in answers if answer["subtask"] == name]) for name in subtasks}
    judged, accepted = Counter[int](), Counter[int]()
    for answer in answers:
        judged.update(dict(enumerate(answer.get("judged_at", []))))
        accepted.update(dict(enumerate(answer.get("accepted_at", []))))
    by_position = [accepted[place] / judged[place] for place in sorted(judged) if judged[place]]
    return {"overall": means(answers), "subtasks": by_subtask, "acceptance_by_position": by_position}


def show(key: str, result: dict[str, Any]) -> None:
    """One line for people."""
    overall = result["overall"]
    subtasks = (f"{name} {row['mean_acceptance_length']:.2f}" for name, row in result["subtasks"].items())
    print(
        f"{key}: {overall['mean_acceptance_length']:.3f} tokens for each forward pass of {overall['nodes']:.1f} nodes; "
        + ", ".join(subtasks)
        + "; by position "
        + " ".join(f"{rate:.2f}" for rate in result["acceptance_by_position"][:6]),
        flush=True,
    )


if __name__ == "__main__":
    main()
