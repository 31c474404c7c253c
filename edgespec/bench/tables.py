"""The Markdown tables of a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespec.bench import metrics
from edgespec.bench.contestants import PLAIN

_POSITIONS_SHOWN = 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def with_interval(ratio: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A median with its interval, or the median alone where the interval is empty."""
    if ratio is None:
        return ""
    low, high = ratio["interval"]
    if low == high:
        return f"{ratio['median']:.{digits}f}"
    return f"{ratio['median']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def comparable(result: dict[str, Any], name: str) -> bool:
    """Whether an answer should equal the plain one: above temperature 0, peers draw other noise."""
    return not result["settings"]["temperature"] or name not in result["settings"]["peers"]


def curve(measured: Mapping[str, Any]) -> Iterator[str]:
    """T(n) as measured in a run of its own."""
    yield (
        f"T(n) after {measured['context']} tokens of context"
        + (" (measured while the machine was busy)" if measured["busy"] else "")
        + ":"
    )
    single = measured["ms"]["1"]
    yield table(
        ["n", *measured["ms"]],
        [
            ["ms", *(f"{value:.0f}" for value in measured["ms"].values())],
            ["T(n)/T(1)", *(f"{value / single:.2f}" for value in measured["ms"].values())],
            ["best speed-up", *(f"{int(n) * single / value:.2f}" for n, value in measured["ms"].items())],
        ],
    )


def speeds(result: dict[str, Any]) -> str:
    """Ratios to plain decoding, by subtask."""
    others = metrics.contestants(result)[1:]
    rows = [
        [
            f"{title} ({len(group)})",
            f"{metrics.total_speed(group, PLAIN):.2f}",
            *(with_interval(metrics.median_ratio(group, name, PLAIN)) for name in others),
        ]
        for title, group in metrics.groups(result["prompts"]).items()
    ]
    all_prompts = result["prompts"]
    rows.append(["mean of prompts", "", *(f"{metrics.mean_ratio(all_prompts, name, PLAIN):.2f}" for name in others)])
    rows.append(
        ["all tokens / all time", "", *(f"{metrics.total_ratio(all_prompts, name, PLAIN):.2f}" for name in others)]
    )
    rows.append(
        ["with the first token", "", *(f"{metrics.whole_ratio(all_prompts, name, PLAIN):.2f}" for name in others)]
    )
    return table(["subtask (prompts)", "plain, tokens/s", *(f"`{name}`" for name in others)], rows)


def slowest(result: dict[str, Any]) -> str:
    """The slowest prompt's ratio to plain decoding, by subtask."""
    names = result["settings"]["drafters"]
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        results = [metrics.slowest_prompt(group, name) for name in names]
        rows.append(
            [f"{title} ({len(group)})", *("" if least is None else f"{least[0]:.3f}; {least[1]}" for least in results)]
        )
    return table(["subtask (prompts)", *(f"`{name}`" for name in names)], rows)


def comparison(result: dict[str, Any], main: str) -> str:
    """The speed of `main` over each other contestant's, by subtask."""
    others = [name for name in metrics.contestants(result)[1:] if name != main]
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        cells = [title]
        for name in others:
            ratio = metrics.median_ratio(group, main, name)
            total = f"{metrics.total_ratio(group, main, name):.2f}; {with_interval(ratio)}" if ratio else ""
            cells.append(total if not total or metrics.drafts(group, name) else f"{total} (no drafts)")
        rows.append(cells)
    whole = (metrics.whole_ratio(result["prompts"], main, name) for name in others)
    rows.append(["with the first token", *(f"{ratio:.2f}" for ratio in whole)])
    return table(["subtask", *(f"`{name}`" for name in others)], rows)


