"""The prefix cache: the time to the first token of a long prompt without it, at a miss, and at a hit.

    python -m benchmarks.prefix -m MODEL.gguf --tokens 812 --json OUT.json

In each round a new prompt is answered without the cache and with it, in turn, so that it misses: the folder holds other
prompts' states. Then the same text with another end is asked, as another process would: the context is empty, and the
state comes from its file, which is in the system's memory or, with the second figure, has to come from disk. The parts
of a miss are timed by themselves too: looking the prompt up, copying the state when the first token is out, and writing
it when the answer is over.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.common import save, summary
from edgespec import Engine, load
from edgespec.engine.prefix_cache import AnswerPrefix, PrefixCache
from edgespec.engine.prefix_files import stored_prefixes

WHAT = "the first token of a prompt that was read before"
_OTHERS = 50
"""Prompts of other text whose states are in the folder."""
_END = 12
"""Tokens at the end of a prompt that are another question each time."""


class _Timed:
    """The prefix cache of one answer, with the time that each of its steps takes."""

    def __init__(self, inner: AnswerPrefix, cache: PrefixCache) -> None:
        self._inner = inner
        self._cache = cache
        self.milliseconds: dict[str, float] = {}

    def restore(self) -> None:
        begun = time.perf_counter()
        self._inner.restore()
        self.milliseconds["look up"] = 1e3 * (time.perf_counter() - begun)

    def before_chunk(self, done: int) -> None:
        self._inner.before_chunk(done)

    def take(self, seconds: float) -> None:
        begun = time.perf_counter()
        self._inner.take(seconds)
        self.milliseconds["copy"] = 1e3 * (time.perf_counter() - begun)

    def write(self) -> None:
        begun = time.perf_counter()
        self._inner.write()
        self._cache.wait()
        self.milliseconds["write"] = 1e3 * (time.perf_counter() - begun)


def first_token(engine: Engine, tokens: list[int], cache: PrefixCache | None) -> tuple[float, int, dict[str, float]]:
    """Seconds to the first token in an empty context, the cached tokens, and the milliseconds of the cache's steps."""
    engine.context.forget()
    engine.prefix_cache = None
    session = engine.session(tokens, max_tokens=2)
    timed = _Timed(cache.answer(tokens), cache) if cache else None
    session._prompt_store = timed
    for _ in session.stream():
        pass
    return session.tally.first_token_seconds, session.tally.cached_tokens, timed.milliseconds if timed else {}


def drop_from_memory(path: Path) -> None:
    """Let the next read of a file come from disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@click.command()
@click.option("-m", "--model")
@click.option("--tokens", default=812, show_default=True, help="Length of a prompt.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: str | None, tokens: int, rounds: int, out: Path | None) -> None:
    """One line: the ratios of a miss and of a hit to no cache at all."""
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {"drafter": "none", "n_ctx": tokens + 64, "cache_dir": Path(folder)}
        with load(model, prefix_cache=True, **arguments) as engine:
            cache = engine.prefix_cache
            assert cache is not None
            draw = random.Random(1)
            size = engine.model.vocabulary.size
            for _ in range(_OTHERS):
                other = [draw.randrange(size) for _ in range(tokens)]
                cache.folder.write(other, bytes(1000), 0.001, replaces=False, limit=1 << 40)
            first_token(engine, [draw.randrange(size) for _ in range(40)], None)  # warms up
            rows: list[dict[str, Any]] = []
            for number in range(rounds):
                prompt, again = ([draw.randrange(size) for _ in range(tokens)] for _ in range(2))
                again[:-_END] = prompt[:-_END]
                pair = [None, cache] if number % 2 else [cache, None]
                times = {store is not None: first_token(engine, prompt, store) for store in pair}
                hit = first_token(engine, again, cache)
                stored = stored_prefixes(Path(folder) / "prefixes")[0]
                drop_from_memory(stored.path)
                cold = first_token(engine, again, cache)
                rows.append(
                    {
                        "none_seconds": times[False][0],
                        "miss_seconds": times[True][0],
                        "miss_milliseconds": times[True][2],
                        "hit_seconds": hit[0],
                        "hit_cached_tokens": hit[1],
                        "hit_from_disk_seconds": cold[0],
                        "state_megabytes": stored.bytes / 1e6,
                    }
                )
            path = engine.model.path
    ratios = {
        name: summary([row[f"{name}_seconds"] / row["none_seconds"] for row in rows])
        for name in ("miss", "hit", "hit_from_disk")
    }
    medians = {
        step: statistics.median(row["miss_milliseconds"][step] for row in rows) for step in rows[0]["miss_milliseconds"]
    }
    print(
        f"{tokens} tokens, first token after {statistics.median(row['none_seconds'] for row in rows):.2f} s without; "
        + ", ".join(f"{name.replace('_', ' ')} {ratio['median']:.3f}" for name, ratio in ratios.items())
        + "; of a miss "
        + ", ".join(f"{step} {value:.1f} ms" for step, value in medians.items())
    )
    save(out, WHAT, [path], {"tokens": tokens, "rounds": rows, "ratios": ratios, "miss_milliseconds": medians})


if __name__ == "__main__":
    main()
