"""Puts the figures of benchmarks/results/NAME.json into docs/benchmarks.md, between <!-- NAME --> and <!-- end -->.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgespec.bench import run
from edgespec.bench.plots import draw
from edgespec.bench.report import programs, sections
from edgespec.bench.tables import table, with_interval

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"

Result = dict[str, Any]


def lossless(result: Result) -> str:
    """Equal answers by temperature and drafter, and every parting."""
    groups = sorted({(row["temperature"], row["drafter"]) for row in result["answers"]})
    rows = []
    for temperature, drafter in groups:
        group = [row for row in result["answers"] if (row["temperature"], row["drafter"]) == (temperature, drafter)]
        drafted, accepted = (sum(row[key] for row in group) for key in ("drafted", "accepted"))
        equal = sum(row["equal"] for row in group)
        rows.append([f"{temperature:g}", f"`{drafter}`", f"{equal} of {len(group)}", str(drafted), str(accepted)])
    text = table(["temperature", "drafter", "equal to plain", "drafted", "accepted"], rows)
    partings: dict[tuple[str, str, int, str], list[str]] = {}
    for row in result["answers"]:
        if row["parting"]:
            where = row["parting"]["position"], f"{row['parting']['margin']:.4f}"
            answer = f"{row['subtask']} {row['question_id']}", f"{row['temperature']:g}"
            partings.setdefault((*answer, *where), []).append(f"`{row['drafter']}`")
    cells = [[*map(str, place), ", ".join(drafters)] for place, drafters in sorted(partings.items())]
    if cells:
        text += "\n\n" + table(["prompt", "temperature", "parts at token", "margin, logits", "drafters"], cells)
    noise = ", ".join(f"{value:.4f} ({width} rows)" for width, value in result["rounding_noise"].items())
    return f"{text}\n\nLargest difference of a logit between an evaluation of one row and of several: {noise}."


def overhead(result: Result) -> str:
    """Plain decoding against `Llama`."""
    equal, runs = result["equal_answers"]
    speed, first = result["decoding_speed_ratio"], result["first_token_time_ratio"]
    return table(
        ["decoding speed", "time to first token", "start-up with one token", "equal answers"],
        [
            [
                with_interval(speed, 3),
                with_interval(first, 3),
                f"{result['start_up_seconds']:.2f} s",
                f"{equal} of {runs}",
            ]
        ],
    )


def drafting(result: Result) -> str:
    """The drafters' own time."""
    return table(
        ["drafter", "text", "context", "µs a drafted token", "µs a call", "µs a token read", "memory, KB"],
        [
            [f"`{row['drafter']}`", row["text"], str(row["context"]), f"{row['us_per_drafted_token']:.2f}",
             f"{row['us_per_call']:.0f}", f"{row['us_per_token_read']:.1f}", f"{row['memory_bytes'] / 1e3:.0f}"]
            for row in result["rows"]
        ],
    )  # fmt: skip


def replay(result: Result) -> str:
    """Drafters against recorded answers."""
    rows = []
    for one in result["results"]:
        overall = one["overall"]
        by_subtask = " ".join(f"{figures['block_length']:.2f}" for figures in one["subtasks"].values())
        rows.append(
            [
                f"`{one['drafter']}`", str(one["length"]), f"{overall['block_length']:.3f}",
                *(f"{overall[key]:.3f}" for key in ("acceptance", "mbsu_by_parameters", "mbsu_by_bytes")), by_subtask,
            ]
        )  # fmt: skip
    subtasks = ", ".join(result["results"][0]["subtasks"])
    head = ["drafter", "draft", "tokens a block", "acceptance", "MBSU by parameters", "by bytes"]
    return table([*head, f"tokens a block in {subtasks}"], rows)


def trims(result: Result) -> str:
    """Trimmed drafters against recorded answers, each compared with the full one at the same draft length."""
    full = {one["length"]: one["overall"] for one in result["results"] if one["drafter"] == "full"}
    rows = []
    for one in sorted(result["results"], key=lambda one: one["length"]):
        overall, whole = one["overall"], full[one["length"]]
        by_subtask = " ".join(f"{figures['block_length']:.2f}" for figures in one["subtasks"].values())
        block, by_bytes = (
            f"{overall[key]:.3f} ({overall[key] / whole[key] - 1.0:+.1%})" for key in ("block_length", "mbsu_by_bytes")
        )
        rows.append(
            [
                str(one["length"]), one["drafter"], f"{one['coverage']:.2%}", f"{overall['acceptance']:.3f}",
                block, f"{overall['mbsu_by_parameters']:.3f}", by_bytes, by_subtask,
            ]
        )  # fmt: skip
    subtasks = ", ".join(result["results"][0]["subtasks"])
    head = ["draft", "kept", "of the answers' tokens", "acceptance", "tokens a block", "MBSU by parameters", "by bytes"]
    return table([*head, f"tokens a block in {subtasks}"], rows)


