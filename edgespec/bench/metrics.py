"""Metrics of a benchmark result, all computed from its counts and times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgespec.bench.contestants import PLAIN
from edgespec.bench.statistics import summary, surely_below
from edgespec.policy.adaptive import MAX_DRAFT
from edgespec.system.prompts import subtask

PromptResult = dict[str, Any]
"""One prompt of a result, as JSON."""

OVERALL = "overall"

SPEED_PROMISE = 0.98
"""The least share of plain decoding's speed that a prompt should reach."""


MIN_JUDGED = 10
"""Verified draft tokens that an acceptance rate needs to be shown."""


def speed_of(answer: dict[str, Any]) -> float:
    """Tokens per second after the first token."""
    return float((answer["tokens"] - 1) / answer["seconds"]) if answer.get("seconds") else 0.0


def groups(rows: Iterable[PromptResult]) -> dict[str, list[PromptResult]]:
    """The prompts by subtask, and all of them as `overall`."""
    by_subtask: dict[str, list[PromptResult]] = {}
    for row in rows:
        by_subtask.setdefault(subtask(row["category"]), []).append(row)
    return {**by_subtask, OVERALL: [row for group in by_subtask.values() for row in group]}


def contestants(result: dict[str, Any]) -> list[str]:
    """The names of all contestants: plain decoding first, then the drafters, then the peers."""
    settings = result["settings"]
    return [PLAIN, *settings["drafters"], *settings["peers"]]


def speed_pairs(row: PromptResult, name: str, other: str) -> list[tuple[float, float]]:
    """Speeds of two contestants in the rounds of both; answers of one token have none and are left out."""
    both = zip(row["answers"][name], row["answers"][other], strict=False)  # peers take part in the first rounds only
    speeds = [(speed_of(answer), speed_of(other_answer)) for answer, other_answer in both]
    return [(speed, other_speed) for speed, other_speed in speeds if speed and other_speed]


def ratios(row: PromptResult, name: str, other: str) -> list[float]:
    """Speeds of `name` over those of `other`, round by round."""
    return [speed / other_speed for speed, other_speed in speed_pairs(row, name, other)]


def median_ratio(rows: Sequence[PromptResult], name: str, other: str) -> dict[str, Any] | None:
    """The median over prompts of the median ratio, and its interval; None where there is nothing to compare."""
    per_prompt = [ratios(row, name, other) for row in rows]
    return summary([prompt_ratios for prompt_ratios in per_prompt if prompt_ratios]) if any(per_prompt) else None


def slowest_prompt(rows: Sequence[PromptResult], name: str) -> tuple[float, int] | None:
    """The least median ratio to plain decoding, and the number of prompts that are surely below SPEED_PROMISE.

    None where there is nothing to compare.
    """
    per_prompt = [prompt_ratios for prompt_ratios in (ratios(row, name, PLAIN) for row in rows) if prompt_ratios]
    if not per_prompt:
        return None
    n_slower = sum(surely_below(prompt_ratios, SPEED_PROMISE) for prompt_ratios in per_prompt)
    return min(map(statistics.median, per_prompt)), n_slower


def first_token(rows: Sequence[PromptResult], name: str) -> dict[str, Any] | None:
    """The time to the first token over plain decoding's: its median over prompts, and the interval."""
    times = [row["first_token_seconds"] for row in rows]
    per_prompt = [[seconds[name] / seconds[PLAIN]] for seconds in times if name in seconds]
    return summary(per_prompt) if per_prompt else None


def mean_ratio(rows: Sequence[PromptResult], name: str, other: str) -> float:
    """The mean over prompts of the median ratio."""
    per_prompt = [ratios(row, name, other) for row in rows]
    return statistics.mean([statistics.median(prompt_ratios) for prompt_ratios in per_prompt if prompt_ratios] or [0.0])


def total_ratio(rows: Sequence[PromptResult], name: str, other: str) -> float:
    """The ratio of all tokens over all time; each prompt's time is by its median speed in the rounds of both."""
    times = [0.0, 0.0]
    for row in rows:
        if both := speed_pairs(row, name, other):
            tokens = row["answers"][PLAIN][0]["tokens"]
            for index, speeds in enumerate(zip(*both, strict=True)):
                times[index] += tokens / statistics.median(speeds)
    return times[1] / times[0] if times[0] else 0.0


def whole_ratio(rows: Sequence[PromptResult], name: str, other: str) -> float:
    """`total_ratio` with the time to the first token included."""
    times = [0.0, 0.0]
    for row in rows:
        if both := speed_pairs(row, name, other):
            tokens = row["answers"][PLAIN][0]["tokens"]
            for index, (contestant, speeds) in enumerate(zip((name, other), zip(*both, strict=True), strict=True)):
                answer = row["answers"][contestant][0]
                later = tokens - (answer["tokens"] - later_tokens(answer))
                times[index] += row["first_token_seconds"][contestant] + later / statistics.median(speeds)
    return times[1] / times[0] if times[0] else 0.0


