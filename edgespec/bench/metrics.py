"""Figures from a result of the benchmark: everything is computed from what was counted and timed, nothing is stored."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgespec.bench.contestants import PLAIN
from edgespec.bench.statistics import summary, surely_below
from edgespec.policy.adaptive import MAX_DRAFT
from edgespec.system.prompts import subtask

Row = dict[str, Any]
"""One prompt of a result."""

OVERALL = "overall"

NEVER_SLOWER = 0.98
"""What drafting has to keep of plain decoding's speed."""


FEWEST = 10
"""A share of fewer judged tokens than this is noise."""


def speed_of(answer: dict[str, Any]) -> float:
    """Tokens per second after the first token."""
    return float((answer["tokens"] - 1) / answer["seconds"]) if answer.get("seconds") else 0.0


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The prompts by subtask, and all of them as `overall`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(subtask(row["category"]), []).append(row)
    return {**found, OVERALL: [row for group in found.values() for row in group]}


def contestants(result: dict[str, Any]) -> list[str]:
    """Everybody, plain decoding first, then the drafters, then the peers."""
    settings = result["settings"]
    return [PLAIN, *settings["drafters"], *settings["peers"]]


def pairs(row: Row, name: str, other: str) -> list[tuple[float, float]]:
    """Speeds of two contestants in the rounds that both took part in; answers of one token have no speed."""
    both = zip(row["answers"][name], row["answers"][other], strict=False)  # peers sit the later rounds out
    speeds = [(speed_of(one), speed_of(two)) for one, two in both]
    return [(one, two) for one, two in speeds if one and two]


def ratios(row: Row, name: str, other: str) -> list[float]:
    """Speeds of `name` over those of `other`, round by round."""
    return [one / two for one, two in pairs(row, name, other)]


def paired(rows: Sequence[Row], name: str, other: str) -> dict[str, Any] | None:
    """Median over prompts, and its interval; None where there is nothing to compare."""
    found = [ratios(row, name, other) for row in rows]
    return summary([one for one in found if one]) if any(found) else None


def slowest(rows: Sequence[Row], name: str) -> tuple[float, int] | None:
    """The least of the prompts' median ratios to plain decoding, and how many prompts are surely below NEVER_SLOWER.

    None where there is nothing to compare.
    """
    found = [one for one in (ratios(row, name, PLAIN) for row in rows) if one]
    if not found:
        return None
    return min(map(statistics.median, found)), sum(surely_below(one, NEVER_SLOWER) for one in found)


def first_token(rows: Sequence[Row], name: str) -> dict[str, Any] | None:
    """The time to the first token over plain decoding's, measured once a prompt: median, interval over prompts."""
    times = [row["first_token_seconds"] for row in rows]
    found = [[one[name] / one[PLAIN]] for one in times if name in one]
    return summary(found) if found else None


def mean_ratio(rows: Sequence[Row], name: str, other: str) -> float:
    """The mean over prompts of the median ratio."""
    found = [ratios(row, name, other) for row in rows]
    return statistics.mean([statistics.median(one) for one in found if one] or [0.0])


def total_ratio(rows: Sequence[Row], name: str, other: str) -> float:
    """All tokens over all time, over the same of another: each prompt's from the medians of the rounds of both."""
    times = [0.0, 0.0]
    for row in rows:
        if both := pairs(row, name, other):
            tokens = row["answers"][PLAIN][0]["tokens"]
            for place, speeds in enumerate(zip(*both, strict=True)):
                times[place] += tokens / statistics.median(speeds)
    return times[1] / times[0] if times[0] else 0.0


def whole_ratio(rows: Sequence[Row], name: str, other: str) -> float:
    """The same with the time to the first token: what somebody waits for a whole answer, and some drafters read in."""
    times = [0.0, 0.0]
    for row in rows:
        if both := pairs(row, name, other):
            tokens = row["answers"][PLAIN][0]["tokens"]
            for place, (who, speeds) in enumerate(zip((name, other), zip(*both, strict=True), strict=True)):
                answer = row["answers"][who][0]
                later = tokens - (answer["tokens"] - later_tokens(answer))
                times[place] += row["first_token_seconds"][who] + later / statistics.median(speeds)
    return times[1] / times[0] if times[0] else 0.0


