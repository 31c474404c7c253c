"""Plain decoding beside llama.cpp's own: llama-server and llama-bench on the same file, with as many threads.

    python -m benchmarks.plain_speed -m TARGET.gguf --server .peers/llama.cpp-of-VERSION/bin/llama-server \
        --prompts models/calibration_prompts.jsonl --json OUT.json

Four contestants: `plain` (`-d none`), `auto` (`-d auto`; only answers in which nothing was drafted count), `server`
(llama-server without drafts, greedy) and `bench` (llama-bench's `tg`, which neither chooses tokens nor makes text). The
first three answer each prompt in turn: A B C, then C B A. Ratios are taken within a prompt and a turn, so that what
else the machine does hits both sides. Each run of this script starts every program anew, since where its memory lies
makes one start faster than another, and adds its times to the file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import begun, digest, read_prompts, save
from edgespec import Engine, load
from edgespec.bench.peers import LlamaServer
from edgespec.bench.statistics import summary
from edgespec.bench.versions import server_version

WHAT = "plain decoding against llama-server and llama-bench"
CONTESTANTS = ("plain", "auto", "server")
PAIRS = (("plain", "server"), ("auto", "plain"), ("auto", "server"))
_SEED = 7

Timed = dict[str, Any]
"""One answer: `ms` a token after the first; `tokens`; of ours also microseconds a token outside evaluations."""


def ours(engine: Engine, drafter: str, prompt: Sequence[int], count: int) -> tuple[Timed, tuple[int, ...]]:
    """An answer of edgespec, and its tokens."""
    engine.change_drafter(drafter)
    engine.context.forget()
    session = engine.session(list(prompt), max_tokens=count)
    for _ in session.stream():
        pass
    tally = session.tally
    timed = {
        "ms": 1e3 * tally.decode_seconds / max(1, tally.tokens - 1),
        "tokens": tally.tokens,
        "drafted": tally.drafted,
        "sampling_us": 1e6 * tally.sampling_seconds / max(1, tally.blocks),
        "deciding_us": 1e6 * tally.planning_seconds / max(1, tally.blocks),
    }
    return timed, tuple(session.emitted)


def theirs(server: LlamaServer, prompt: Sequence[int], count: int) -> tuple[Timed, tuple[int, ...]]:
    """The same of llama-server."""
    answer = server.answer(prompt, count, 0.0, _SEED, prefill_all=True)
    tokens = len(answer.tokens)
    return {"ms": 1e3 * answer.seconds / max(1, tokens - 1), "tokens": tokens}, answer.tokens


def benched(server: Path, model: Path, threads: int, count: int, repetitions: int) -> list[float]:
    """Milliseconds a token of llama-bench, which lies beside llama-server."""
    command = [str(server.parent / "llama-bench"), "-m", str(model), "-t", str(threads), "-p", "0", "-n", str(count)]
    command += ["-r", str(repetitions), "-o", "json"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return [1e3 / speed for speed in json.loads(ran.stdout)[0]["samples_ts"]]


def one_start(
    engine: Engine, server: LlamaServer, prompts: Sequence[dict[str, Any]], count: int, turns: int
) -> list[dict[str, Any]]:
    """A row for each prompt: the answers of every contestant, in the order of the turns."""
    answer: dict[str, Callable[[list[int]], tuple[Timed, tuple[int, ...]]]] = {
        "plain": lambda prompt: ours(engine, "none", prompt, count),
        "auto": lambda prompt: ours(engine, "auto", prompt, count),
        "server": lambda prompt: theirs(server, prompt, count),
    }
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        ids = engine.tokenize(engine.model.render([{"role": "user", "content": prompt["turns"][0]}]))
        if not rows:
            for name in CONTESTANTS:
                answer[name](ids)  # warm-up
        row: dict[str, Any] = {"question_id": prompt["question_id"], **{name: [] for name in CONTESTANTS}}
        texts = {}
        for turn in range(turns):
            for name in CONTESTANTS if turn % 2 == 0 else CONTESTANTS[::-1]:
                timed, texts[name] = answer[name](ids)
                row[name].append(timed)
        row["same_tokens"] = len(set(texts.values())) == 1
        rows.append(row)
        print(
            f"{row['question_id']}: "
            + ", ".join(f"{name} {statistics.median(one['ms'] for one in row[name]):.2f} ms" for name in CONTESTANTS)
            + f" a token; auto drafted {sum(one['drafted'] for one in row['auto'])}",
            flush=True,
        )
    return rows


def ratios(starts: Sequence[dict[str, Any]], name: str, other: str) -> list[list[float]]:
    """Speeds of `name` over those of `other`, turn by turn, a list for each prompt of each start.

    Answers with drafts, or of a few tokens only, are left out.
    """
    found = []
    for row in (row for start in starts for row in start["rows"]):
        both = zip(row[name], row[other], strict=True)
        pairs = [(a, b) for a, b in both if not a.get("drafted") and not b.get("drafted")]
        found.append([b["ms"] / a["ms"] for a, b in pairs if min(a["tokens"], b["tokens"]) > 8])
    return [one for one in found if one]


def summarised(starts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each contestant, and of the ratios in pairs with their intervals."""
    rows = [row for start in starts for row in start["rows"]]
    times = {name: [one["ms"] for row in rows for one in row[name]] for name in ("plain", "server")}
    times["auto"] = [one["ms"] for row in rows for one in row["auto"] if not one["drafted"]]
    times["bench"] = [ms for start in starts for ms in start["bench_ms"]]
    result: dict[str, Any] = {"ms_per_token": {name: statistics.median(ms) for name, ms in times.items() if ms}}
    for name, other in PAIRS:
        if pairs := ratios(starts, name, other):
            result[f"{name} / {other}"] = summary(pairs) | {"pairs": sum(map(len, pairs))}
    # llama-bench answers no prompt: a start's median beside a start's median.
    beside = [
        statistics.median(start["bench_ms"])
        / statistics.median(one["ms"] for row in start["rows"] for one in row["plain"])
        for start in starts
    ]
    return result | {"plain / bench": {"median": statistics.median(beside), "starts": beside}}