def drafter_time(result: Result) -> str:
    """Time for a drafted token."""
    return table(
        ["drafter", "ms a token", "of the first one's", "MB read a token", "file, MB", "memory, MB"],
        [
            [f"`{row['drafter']}`", f"{row['milliseconds']:.2f}", with_interval(row["ratio"], 3),
             f"{row['megabytes_read']:.0f}", f"{row['file_megabytes']:.0f}", f"{row['memory_megabytes']:.0f}"]
            for row in result["drafters"]
        ],
    )  # fmt: skip


def simulated(result: Result) -> str:
    """The policy's speed as a share of the best fixed draft length's, by acceptance; and the least of plain's."""
    rates = sorted({case["acceptance"] for case in result["cases"]})
    groups: dict[tuple[str, float | None], list[Result]] = {}
    for case in result["cases"]:
        groups.setdefault((case["machine"], case["guess"]), []).append(case)
    rows = [
        [
            machine, "free" if guess is None else f"{guess:g}",
            *(f"{case['of_best_later']:.3f}" for case in sorted(cases, key=lambda case: case["acceptance"])),
            f"{min(case['of_best'] for case in cases):.3f}", f"{min(case['of_plain'] for case in cases):.3f}",
        ]
        for (machine, guess), cases in groups.items()
    ]  # fmt: skip
    head = ["machine", "a guess", *(f"{rate:g}" for rate in rates), "least, T(n) unknown", "least, of plain"]
    cases = result["cases"]
    near = {key: sum(case[key] >= 0.95 for case in cases) for key in ("of_best_later", "of_best")}
    mean = statistics.mean(case["of_best_later"] for case in cases)
    lines = [
        f"Texts for each case: {result['seeds']}. Within 5% of the best fixed choice: {near['of_best_later']} of the "
        f"{len(cases)} cases (mean {mean:.3f}), and {near['of_best']} where T(n) is not known yet."
    ]
    foreknown = [case["of_best_foreknown"] for case in cases]
    lines.append(
        "The length that is best by expectation, to one who knows the acceptance: within 5% of the best in "
        f"hindsight in {sum(share >= 0.95 for share in foreknown)} of the cases ({_range(foreknown)})."
    )
    after = [change["of_best"] for change in result["changes"]]
    lines.append(
        "From 50 blocks after a change on (0.9 to 0.1 or back, 0.3 to 0.8 or back, on each machine, guesses free or at "
        f"0.15): {_range(after)}, {sum(share >= 0.95 for share in after)} of {len(after)} within 5%."
    )
    for key, what in (
        ("reading", "A model that has to read for 2 T(1) before its first guess, in answers of 32 to 1600 tokens"),
        (
            "both",
            "A model, and a drafter for the 60 of every 200 tokens that can be copied, against the better one",
        ),
    ):
        found = result.get(key, [])
        if found:
            plain = min(case["of_plain"] for case in found)
            lines.append(f"{what}: {_range(case['of_best'] for case in found)}; at least {plain:.3f} of plain.")
    return "\n\n".join([table(head, rows), *lines])


def _range(shares: Iterable[float]) -> str:
    found = list(shares)
    return f"{min(found):.3f} to {max(found):.3f}, mean {statistics.mean(found):.3f}"


def policy_time(result: Result) -> str:
    """The policy's own time for a block."""
    rows = [
        [
            row["text"],
            row.get("drafters") or ("suffix and a model" if row["model"] else "suffix"),
            "known" if row["known"] else "new",
            *(f"{row[key]:.{digits}f}" for key, digits in (("drafted", 1), ("us", 0), ("us_90", 0))),
        ]
        for row in result["rows"]
    ]
    return table(["text", "drafters", "T(n)", "tokens drafted a block", "µs, median", "90% are below"], rows)