def total_speed(rows: Sequence[PromptResult], name: str) -> float:
    """All tokens over all time, in tokens per second; each prompt's time is by its median speed."""
    tokens, time = 0, 0.0
    for row in rows:
        if speeds := [speed for speed in map(speed_of, row["answers"][name]) if speed]:
            tokens += row["answers"][PLAIN][0]["tokens"]
            time += row["answers"][PLAIN][0]["tokens"] / statistics.median(speeds)
    return tokens / time if time else 0.0


def total_count(rows: Sequence[PromptResult], name: str, key: str) -> float:
    """The sum over prompts of the mean of a count over rounds: short answers have more rounds."""
    return sum(statistics.fmean(answer.get(key, 0) for answer in row["answers"][name] or [{}]) for row in rows)


def later_tokens(answer: dict[str, Any]) -> int:
    """Tokens after the first block, which is one token, or several for transformers' assisted generation."""
    return int(min(answer["tokens"] - 1, answer.get("blocks", 0) + answer.get("accepted", 0)))


def drafts(rows: Sequence[PromptResult], name: str) -> bool:
    """Whether anything was drafted. transformers gives the number of accepted draft tokens only."""
    return any(total_count(rows, name, key) for key in ("drafted", "accepted"))


def block_length(rows: Sequence[PromptResult], name: str) -> float:
    """The mean acceptance length: tokens per forward pass of the target, after the first block."""
    tokens = sum(statistics.fmean(map(later_tokens, row["answers"][name])) for row in rows if row["answers"][name])
    return tokens / (total_count(rows, name, "blocks") or 1.0)


def acceptance(rows: Sequence[PromptResult], name: str) -> float | None:
    """The acceptance rate: the accepted share of the draft tokens; None where nothing was drafted."""
    drafted = total_count(rows, name, "drafted")
    return total_count(rows, name, "accepted") / drafted if drafted else None


def memory_bound(rows: Sequence[PromptResult], name: str, shares: Mapping[str, float]) -> float:
    """The speed-up if time were the reading of weights and nothing else (MBSU; VocabTrim, arXiv 2506.22694, section 5).

    `shares`: by drafter model, what it reads for a token, over what the target reads.
    """
    blocks = total_count(rows, name, "blocks") or 1.0
    drafter_time = sum(
        statistics.fmean(answer.get("guesses", {}).get(drafter, 0) for answer in row["answers"][name]) * share
        for row in rows
        if row["answers"][name]
        for drafter, share in shares.items()
    )
    return block_length(rows, name) / (1.0 + drafter_time / blocks)


def acceptance_by_position(rows: Sequence[PromptResult], name: str) -> dict[str, list[tuple[int, int]]]:
    """By drafter and position in the draft: the numbers of accepted and of verified draft tokens."""
    by_drafter: dict[str, list[tuple[int, int]]] = {}
    for answer in (answer for row in rows for answer in row["answers"][name]):
        for drafter, judged in answer.get("judged_at", {}).items():
            positions = by_drafter.setdefault(drafter, [])
            positions += [(0, 0)] * (len(judged) - len(positions))
            for position, (count, n_accepted) in enumerate(zip(judged, answer["accepted_at"][drafter], strict=True)):
                positions[position] = positions[position][0] + n_accepted, positions[position][1] + count
    return by_drafter


def calibration(rows: Sequence[PromptResult], name: str) -> list[tuple[int, int]]:
    """By the tenth of the expected probability to be accepted: the accepted draft tokens, and all; empty for peers."""
    answers = [answer for row in rows for answer in row["answers"][name] if "expected_at" in answer]
    return [
        (
            sum(answer["came_true_at"][tenth] for answer in answers),
            sum(answer["expected_at"][tenth] for answer in answers),
        )
        for tenth in (range(10) if answers else ())
    ]


def rows_a_pass(rows: Sequence[PromptResult], name: str) -> float | None:
    """The mean rows of a forward pass of the target; None where a result does not tell what was expected of drafts."""
    if not calibration(rows, name):
        return None
    return 1.0 + total_count(rows, name, "drafted") / (total_count(rows, name, "blocks") or 1.0)


def best_possible(curve: dict[str, Any]) -> tuple[float, int]:
    """The speed-up of drafts that are free and always accepted, at the best size, and that number of tokens.

    Only sizes up to MAX_DRAFT count.
    """
    times = {int(n): milliseconds for n, milliseconds in curve["ms"].items()}
    return max((n * times[1] / milliseconds, n) for n, milliseconds in times.items() if n <= MAX_DRAFT + 1)


def same_text(rows: Sequence[PromptResult], name: str) -> str:
    """The number of prompts with the plain answer's tokens in every round, of how many that were answered."""
    answered = [row for row in rows if row["answers"][name]]
    return f"{sum(name not in row['partings'] for row in answered)} of {len(answered)}"
