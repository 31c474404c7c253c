"""How long a drafted token takes: drafter models against each other, in turn, at the same places of the same text.

    python -m benchmarks.drafter_time -m TARGET.gguf -d FULL.gguf,SMALL.gguf --prompts FILE.jsonl --json OUT.json

Every drafter has read the prompt and then drafts 5 tokens, A B, B A, and so on. The first drafter is what the others
are compared with; the ratios are of neighbouring drafts.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.common import read_prompts, save, summary
from edgespec.backend import LlamaModel
from edgespec.bench.memory import peak_of
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.options import Resources
from edgespec.gguf.reader import walk
from edgespec.system.cpu import cache_directory, default_threads
from edgespec.vocabtrim.sizes import per_token

_LENGTH = 5
_MEMORY_TOKENS = 512
"""Tokens that a drafter reads before its memory is looked at."""


@click.command()
@click.option("-m", "--model", required=True, help="The target: its vocabulary is needed.")
@click.option("-d", "--drafters", required=True, help="Files, comma-separated.")
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("--limit", type=int, default=6, show_default=True, help="Prompts.")
@click.option("--rounds", type=int, default=12, show_default=True, help="Drafts of each drafter and prompt.")
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--only-load", is_flag=True, hidden=True, help="Nothing is timed: for measuring memory.")
def main(model: str, drafters: str, prompts: Path, limit: int, rounds: int, out: Path | None, only_load: bool) -> None:
    """Milliseconds for a drafted token, and ratios to the first drafter."""
    if only_load:
        load_alone(model, drafters)
        return
    model = str(Path(model).absolute())  # the processes that measure memory begin elsewhere
    target = LlamaModel(Path(model), repack=False)
    paths = [Path(name).absolute() for name in drafters.split(",")]
    if len({path.stem for path in paths}) < len(paths):
        raise click.UsageError("two drafters have the same name")
    opened = [open_drafter(path, target, Resources(2048, default_threads(), -1, cache_directory())) for path in paths]
    times: dict[str, list[float]] = {path.stem: [] for path in paths}
    for prompt in read_prompts(prompts)[:limit]:
        text = prompt["turns"][0]
        if target.chat_template:
            text = target.render([{"role": "user", "content": text}])
        tokens = target.vocabulary.tokenize_prompt(text)
        guesses = opened[0].propose(tokens, rounds + _LENGTH).tokens
        for drafter in opened:
            drafter.propose(tokens, _LENGTH)  # warm-up: the prompt is read
        for turn in range(rounds):
            tokens.append(guesses[turn])
            order = list(zip(times, opened, strict=True))
            for name, drafter in order if turn % 2 == 0 else reversed(order):
                begun = time.perf_counter()
                drafted = len(drafter.propose(tokens, _LENGTH))
                times[name].append((time.perf_counter() - begun) / max(1, drafted))
    for drafter in opened:
        drafter.close()
    first = paths[0].stem
    without = memory_of(model, "")
    rows: list[dict[str, Any]] = []
    for path in paths:
        values = times[path.stem]
        size = per_token(walk(path))
        rows.append(
            {
                "drafter": path.stem, "milliseconds": 1e3 * statistics.median(values),
                "megabytes_read": size.bytes / 1e6, "million_parameters_read": size.parameters / 1e6,
                "file_megabytes": path.stat().st_size / 1e6,
                "memory_megabytes": (memory_of(model, str(path)) - without) / 1e6,
                "ratio": summary([a / b for a, b in zip(values, times[first], strict=True)]),
            }
        )  # fmt: skip
        low, high = rows[-1]["ratio"]["interval"]
        print(f"{path.stem}: {rows[-1]['milliseconds']:.2f} ms a token, {rows[-1]['ratio']['median']:.3f} of {first}'s "
              f"[{low:.3f}, {high:.3f}], {size.bytes / 1e6:.0f} MB read, "
              f"{rows[-1]['memory_megabytes']:.0f} MB of memory")  # fmt: skip
    save(out, "time for a drafted token", [target.path, *paths], {"drafters": rows})


def load_alone(model: str, drafter: str) -> None:
    """Open the target's vocabulary and, if there is a name, the drafter, and let it read and draft."""
    target = LlamaModel(Path(model), repack=False)
    if drafter:
        opened = open_drafter(
            Path(drafter), target, Resources(2048, default_threads(), -1, cache_directory()), window=_MEMORY_TOKENS
        )
        opened.propose(list(range(1000, 1000 + _MEMORY_TOKENS)), _LENGTH)


def memory_of(model: str, drafter: str) -> int:
    """The peak memory of a process that does just that."""
    return peak_of(
        [
            sys.executable,
            "-m",
            "benchmarks.drafter_time",
            "-m",
            model,
            "-d",
            drafter,
            "--prompts",
            "none",
            "--only-load",
        ]
    )


if __name__ == "__main__":
    main()
