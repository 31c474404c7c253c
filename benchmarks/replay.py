"""Drafters against recorded answers of a target: block length, acceptance, MBSU, without evaluating the target again.

    python -m benchmarks.replay record -m TARGET.gguf --prompts FILE.jsonl --per-subtask 5 -n 96 -o record.jsonl
    python -m benchmarks.replay run -m TARGET.gguf --record record.jsonl -d suffix,SMALL.gguf --json OUT.json
    python -m benchmarks.replay trims -m TARGET.gguf --record record.jsonl -d FULL.gguf \\
        --counts NAME=COUNTS.json --sizes 32768,16384 --json OUT.json

What a lossless drafter changes is speed, so a recorded answer holds all that is needed: at each place the drafter
drafts, the record says how much of that the target would have accepted. A draft token is only verified where all before
it were right, so it was made after the recorded text; and a trimmed drafter's logits are the full one's on the rows it
kept. So one pass of the full drafter over the record tells what every trimming and every draft length would bring.
All commands go on where they were stopped.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.common import begun, digest, read_prompts, save, subtask
from edgespec import load
from edgespec.backend import LlamaContext, LlamaModel
from edgespec.core import NOTHING, Drafter, verified
from edgespec.drafters import make_drafter
from edgespec.drafters.model import ModelDrafter
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.options import Resources
from edgespec.gguf.reader import walk
from edgespec.system.cpu import cache_directory, default_threads
from edgespec.vocabtrim.counts import load_counts, merged
from edgespec.vocabtrim.pipeline import forced_tokens
from edgespec.vocabtrim.selection import TokenIds, coverage, ranked, select_ids
from edgespec.vocabtrim.sizes import Sizes, mbsu, per_token, per_token_trimmed
from edgespec.vocabtrim.writer import read_trimmable

WHAT = "drafters against recorded answers"
WHAT_TRIMS = "trimmed drafters against recorded answers"


@click.group()
def main() -> None:
    """Record answers of a target, then replay drafters against them."""


@main.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--prompts", type=click.Path(path_type=Path), required=True)
@click.option("--per-subtask", type=int, default=5, show_default=True)
@click.option("-n", "count", type=int, default=96, show_default=True)
@click.option("-o", "out", type=click.Path(path_type=Path), required=True)
def record(model: str | None, prompts: Path, per_subtask: int, count: int, out: Path) -> None:
    """Have the target answer, greedily and plainly."""
    done = {json.loads(line)["question_id"] for line in out.read_text().splitlines()} if out.exists() else set()
    with load(model, drafter="none", n_ctx=4096) as engine, out.open("a", encoding="utf-8") as file:
        prompts_left = [prompt for prompt in read_prompts(prompts, per_subtask) if prompt["question_id"] not in done]
        for number, prompt in enumerate(prompts_left):
            text = prompt["turns"][0]
            if engine.model.chat_template:
                text = engine.model.render([{"role": "user", "content": text}])
            tokens = engine.tokenize(text)[-3900:]
            session = engine.session(list(tokens), max_tokens=count)
            for _ in session.stream():
                pass
            line = {
                "question_id": prompt["question_id"], "subtask": subtask(prompt["category"]),
                "model": engine.model.path.name, "prompt": tokens, "answer": session.emitted,
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{number + 1}/{len(prompts_left)}", end="\r", file=sys.stderr, flush=True)
    print(file=sys.stderr)


@main.command()
@click.option("-m", "--model", required=True, help="The target: its vocabulary and its size are needed.")
@click.option("--record", "recorded", type=click.Path(path_type=Path), required=True)
@click.option("-d", "--drafters", required=True, help="Comma-separated: names, or files of drafter models.")
@click.option("--lengths", default="3,5", show_default=True, help="Tokens of a draft.")
@click.option("--window", type=int, help="Tokens of the prompt that a drafter model reads. Default: all of it.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def run(model: str, recorded: Path, drafters: str, lengths: str, window: int | None, out: Path | None) -> None:
    """Let each drafter draft all along each answer."""
    answers = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    settings = {"record": digest(recorded), "window": window}
    results: list[dict[str, Any]] = begun(out, WHAT, [Path(model)], settings, holds="results").get("results", [])
    done = {(result["drafter"], result["length"]) for result in results}
    target = LlamaModel(Path(model), repack=False)
    for name in drafters.split(","):
        wanted = [length for length in map(int, lengths.split(",")) if (Path(name).stem, length) not in done]
        for length in wanted:
            drafter, size = open_with_size(name, target, window)
            share = shares(size, per_token(walk(target.path)))
            rows = []
            for answer in progress(answers, f"{drafter.name}, {length}"):
                fresh = drafter if isinstance(drafter, ModelDrafter) else make_drafter(name)  # others would remember
                rows.append(replayed(fresh, answer, length))
            setting = {"drafter": Path(name).stem, "length": length, "window": window}
            results.append({**setting, **share, **summed(rows, length, share)})
            if isinstance(drafter, ModelDrafter):
                drafter.close()
            result = {"settings": settings, "record": summary_of(answers), "results": results}
            save(out, WHAT, [target.path], result, quiet=True)
            show(results[-1])


@main.command()
@click.option("-m", "--model", required=True, help="The target: its vocabulary and its size are needed.")
@click.option("--record", "recorded", type=click.Path(path_type=Path), required=True)
@click.option("-d", "--drafter", type=click.Path(path_type=Path), required=True, help="The full one.")
@click.option("--counts", multiple=True, required=True, metavar="NAME=COUNTS.json[,COUNTS.json]", help="Repeatable.")
@click.option("--sizes", default="65536,32768,16384,8192", show_default=True, help="Tokens to keep.")
@click.option("--lengths", default="3,5", show_default=True, help="Tokens of a draft.")
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
def trims(
    model: str, recorded: Path, drafter: Path, counts: tuple[str, ...], sizes: str, lengths: str, out: Path
) -> None:
    """What trimming by each of the counts to each size would bring, from one pass of the full drafter."""
    answers = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    part, target_part = read_trimmable(drafter), walk(Path(model))
    settings: dict[str, Any] = {"record": digest(recorded), "counts": {}}
    full = LlamaModel(drafter)
    forced, n_vocab = forced_tokens(part), full.vocabulary.size
    keeps: dict[str, TokenIds] = {"full": np.arange(n_vocab, dtype=np.int32)}
    for name, _, files in (argument.partition("=") for argument in counts):
        settings["counts"][name] = [digest(Path(file)) for file in files.split(",")]
        said, read, _ = merged([load_counts(Path(file)) for file in files.split(",")])
        ranking = ranked(n_vocab, said, read)
        keeps |= {f"{name} {size}": select_ids(ranking, forced, int(size)) for size in sizes.split(",")}

    models = [Path(model), drafter]
    hits: dict[str, dict[str, str]] = begun(out, WHAT_TRIMS, models, settings, holds="hits").get("hits", {})
    context = LlamaContext(full, n_ctx=4096, threads=default_threads())
    for answer in progress(answers, drafter.stem):
        known = hits.get(str(answer["question_id"]), {})
        if not known.keys() >= keeps.keys():
            hits[str(answer["question_id"])] = hits_of(context, answer, keeps)
            save(out, WHAT_TRIMS, models, {"settings": settings, "hits": hits}, quiet=True)
    context.close()
    full.close()

    said_by_target = Counter(token for answer in answers for token in answer["answer"])
    results = []
    for name, kept in keeps.items():
        share = shares(per_token_trimmed(part, len(kept)), per_token(target_part))
        for length in map(int, lengths.split(",")):
            rows = [hits_in_blocks(answer, hits[str(answer["question_id"])][name], length) for answer in answers]
            setting = {"drafter": name, "kept": len(kept), "coverage": coverage(kept, said_by_target), "length": length}
            results.append({**setting, **share, **summed(rows, length, share)})
            show(results[-1])
    result = {"settings": settings, "record": summary_of(answers), "results": results, "hits": hits}
    save(out, WHAT_TRIMS, models, result)


def hits_of(context: LlamaContext, recorded: dict[str, Any], keeps: dict[str, TokenIds]) -> dict[str, str]:
    """For each place of the answer but the first, whether the best of the kept tokens is the recorded one."""
    tokens, answer = list(recorded["prompt"]), recorded["answer"]
    marks: dict[str, list[str]] = {name: [] for name in keeps}
    for said, following in itertools.pairwise(answer):
        tokens.append(said)
        row = context.evaluate(tokens, NOTHING).rows[0]
        for name, kept in keeps.items():
            marks[name].append("1" if kept[row[kept].argmax()] == following else "0")
    return {name: "".join(marked) for name, marked in marks.items()}


def hits_in_blocks(recorded: dict[str, Any], hits: str, length: int) -> dict[str, Any]:
    """What `replayed` returns, for a drafter that is right at those places."""
    blocks = Blocks()
    while blocks.tokens < len(hits):
        ahead = hits[blocks.tokens : blocks.tokens + length]
        blocks.add(len(ahead) - len(ahead.lstrip("1")), len(ahead))
    return blocks.as_json(recorded, drafted=0, seconds=0.0)


def summary_of(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What was recorded."""
    return {
        "answers": len(answers),
        "tokens": sum(len(answer["answer"]) for answer in answers),
        "model": answers[0]["model"],
    }


