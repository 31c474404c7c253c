"""What a decode step costs outside llama.cpp, at 1k and 32k tokens of context, and two answers stepped in turn.

    python -m benchmarks.step_time [--json benchmarks/results/step-time.json]

A tiny model with random weights is evaluated by llama.cpp; the time inside `llama_decode` is left out. Tokens are fed
instead of chosen, since choosing depends on the vocabulary; so drafts can be right. What is left is planning, the KV
cache's bookkeeping, verification, learning and text. The first steps, in which drafters read the prompt, do not count.
Times are medians, in microseconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.common import save
from benchmarks.drafting import texts
from edgespec.backend import LlamaContext, LlamaModel, native
from edgespec.core import Drafter, Policy, Row, SharedNoise, TokenLogprob, TokenSequence
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Session
from edgespec.drafters.anpd import Anpd
from edgespec.drafters.suffix import Suffix
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from tests.gguf_files import tiny_model

WHAT = "a decode step outside llama.cpp"
CONTEXTS = (1024, 32768)
N_CTX = 34_000
STEPS = 300
WARM_UP = 5
VOCABULARY = 8192
FIRST_WORD = 300
"""No token below it occurs: some of these end an answer."""
TURNS = 2000
FLAT = {n: 1.0 + 0.02 * (n - 1) for n in range(1, 65)}
"""T(n)/T(1) of a machine on which drafting pays."""


class Fed:
    """A sampler that says a given text."""

    def __init__(self, text: Iterator[int]) -> None:
        self._text = text
        self.logprobs: Sequence[TokenLogprob] = ()
        self.noise = SharedNoise()
        self.seconds = 0.0

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        return next(self._text)


class Inside:
    """The seconds spent inside `llama_decode`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        decode = native.decode

        def timed(context: Any, batch: Any) -> None:
            begun = time.perf_counter()
            decode(context, batch)
            self.seconds += time.perf_counter() - begun

        native.decode = timed
        try:
            yield
        finally:
            native.decode = decode


def policy_of(drafters: Sequence[Drafter], ratios: dict[int, float]) -> Policy:
    """A policy that knows T(n)."""
    cost = LatencyModel(64)
    cost.measure({n: 0.03 * ratio for n, ratio in ratios.items()})
    return AdaptivePolicy(drafters, cost)


def step_us(model: LlamaModel, text: Sequence[int], context: int, policy: Policy) -> dict[str, float]:
    """Medians over steps after `context` tokens of `text`, which goes on as it stands there."""
    cache = LlamaContext(model, n_ctx=N_CTX, threads=1)
    sampler = Fed(iter(text[context:]))
    options = GenerationOptions(max_tokens=len(text) - context - 1)
    session = Session(cache, model.vocabulary, sampler, policy, TokenSequence(text[:context]), options)
    for _ in range(WARM_UP):
        session.step()
    inside = Inside()
    times, tokens = [], 0
    with inside.counted():
        for _ in range(STEPS):
            if session.finished:
                break
            before, begun = inside.seconds, time.perf_counter()
            tokens += len(session.step().tokens)
            times.append(1e6 * (time.perf_counter() - begun - (inside.seconds - before)))
    cache.close()
    times.sort()
    return {
        "us": statistics.median(times),
        "us_90": times[len(times) * 9 // 10],
        "tokens_a_step": tokens / len(times),
        "drafted": session.tally.drafted / len(times),
    }


def proposals_us(make: Callable[[], Drafter], text: Sequence[int], *, answers: int) -> float:
    """The microseconds of a proposal, where so many answers of `TURNS` tokens take turns."""
    drafter = make()
    sequences = [TokenSequence([number]) for number in range(answers)]
    times = []
    for place in range(TURNS):
        for number, sequence in enumerate(sequences):
            sequence.append(text[number * TURNS + place])
            begun = time.perf_counter()
            drafter.propose(sequence, 8)
            times.append(time.perf_counter() - begun)
    return 1e6 * statistics.mean(times)


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Print one line a case."""
    prose = [FIRST_WORD + token % (VOCABULARY - FIRST_WORD - STEPS) for token in texts()["prose"]]
    once = (prose * (1 + N_CTX // len(prose)))[: max(CONTEXTS)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model(Path(folder) / "tiny.gguf", n_vocab=VOCABULARY, metadata={"llama.context_length": 65536})
        model = LlamaModel(path)
        for context in CONTEXTS:
            new = range(VOCABULARY - STEPS, VOCABULARY)
            cases = {
                "no drafter": (policy_of((), FLAT), new),
                "suffix, nothing drafted": (policy_of((Suffix(),), FLAT), new),
                "suffix, drafted": (policy_of((Suffix(),), FLAT), once[64 : context // 2]),
            }
            for name, (policy, goes_on) in cases.items():
                text = [*once[:context], *goes_on]
                row = {"context": context, "case": name, **step_us(model, text[: N_CTX - 64], context, policy)}
                rows.append(row)
                print(
                    f"{context:6} tokens, {name:24} {row['us']:6.0f} us, 90% below {row['us_90']:6.0f}; "
                    f"{row['drafted']:.1f} tokens drafted a step",
                    flush=True,
                )
        model.close()
    turns = []
    for name, make in (("anpd", Anpd), ("suffix", Suffix)):
        alone, both = (proposals_us(make, prose * 2, answers=answers) for answers in (1, 2))
        turns.append({"drafter": name, "us_one_answer": alone, "us_two_in_turn": both, "ratio": both / alone})
        print(f"{name}: a proposal {alone:.1f} us in one answer, {both:.1f} us in two that take turns")
    save(out, WHAT, [], {"steps": STEPS, "rows": rows, "turns": turns})


if __name__ == "__main__":
    main()