def drafting(result: dict[str, Any], best: float | None) -> str:
    """All contestants: speed, mean acceptance length, acceptance rate, memory, equal texts."""
    all_prompts = result["prompts"]
    plain = metrics.total_speed(all_prompts, PLAIN)
    rows = []
    for name in metrics.contestants(result):
        accepted = metrics.acceptance(all_prompts, name)
        peak = result.get("memory", {}).get(name)
        rows.append(
            [
                f"`{name}`",
                f"{plain * (1.0 if name == PLAIN else metrics.total_ratio(all_prompts, name, PLAIN)):.2f}",
                f"{metrics.block_length(all_prompts, name):.2f}",
                f"{rows_a_pass:.2f}" if (rows_a_pass := metrics.rows_a_pass(all_prompts, name)) else "",
                ""
                if accepted is None
                else f"{accepted:.0%} of {metrics.total_count(all_prompts, name, 'drafted'):.0f}",
                _memory_bound(result, name, "shares"),
                _memory_bound(result, name, "shares_by_parameters"),
                _first_token(all_prompts, name),
                "" if peak is None else f"{peak / 1e6:.0f}",
                metrics.same_text(all_prompts, name) if comparable(result, name) else "",
                "" if best is None else f"{metrics.total_ratio(all_prompts, name, PLAIN) / best:.0%}",
            ]
        )
    head = ["", "tokens/s", "tokens a block", "rows a pass", "accepted", "MBSU by bytes", "by weights"]
    head += ["first token, of plain's"]
    return _without_empty_columns([*head, "memory, MB", "same text", "of the best possible"], rows)


def _memory_bound(result: dict[str, Any], name: str, shares: str) -> str:
    if name not in result.get(shares, {}):  # a peer's drafter: what that reads is not known
        return ""
    return f"{metrics.memory_bound(result['prompts'], name, result[shares][name]):.2f}"


def by_subtask(result: dict[str, Any], names: Sequence[str]) -> str:
    """Mean acceptance length and acceptance rate, by subtask."""
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        cells = [title]
        for name in names:
            share = metrics.acceptance(group, name)
            length = f"{metrics.block_length(group, name):.2f}"
            cells.append(length if share is None else f"{length}; {share:.0%}")
        rows.append(cells)
    return table(["subtask", *(f"`{name}`" for name in names)], rows)


def _first_token(rows: Sequence[metrics.PromptResult], name: str) -> str:
    if name == PLAIN:
        return f"{statistics.median(row['first_token_seconds'][PLAIN] for row in rows):.2f} s"
    return with_interval(metrics.first_token(rows, name))


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its empty columns: a stopped run lacks some measurements."""
    used_columns = [column for column, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    return table([head[column] for column in used_columns], [[row[column] for column in used_columns] for row in rows])


def acceptance_by_position(result: dict[str, Any]) -> Iterator[str]:
    """The acceptance rate by position in the draft."""
    rows = []
    for name in result["settings"]["drafters"]:
        for drafter, positions in metrics.acceptance_by_position(result["prompts"], name).items():
            shares = [
                f"{n_accepted / judged:.0%}" if judged >= metrics.MIN_JUDGED else ""
                for n_accepted, judged in positions[:_POSITIONS_SHOWN]
            ]
            rows.append([f"`{name}`", f"`{drafter}`", *shares, *[""] * (_POSITIONS_SHOWN - len(shares))])
    if rows:
        yield (
            "How often a drafted token is right, by its place in the draft, if those before it were, where at least "
            f"{metrics.MIN_JUDGED} were judged:"
        )
        yield table(["", "drafter", *map(str, range(1, _POSITIONS_SHOWN + 1))], rows)


def calibration(result: dict[str, Any]) -> Iterator[str]:
    """The share of draft tokens that were accepted, by the probability that was expected."""
    rows = []
    for name in result["settings"]["drafters"]:
        tenths = metrics.calibration(result["prompts"], name)
        shares = [f"{right / count:.2f}" if count >= metrics.MIN_JUDGED else "" for right, count in tenths]
        if tenths:
            rows.append([f"`{name}`", *shares])
    if rows:
        yield (
            "What became of draft tokens that were expected to be accepted with a probability from 0 to 0.1, 0.1 to "
            f"0.2, ...: the share that was, where at least {metrics.MIN_JUDGED} were drafted:"
        )
        yield table(["", *(f"to {tenth / 10:.1f}" for tenth in range(1, 11))], rows)


def divergences(result: dict[str, Any]) -> Iterator[str]:
    """The divergences from plain decoding."""
    rows = [
        [
            f"{row['category']} {row['question_id']}",
            f"`{name}`",
            str(divergence["position"]),
            f"{divergence['margin']:.4f}",
        ]
        for row in result["prompts"]
        for name, divergence in row["partings"].items()
    ]
    if rows:
        yield "Texts that differ from the plain one: at which token, and by how many logits the plain token was ahead."
        yield table(["prompt", "", "token", "margin"], rows)