def total_speed(rows: Sequence[Row], name: str) -> float:
    """All tokens over all time, each prompt's from the median of its rounds."""
    tokens, time = 0, 0.0
    for row in rows:
        if speeds := [speed for speed in map(speed_of, row["answers"][name]) if speed]:
            tokens += row["answers"][PLAIN][0]["tokens"]
            time += row["answers"][PLAIN][0]["tokens"] / statistics.median(speeds)
    return tokens / time if time else 0.0


def counted(rows: Sequence[Row], name: str, key: str) -> float:
    """The sum of a count over the prompts, each prompt's the mean over its rounds: short answers have more of them."""
    return sum(statistics.fmean(answer.get(key, 0) for answer in row["answers"][name] or [{}]) for row in rows)


def later_tokens(answer: dict[str, Any]) -> int:
    """Tokens after the prompt's block: that is one token, and of transformers' assisted generation several."""
    return int(min(answer["tokens"] - 1, answer.get("blocks", 0) + answer.get("accepted", 0)))


def drafts(rows: Sequence[Row], name: str) -> bool:
    """Whether anything was drafted. transformers does not tell how much it drafts, only what of it was accepted."""
    return any(counted(rows, name, key) for key in ("drafted", "accepted"))


def block_length(rows: Sequence[Row], name: str) -> float:
    """Tokens per evaluation of the target, after the prompt's."""
    tokens = sum(statistics.fmean(map(later_tokens, row["answers"][name])) for row in rows if row["answers"][name])
    return tokens / (counted(rows, name, "blocks") or 1.0)


def acceptance(rows: Sequence[Row], name: str) -> float | None:
    """The accepted share of the drafted tokens; None where nothing was drafted."""
    drafted = counted(rows, name, "drafted")
    return counted(rows, name, "accepted") / drafted if drafted else None


def memory_bound(rows: Sequence[Row], name: str, shares: Mapping[str, float]) -> float:
    """The speed-up if time were the reading of weights and nothing else (MBSU; VocabTrim, arXiv 2506.22694, section 5).

    `shares`: by drafter model, what a guess reads, as a share of what the target reads for a token.
    """
    blocks = counted(rows, name, "blocks") or 1.0
    read = sum(
        statistics.fmean(answer.get("guesses", {}).get(drafter, 0) for answer in row["answers"][name]) * share
        for row in rows
        if row["answers"][name]
        for drafter, share in shares.items()
    )
    return block_length(rows, name) / (1.0 + read / blocks)


def acceptance_by_place(rows: Sequence[Row], name: str) -> dict[str, list[tuple[int, int]]]:
    """By drafter, for each place in the draft: how many tokens were accepted there, of how many that were judged."""
    found: dict[str, list[tuple[int, int]]] = {}
    for answer in (answer for row in rows for answer in row["answers"][name]):
        for drafter, judged in answer.get("judged_at", {}).items():
            places = found.setdefault(drafter, [])
            places += [(0, 0)] * (len(judged) - len(places))
            for place, (count, right) in enumerate(zip(judged, answer["accepted_at"][drafter], strict=True)):
                places[place] = places[place][0] + right, places[place][1] + count
    return found


def best_possible(curve: dict[str, Any]) -> tuple[float, int]:
    """The speed-up of drafts that are free and always right, at the best size, and that number of tokens.

    Of the sizes that are drafted at all.
    """
    times = {int(n): milliseconds for n, milliseconds in curve["ms"].items()}
    return max((n * times[1] / milliseconds, n) for n, milliseconds in times.items() if n <= MAX_DRAFT + 1)


def same_text(rows: Sequence[Row], name: str) -> str:
    """How many prompts got the plain answer, to the token, in every round; and of how many that were answered."""
    answered = [row for row in rows if row["answers"][name]]
    return f"{sum(name not in row['partings'] for row in answered)} of {len(answered)}"
