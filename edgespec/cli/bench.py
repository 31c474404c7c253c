"""`edgespec bench`: compares drafters with plain decoding and with other programs."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import click

from edgespec.bench.contestants import PLAIN
from edgespec.bench.metrics import ratios, speed_of
from edgespec.bench.peers import parse_peer
from edgespec.bench.report import markdown, plot_files, summary_lines
from edgespec.bench.run import run as run_bench
from edgespec.bench.settings import RunProgress, Settings
from edgespec.cli.interrupt import message_when_stopped
from edgespec.cli.terminal import echo
from edgespec.errors import InvalidRequest, OutputError
from edgespec.system.files import check_writable, replacing
from edgespec.system.prompts import ALL, identified, read_prompts, spread


def run(options: dict[str, Any]) -> None:
    """Run the benchmark, and print its summary."""
    prompts = identified(read_prompts(options["prompts"]))
    if options["per_subtask"]:
        prompts = spread(prompts, options["per_subtask"])
    prompts = prompts[: options["limit"]]
    if options["sampling"] == "chat" and (options["peers"] or options["temp"]):
        raise click.UsageError("--sampling chat takes the model's own temperature, and no --peer samples like that")
    drafters = options["drafters"].split(",")
    if "none" in drafters:
        raise InvalidRequest("plain decoding always takes part: name with -d the drafters to compare with it")
    _check_outputs(options["out"], options["report"], force=options["force"])
    settings = Settings(
        drafters=drafters, peers=[parse_peer(peer) for peer in options["peers"]], temperature=options["temp"],
        like_a_chat=options["sampling"] == "chat", n_ctx=options["ctx"],
        **{key: options[key] for key in
           ("model", "server", "count", "rounds", "peer_rounds", "seed", "threads", "gpu_layers")},
    )  # fmt: skip
    with message_when_stopped(lambda: _what_is_kept(options["out"])):
        result = run_bench(
            settings, prompts, out=options["out"], command=["edgespec", *sys.argv[1:]], on_progress=_print_progress
        )
    if options["report"]:
        _write_report(options["report"], result)
    echo("\n".join(summary_lines(result)))


def _check_outputs(out: Path | None, report: Path | None, *, force: bool) -> None:
    """Raises OutputError where a file cannot be written, or would replace another one."""
    if out is not None:
        check_writable(out)  # it may hold a stopped run
    if report is not None:
        if out is not None and out.resolve() == report.resolve():
            raise OutputError(f"{report}: it would replace the results of --json: choose another name")
        for path in (report, *plot_files(report.parent, report.stem).values()):
            check_writable(path, replace=force)


def _what_is_kept(out: Path | None) -> str:
    """What a stopped run leaves."""
    if out is None:
        return "nothing is kept without --json FILE"
    if not out.exists():
        return "no prompt was measured in full yet"
    return f"every prompt that was measured in full is in {out}, and the same command continues with {out}"


def _print_progress(progress: RunProgress) -> None:
    """Print a line on stderr for each prompt and each other stage."""
    row = progress.row
    if row and "reason" in row:
        echo(f"{_name(row)} left out: {row['reason']}", err=True)
    elif row:
        plain = statistics.median(map(speed_of, row["answers"][PLAIN]))
        speeds = ", ".join(
            f"{name} {statistics.median(speed_ratios):.2f}x"
            for name in row["answers"]
            if name != PLAIN and (speed_ratios := ratios(row, name, PLAIN))
        )
        echo(f"{_name(row)}: plain {plain:.1f} tokens/s, {speeds}", err=True)
    left = "" if progress.seconds_left is None else f", {progress.seconds_left / 60:.0f} min left"
    count = f" {progress.done} of {progress.total} prompts" if progress.total else ""
    done = progress.total and progress.done == progress.total
    echo(f"{'measured' if done else progress.doing}{count}{left}", err=True)


def _name(row: dict[str, Any]) -> str:
    """What a prompt is called: those of a file without categories are all in one."""
    category = "prompt" if row["category"] == ALL else row["category"]
    return f"{category} {row['question_id']}"


def _write_report(path: Path, result: dict[str, Any]) -> None:
    """Write the report, with plots where matplotlib is installed."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(markdown(result, _plots(path, result)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    echo(f"wrote {path}", err=True)


def _plots(report: Path, result: dict[str, Any]) -> dict[str, str]:
    try:
        from edgespec.bench.plots import draw  # noqa: PLC0415
    except ImportError:
        echo('the report has no plots: they need matplotlib (pip install "edgespec[plot]")', err=True)
        return {}
    return draw(result, report.parent, report.stem)
