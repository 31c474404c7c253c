"""The report of a benchmark result: a few lines, or Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgespec.bench import metrics, tables
from edgespec.bench.contestants import PLAIN


def plot_files(folder: Path, stem: str) -> dict[str, Path]:
    """The plots that may lie beside a report, by name."""
    return {name: folder / f"{stem}-{name}.png" for name in ("speed-up", "curve", "acceptance")}


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """A line for each contestant over all prompts."""
    rows = result["prompts"]
    if not rows:
        yield "no prompt was measured"
        return
    yield f"{PLAIN}: {metrics.total_speed(rows, PLAIN):.2f} tokens/s"
    for name in metrics.contestants(result)[1:]:
        ratio = metrics.median_ratio(rows, name, PLAIN)
        speed = metrics.total_ratio(rows, name, PLAIN) * metrics.total_speed(rows, PLAIN)
        line = f"{name}: {speed:.2f} tokens/s, {tables.with_interval(ratio)} times plain decoding"
        line += f", {metrics.block_length(rows, name):.2f} tokens a block"
        if tables.comparable(result, name):
            line += f", the same text for {metrics.same_text(rows, name)} prompts"
        yield line
    yield from (f"no answer: {failure}" for failure in _failures(rows))


def programs(versions: Mapping[str, str]) -> str:
    """The versions of edgespec, with the digest of its code, of llama.cpp and of the peers, as far as known."""
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
    """The tables, each after a sentence that says what it shows."""
    if not result["prompts"]:
        yield "No prompt was measured."
        return
    settings = result["settings"]
    main = settings["drafters"][0]
    yield (
        f"Speed after the first token, {_sampling(result)}: medians over prompts of the ratios "
        f"to plain decoding, with 95% intervals (of few prompts they hold the truth less often: of 4 about 7 times in "
        "8, of 2 half the time)."
    )
    yield tables.speeds(result)
    yield " ".join(_conditions(result))
    yield (
        "The slowest prompt against plain decoding, and for how many prompts the 95% interval over that prompt's own "
        f"rounds lies wholly below {metrics.SPEED_PROMISE:g}:"
    )
    yield tables.slowest(result)
    if settings["peers"]:
        yield (
            f"`{main}` against the others: the ratio of all tokens over all time; the median over prompts of the "
            "ratios, with its 95% interval; and who drafted nothing. The last row counts the wait for the first token "
            "too: llama-server's drafters read the prompt in that time."
        )
        yield tables.comparison(result, main)
    best = None
    if "curve" in result:  # the last things that a run measures
        best, size = metrics.best_possible(result["curve"])
        yield (
            f"What was drafted. Here drafts that cost nothing and are always right would make text {best:.2f} times as "
            f"fast ({size} tokens an evaluation); the last column is what share of that speed was reached. "
            "Memory is the peak of a process of its own that answers one prompt"
            f"{', without that of the GPU' if result['machine'].get('gpus') else ''}."
        )
    yield _on_first_tokens(result)
    yield tables.drafting(result, best)
    if drafting := [name for name in metrics.contestants(result) if metrics.drafts(result["prompts"], name)]:
        yield "Tokens a block, and the accepted share of what was drafted, by subtask:"
        yield tables.by_subtask(result, drafting)
    yield from tables.acceptance_by_position(result)
    yield from tables.calibration(result)
    yield from tables.divergences(result)
    if result["skipped"]:
        left_out = "; ".join(f"{row['category']} {row['question_id']}, {row['reason']}" for row in result["skipped"])
        yield f"Left out: {left_out}."
    if failures := list(_failures(result["prompts"])):
        yield f"No answer: {'; '.join(failures)}."
    if "curve" in result:
        yield from tables.curve(result["curve"])


def _sampling(result: dict[str, Any]) -> str:
    """How answers were sampled, in words."""
    if result["settings"].get("sampling") == "chat":
        return f"sampled as in a chat, with {result['chat_sampling']}"
    return f"at temperature {result['settings']['temperature']:g}"


def _conditions(result: dict[str, Any]) -> Iterator[str]:
    """Sentences on answers that were cut, and on rounds without peers."""
    settings, rows = result["settings"], result["prompts"]
    cut = sum(row["answers"][PLAIN][0]["tokens"] >= settings["tokens"] for row in rows)
    yield (
        f"{cut} of {len(rows)} answers were cut at {settings['tokens']} tokens; in whole ones, the wait for the first "
        "token is a smaller part."
    )
    if settings["peers"] and settings["peer_rounds"] < settings["rounds"]:
        some = "round" if settings["peer_rounds"] == 1 else f"{settings['peer_rounds']} rounds"
        yield (
            f"The programs beside edgespec took part in the first {some} of {settings['rounds']}, and their ratios are "
            f"of {'that' if settings['peer_rounds'] == 1 else 'those'}; comparisons between two contestants are of the "
            "rounds of both."
        )


def _failures(rows: Sequence[metrics.PromptResult]) -> Iterator[str]:
    for row in rows:
        for name, reason in row.get("failed", {}).items():
            yield f"{name} to {row['category']} {row['question_id']}, {reason}"


def _on_first_tokens(result: dict[str, Any]) -> str:
    """What the column of first tokens shows; older files, without `backwards`, have one order for all prompts."""
    taking_turns = all("backwards" in row for row in result["prompts"])
    order = "with every other prompt in the opposite order" if taking_turns else "always in the same order"
    return (
        "The first token is measured once a prompt, by everybody in turn, " + order + ": plain decoding's median "
        "seconds, and the others' median ratio to it by prompt, with its 95% interval over prompts."
    )