@click.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--server", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--prompts", "prompts_file", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", type=int, default=6, show_default=True, help="Prompts, one of each category after the other.")
@click.option("-n", "count", type=int, default=96, show_default=True, help="Tokens of an answer.")
@click.option("--turns", type=int, default=2, show_default=True, help="Answers of everybody to each prompt.")
@click.option("--ctx", "n_ctx", type=int, default=8192, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    model: str | None, server: Path, prompts_file: Path, limit: int, count: int, turns: int, n_ctx: int,
    out: Path | None,
) -> None:  # fmt: skip
    """One start of everybody. Run it again with the same --json for another one."""
    prompts = read_prompts(prompts_file, per_subtask=1)
    if limit > len(prompts):
        prompts = read_prompts(prompts_file)
    prompts = prompts[:limit]
    with load(model, drafter="none", n_ctx=n_ctx) as engine:
        path, threads = engine.model.path, engine.context.threads
        settings = {
            "tokens": count, "turns": turns, "context": n_ctx, "threads": threads,
            "llama-server": server_version(server), "prompts": digest(prompts_file), "limit": limit,
        }  # fmt: skip
        starts = begun(out, WHAT, [path], settings, holds="starts").get("starts", [])
        bench_ms = benched(server, path, threads, count, 2)
        peer = LlamaServer(server, path, (), n_ctx=n_ctx, threads=threads)
        try:
            rows = one_start(engine, peer, prompts, count, turns)
        finally:
            peer.close()
        bench_ms += benched(server, path, threads, count, 2)
    starts.append({"bench_ms": bench_ms, "rows": rows})
    result = summarised(starts)
    print(json.dumps(result, indent=1))
    save(out, WHAT, [path], {"settings": settings, "starts": starts, **result})


if __name__ == "__main__":
    main()
