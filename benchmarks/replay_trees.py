"""Trees and chains of the free drafters on recorded answers: tokens a forward pass, and how often nodes are right.

    python -m benchmarks.replay_trees --record record.jsonl -d suffix,anpd,aded --json OUT.json

A record is made by `benchmarks.replay record`. No model is evaluated. Every pass drafts the best subtree of so many
nodes, by the drafter's own estimates, of a proposal that fills a forward pass; `chain` drafts the proposal's first path
instead. `cold` drafters are new for each answer; `warm` ones have read the answers before. These are counts, not times.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import digest, save
from benchmarks.replay import summary_of
from edgespec.core import MAX_ROWS, Draft, TokenSequence, verified
from edgespec.drafters import make_drafter
from edgespec.policy.tree import by_reach, reaches, subtree

Counts = dict[str, list[int]]
"""Tokens, forward passes and nodes of each subtask."""


def best_tree(proposal: Draft, size: int) -> Draft:
    """The nodes of the largest reach."""
    order = by_reach(reaches(proposal.parents, proposal.probabilities))
    return subtree(proposal, sorted(order[:size]))


def first_path(proposal: Draft, size: int) -> Draft:
    """The first nodes that are a chain."""
    return proposal.trunk.first(size)


class Rates:
    """Of the nodes that were verified in each feature bucket: how many were right, and by the drafter's estimates."""

    def __init__(self) -> None:
        self._buckets: dict[Hashable, list[float]] = defaultdict(lambda: [0, 0, 0.0])

    def observe(self, draft: Draft, emitted: Sequence[int]) -> None:
        for node, accepted in verified(draft, emitted):
            counts = self._buckets[draft.buckets[node]]
            counts[0] += 1
            counts[1] += accepted
            counts[2] += draft.probabilities[node]

    def as_json(self) -> dict[str, dict[str, float]]:
        return {
            str(bucket): {"verified": count, "right": right / count, "estimated": round(estimated / count, 4)}
            for bucket, (count, right, estimated) in sorted(self._buckets.items(), key=str)
        }


def replayed(
    name: str, answers: list[dict[str, Any]], cut: Callable[[Draft, int], Draft], size: int, rates: Rates, *, warm: bool
) -> Counts:
    """One drafter along all answers."""
    counts: Counts = defaultdict(lambda: [0, 0, 0])
    drafter = make_drafter(name)
    for answer in answers:
        if not warm:
            drafter = make_drafter(name)
        said, place = answer["answer"], 1
        tokens = TokenSequence([*answer["prompt"], said[0]])
        while place < len(said):
            draft = cut(drafter.propose(tokens, MAX_ROWS - 1), size)
            block = said[place : place + 1 + sum(accepted for _, accepted in verified(draft, said[place:]))]
            rates.observe(draft, block)
            for group in (answer["subtask"], "all"):
                for column, count in enumerate((len(block), 1, len(draft))):
                    counts[group][column] += count
            tokens.extend(block)
            place += len(block)
    return counts


@click.command()
@click.option("--record", "recorded", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("-d", "--drafters", default="suffix,anpd,aded", show_default=True)
@click.option("--nodes", default="8,16,32,48", show_default=True, help="Nodes of a draft at most.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(recorded: Path, drafters: str, nodes: str, out: Path | None) -> None:
    """One line for each drafter, memory and number of nodes."""
    answers = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    sizes = [int(size) for size in nodes.split(",")]
    results: dict[str, Any] = {}
    for name in drafters.split(","):
        for memory in ("cold", "warm"):
            for way, cut in (("chain", first_path), ("tree", best_tree)):
                for size in sizes:
                    rates = Rates()
                    counts = replayed(name, answers, cut, size, rates, warm=memory == "warm")
                    row = {
                        group: {"tokens_a_pass": round(tokens / passes, 4), "nodes_a_pass": round(drafted / passes, 4)}
                        for group, (tokens, passes, drafted) in counts.items()
                    }
                    key = f"{name} {memory} {way} {size}"
                    results[key] = {"subtasks": row}
                    if size == max(sizes):
                        results[key]["buckets"] = rates.as_json()
                    print(f"{key:28}{row['all']['tokens_a_pass']:8.3f}{row['all']['nodes_a_pass']:8.2f}")
    settings = {"record": digest(recorded), "nodes": nodes}
    result = {"settings": settings, "record": summary_of(answers), "results": results}
    save(out, "trees and chains of free drafters on recorded answers", [], result)


if __name__ == "__main__":
    main()
