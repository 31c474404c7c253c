"""What trees add to chains on recorded answers, by the shape of T(n): nothing is evaluated, and no coins are thrown.

    python -m benchmarks.trees record -m SMALL.gguf --record record.jsonl -o drafts.jsonl
    python -m benchmarks.trees play --record record.jsonl --draft-tokens drafts.jsonl [--json OUT.json]

`record` notes the best three tokens of a drafter model at each place of answers that `replay record` made. `play` lets
the policy draft along them where T(n) is that of each of quick.py's curves, with contexts that evaluate trees and with
some that do not; the answers come one after the other, in several orders, since one policy learns from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import digest, save
from benchmarks.quick import curves, read_drafts, read_record, replayed
from edgespec.backend import LlamaContext, LlamaModel
from edgespec.core import MAX_ROWS, Draft
from edgespec.drafters.model import ATTENTION_SINKS, WINDOWS
from edgespec.system.cpu import default_threads

WHAT = "trees against chains on recorded answers"
ORDERS = range(1, 5)
WHO = {"suffix": "auto in a row", "suffix and a model": "auto + model 1 in a row"}
BEST = 3


@click.group()
def main() -> None:
    """Compare trees with chains."""


@main.command()
@click.option("-m", "--model", type=click.Path(path_type=Path), required=True, help="The drafter model.")
@click.option("--record", "recorded", type=click.Path(path_type=Path), required=True)
@click.option("-o", "out", type=click.Path(path_type=Path), required=True)
def record(model: Path, recorded: Path, out: Path) -> None:
    """Note a drafter model's best tokens along recorded answers, and their probabilities."""
    drafter = LlamaModel(model)
    context = LlamaContext(drafter, n_ctx=4096, threads=default_threads())
    with out.open("w", encoding="utf-8") as file:
        for answer in read_record(recorded):
            prompt, said = answer["prompt"], answer["answer"]
            if len(prompt) > ATTENTION_SINKS + WINDOWS[-1]:  # as it is read for a draft
                prompt = [*prompt[:ATTENTION_SINKS], *prompt[-WINDOWS[-1] :]]
            line: dict[str, Any] = {"question_id": answer["question_id"], "tokens": [[]], "probabilities": [[]]}
            for place in range(1, len(said), MAX_ROWS):
                ahead = said[place : place + MAX_ROWS - 1]
                chain = Draft.chain(ahead, [1.0] * len(ahead), [0] * len(ahead), "said")
                for row in context.evaluate([*prompt, *said[:place]], chain).rows[: len(said) - place]:
                    best = np.argsort(-row)[:BEST]
                    masses = np.exp(row - row[best[0]])
                    line["tokens"].append(best.tolist())
                    line["probabilities"].append((masses[best] / masses.sum()).round(5).tolist())
            file.write(json.dumps(line) + "\n")


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of all answers together."""
    total = {key: sum(row[key] for row in rows) for key in ("plain", "seconds", "tokens", "passes", "drafted")}
    return {
        "speed_up": total["plain"] / total["seconds"],
        "tokens_a_pass": total["tokens"] / total["passes"],
        "rows_a_pass": 1.0 + total["drafted"] / total["passes"],
        "below": sum(row["plain"] / row["seconds"] < 0.98 for row in rows),
        "answers": len(rows),
    }


def by_family(trees: Sequence[dict[str, Any]], chains: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The speed with trees over that with chains, by subtask."""
    return {
        family: sum(row["seconds"] for row in chains if row["subtask"] == family)
        / sum(row["seconds"] for row in trees if row["subtask"] == family)
        for family in sorted({row["subtask"] for row in trees})
    }


def played(task: tuple[str, str], record: Path, draft_tokens: Path) -> list[dict[str, Any]]:
    """The answers of one contestant on one curve, in all orders."""
    drafts = read_drafts(draft_tokens)
    return [row for order in ORDERS for row in replayed(task, read_record(record, order), drafts)]


@main.command()
@click.option("--record", "recorded", type=click.Path(path_type=Path), required=True)
@click.option("--draft-tokens", type=click.Path(path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def play(recorded: Path, draft_tokens: Path, out: Path | None) -> None:
    """Play recorded answers with trees and with chains."""
    tasks = [(curve, f"{who}{shape}") for curve in curves() for who in WHO.values() for shape in ("", ", chains")]
    with ProcessPoolExecutor(2) as pool:
        found = dict(
            zip(tasks, pool.map(partial(played, record=recorded, draft_tokens=draft_tokens), tasks), strict=True)
        )
    rows = []
    for curve in curves():
        for drafters, who in WHO.items():
            trees, chains = figures(found[curve, who]), figures(found[curve, f"{who}, chains"])
            rows.append({"curve": curve, "drafters": drafters, "trees": trees, "chains": chains})
            print(
                f"{curve:12} {drafters:19} chains {chains['speed_up']:.3f}, trees {trees['speed_up']:.3f}; tokens "
                f"a pass {chains['tokens_a_pass']:.2f} and {trees['tokens_a_pass']:.2f}, rows "
                f"{chains['rows_a_pass']:.2f} and {trees['rows_a_pass']:.2f}; below 0.98 {chains['below']} and "
                f"{trees['below']} of {trees['answers']}"
            )
    families = {}
    for drafters, who in WHO.items():
        both = ([row for curve in curves() for row in found[curve, name]] for name in (who, f"{who}, chains"))
        families[drafters] = by_family(*both)
        print(f"{drafters}: " + ", ".join(f"{family} {ratio:.3f}" for family, ratio in families[drafters].items()))
    settings = {"record": digest(recorded), "draft_tokens": digest(draft_tokens), "orders": len(ORDERS)}
    save(out, WHAT, [], {"settings": settings, "rows": rows, "families": families})


if __name__ == "__main__":
    main()
