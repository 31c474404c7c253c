"""The tables of a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespec.bench import metrics
from edgespec.bench.contestants import PLAIN

_PLACES = 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def with_interval(ratio: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A median with its interval, unless it is of a single figure."""
    if ratio is None:
        return ""
    low, high = ratio["interval"]
    if low == high:
        return f"{ratio['median']:.{digits}f}"
    return f"{ratio['median']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def comparable(result: dict[str, Any], name: str) -> bool:
    """Whether its text should be the plain one: other programs draw other tokens with the same seed."""
    return not result["settings"]["temperature"] or name not in result["settings"]["peers"]


def curve(measured: Mapping[str, Any]) -> Iterator[str]:
    """T(n), if it was measured on purpose."""
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
            *(with_interval(metrics.paired(group, name, PLAIN)) for name in others),
        ]
        for title, group in metrics.groups(result["prompts"]).items()
    ]
    every = result["prompts"]
    rows.append(["mean of prompts", "", *(f"{metrics.mean_ratio(every, name, PLAIN):.2f}" for name in others)])
    rows.append(["all tokens / all time", "", *(f"{metrics.total_ratio(every, name, PLAIN):.2f}" for name in others)])
    rows.append(["with the first token", "", *(f"{metrics.whole_ratio(every, name, PLAIN):.2f}" for name in others)])
    return table(["subtask (prompts)", "plain, tokens/s", *(f"`{name}`" for name in others)], rows)


def slowest(result: dict[str, Any]) -> str:
    """The least of the prompts' ratios, by subtask."""
    names = result["settings"]["drafters"]
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        found = [metrics.slowest(group, name) for name in names]
        rows.append([f"{title} ({len(group)})", *("" if one is None else f"{one[0]:.3f}; {one[1]}" for one in found)])
    return table(["subtask (prompts)", *(f"`{name}`" for name in names)], rows)


def against(result: dict[str, Any], main: str) -> str:
    """`main` over everybody else, by subtask."""
    others = [name for name in metrics.contestants(result)[1:] if name != main]
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        cells = [title]
        for name in others:
            ratio = metrics.paired(group, main, name)
            total = f"{metrics.total_ratio(group, main, name):.2f}; {with_interval(ratio)}" if ratio else ""
            cells.append(total if not total or metrics.drafts(group, name) else f"{total} (no drafts)")
        rows.append(cells)
    whole = (metrics.whole_ratio(result["prompts"], main, name) for name in others)
    rows.append(["with the first token", *(f"{ratio:.2f}" for ratio in whole)])
    return table(["subtask", *(f"`{name}`" for name in others)], rows)


def drafting(result: dict[str, Any], best: float | None) -> str:
    """Everybody: speed, blocks, acceptance, memory, texts."""
    every = result["prompts"]
    plain = metrics.total_speed(every, PLAIN)
    rows = []
    for name in metrics.contestants(result):
        accepted = metrics.acceptance(every, name)
        peak = result.get("memory", {}).get(name)
        rows.append(
            [
                f"`{name}`",
                f"{plain * (1.0 if name == PLAIN else metrics.total_ratio(every, name, PLAIN)):.2f}",
                f"{metrics.block_length(every, name):.2f}",
                "" if accepted is None else f"{accepted:.0%} of {metrics.counted(every, name, 'drafted'):.0f}",
                _memory_bound(result, name, "shares"),
                _memory_bound(result, name, "shares_by_parameters"),
                _first_token(every, name),
                "" if peak is None else f"{peak / 1e6:.0f}",
                metrics.same_text(every, name) if comparable(result, name) else "",
                "" if best is None else f"{metrics.total_ratio(every, name, PLAIN) / best:.0%}",
            ]
        )
    head = ["", "tokens/s", "tokens a block", "accepted", "MBSU by bytes", "by weights", "first token, of plain's"]
    return _without_empty_columns([*head, "memory, MB", "same text", "of the best possible"], rows)


def _memory_bound(result: dict[str, Any], name: str, shares: str) -> str:
    if name not in result.get(shares, {}):  # a peer's drafter: what that reads is not known
        return ""
    return f"{metrics.memory_bound(result['prompts'], name, result[shares][name]):.2f}"


def by_subtask(result: dict[str, Any], names: Sequence[str]) -> str:
    """Block length and acceptance."""
    rows = []
    for title, group in metrics.groups(result["prompts"]).items():
        cells = [title]
        for name in names:
            share = metrics.acceptance(group, name)
            length = f"{metrics.block_length(group, name):.2f}"
            cells.append(length if share is None else f"{length}; {share:.0%}")
        rows.append(cells)
    return table(["subtask", *(f"`{name}`" for name in names)], rows)


def _first_token(rows: Sequence[metrics.Row], name: str) -> str:
    if name == PLAIN:
        return f"{statistics.median(row['first_token_seconds'][PLAIN] for row in rows):.2f} s"
    return with_interval(metrics.first_token(rows, name))


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of what was measured: a run that was stopped lacks some of it."""
    there = [place for place, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    return table([head[place] for place in there], [[row[place] for place in there] for row in rows])


def places(result: dict[str, Any]) -> Iterator[str]:
    """Acceptance by place in the draft."""
    rows = []
    for name in result["settings"]["drafters"]:
        for drafter, places in metrics.acceptance_by_place(result["prompts"], name).items():
            shares = [f"{right / judged:.0%}" if judged >= metrics.FEWEST else "" for right, judged in places[:_PLACES]]
            rows.append([f"`{name}`", f"`{drafter}`", *shares, *[""] * (_PLACES - len(shares))])
    if rows:
        yield (
            "How often a drafted token is right, by its place in the draft, if those before it were, where at least "
            f"{metrics.FEWEST} were judged:"
        )
        yield table(["", "drafter", *map(str, range(1, _PLACES + 1))], rows)


def partings(result: dict[str, Any]) -> Iterator[str]:
    """Where texts differ from the plain one."""
    rows = [
        [f"{row['category']} {row['question_id']}", f"`{name}`", str(one["position"]), f"{one['margin']:.4f}"]
        for row in result["prompts"]
        for name, one in row["partings"].items()
    ]
    if rows:
        yield "Texts that differ from the plain one: at which token, and by how many logits the plain token was ahead."
        yield table(["prompt", "", "token", "margin"], rows)
