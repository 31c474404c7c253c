"""Is drafted text the plain text, on a real model? Greedy and seeded; every parting with its position and margin.

python -m benchmarks.lossless --prompts FILE.jsonl --per-subtask 10 -n 96 --json benchmarks/results/lossless.json
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.common import begun, read_prompts, save, subtask
from edgespec import Engine, SamplingParams, load
from edgespec.bench.divergence import divergence, rounding_noise
from edgespec.core import Policy
from edgespec.drafters import make_drafter, names_of
from edgespec.engine.drafter_set import open_drafters
from edgespec.engine.options import Resources
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.system.cpu import cache_directory, default_threads
from edgespec.testing import FixedPolicy

WHAT = "drafted answers against plain ones"


def policies(engine: Engine, names: str) -> dict[str, Policy]:
    """The policies by name; `suffix:8` always drafts up to 8 nodes, `suffix` drafts where it pays.

    A drafter may be a file of a model or of heads, and several may be joined by `+`.
    """
    made: dict[str, Policy] = {}
    parts = dict.fromkeys(part for name in names.split(",") for part in names_of(name.partition(":")[0]))
    files = [part for part in parts if part.endswith(".gguf")]
    resources = Resources(4096, default_threads(), -1, cache_directory())
    opened = open_drafters(files, engine.model, resources, context=engine.context)
    from_files = {file: each.drafter for file, each in zip(files, opened, strict=True)}
    for name in names.split(","):
        joined, _, size = name.partition(":")
        drafters = [from_files.get(part) or make_drafter(part) for part in names_of(joined)]
        made[Path(name).name] = (
            FixedPolicy(drafters[0], int(size), trees=True)
            if size
            else AdaptivePolicy(drafters, engine.latency, trees=engine.context.trees)
        )
    return made


def answer(engine: Engine, policy: Policy, tokens: list[int], sampling: SamplingParams, count: int) -> Any:
    """One answer from an empty cache, so that every answer's prompt is split alike."""
    engine.policy = policy
    engine.context.forget()
    session = engine.session(list(tokens), sampling=sampling, max_tokens=count)
    for _ in session.stream():
        pass
    return session


@click.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("--per-subtask", type=int, default=10, show_default=True)
@click.option("-n", "count", type=int, default=96, show_default=True)
@click.option("--drafters", default="anpd:6,suffix:8", show_default=True)
@click.option("--temps", default="0,0.8", show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--exact", is_flag=True, help="Draft only what can be checked to the bit.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: str | None, prompts: Path, per_subtask: int, count: int, drafters: str, temps: str, seed: int, exact: bool, out: Path | None) -> None:  # fmt: skip # noqa: E501
    """Compare drafted answers with plain ones, token for token. A result file begun is gone on with."""
    with load(model, drafter="suffix" if exact else "none", n_ctx=4096, exact=exact) as engine:
        compared = policies(engine, drafters)
        settings = {"count": count, "drafters": list(compared), "temps": temps, "seed": seed, "exact": exact}
        before = begun(out, WHAT, [engine.model.path], settings, holds="answers")
        rows: list[dict[str, Any]] = before.get("answers", [])
        done = {row["question_id"] for row in rows}
        asked = read_prompts(prompts, per_subtask)
        asked = [prompt for prompt in asked if prompt["question_id"] not in done]
        noise = {
            n: before.get("rounding_noise", {}).get(str(n), 0.0) for n in (2, 4, 8, 16) if n <= engine.context.max_rows
        }
        started = time.monotonic()
        for number, prompt in enumerate(asked):
            tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))[-3900:]
            for temp in map(float, temps.split(",")):
                sampling = SamplingParams(temperature=temp, seed=seed)
                plain = answer(engine, FixedPolicy(make_drafter("anpd"), 0), tokens, sampling, count)
                if temp == 0.0 and number % 10 == 0:
                    whole = tokens + plain.emitted
                    noise = {n: max(seen, rounding_noise(engine.context, whole, n)) for n, seen in noise.items()}
                for name, policy in compared.items():
                    drafted = answer(engine, policy, tokens, sampling, count)
                    part = divergence(engine.context, tokens, plain.emitted, drafted.emitted, sampling)
                    rows.append(
                        {
                            "question_id": prompt["question_id"], "subtask": subtask(prompt["category"]),
                            "temperature": temp, "drafter": name, "tokens": len(plain.emitted),
                            "drafted": drafted.tally.drafted, "accepted": drafted.tally.accepted,
                            "blocks": drafted.tally.blocks, "equal": part is None,
                            "parting": dataclasses.asdict(part) if part else None,
                        }
                    )  # fmt: skip
            save(out, WHAT, [engine.model.path],
                 {"settings": settings, "rows": engine.context.max_rows, "rounding_noise": noise, "answers": rows},
                 quiet=True)  # fmt: skip
            left = (time.monotonic() - started) / (number + 1) * (len(asked) - number - 1)
            print(f"{number + 1}/{len(asked)}, {left / 60:.0f} min left", end="\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    report(rows, noise)


def report(rows: list[dict[str, Any]], noise: dict[int, float]) -> None:
    """A line for every drafter and temperature, and one for every parting."""
    print("largest logit difference between widths 1 and n:", ", ".join(f"{n}: {v:.4f}" for n, v in noise.items()))
    for temp, name in sorted({(row["temperature"], row["drafter"]) for row in rows}):
        group = [row for row in rows if (row["temperature"], row["drafter"]) == (temp, name)]
        drafted, accepted = (sum(row[key] for row in group) for key in ("drafted", "accepted"))
        equal = sum(row["equal"] for row in group)
        print(f"temperature {temp}, {name}: {equal} of {len(group)} equal; {drafted} drafted, {accepted} accepted")
    for row in rows:
        if row["parting"]:
            print(f"  {row['subtask']} {row['question_id']}, {row['drafter']}, {row['temperature']}: {row['parting']}")


if __name__ == "__main__":
    main()
