"""What heads take on this machine: a step of Medusa, a draft token of Hydra, states read by prefix attention.

    python -m benchmarks.head_time --json OUT.json

Weights are random. Times include what goes in and the copy of the logits; they are the least and the median of many
computations, in milliseconds. Run nothing else meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import save
from edgespec.backend.ggml import TYPES, Weight, quantize_rows
from edgespec.backend.head_graph import HeadGraph, HeadShape, PrefixShape, expected_tensors

WHAT = "times of heads"
HEADS = 4
MODELS = {"SmolLM2-135M": (576, 49152, PrefixShape(9, 3, 64, 1536, 1e5, 1e-5)),
          "Qwen2.5-1.5B": (1536, 151936, PrefixShape(12, 2, 128, 8960, 1e6, 1e-6))}  # fmt: skip
"""The hidden size, the vocabulary and a layer as large as one of the model's own."""

KEPT = (8192, 16384, 32768)


@click.command()
@click.option("--threads", default=2, show_default=True, help="Threads of ggml.")
@click.option("--repeats", default=100, show_default=True, help="Computations of each kind.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(threads: int, repeats: int, out: Path | None) -> None:
    """One line for each size, type and number of kept rows."""
    rows: list[dict[str, Any]] = []
    for model, (size, n_vocab, layer) in MODELS.items():
        for kind in ("q4_0", "q8_0"):
            for kept in (*KEPT, n_vocab):
                row = {"model": model, "hidden_size": size, "type": kind, "kept": kept, "threads": threads}
                row |= measured(size, kept, kind, layer, threads, repeats)
                rows.append(row)
                print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    save(out, WHAT, [], {"settings": {"threads": threads, "repeats": repeats, "heads": HEADS}, "rows": rows})


def measured(size: int, kept: int, kind: str, layer: PrefixShape, threads: int, repeats: int) -> dict[str, Any]:
    """Milliseconds as (least, median) of each computation."""
    medusa = graph(HeadShape("medusa", size, HEADS, 1, kept), kind, threads)
    state = np.ones(size, np.float32)
    times = {"medusa_step": timed(lambda: medusa.medusa(state), repeats)}
    medusa.close()
    hydra = graph(HeadShape("hydra", size, HEADS, 1, kept, layer), kind, threads)
    for head in (0, HEADS - 1):
        inputs = np.ones((1, (head + 2) * size), np.float32)
        times[f"hydra_token_{head + 1}"] = timed(lambda head=head, inputs=inputs: hydra.hydra(head, inputs), repeats)  # type: ignore[misc]
    for count in (1, 4, 8):
        states = np.ones((count, size), np.float32)
        times[f"prefix_{count}"] = timed(lambda states=states: hydra.prefix(states, 100), repeats)  # type: ignore[misc]
    hydra.close()
    return times


def graph(shape: HeadShape, kind: str, threads: int) -> HeadGraph:
    """Heads with random weights."""
    rng, weights = np.random.default_rng(0), {}
    for name, form in expected_tensors(shape, {}):
        values = rng.standard_normal(form, np.float32) / np.float32(np.sqrt(form[-1]))
        own = kind if len(form) > 1 else "f32"
        weights[name] = Weight(TYPES[own], form, quantize_rows(values.reshape(-1, form[-1]), own))
    return HeadGraph(weights, shape, threads=threads, positions=256)


def timed(compute: Callable[[], object], repeats: int) -> list[float]:
    """The least and the median time in milliseconds."""
    milliseconds = []
    for _ in range(repeats + 3):
        begun = time.perf_counter()
        compute()
        milliseconds.append(1e3 * (time.perf_counter() - begun))
    return [round(min(milliseconds), 3), round(statistics.median(milliseconds[3:]), 3)]


if __name__ == "__main__":
    main()
