"""`edgespec bench`: is it faster here, and is the text the same?"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import click

from edgespec.bench.field import PLAIN
from edgespec.bench.figures import speed_of
from edgespec.bench.peers import parsed
from edgespec.bench.prompts import identified, read_prompts, spread
from edgespec.bench.report import markdown, summary_lines
from edgespec.bench.results import writable
from edgespec.bench.run import run
from edgespec.bench.settings import Progress, Settings
from edgespec.cli.options import gpu_layers_option, model_option, threads_option
from edgespec.errors import InvalidRequest, OutputError
from edgespec.store import replacing


@click.command()
@model_option
@click.option(
    "-d",
    "--drafter",
    "drafters",
    default="auto",
    show_default=True,
    metavar="DRAFTER[,DRAFTER...]",
    help="What to compare with plain decoding: as for generate, several separated by commas.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="JSON lines in Spec-Bench's form. The first turn of each is answered.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N prompts only.")
@click.option("--per-subtask", type=click.IntRange(1), metavar="N", help="N prompts of each subtask, evenly spread.")
@click.option(
    "-n",
    "--max-tokens",
    "count",
    type=click.IntRange(2),
    default=96,
    show_default=True,
    metavar="N",
    help="The longest answer.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, metavar="N", help="Answers to each prompt."
)
@click.option("--temp", type=click.FloatRange(0), default=0.0, show_default=True, metavar="F")
@click.option("--seed", type=int, default=7, show_default=True, metavar="N")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="PEER",
    help="Another program: llama-cpp-python, prompt-lookup[=N], transformers=DRAFTER.gguf, or of a llama-server: "
    "llama-server, ngram-simple, ngram-mod, ngram-cache, or NAME=ARGUMENTS. Repeatable.",
)
@click.option(
    "--peer-rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many of the rounds the peers take part in.",
)
@click.option(
    "--server",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The llama-server. sh tools/build_peers.sh builds one.",
)
@click.option(
    "--ctx",
    type=click.IntRange(64),
    default=2048,
    show_default=True,
    metavar="N",
    help="Context in tokens; longer prompts are left out.",
)
@threads_option
@gpu_layers_option
@click.option(
    "--json",
    "out",
    type=click.Path(path_type=Path),
    metavar="OUT.json",
    help="Write all figures there after each prompt; the same command goes on where it was stopped.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="OUT.md", help="Write a report there, and its plots beside it."
)
def bench(**options: Any) -> None:  # fmt: skip
    """Measure drafters against plain decoding, side by side, and against other programs.

    Let nothing else run meanwhile.
    """
    prompts = identified(read_prompts(options["prompts"]))
    if options["per_subtask"]:
        prompts = spread(prompts, options["per_subtask"])
    prompts = prompts[: options["limit"]]
    if not prompts:
        raise InvalidRequest(f"{options['prompts']}: there are no prompts in it")
    drafters = options["drafters"].split(",")
    if "none" in drafters:
        raise InvalidRequest("plain decoding takes part anyway: name with -d what to compare with it")
    for path in filter(None, (options["out"], options["report"])):
        if not path.exists():
            writable(path)
    settings = Settings(
        drafters=drafters, peers=[parsed(peer) for peer in options["peers"]], temperature=options["temp"],
        n_ctx=options["ctx"],
        **{key: options[key] for key in
           ("model", "server", "count", "rounds", "peer_rounds", "seed", "threads", "gpu_layers")},
    )  # fmt: skip
    try:
        result = run(settings, prompts, out=options["out"], command=["edgespec", *sys.argv[1:]], tell=_tell)
    except KeyboardInterrupt:
        if options["out"]:
            click.echo(f"\nstopped; the same command goes on with {options['out']}", err=True)
        raise
    click.echo("\n".join(summary_lines(result)))
    if options["report"]:
        _write_report(options["report"], result)


def _tell(progress: Progress) -> None:
    """A line for every prompt and every other thing that takes long, on stderr."""
    row = progress.row
    if row and "reason" in row:
        click.echo(f"{row['category']} {row['question_id']} left out: {row['reason']}", err=True)
    elif row:
        plain = statistics.median(map(speed_of, row["answers"][PLAIN]))
        speeds = ", ".join(
            f"{name} {statistics.median(map(speed_of, answers)) / plain:.2f}x"
            for name, answers in row["answers"].items()
            if name != PLAIN
        )
        click.echo(f"{row['category']} {row['question_id']}: plain {plain:.1f} tokens/s, {speeds}", err=True)
    left = "" if progress.seconds_left is None else f", {progress.seconds_left / 60:.0f} min left"
    count = f" {progress.done} of {progress.total} prompts" if progress.total else ""
    done = progress.total and progress.done == progress.total
    click.echo(f"{'measured' if done else progress.doing}{count}{left}", err=True)


def _write_report(path: Path, result: dict[str, Any]) -> None:
    """The report, and its plots where matplotlib is installed."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(markdown(result, _plots(path, result)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"written: {path}", err=True)


def _plots(report: Path, result: dict[str, Any]) -> dict[str, str]:
    try:
        from edgespec.bench.plots import draw  # noqa: PLC0415
    except ImportError:
        click.echo('the report has no plots: they need matplotlib (pip install "edgespec[plot]")', err=True)
        return {}
    return draw(result, report.parent, report.stem)
