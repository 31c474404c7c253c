"""What heads learn from answers of one kind: questions about SQL, half to learn from and half to measure by.

    python -m benchmarks.heads_learning prompts SQL.jsonl
    edgespec heads collect -m TARGET.gguf --prompts SQL.jsonl -n 112 -o SQL_DATA
    python -m benchmarks.heads_learning learn -m TARGET.gguf --heads LEARNED.gguf --used SQL_DATA --data DATA \\
        --json OUT.json

It trains as `edgespec heads train --from-use --start LEARNED.gguf` does, and replays answers to the other half of the
prompts before and after; also held-out answers of DATA, on which the heads were trained first. Needs the extra `train`.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import digest, save
from edgespec.gguf.validate import read_header
from edgespec.heads.dataset import HeadData
from edgespec.heads.examples import Example, limited
from edgespec.heads.format import read_heads
from edgespec.heads.pipeline import data_digest, opened
from edgespec.heads.replay import replay
from edgespec.heads.train import Trainer, usual_training

WHAT = "what heads learn from answers of one kind"

GENERAL_TOKENS = 8000
"""Held-out answer tokens of DATA that are replayed."""

TABLES = (
    "customers", "orders", "employees", "books", "loans", "flights", "bookings", "songs", "playlists", "matches",
    "teams", "rooms", "patients", "visits", "invoices", "products", "suppliers", "courses", "students", "grades",
    "sensors", "readings", "cars", "repairs", "events", "tickets",
)  # fmt: skip
QUESTIONS = (
    "Write a SQL query that lists all {a} without {b}.",
    "Write a SQL query that counts {b} for each of the {a}.",
    "How do I add a column to the table {a} in SQL, and fill it from {b}?",
    "Create SQL tables for {a} and {b} with a foreign key between them.",
    "Write a SQL query for the ten {a} with the most {b} in the last year.",
    "Explain the difference between an inner and a left join with the tables {a} and {b}.",
    "Which index would you create so that a search for {a} by name is fast? Show the SQL.",
    "Write a SQL statement that deletes {a} that have had no {b} since 2019.",
    "Write a SQL view that joins {a} with {b} and shows totals by month.",
    "How do I find duplicate rows in the table {a}? Show the SQL query.",
    "Update all {a} in SQL so that their status is closed when they have no {b}.",
    "Write a SQL query with GROUP BY and HAVING over {a} and {b}.",
)


@click.group()
def main() -> None:
    """Write the prompts, or learn from the answers."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-n", "count", default=200, show_default=True)
def prompts(out: Path, count: int) -> None:
    """Distinct questions about SQL, always the same ones."""
    random.seed(4)
    texts: dict[str, None] = {}
    while len(texts) < count:
        a, b = random.sample(TABLES, 2)
        texts[random.choice(QUESTIONS).format(a=a, b=b)] = None
    lines = (
        json.dumps({"question_id": number, "category": "sql", "turns": [text]}) for number, text in enumerate(texts)
    )
    out.write_text("".join(f"{line}\n" for line in lines))


@main.command()
@click.option("-m", "--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--heads", "file", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--used", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--epochs", default=4, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def learn(model: Path, file: Path, used: Path, data: Path, epochs: int, threads: int, out: Path | None) -> None:
    """Mean acceptance lengths of chains before and after."""
    torch.set_num_threads(threads)
    header, heads = read_header(model), read_heads(file)
    of_use, of_data = HeadData(used), HeadData(data)
    module, shared, answers = opened(of_use, header, heads, every=True)
    halves = [[one for one in answers.held_out if one.prompt % 2 == rest] for rest in (0, 1)]
    _, shared_with_data, general = opened(of_data, header, heads)
    others = limited(general.held_out, GENERAL_TOKENS)

    def lengths() -> dict[str, Any]:
        replays = {"same_kind": replay(module, shared, halves[1]), "others": replay(module, shared_with_data, others)}
        return {name: {**asdict(one), "mean_acceptance_length": one.mean_length} for name, one in replays.items()}

    def tokens(examples: list[Example]) -> int:
        return sum(len(example.answer) for example in examples)

    before = lengths()
    training = usual_training(heads.spec.trained_as, more=True, epochs=epochs)
    Trainer(module, shared, training, identity="").run(halves[0], limited(halves[1], 1000))
    after = lengths()
    settings = {"used": data_digest(of_use), "data": data_digest(of_data), "heads": digest(file)}
    result = {
        "settings": settings,
        "kind": heads.spec.trained_as,
        "training": asdict(training),
        "learned_from": tokens(halves[0]),
        "measured_by": tokens(halves[1]),
        "before": before,
        "after": after,
    }
    for kind in ("same_kind", "others"):
        print(f"{kind}: {before[kind]['mean_acceptance_length']:.3f}, then {after[kind]['mean_acceptance_length']:.3f}")
    save(out, WHAT, [model], result)


if __name__ == "__main__":
    main()
