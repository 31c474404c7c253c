"""Numbers for people (stderr) and for scripts (JSON)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any, TextIO

import click

from edgespec import Block, Engine, SamplingParams, Session
from edgespec.cli.terminal import redraw
from edgespec.decode.stats import DrafterTally
from edgespec.vocabtrim.sizes import mbsu


def as_json(session: Session, engine: Engine, sampling: SamplingParams) -> dict[str, Any]:
    """One answer as the contract names it; times in milliseconds."""
    tally = session.tally
    answer: dict[str, Any] = {
        "text": session.text,
        "tokens": session.emitted,
        "finish_reason": session.finish_reason,
        "prompt_tokens": tally.prompt_tokens,
        "cached_tokens": tally.cached_tokens,
        "model": engine.model.path.name,
        "drafter": engine.drafter_name,
        "seed": sampling.seed,
        "timings": {
            "prompt_ms": 1e3 * tally.prompt_seconds,
            "ttft_ms": 1e3 * tally.first_token_seconds,
            "predicted_n": tally.tokens,
            "predicted_ms": 1e3 * tally.decode_seconds,
            "predicted_per_second": tally.tokens_per_second,
            "draft_n": tally.drafted,
            "draft_n_accepted": tally.accepted,
            "blocks": tally.blocks,
            "mean_block_length": tally.mean_block_length,
        },
        "drafters": {name: _drafter_figures(engine, session, name, one) for name, one in tally.drafters.items()},
    }
    if sampling.logprobs is not None:
        answer["logprobs"] = [
            {"token": entry.token, "logprob": entry.logprob, "top": [list(pair) for pair in entry.top]}
            for entry in session.logprobs
        ]
    return answer


def json_line(value: Any, stream: TextIO) -> str:
    """As JSON, with letters escaped that `stream` could not spell."""
    return json.dumps(value, ensure_ascii=(stream.encoding or "").lower() not in ("utf-8", "utf8"))


def _drafter_figures(engine: Engine, session: Session, name: str, tally: DrafterTally) -> dict[str, Any]:
    """What became of one drafter's drafts; of a model, also what it is worth by its size (MBSU) and its time."""
    figures: dict[str, Any] = {
        "drafts": tally.drafts,
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "acceptance_by_depth": tally.acceptance_by_depth,
    }
    drafter = next((one for one in engine.drafters if one.name == name), None)
    if drafter is not None and drafter.share is not None:
        # Of all blocks and all guesses, those that were cut off or lost to another draft too.
        blocks = max(1, session.tally.blocks)
        draft_tokens = session.tally.draft_tokens[name]
        length = session.tally.mean_block_length
        figures["mbsu_by_parameters"] = mbsu(length, drafter.share.parameters, draft_tokens / blocks)
        figures["mbsu_by_bytes"] = mbsu(length, drafter.share.bytes, draft_tokens / blocks)
        if drafter.latency is not None and drafter.latency.known:
            figures["ms_per_token"] = 1e3 * drafter.latency.t1
    return figures


def stats_lines(session: Session, engine: Engine, seed: int) -> Iterator[str]:
    """What happened, a few short lines."""
    tally = session.tally
    yield (
        f"{tally.tokens} tokens at {tally.tokens_per_second:.1f} tokens/s, first token after "
        f"{1e3 * tally.first_token_seconds:.0f} ms ({tally.prompt_tokens} prompt tokens, {tally.cached_tokens} "
        f"cached), finish reason {session.finish_reason}, seed {seed}"
    )
    yield (
        f"{tally.blocks} forward passes, {tally.mean_block_length:.2f} tokens each; "
        f"{1e3 * (tally.planning_seconds + tally.sampling_seconds) / max(1, tally.blocks):.2f} ms beside each"
    )
    for name, drafter in tally.drafters.items():
        yield (
            f"{name}: {drafter.accepted} of {drafter.drafted} draft tokens accepted ({drafter.acceptance:.0%}) "
            f"in {drafter.drafts} drafts; by position in the draft "
            + " ".join(f"{share:.0%}" for share in drafter.acceptance_by_depth[:8])
        )
        figures = _drafter_figures(engine, session, name, drafter)
        if "mbsu_by_bytes" in figures:
            time_of = f"{figures['ms_per_token']:.1f} ms a token; " if "ms_per_token" in figures else ""
            yield (
                f"{name}: {time_of}memory-bound speed-up {figures['mbsu_by_parameters']:.2f} by parameters, "
                f"{figures['mbsu_by_bytes']:.2f} by bytes"
            )
    if not tally.drafters:
        yield "nothing was drafted (--stats=full says why, block by block)"


def print_stats(session: Session, engine: Engine, seed: int) -> None:
    """The same on stderr."""
    for line in stats_lines(session, engine, seed):
        click.echo(styled(line, sys.stderr, dim=True), err=True)


def styled(text: str, stream: IO[str], **style: Any) -> str:
    """Only for a terminal, and not where NO_COLOR is set (no-color.org)."""
    return click.style(text, **style) if stream.isatty() and not os.environ.get("NO_COLOR") else text


class Decisions:
    """On stderr, a JSON line for every block: what was drafted for it, what became of that, and why.

    `wanted` is the value of --stats; only "full" prints. `which` tells its answer from others.
    """

    def __init__(self, wanted: str | None, which: Mapping[str, Any] | None = None) -> None:
        self.wanted = wanted == "full"
        self._which = which or {}
        self._place = 0
        self._before = time.perf_counter()

    def tell(self, session: Session, block: Block) -> None:
        """One block, if that was asked for."""
        if not self.wanted:
            return
        now = time.perf_counter()
        why = list(block.reasons) if self._place else ["the prefill gives the first token"]
        if not block.tokens:
            why = [f"the answer is over: {session.finish_reason}"]
        line = {
            **self._which, "at": self._place, "tokens": len(block.tokens), "drafter": block.drafter,
            "drafted": block.drafted, "accepted": block.accepted, "ms": round(1e3 * (now - self._before), 3),
            "why": why,
        }  # fmt: skip
        click.echo(json_line(line, sys.stderr), err=True)
        self._place, self._before = len(session.emitted), now


class PromptProgress:
    """While a long prompt is read, says how far, on a terminal only; erased when the answer begins."""

    def __init__(self) -> None:
        self._shown = False
        self._wanted = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self._wanted and (self._shown or total - done > 256):
            redraw(f"reading the prompt: {done} of {total} tokens")
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            redraw()
            self._shown = False