def open_with_size(name: str, target: LlamaModel, window: int | None) -> tuple[Drafter, Sizes]:
    """A drafter and what it reads for a token: nothing, where it is no model."""
    if not name.endswith(".gguf"):
        return make_drafter(name), Sizes(0, 0)
    path = Path(name)
    drafter = open_drafter(
        path, target, Resources(4096, default_threads(), -1, cache_directory()), window=window or 4096
    )
    return drafter, per_token(walk(path))


def shares(drafter: Sizes, target: Sizes) -> dict[str, float]:
    """The drafter's size over the target's, both ways of counting."""
    return {
        "share_of_parameters": drafter.parameters / target.parameters,
        "share_of_bytes": drafter.bytes / target.bytes,
    }


def replayed(drafter: Drafter, recorded: dict[str, Any], length: int) -> dict[str, Any]:
    """One answer: tokens, blocks, and what became of the draft tokens at each depth."""
    tokens, answer = list(recorded["prompt"]), recorded["answer"]
    blocks, drafted, seconds = Blocks(), 0, 0.0
    tokens.append(answer[0])
    while (place := 1 + blocks.tokens) < len(answer):
        begun = time.perf_counter()
        draft = drafter.propose(tokens, length)
        if blocks.count:  # the first one reads the prompt
            seconds += time.perf_counter() - begun
            drafted += len(draft)
        judged = [accepted for _, accepted in verified(draft, answer[place:])]
        right = sum(judged)
        blocks.add(right, right + (right < len(judged)))
        tokens += answer[place : place + right + 1]
    return blocks.as_json(recorded, drafted, seconds)


