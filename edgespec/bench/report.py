"""A result of the benchmark for people: a few lines, or a report in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgespec.bench import figures
from edgespec.bench.field import PLAIN

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


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """How each contestant did over all prompts."""
    rows = result["prompts"]
    if not rows:
        yield "no prompt was measured"
        return
    yield f"{PLAIN}: {figures.total_speed(rows, PLAIN):.2f} tokens/s"
    for name in figures.contestants(result)[1:]:
        ratio = figures.paired(rows, name, PLAIN)
        line = f"{name}: {figures.total_speed(rows, name):.2f} tokens/s, {with_interval(ratio)} times plain decoding"
        line += f", {figures.block_length(rows, name):.2f} tokens a block"
        if _comparable(result, name):
            line += f", the same text for {figures.same_text(rows, name)} prompts"
        yield line
    yield from (f"no answer: {failure}" for failure in _failures(rows))


def _comparable(result: dict[str, Any], name: str) -> bool:
    """Whether its text should be the plain one: other programs draw other tokens with the same seed."""
    return not result["settings"]["temperature"] or name not in result["settings"]["peers"]


def programs(versions: Mapping[str, str]) -> str:
    """Which programs measured: edgespec with the digest of its code, llama.cpp, peers, as far as it was kept."""
    code = f" (code {versions['code']})" if "code" in versions else ""
    peers = "".join(
        f", {name} {versions[name]}" for name in ("llama-server", "transformers", "torch") if name in versions
    )
    return f"edgespec {versions['edgespec']}{code}, {versions['llama.cpp'].split(';')[0]}{peers}"


def markdown(result: dict[str, Any], plots: Mapping[str, str]) -> str:
    """The whole report. `plots` are titles and file names of pictures beside it."""
    models = ", ".join(model["file"] for model in result["models"])
    machine = result["machine"]
    head = [
        f"# {models}",
        f"{result['date']}, {machine['cpu']}, {machine['cores']} cores, {programs(result['versions'])}: "
        f"`{result['command']}`",
    ]
    pictures = [f"![{title}]({file})" for title, file in plots.items()]
    return "\n\n".join([*head, *sections(result), *pictures]) + "\n"


def sections(result: dict[str, Any]) -> Iterator[str]:
    """The tables, each with a sentence that says what it shows."""
    if not result["prompts"]:
        yield "No prompt was measured."
        return
    settings = result["settings"]
    main = settings["drafters"][0]
    yield (
        f"Speed after the first token, at temperature {settings['temperature']:g}: medians over prompts of the ratios "
        f"to plain decoding, with 95% intervals (of few prompts they hold the truth less often: of 4 about 7 times in "
        "8, of 2 half the time)."
    )
    yield _speeds(result)
    yield (
        "The slowest prompt against plain decoding, and for how many prompts the 95% interval over that prompt's own "
        f"rounds lies wholly below {figures.NEVER_SLOWER:g}:"
    )
    yield _slowest(result)
    if settings["peers"]:
        yield (
            f"`{main}` against the others: the ratio of all tokens over all time; the median over prompts of the "
            "ratios, with its 95% interval; and who drafted nothing. The last row counts the wait for the first token "
            "too: llama-server's drafters read the prompt in that time."
        )
        yield _against(result, main)
    best = None
    if "curve" in result:  # the last things that a run measures
        best, size = figures.best_possible(result["curve"])
        yield (
            f"What was drafted. Here drafts that cost nothing and are always right would make text {best:.2f} times as "
            f"fast ({size} tokens an evaluation); the last column is what share of that speed was reached. "
            "Memory is the peak of a process of its own that answers one prompt."
        )
    yield _on_first_tokens(result)
    yield _drafting(result, best)
    if drafting := [name for name in figures.contestants(result) if figures.drafts(result["prompts"], name)]:
        yield "Tokens a block, and the accepted share of what was drafted, by subtask:"
        yield _by_subtask(result, drafting)
    yield from _places(result)
    yield from _partings(result)
    if result["skipped"]:
        left_out = "; ".join(f"{row['category']} {row['question_id']}, {row['reason']}" for row in result["skipped"])
        yield f"Left out: {left_out}."
    if failures := list(_failures(result["prompts"])):
        yield f"No answer: {'; '.join(failures)}."
    if "curve" in result:
        yield from _curve(result["curve"])


def _failures(rows: Sequence[figures.Row]) -> Iterator[str]:
    for row in rows:
        for name, reason in row.get("failed", {}).items():
            yield f"{name} to {row['category']} {row['question_id']}, {reason}"


def _curve(curve: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"T(n) after {curve['context']} tokens of context"
        + (" (measured while the machine was busy)" if curve["busy"] else "")
        + ":"
    )
    single = curve["ms"]["1"]
    yield table(
        ["n", *curve["ms"]],
        [
            ["ms", *(f"{value:.0f}" for value in curve["ms"].values())],
            ["T(n)/T(1)", *(f"{value / single:.2f}" for value in curve["ms"].values())],
            ["best speed-up", *(f"{int(n) * single / value:.2f}" for n, value in curve["ms"].items())],
        ],
    )


def _speeds(result: dict[str, Any]) -> str:
    others = figures.contestants(result)[1:]
    rows = [
        [
            f"{title} ({len(group)})",
            f"{figures.total_speed(group, PLAIN):.2f}",
            *(with_interval(figures.paired(group, name, PLAIN)) for name in others),
        ]
        for title, group in figures.groups(result["prompts"]).items()
    ]
    every = result["prompts"]
    rows.append(["mean of prompts", "", *(f"{figures.mean_ratio(every, name, PLAIN):.2f}" for name in others)])
    rows.append(["all tokens / all time", "", *(f"{figures.total_ratio(every, name, PLAIN):.2f}" for name in others)])
    rows.append(["with the first token", "", *(f"{figures.whole_ratio(every, name, PLAIN):.2f}" for name in others)])
    return table(["subtask (prompts)", "plain, tokens/s", *(f"`{name}`" for name in others)], rows)


def _slowest(result: dict[str, Any]) -> str:
    names = result["settings"]["drafters"]
    rows = []
    for title, group in figures.groups(result["prompts"]).items():
        found = [figures.slowest(group, name) for name in names]
        rows.append([f"{title} ({len(group)})", *("" if one is None else f"{one[0]:.3f}; {one[1]}" for one in found)])
    return table(["subtask (prompts)", *(f"`{name}`" for name in names)], rows)


def _against(result: dict[str, Any], main: str) -> str:
    others = [name for name in figures.contestants(result)[1:] if name != main]
    rows = []
    for title, group in figures.groups(result["prompts"]).items():
        cells = [title]
        for name in others:
            ratio = figures.paired(group, main, name)
            total = f"{figures.total_ratio(group, main, name):.2f}; {with_interval(ratio)}" if ratio else ""
            cells.append(total if not total or figures.drafts(group, name) else f"{total} (no drafts)")
        rows.append(cells)
    whole = (figures.whole_ratio(result["prompts"], main, name) for name in others)
    rows.append(["with the first token", *(f"{ratio:.2f}" for ratio in whole)])
    return table(["subtask", *(f"`{name}`" for name in others)], rows)


def _drafting(result: dict[str, Any], best: float | None) -> str:
    every = result["prompts"]
    rows = []
    for name in figures.contestants(result):
        accepted = figures.acceptance(every, name)
        peak = result.get("memory", {}).get(name)
        rows.append(
            [
                f"`{name}`",
                f"{figures.total_speed(every, name):.2f}",
                f"{figures.block_length(every, name):.2f}",
                "" if accepted is None else f"{accepted:.0%} of {figures.counted(every, name, 'drafted')}",
                _memory_bound(result, name, "shares"),
                _memory_bound(result, name, "shares_by_parameters"),
                _first_token(every, name),
                "" if peak is None else f"{peak / 1e6:.0f}",
                figures.same_text(every, name) if _comparable(result, name) else "",
                "" if best is None else f"{figures.total_ratio(every, name, PLAIN) / best:.0%}",
            ]
        )
    head = ["", "tokens/s", "tokens a block", "accepted", "MBSU by bytes", "by weights", "first token, of plain's"]
    return _without_empty_columns([*head, "memory, MB", "same text", "of the best possible"], rows)


def _memory_bound(result: dict[str, Any], name: str, shares: str) -> str:
    if name not in result.get(shares, {}):  # a peer's drafter: what that reads is not known
        return ""
    return f"{figures.memory_bound(result['prompts'], name, result[shares][name]):.2f}"


def _by_subtask(result: dict[str, Any], names: Sequence[str]) -> str:
    rows = []
    for title, group in figures.groups(result["prompts"]).items():
        cells = [title]
        for name in names:
            share = figures.acceptance(group, name)
            length = f"{figures.block_length(group, name):.2f}"
            cells.append(length if share is None else f"{length}; {share:.0%}")
        rows.append(cells)
    return table(["subtask", *(f"`{name}`" for name in names)], rows)


def _first_token(rows: Sequence[figures.Row], name: str) -> str:
    if name == PLAIN:
        return f"{statistics.median(row['first_token_seconds'][PLAIN] for row in rows):.2f} s"
    return with_interval(figures.first_token(rows, name))


def _on_first_tokens(result: dict[str, Any]) -> str:
    """What the column of first tokens shows; files begun before orders took turns do not say `backwards`."""
    taking_turns = all("backwards" in row for row in result["prompts"])
    order = "with every other prompt in the opposite order" if taking_turns else "always in the same order"
    return (
        "The first token is measured once a prompt, by everybody in turn, " + order + ": plain decoding's median "
        "seconds, and the others' median ratio to it by prompt, with its 95% interval over prompts."
    )


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of what was measured: a run that was stopped lacks some of it."""
    there = [place for place, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    return table([head[place] for place in there], [[row[place] for place in there] for row in rows])


def _places(result: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name in result["settings"]["drafters"]:
        for drafter, places in figures.acceptance_by_place(result["prompts"], name).items():
            shares = [f"{right / judged:.0%}" if judged >= figures.FEWEST else "" for right, judged in places[:_PLACES]]
            rows.append([f"`{name}`", f"`{drafter}`", *shares, *[""] * (_PLACES - len(shares))])
    if rows:
        yield (
            "How often a drafted token is right, by its place in the draft, if those before it were, where at least "
            f"{figures.FEWEST} were judged:"
        )
        yield table(["", "drafter", *map(str, range(1, _PLACES + 1))], rows)


def _partings(result: dict[str, Any]) -> Iterator[str]:
    rows = [
        [f"{row['category']} {row['question_id']}", f"`{name}`", str(one["position"]), f"{one['margin']:.4f}"]
        for row in result["prompts"]
        for name, one in row["partings"].items()
    ]
    if rows:
        yield "Texts that differ from the plain one: at which token, and by how many logits the plain token was ahead."
        yield table(["prompt", "", "token", "margin"], rows)
