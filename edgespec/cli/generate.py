"""`edgespec generate`: answer a prompt, or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from edgespec import Engine, SamplingParams, Session
from edgespec.cli.build import open_engine, sampling_of
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.report import DecisionLog, PromptProgress, as_json, json_line, print_stats
from edgespec.cli.terminal import echo, write
from edgespec.errors import ContextOverflow
from edgespec.system.jsonl import read_text
from edgespec.system.prompts import read_prompts


def run(options: dict[str, Any]) -> None:
    """Answer the prompts that the options name."""
    if options["raw"] and click.get_current_context().get_parameter_source("system") != ParameterSource.COMMANDLINE:
        options["system"] = None  # the configuration file's, for conversations
    sampling = sampling_of(options, logprobs=options["logprobs"])
    conversations = list(_conversations(options))
    too_long = 0
    with open_engine(options) as engine:
        for conversation in conversations:
            try:
                _answer(engine, conversation, sampling, options)
            except ContextOverflow as error:
                if options["prompts"] is None:
                    raise
                too_long += 1
                echo(f"edgespec: prompt {conversation.get('question_id', '')}: {error}", err=True)
    if too_long:
        sys.exit(1)


def _conversations(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The conversations to answer: objects with `turns` and the other fields of the prompt file."""
    given = [name for name in ("prompt", "file", "prompts") if options[name] is not None]
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]} exclude each other")
    if options["prompts"] is not None:
        if options["raw"]:
            raise click.UsageError("--prompts holds conversations: they need the chat template, so not --raw")
        yield from read_prompts(options["prompts"])
    elif options["prompt"] is not None:
        yield {"turns": [options["prompt"]]}
    elif options["file"] is not None:
        yield {"turns": [read_text(options["file"])]}
    elif sys.stdin.isatty():
        raise click.UsageError("no prompt: give -p TEXT, -f FILE, --prompts FILE.jsonl, or pipe one in")
    else:
        yield {"turns": [sys.stdin.buffer.read().decode("utf-8")]}


def _answer(engine: Engine, conversation: dict[str, Any], sampling: SamplingParams, options: dict[str, Any]) -> None:
    """Answer every turn of one conversation."""
    many_prompts = options["prompts"] is not None
    chat = engine.chat(options["system"]) if many_prompts else None
    for turn, text in enumerate(conversation["turns"]):
        progress = PromptProgress()
        arguments: dict[str, Any] = {
            "sampling": sampling,
            "max_tokens": options["max_tokens"],
            "stop": options["stop"],
            "overflow": "shift" if options["context_shift"] else "stop",
            "on_prefill": progress,
            "explain": options["stats"] == "full",
        }
        if chat is not None:
            session = chat.stream(text, **arguments)
        else:
            session = engine.stream(text, system=options["system"], raw=options["raw"], **arguments)
        prompt_fields = {**_prompt_fields(conversation), "turn": turn} if many_prompts else {}
        decisions = DecisionLog(options["stats"], prompt_fields)
        _run(session, progress, decisions, silent=many_prompts or options["as_object"])
        if many_prompts or options["as_object"]:
            result = as_json(session, engine, sampling)
            if many_prompts:
                result = {**prompt_fields, **result}
            echo(json_line(result, sys.stdout))
        if options["stats"]:
            print_stats(session, engine, sampling.seed)
        if session.finish_reason == "cancelled":
            sys.exit(130)


def _prompt_fields(conversation: dict[str, Any]) -> dict[str, Any]:
    """The fields of a prompt file that identify a conversation."""
    return {key: conversation[key] for key in ("question_id", "category") if key in conversation}


def _run(session: Session, progress: PromptProgress, decisions: DecisionLog, *, silent: bool) -> None:
    """Decode the answer, and print each block unless `silent`."""
    with cancelled_by_ctrl_c(session):
        for block in session.stream():
            progress.clear()
            decisions.print_block(session, block)
            if not silent:
                write(block.text)
    if not silent:
        echo()