class Blocks:
    """The blocks of one answer, and what became of the draft tokens at each depth."""

    def __init__(self) -> None:
        self.count = self.tokens = 0
        self._verified: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()

    def add(self, right: int, drafted: int) -> None:
        """One block: `right` of `drafted` depths were right, and then the target said one token of its own."""
        self._verified.update(range(min(drafted, right + 1)))
        self._accepted.update(range(right))
        self.count += 1
        self.tokens += right + 1

    def as_json(self, recorded: dict[str, Any], drafted: int, seconds: float) -> dict[str, Any]:
        return {
            "subtask": recorded["subtask"], "tokens": len(recorded["answer"]) - 1, "blocks": self.count,
            "judged": self._verified, "accepted": self._accepted, "drafted": drafted, "seconds": seconds,
        }  # fmt: skip


def summed(rows: list[dict[str, Any]], length: int, share: dict[str, float]) -> dict[str, Any]:
    """The figures over all answers and by subtask; block length is of all tokens over all blocks."""

    def figures(group: list[dict[str, Any]]) -> dict[str, Any]:
        tokens, blocks = (sum(row[key] for row in group) for key in ("tokens", "blocks"))
        verified: Counter[int] = sum((row["judged"] for row in group), Counter())
        accepted: Counter[int] = sum((row["accepted"] for row in group), Counter())
        block_length = tokens / max(1, blocks)
        return {
            "tokens": tokens,
            "block_length": block_length,
            "acceptance": accepted.total() / max(1, verified.total()),
            "acceptance_by_depth": [accepted[depth] / verified[depth] for depth in sorted(verified)],
            "mbsu_by_parameters": mbsu(block_length, share["share_of_parameters"], length),
            "mbsu_by_bytes": mbsu(block_length, share["share_of_bytes"], length),
        }

    subtasks = sorted({row["subtask"] for row in rows})
    timed = [row for row in rows if row["drafted"]]
    return {
        "overall": figures(rows),
        "subtasks": {name: figures([row for row in rows if row["subtask"] == name]) for name in subtasks},
        "milliseconds_per_drafted_token": 1e3 * statistics.median(row["seconds"] / row["drafted"] for row in timed)
        if timed
        else None,
    }


def progress(answers: list[dict[str, Any]], label: str) -> Iterator[dict[str, Any]]:
    """The answers, with a word on stderr about how far this is."""
    begun = time.monotonic()
    for number, answer in enumerate(answers):
        left = (time.monotonic() - begun) / number * (len(answers) - number) if number else 0.0
        print(
            f"\r\x1b[K{label}: {number}/{len(answers)}, {left / 60:.0f} min left", end="", file=sys.stderr, flush=True
        )
        yield answer
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    """One line for people."""
    overall = result["overall"]
    milliseconds = result["milliseconds_per_drafted_token"]
    print(
        f"{result['drafter']}, {result['length']}: block {overall['block_length']:.3f}, acceptance "
        f"{overall['acceptance']:.3f}, MBSU {overall['mbsu_by_parameters']:.3f} by parameters, "
        f"{overall['mbsu_by_bytes']:.3f} by bytes" + (f", {milliseconds:.2f} ms a token" if milliseconds else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
