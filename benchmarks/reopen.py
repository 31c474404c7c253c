"""What `--session` saves: the time to the first token of a reopened chat, with its KV cache and without.

    python -m benchmarks.reopen -m MODEL.gguf --turns 20 --json OUT.json

A chat of so many turns is kept once. Then, in turn, it is reopened from its files and asked once more: with the KV
cache, and as if there were none. Both times run from before the files are read to the first token; the files are in the
system's memory by then, and the model is loaded.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from benchmarks.common import save, summary
from edgespec import Chat, Engine, load
from edgespec.engine.saved_chats import SavedChat

WHAT = "the first token of a reopened chat"
_NAME = "chat"
_ANSWER = 48


def said(chat: Chat, text: str, count: int) -> None:
    """One turn."""
    for _ in chat.stream(text, max_tokens=count).stream():
        pass


def reopened(engine: Engine, kept: SavedChat, question: str) -> tuple[float, int, int]:
    """Seconds to the first token of the next answer, its prompt's tokens, and how many of those were cached."""
    engine.context.forget()
    begun = time.perf_counter()
    chat = engine.chat()
    for _ in kept.restore(chat, engine):
        pass
    session = chat.stream(question, max_tokens=2)
    session.step()
    seconds = time.perf_counter() - begun
    return seconds, session.tally.prompt_tokens, session.tally.cached_tokens


@click.command()
@click.option("-m", "--model")
@click.option("--turns", default=20, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(model: str | None, turns: int, rounds: int, out: Path | None) -> None:
    """One line: both times and their ratio."""
    with load(model, n_ctx=4096) as engine, tempfile.TemporaryDirectory() as folder:
        kept = SavedChat(Path(folder), _NAME)
        chat = engine.chat("You are a helpful assistant.")
        for turn in range(turns):
            said(chat, f"Tell me something about the number {turn + 2}.", _ANSWER)
        kept.save(chat, engine, cache=True)
        cache, aside = Path(folder) / f"{_NAME}.kv", Path(folder) / "aside"
        question = "Which of these numbers is the largest?"
        warm, cold = [], []
        for _ in range(rounds + 1):
            warm.append(reopened(engine, kept, question))
            cache.rename(aside)
            cold.append(reopened(engine, kept, question))
            aside.rename(cache)
        # the first ones warm up
        warm_seconds, cold_seconds = ([seconds for seconds, *_ in times[1:]] for times in (warm, cold))
        ratio = summary([one / other for one, other in zip(warm_seconds, cold_seconds, strict=True)])
        result = {
            "turns": turns,
            "prompt_tokens": warm[0][1],
            "cached_tokens": warm[0][2],
            "kv_megabytes": cache.stat().st_size / 1e6,
            "warm_seconds": warm_seconds,
            "cold_seconds": cold_seconds,
            "ratio": ratio,
        }
        path = engine.model.path
    print(
        f"{result['prompt_tokens']} tokens: first token after {min(warm_seconds):.2f} s instead of "
        f"{min(cold_seconds):.2f} s; ratio {ratio['median']:.3f}"
    )
    save(out, WHAT, [path], result)


if __name__ == "__main__":
    main()
