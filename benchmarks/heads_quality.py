"""Acceptance of trained heads by replay: on held-out answers, on Spec-Bench's, and on answers that loop.

    edgespec heads collect -m TARGET.gguf --prompts SPEC_BENCH.jsonl -n 128 -o SPEC_DATA
    python -m benchmarks.heads_quality -m TARGET.gguf --data DATA --spec SPEC_DATA --prompts SPEC_BENCH.jsonl \\
        --json OUT.json LEARNED.gguf...

DATA is what the heads were trained on: the answers to a twentieth of its prompts were held out. Of SPEC_DATA, no answer
was seen. The figures are counts: other programs may run meanwhile. Needs the extra `train`.
"""

from __future__ import annotations

from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.common import begun, digest, save, subtask
from edgespec.gguf.validate import Header, read_header
from edgespec.heads.dataset import HeadData
from edgespec.heads.examples import Example
from edgespec.heads.format import HeadsFile, read_heads
from edgespec.heads.pipeline import chosen_tokens, data_digest, opened
from edgespec.heads.replay import Replayed, replay
from edgespec.system.prompts import read_prompts

WHAT = "acceptance of trained heads by replay"

NODES = 16


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-m", "--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--spec", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--prompts", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--sizes", default="", help="Replay also with the LM head cut to so many rows each, by their use in DATA."
)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    files: tuple[Path, ...],
    model: Path,
    data: Path,
    spec: Path,
    prompts: Path,
    sizes: str,
    threads: int,
    out: Path | None,
) -> None:
    """One entry for each file of heads."""
    torch.set_num_threads(threads)
    header = read_header(model)
    trained_on, unseen = HeadData(data), HeadData(spec)
    settings = {
        "sizes": sizes,
        "data": data_digest(trained_on),
        "spec": data_digest(unseen),
        "prompts": digest(prompts),
    }
    results: dict[str, Any] = begun(out, WHAT, [model], settings, holds="results").get("results", {})
    categories = [subtask(prompt["category"]) for prompt in read_prompts(prompts)]
    for path in (file for file in files if file.stem not in results):
        heads = read_heads(path)
        module, shared, answers = opened(trained_on, header, heads)
        held_out = figures(replay(module, shared, answers.held_out))
        loops = figures(replay(module, shared, answers.looping))
        module, shared, answers = opened(unseen, header, heads, every=True)
        of_subtask: dict[str, list[Example]] = {}
        for example in answers.held_out:
            of_subtask.setdefault(categories[example.prompt], []).append(example)
        results[path.stem] = {
            **described(heads, path),
            "held_out": held_out,
            "looping": loops,
            "spec_bench": figures(replay(module, shared, answers.held_out)),
            "spec_bench_tree": figures(replay(module, shared, answers.held_out, NODES)),
            "spec_bench_looping": figures(replay(module, shared, answers.looping)),
            "subtasks": {name: figures(replay(module, shared, of_subtask[name])) for name in sorted(of_subtask)},
        }
        rows = [int(size) for size in sizes.split(",") if size]
        results[path.stem]["rows"] = {size: of_rows(trained_on, unseen, header, heads, size) for size in rows}
        show(path.stem, results[path.stem])
        save(out, WHAT, [model], {"settings": settings, "results": results}, quiet=True)


def described(heads: HeadsFile, path: Path) -> dict[str, Any]:
    """What was trained, and on how much."""
    provenance = heads.spec.provenance
    return {
        "kind": heads.spec.trained_as,
        "tokens": provenance["tokens"],
        "epochs": len(provenance["epochs"]),
        "kept": len(heads.kept_ids),
        "bytes": path.stat().st_size,
    }


def of_rows(trained_on: HeadData, unseen: HeadData, header: Header, heads: HeadsFile, size: int) -> dict[str, Any]:
    """Chains with other rows of the LM head, which is the target's own and was not trained."""
    other = copy(heads)
    other.kept_ids = chosen_tokens(trained_on, header, size).astype(np.int64)
    module, shared, answers = opened(unseen, header, other, every=True)
    return figures(replay(module, shared, answers.held_out))


def figures(result: Replayed) -> dict[str, Any]:
    """A replay as JSON."""
    return {**asdict(result), "mean_acceptance_length": result.mean_length, "acceptance_by_position": result.rates}


def show(name: str, result: dict[str, Any]) -> None:
    """One line for people."""
    rates = " ".join(f"{rate:.2f}" for rate in result["spec_bench"]["acceptance_by_position"])
    names = ("spec_bench", "spec_bench_tree", "held_out")
    lengths = ", ".join(f"{where} {result[where]['mean_acceptance_length']:.3f}" for where in names)
    print(f"{name}: {result['kind']} of {result['tokens']} tokens; {lengths}; by position {rates}", flush=True)


if __name__ == "__main__":
    main()
