"""`edgespec heads collect`: records a target's answers with its hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgespec.backend import LlamaModel
from edgespec.backend.load_check import check_loads
from edgespec.cli.interrupt import message_when_stopped
from edgespec.cli.progress import AnswerProgress
from edgespec.cli.terminal import echo
from edgespec.gguf.validate import Header
from edgespec.heads.collect import Collected, Collecting, Moment, collect_answers, collect_recorded, recorded_pairs
from edgespec.heads.used import UsedAnswers
from edgespec.hub.resolve import resolve
from edgespec.system import cpu
from edgespec.system.jsonl import read_objects
from edgespec.system.prompts import identified, read_prompts
from edgespec.system.texts import counted
from edgespec.vocabtrim.answers import AnswerSettings

_LONGEST_USED = 4096
"""Tokens of a prompt with its answer beyond which an answer of a user's chats is left out."""


def run(options: dict[str, Any]) -> None:
    """Collect, and print the totals."""
    if options["prompts"] is None and options["answers"] is None and not options["own_prompts"]:
        raise click.UsageError("give --prompts FILE, --own-prompts N or --answers FILE")
    if options["answers"] is not None and options["own_prompts"]:
        raise click.UsageError("--answers are there already: leave --own-prompts out")
    wanted = Collecting(
        AnswerSettings(options["max_tokens"], options["temp"], options["seed"], options["ctx"], options["raw"]),
        options["own_prompts"], _layers(options["layers"]), options["top"], options["limit_tokens"],
        options["parallel"], options["threads"] or cpu.default_threads(),
    )  # fmt: skip
    prompts = read_prompts(options["prompts"]) if options["prompts"] is not None else []
    cache = cpu.cache_directory()
    path = resolve(options["model"], cache_dir=cache)
    header = check_loads(path, cache_dir=cache)
    model = LlamaModel(path, gpu_layers=options["gpu_layers"])
    progress = AnswerProgress()
    try:
        with message_when_stopped(lambda: "the same command continues"):
            total = _collect(model, header, prompts, wanted, options, progress)
    finally:
        progress.finish()
        model.close()
    if total.too_long:
        echo(f"{counted(total.too_long, 'prompt')} left out: too long for {options['ctx']} tokens (--ctx)", err=True)
    echo(f"{options['out']}: {counted(total.answers, 'answer')}, {total.tokens} tokens with their prompts; "
         f"{total.looping} of the answers repeat themselves, and are left out of training")  # fmt: skip


def used_states(used: UsedAnswers, header: Header, options: dict[str, Any]) -> Path:
    """The folder with what the target computes at the answers that were kept of its use. Raises InvalidRequest."""
    pairs = used.pairs()
    longest = min(_LONGEST_USED, max(len(pair.tokens) + len(pair.answer) for pair in pairs))
    wanted = Collecting(AnswerSettings(n_ctx=longest), threads=options["threads"] or cpu.default_threads())
    model = LlamaModel(header.part.path)
    progress = AnswerProgress()

    def show(moment: Moment) -> None:
        progress(moment.stage, moment.done, moment.total, moment.tokens, moment.share)

    folder = used.states_of(pairs)
    try:
        with message_when_stopped(lambda: "the same command continues"):
            collect_recorded(model, header, pairs, folder, wanted, show)
    finally:
        progress.finish()
        model.close()
    return folder


def _collect(
    model: LlamaModel, header: Header, prompts: list[dict[str, Any]], wanted: Collecting, options: dict[str, Any],
    progress: AnswerProgress,
) -> Collected:  # fmt: skip
    def show(moment: Moment) -> None:
        progress(moment.stage, moment.done, moment.total, moment.tokens, moment.share)

    if options["answers"] is not None:
        lines = read_objects(options["answers"])
        pairs = recorded_pairs(model, options["answers"], lines, identified(prompts))
        return collect_recorded(model, header, pairs, options["out"], wanted, show)
    return collect_answers(model, header, [prompt["turns"][0] for prompt in prompts], options["out"], wanted, show)


def _layers(value: str | None) -> tuple[int, ...] | None:
    """The value of --layers. Raises UsageError."""
    if value is None:
        return None
    if value == "none":
        return ()
    try:
        layers = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.UsageError(f"--layers {value!r}: give numbers with commas between them, or none") from None
    if len(set(layers)) < len(layers):
        raise click.UsageError(f"--layers {value!r}: each layer once")
    return layers