def trees(result: Result) -> str:
    """Chains against trees on recorded answers, by curve."""
    rows = [
        [
            row["curve"], row["drafters"],
            *(f"{row[shape][key]:.2f}" for key in ("speed_up", "tokens_a_pass", "rows_a_pass")
              for shape in ("chains", "trees")),
            f"{row['trees']['speed_up'] / row['chains']['speed_up'] - 1:+.1%}",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    head = [f"{what}, {shape}" for what in ("times plain", "tokens a pass", "rows a pass")
            for shape in ("chains", "trees")]  # fmt: skip
    families = [
        f"By kind of answer, all curves together, with {drafters}: trees at {min(shares.values()):.3f} to "
        f"{max(shares.values()):.3f} of chains."
        for drafters, shares in result["families"].items()
    ]
    return "\n\n".join([table(["T(n) of", "drafters", *head, "trees"], rows), *families])


def reopen(result: Result) -> str:
    """A reopened chat's first token."""
    warm, cold = (statistics.median(result[key]) for key in ("warm_seconds", "cold_seconds"))
    return table(
        ["turns", "tokens", "cached", "KV file, MB", "first token with it, s", "without, s", "with / without"],
        [
            [str(result["turns"]), str(result["prompt_tokens"]), str(result["cached_tokens"]),
             f"{result['kv_megabytes']:.0f}", f"{warm:.2f}", f"{cold:.2f}", with_interval(result["ratio"], 3)]
        ],
    )  # fmt: skip


def schema_answers(result: Result) -> str:
    """Answers by random schemas: how many ended, and how many obey."""
    rows = []
    for what, ended in (("ended by itself", True), ("was cut, and completed by its grammar", False)):
        found = [row for row in result["answers"] if row["ended"] is ended]
        tokens = statistics.median(row["tokens"] for row in found) if found else 0
        valid = sum(row["valid"] for row in found)
        rows.append(
            [what, str(len(found)), f"{100 * len(found) / len(result['answers']):.0f}%", f"{tokens:g}", str(valid)]
        )
    refused = f"{len(result['refusals'])} words are refused by name and place: {', '.join(result['refusals'])}."
    return table(["the answer", "answers", "of all", "tokens, median", "valid"], rows) + f"\n\n{refused}"


def schema_speed(result: Result) -> str:
    """Milliseconds of choosing a token, by schema and grammar."""
    grammars = ("none", "ours", "llama-cpp-python's")
    rows = []
    for name, temperature in dict.fromkeys((row["schema"], row["temperature"]) for row in result["answers"]):
        shown = [name, f"{temperature:g}"]
        for grammar in grammars:
            key = (name, temperature, grammar)
            found = [row for row in result["answers"] if (row["schema"], row["temperature"], row["grammar"]) == key]
            shown.append(f"{sum(row['choosing_ms'] for row in found) / sum(row['tokens'] for row in found):.2f}")
        rows.append(shown)
    return table(["schema", "temperature", *(f"{grammar}, ms a token" for grammar in grammars)], rows)


def schema_drafts(result: Result) -> str:
    """Tokens a forward pass by schema and drafter, and the speed over plain decoding where time was taken."""
    drafters = [name for name in dict.fromkeys(row["drafter"] for row in result["answers"]) if name != "none"]
    schemas = list(dict.fromkeys(row["schema"] for row in result["answers"]))
    timed = all("decode_ms" in row for row in result["answers"])
    header = [f"{name}, tokens a pass" for name in drafters]
    rows = []
    for schema in (*schemas, None):
        found = [row for row in result["answers"] if schema in (row["schema"], None)]
        by_name = {name: [row for row in found if row["drafter"] == name] for name in ("none", *drafters)}
        shown = [f"{sum(row['tokens'] - 1 for row in of) / sum(row['passes'] for row in of):.2f}"
                 for name, of in by_name.items() if name != "none"]  # fmt: skip
        if timed:
            speeds = [sum(row["tokens"] - 1 for row in of) / sum(row["decode_ms"] for row in of)
                      for of in by_name.values()]  # fmt: skip
            shown += [f"{speed / speeds[0]:.2f}" for speed in speeds[1:]]
        rows.append([schema or "all", *shown])
    if timed:
        header += [f"{name}, speed" for name in drafters]
    return table(["schema", *header], rows)


def acceptance(result: Result) -> str:
    """Mean acceptance length of each drafter and number of nodes, overall and by kind of text."""
    results = result["results"]
    subtasks = list(next(iter(results.values()))["subtasks"])
    rows = []
    for key, found in results.items():
        name, nodes = key.rsplit(" ", 1)
        overall = found["overall"]
        by_subtask = (f"{found['subtasks'][subtask]['mean_acceptance_length']:.2f}" for subtask in subtasks)
        rows.append(
            [f"`{name}`", nodes, f"{overall['nodes']:.1f}", f"{overall['mean_acceptance_length']:.2f}", *by_subtask]
        )
    return table(["drafter", "nodes at most", "nodes a pass", "tokens a pass", *subtasks], rows)


def heads_quality(result: Result) -> str:
    """Trained heads by replay: lengths, acceptance by position, chains by subtask and by rows of the LM head."""
    every = sorted(result["results"].values(), key=lambda found: (found["kind"], found["tokens"]))
    names = [[f"`{found['kind']}`", f"{found['tokens'] / 1000:.0f}k"] for found in every]
    head = ["heads", "trained on"]

    def lengths(of: Callable[[dict[str, Any]], Iterable[dict[str, Any]]]) -> list[list[str]]:
        return [
            [*name, *(f"{one['mean_acceptance_length']:.2f}" for one in of(found))]
            for name, found in zip(names, every, strict=True)
        ]

    columns = {"spec_bench": "Spec-Bench, chains", "spec_bench_tree": "trees of 16", "held_out": "held-out, chains",
               "spec_bench_looping": "loops of Spec-Bench", "looping": "held-out loops"}  # fmt: skip
    rates = [[f"{rate:.2f}" for rate in found["spec_bench"]["acceptance_by_position"]] for found in every]
    overall = lengths(lambda found: (found[column] for column in columns))
    rows = [[*row, " ".join(by_position)] for row, by_position in zip(overall, rates, strict=True)]
    subtasks = list(every[0]["subtasks"])
    sizes = sorted({*(int(size) for size in every[0]["rows"]), every[0]["kept"]})
    return "\n\n".join(
        (
            table([*head, *columns.values(), "Spec-Bench by position"], rows),
            table([*head, *subtasks], lengths(lambda found: (found["subtasks"][name] for name in subtasks))),
            table(
                [*head, *(f"{size} rows" for size in sizes)],
                lengths(lambda found: (found["rows"].get(str(size), found["spec_bench"]) for size in sizes)),
            ),
        )
    )


def heads_learning(result: Result) -> str:
    """What heads learned from answers of one kind, and what that cost elsewhere."""
    rows = [
        [label, *(f"{result[when][kind]['mean_acceptance_length']:.2f}" for when in ("before", "after"))]
        for kind, label in (("same_kind", "other questions about SQL"), ("others", "held-out answers to all else"))
    ]
    learned = f"after {result['learned_from']} tokens, {result['training']['epochs']} epochs"
    return table([f"`{result['kind']}`, chains, on", "before", learned], rows)


def head_time(result: Result) -> str:
    """The least milliseconds of each computation."""
    columns = ["medusa_step", "hydra_token_1", "hydra_token_4", "prefix_1", "prefix_8"]
    header = ["Medusa, 4 heads", "Hydra's 1st token", "4th", "Hydra++'s layer, 1 state", "8 states"]
    rows = [
        [row["model"], row["type"], str(row["kept"]), *(f"{row[column][0]:.2f}" for column in columns)]
        for row in result["rows"]
    ]
    return table(["heads for", "type", "kept rows", *header], rows)


def parallel(result: Result) -> str:
    """One line for each number of answers at once."""
    rows = [
        [str(row["at_once"]), f"{row['pass_ms']:.0f}", f"{row['bound']:.2f}", f"{row['speed']:.1f}",
         f"{row['gain']['median']:.2f}"]
        for row in result["rows"]
    ]  # fmt: skip
    header = ["answers at once (n)", "T(n), ms", "n T(1)/T(n)", "tokens/s", "over one after the other"]
    share = f"All at once reach {result['share_of_largest']:.0%} of the largest n T(1)/T(n)."
    return f"{table(header, rows)}\n\n{share}"


def tree_rows(result: Result) -> str:
    """What was compared, and how much of it was the same to the bit."""
    of_trees = result["summary"]
    header = ["compared", "rows", "same bits", "largest difference of a logit", "by another order of adding"]
    rows = [
        [f"{len(result['trees'])} trees of up to {of_trees['nodes']} nodes, with their paths as chains",
         str(of_trees["rows"]), str(of_trees["exact"]), f"{of_trees['difference']:.2g}", f"{of_trees['noise']:.2g}"],
    ]  # fmt: skip
    for walk in result["walks"]:
        who = "a sequence" if walk["sequences"] == 1 else f"{walk['sequences']} sequences in one cache"
        rows.append(
            [f"{walk['steps']} steps of {who} of up to {walk['longest']} tokens, with a cache that never saw a draft",
             str(walk["checks"]), str(walk["exact"]), f"{walk['difference']:.2g}", f"{walk['noise']:.2g}"]
        )  # fmt: skip
    return table(header, rows)


def prefix(result: Result) -> str:
    """The first token of a long prompt, without the prefix cache and with it."""
    rounds, ratios = result["rounds"], result["ratios"]
    without = statistics.median(row["none_seconds"] for row in rounds)
    steps = ", ".join(f"{step} {value:.1f}" for step, value in result["miss_milliseconds"].items())
    return table(
        ["tokens", "pairs", "file, MB", "first token without, s", "a miss / without", "a hit / without",
         "from disk / without", "steps of a miss, ms"],
        [
            [str(result["tokens"]), str(len(rounds)), f"{rounds[0]['state_megabytes']:.0f}", f"{without:.2f}",
             *(with_interval(ratios[name], 3) for name in ("miss", "hit", "hit_from_disk")), steps]
        ],
    )  # fmt: skip


def replay_trees(result: Result) -> str:
    """Tokens a pass of chains and trees, with the nodes that they take."""
    results, sizes = result["results"], result["settings"]["nodes"].split(",")
    names = list(dict.fromkeys(key.split()[0] for key in results))

    def cell(key: str) -> str:
        row = results[key]["subtasks"]["all"]
        return f"{row['tokens_a_pass']:.2f} ({row['nodes_a_pass']:.1f})"

    rows = [
        [f"`{name}`", memory, way, *(cell(f"{name} {memory} {way} {size}") for size in sizes)]
        for name in names for memory in ("cold", "warm") for way in ("chain", "tree")
    ]  # fmt: skip
    columns = [(name, way) for name in names for way in ("chain", "tree")]
    middle = sizes[1]
    by_subtask = [
        [subtask, *(f"{results[f'{name} cold {way} {middle}']['subtasks'][subtask]['tokens_a_pass']:.2f}"
                    for name, way in columns)]
        for subtask in results[f"{names[0]} cold chain {middle}"]["subtasks"] if subtask != "all"
    ]  # fmt: skip
    return (
        f"{table(['drafter', 'memory', 'drafts', *(f'{size} nodes' for size in sizes)], rows)}\n\n"
        f"By kind of text, cold, at most {middle} nodes:\n\n"
        f"{table(['text', *(f'`{name}`, {way}' for name, way in columns)], by_subtask)}"
    )


RENDERERS: dict[str, Callable[[Result], str]] = {
    "mean acceptance length of drafters alone": acceptance,
    "acceptance of trained heads by replay": heads_quality,
    "what heads learn from answers of one kind": heads_learning,
    "drafted answers against plain ones": lossless,
    "edgespec's plain decoding against llama-cpp-python's Llama": overhead,
    "cost of drafting from the conversation": drafting,
    "drafters against recorded answers": replay,
    "trees and chains of free drafters on recorded answers": replay_trees,
    "trimmed drafters against recorded answers": trims,
    "time for a drafted token": drafter_time,
    "the policy on simulated machines": simulated,
    run.SUBJECT: lambda result: "\n\n".join(sections(result)),  # and plots, see `filled`
    "the policy's own time": policy_time,
    "trees against chains on recorded answers": trees,
    "the first token of a reopened chat": reopen,
    "answers by random schemas": schema_answers,
    "the time of a token with a schema": schema_speed,
    "drafting by the grammar of a schema": schema_drafts,
    "the first token of a prompt that was read before": prefix,
    "several answers at once": parallel,
    "times of heads": head_time,
    "token trees against chains": tree_rows,
}


def filled(page: str) -> str:
    """The page with each marked place holding the table of its result file and where that came from."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        link = f"[{name}.json](../benchmarks/results/{name}.json)"
        machine = f"{result['machine']['cpu']}, {programs(result['versions'])}"
        origin = f"{link}, {result['date']}, {machine}: `{result['command']}`"
        shown = RENDERERS[result["what"]](result)
        if result["what"] == run.SUBJECT:
            plots = draw(result, PAGE.parent / "plots", name)
            shown += "".join(f"\n\n![{title}](plots/{file})" for title, file in plots.items())
        return f"<!-- {name} -->\n{shown}\n\n{origin}\n<!-- end -->"

    return re.sub(r"<!-- ([\w.-]+) -->\n.*?<!-- end -->", fill, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
