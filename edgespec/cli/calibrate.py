"""`edgespec calibrate`: counts the tokens that a target uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespec.backend import LlamaModel
from edgespec.backend.load_check import check_loads
from edgespec.cli.interrupt import message_when_stopped
from edgespec.cli.progress import AnswerProgress
from edgespec.cli.terminal import echo
from edgespec.errors import OutputError
from edgespec.hub.resolve import resolve
from edgespec.system import cpu
from edgespec.system.files import check_writable
from edgespec.system.jsonl import read_objects
from edgespec.system.prompts import read_prompts
from edgespec.system.texts import counted, read_input
from edgespec.vocabtrim.answers import AnswerSettings
from edgespec.vocabtrim.collect import count_answers_of, count_recorded, count_text
from edgespec.vocabtrim.counts import Counts


def run(options: dict[str, Any]) -> None:
    """Count tokens, and write the counts."""
    given = [name for name in ("prompts", "answers", "text") if options[name] is not None]
    if len(given) != 1:
        raise click.UsageError("give one of --prompts, --answers and --text")
    cache = cpu.cache_directory()
    path = resolve(options["model"], cache_dir=cache)
    header = check_loads(path, cache_dir=cache)
    check_writable(options["out"], replace=options["force"])
    model = LlamaModel(path, gpu_layers=options["gpu_layers"])
    left = "nothing was written" if options["prompts"] is None else "the same command continues"
    try:
        with message_when_stopped(lambda: left):
            counts = _count(model, header.fingerprint, options)
    finally:
        model.close()
    out: Path = options["out"]
    try:
        counts.save(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    if options["prompts"] is not None:
        journal_of(out).unlink(missing_ok=True)
    total = counts.provenance
    if n_skipped := counts.origin.get("prompts_too_long"):
        echo(f"{counted(n_skipped, 'prompt')} left out: too long for {options['ctx']} tokens (--ctx)", err=True)
    echo(f"{out}: {total['tokens']} tokens counted, {total['distinct']} different, in {total['texts']} texts; "
         f"{total['held_out_tokens']} more held out")  # fmt: skip


def journal_of(out: Path) -> Path:
    """The path of the journal, which holds the answers until all are counted."""
    return out.with_name(f"{out.name}.journal")


def _count(model: LlamaModel, fingerprint: str, options: dict[str, Any]) -> Counts:
    if options["text"] is not None:
        return count_text(model, options["text"], read_input(options["text"]))
    if options["answers"] is not None:
        return count_recorded(model, options["answers"], read_objects(options["answers"]))
    prompts = [prompt["turns"][0] for prompt in read_prompts(options["prompts"])]
    settings = AnswerSettings(options["max_tokens"], options["temp"], options["seed"], options["ctx"], options["raw"])
    progress = AnswerProgress()
    counts = count_answers_of(
        model,
        prompts,
        fingerprint=fingerprint,
        settings=settings,
        journal=journal_of(options["out"]),
        slots=options["parallel"],
        threads=options["threads"] or cpu.default_threads(),
        progress=lambda done, total, tokens: progress("answers", done, total, tokens, done / total),
    )
    progress.finish()
    return counts
