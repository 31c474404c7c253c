"""Statistics of an answer, as text and as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from edgespec import Block, Engine, SamplingParams, Session
from edgespec.cli.terminal import CONTROLS, echo, redraw
from edgespec.decode.stats import DrafterTally
from edgespec.vocabtrim.sizes import mbsu


def as_json(session: Session, engine: Engine, sampling: SamplingParams) -> dict[str, Any]:
    """An answer as the JSON object of `generate --json`; times in milliseconds."""
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
        "drafters": {
            name: _drafter_json(engine, session, name, drafter_tally) for name, drafter_tally in tally.drafters.items()
        },
    }
    if session.lossy:
        answer["acceptance"] = sampling.acceptance
    if sampling.logprobs is not None:
        answer["logprobs"] = [
            {"token": entry.token, "logprob": entry.logprob, "top": [list(pair) for pair in entry.top]}
            for entry in session.logprobs
        ]
        answer["completion_probabilities"] = [
            {
                **_probability(engine, entry.token, entry.logprob),
                "top_logprobs": [_probability(engine, *pair) for pair in entry.top],
            }
            for entry in session.logprobs
        ]
    return answer


def _probability(engine: Engine, token: int, logprob: float) -> dict[str, Any]:
    """A token's id, text, bytes and log-probability, under the names that llama-server and OpenAI give them."""
    spelled = engine.model.vocabulary.spelled([token])
    return {"id": token, "token": spelled.decode(errors="replace"), "bytes": list(spelled), "logprob": logprob}


def json_line(value: Any, stream: TextIO) -> str:
    """The JSON text of `value`, with characters escaped that `stream` cannot encode or a terminal would obey."""
    text = json.dumps(value, ensure_ascii=(stream.encoding or "").lower() not in ("utf-8", "utf8"))
    return CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def _drafter_json(engine: Engine, session: Session, name: str, tally: DrafterTally) -> dict[str, Any]:
    """The counts of one drafter; of a model, also its MBSU and its time per token in milliseconds."""
    drafter_json: dict[str, Any] = {
        "drafts": tally.drafts,
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "acceptance_by_depth": tally.acceptance_by_depth,
    }
    drafter = next((drafter_tally for drafter_tally in engine.drafters if drafter_tally.name == name), None)
    if drafter is not None and drafter.share is not None:
        # All draft tokens count, also those that were cut off or not verified.
        blocks = max(1, session.tally.blocks)
        draft_tokens = session.tally.draft_tokens[name]
        length = session.tally.mean_block_length
        drafter_json["mbsu_by_parameters"] = mbsu(length, drafter.share.parameters, draft_tokens / blocks)
        drafter_json["mbsu_by_bytes"] = mbsu(length, drafter.share.bytes, draft_tokens / blocks)
        if drafter.latency is not None and drafter.latency.known:
            drafter_json["ms_per_token"] = 1e3 * drafter.latency.t1
    return drafter_json


def stats_lines(session: Session, engine: Engine, seed: int) -> Iterator[str]:
    """The statistics of an answer, in a few lines."""
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
        drafter_json = _drafter_json(engine, session, name, drafter)
        if "mbsu_by_bytes" in drafter_json:
            time_of = f"{drafter_json['ms_per_token']:.1f} ms a token; " if "ms_per_token" in drafter_json else ""
            yield (
                f"{name}: {time_of}memory-bound speed-up {drafter_json['mbsu_by_parameters']:.2f} by parameters, "
                f"{drafter_json['mbsu_by_bytes']:.2f} by bytes"
            )
    if session.lossy:
        yield "typical acceptance is lossy: this is not the text that the model gives without drafts"
    if not tally.drafters:
        yield "nothing was drafted (--stats=full says why, block by block)"


TELLING_PASSES = 16
"""Forward passes from which the speed of an answer is compared: their mean varies a quarter as much as one of them."""


def speed_up(session: Session, engine: Engine, used: int) -> float | None:
    """The speed over plain decoding's, by T(1) with `used` tokens in the context.

    None where that is chance: nothing was drafted, the answer is short, or T(1) is not known.
    """
    tally, curve = session.tally, engine.latency.for_context(used)
    if not tally.drafted or tally.blocks < TELLING_PASSES or not curve.known:
        return None
    return tally.tokens_per_second * curve.t1


def print_stats(session: Session, engine: Engine, seed: int) -> None:
    """Print the statistics of an answer to stderr."""
    for line in stats_lines(session, engine, seed):
        echo(line, err=True, dim=True)


class DecisionLog:
    """Prints a JSON line on stderr for each block: its draft, the accepted tokens and the reasons.

    `enabled` is the value of --stats; only "full" prints. `answer_fields` tells its answer from others.
    """

    def __init__(self, enabled: str | None, answer_fields: Mapping[str, Any] | None = None) -> None:
        self.enabled = enabled == "full"
        self._answer_fields = answer_fields or {}
        self._n_emitted = 0
        self._last_time = time.perf_counter()

    def print_block(self, session: Session, block: Block) -> None:
        """Print the line of one block, with --stats=full."""
        if not self.enabled:
            return
        now = time.perf_counter()
        reasons = list(block.reasons) if self._n_emitted else ["the prefill gives the first token"]
        if not block.tokens:
            reasons = [f"the answer is over: {session.finish_reason}"]
        line = {
            **self._answer_fields, "at": self._n_emitted, "tokens": len(block.tokens), "drafter": block.drafter,
            "drafted": block.drafted, "accepted": block.accepted, "ms": round(1e3 * (now - self._last_time), 3),
            "why": reasons,
        }  # fmt: skip
        echo(json_line(line, sys.stderr), err=True)
        self._n_emitted, self._last_time = len(session.emitted), now


class PromptProgress:
    """Shows the progress of a long prefill on a terminal, with the time left; cleared when the answer starts."""

    def __init__(self) -> None:
        self._shown = False
        self._start: tuple[int, float] | None = None
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if not self._on_terminal:
            return
        now = time.perf_counter()
        if self._start is None:
            self._start = done, now
        read, seconds = done - self._start[0], now - self._start[1]
        left = (total - done) * seconds / read if read > 0 else 0.0
        if self._shown or total - done > 256 or left > 2.0:
            redraw(f"reading {done} of {total} tokens" + (f", {_duration(left)} left" if read > 0 else ""))
            self._shown = True

    def clear(self) -> None:
        """Clear the line; what is read next is another prompt."""
        self._start = None
        if self._shown:
            redraw()
            self._shown = False


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"
