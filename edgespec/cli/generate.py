"""`edgespec generate`: answer a prompt, or a file of them."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from edgespec import Engine, SamplingParams, Session
from edgespec.cli.build import open_engine, sampling_of, template_variables_of
from edgespec.cli.inputs import options_from_input, prompt_of
from edgespec.cli.interrupt import cancelled_by_ctrl_c
from edgespec.cli.parallel import outcomes_in_order
from edgespec.cli.report import DecisionLog, PromptProgress, as_json, json_line, print_stats
from edgespec.cli.terminal import echo, write
from edgespec.errors import ContextOverflow, EdgespecError, EvaluationError, GrammarError, InvalidRequest
from edgespec.system.prompts import read_valid_prompts

_ERRORS_OF_ONE_PROMPT = (ContextOverflow, EvaluationError, InvalidRequest)
"""Errors after which the other prompts of a file are still answered; but a GrammarError concerns them all."""


def run(options: dict[str, Any]) -> None:
    """Answer the prompts that the options name."""
    if options["raw"]:
        _leave_out_what_is_for_conversations(options)
    _check_sources(options)
    sampling = sampling_of(options, logprobs=_wanted_logprobs(options))
    conversations, errors = _conversations(options)
    answering = _answer_together if _parallel(options) > 1 else _answer_in_turn
    for error in errors:
        echo(f"edgespec: {error}; the other prompts are answered", err=True)
    with open_engine(options) as engine:
        n_failed = len(errors) + answering(engine, conversations, sampling, options)
    if n_failed:
        sys.exit(1)


def _parallel(options: dict[str, Any]) -> int:
    """The value of --parallel. Raises UsageError where it is on the command line without --prompts."""
    source = click.get_current_context().get_parameter_source
    if options["prompts"] is None and source("parallel") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--parallel answers several prompts at once: give them with --prompts FILE.jsonl")
    parallel: int = options["parallel"]
    return parallel if options["prompts"] is not None else 1


def _answer_in_turn(
    engine: Engine, conversations: dict[int, dict[str, Any]], sampling: SamplingParams, options: dict[str, Any]
) -> int:
    """Answer the conversations; returns how many failed."""
    n_failed = 0
    for number, conversation in conversations.items():
        try:
            _answer(engine, conversation, sampling, options)
        except _ERRORS_OF_ONE_PROMPT as error:
            if options["prompts"] is None or isinstance(error, GrammarError):
                raise
            n_failed += 1
            _print_failure(conversation, number, error)
    return n_failed


def _answer_together(
    engine: Engine, conversations: dict[int, dict[str, Any]], sampling: SamplingParams, options: dict[str, Any]
) -> int:
    """Answer the conversations, several at once; returns how many failed."""
    n_failed, cancelled = 0, False
    begun: set[int] = set()
    numbers, prompts = list(conversations), list(conversations.values())
    progress = PromptProgress()

    def fields(index: int, turn: int) -> dict[str, Any]:
        return {**_prompt_fields(prompts[index]), "turn": turn}

    def decisions(index: int, turn: int) -> DecisionLog:
        progress.clear()
        return DecisionLog(options["stats"], fields(index, turn))

    arguments = {
        "system": options["system"], "variables": template_variables_of(options),
        **_answer_arguments(sampling, options, progress),
    }  # fmt: skip
    parallel = _parallel(options)
    for index, turn, outcome in outcomes_in_order(engine, prompts, arguments, decisions, parallel=parallel):
        session, error = outcome.session, outcome.error
        begun.add(index)
        if session is not None and (session.emitted or error is None):
            echo(json_line({**fields(index, turn), **as_json(session, engine, sampling)}, sys.stdout))
            if options["stats"]:
                echo(f"{_name(prompts[index], numbers[index])}, turn {turn}:", err=True, dim=True)
                print_stats(session, engine, sampling.seed)
            cancelled = cancelled or (error is None and session.finish_reason == "cancelled")
        if error is not None:
            if isinstance(error, GrammarError) or not isinstance(error, _ERRORS_OF_ONE_PROMPT):
                raise error
            n_failed += 1
            _print_failure(prompts[index], numbers[index], error)
    if cancelled:
        if left := len(prompts) - len(begun):
            echo(f"stopped; {left} of {len(prompts)} conversations were not begun", err=True)
        sys.exit(130)
    return n_failed


def _name(conversation: dict[str, Any], number: int) -> str:
    """What a conversation is called on stderr."""
    return f"prompt {conversation['question_id']}" if "question_id" in conversation else f"line {number}"


def _print_failure(conversation: dict[str, Any], number: int, error: EdgespecError) -> None:
    echo(f"edgespec: {_name(conversation, number)}: {error}", err=True)


def _answer_arguments(sampling: SamplingParams, options: dict[str, Any], progress: PromptProgress) -> dict[str, Any]:
    """The arguments of `stream` for one answer."""
    return {
        "sampling": sampling,
        "max_tokens": options["max_tokens"],
        "stop": options["stop"],
        "overflow": "shift" if options["context_shift"] else "stop",
        "on_prefill": progress,
        "explain": options["stats"] == "full",
    }


def _leave_out_what_is_for_conversations(options: dict[str, Any]) -> None:
    """Reset the options of the chat template, unless they stand on the command line: a raw prompt has none."""
    source = click.get_current_context().get_parameter_source
    for name, nothing in (("system", None), ("think", None), ("template_var", ())):
        if source(name) != ParameterSource.COMMANDLINE:
            options[name] = nothing


def _conversations(options: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], list[InvalidRequest]]:
    """The conversations to answer by their line in the prompt file, and the errors of lines that are none.

    They are objects with `turns` and the other fields of the prompt file.
    """
    if options["prompts"] is None:
        return {1: {"turns": [prompt_of(options)]}}, []
    if options["raw"]:
        raise click.UsageError("--prompts holds conversations: they need the chat template, so not --raw")
    return read_valid_prompts(options["prompts"])


def _check_sources(options: dict[str, Any]) -> None:
    """Raises UsageError where prompts are given twice, or two texts would come from standard input."""
    given = [f"--{name}" for name in ("prompt", "file", "prompts") if options[name] is not None]
    if given and options["words"]:
        raise click.UsageError(f"{' '.join(options['words'])!r} would be the prompt, and {given[0]} gives one too")
    if len(given) > 1:
        remedy = "" if options["prompts"] else "; to ask about a file, pipe it in: edgespec generate -p QUESTION < FILE"
        raise click.UsageError(f"{given[0]} and {given[1]} exclude each other{remedy}")
    if len(from_input := options_from_input(options)) > 1:
        raise click.UsageError(f"{from_input[0]} - and {from_input[1]} -: standard input can be read only once")


def _wanted_logprobs(options: dict[str, Any]) -> int | None:
    """The value of --logprobs, which only JSON shows. Raises UsageError where it is on the command line without."""
    if options["as_object"] or options["prompts"] is not None:
        return options["logprobs"]  # type: ignore[no-any-return]
    if click.get_current_context().get_parameter_source("logprobs") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--logprobs is shown in JSON only: add --json")
    return None


def _answer(engine: Engine, conversation: dict[str, Any], sampling: SamplingParams, options: dict[str, Any]) -> None:
    """Answer every turn of one conversation."""
    many_prompts = options["prompts"] is not None
    variables = template_variables_of(options)
    chat = engine.chat(options["system"], template_variables=variables) if many_prompts else None
    for turn, text in enumerate(conversation["turns"]):
        progress = PromptProgress()
        arguments = _answer_arguments(sampling, options, progress)
        if chat is not None:
            session = chat.stream(text, **arguments)
        else:
            session = engine.stream(
                text, system=options["system"], raw=options["raw"], template_variables=variables, **arguments
            )
        prompt_fields = {**_prompt_fields(conversation), "turn": turn} if many_prompts else {}
        decisions = DecisionLog(options["stats"], prompt_fields)
        silent = many_prompts or options["as_object"]
        failure = None
        try:
            _run(session, progress, decisions, silent=silent)
        except EdgespecError as error:
            if not session.emitted:
                raise
            failure = error  # what was said before it is printed first
        if silent:
            echo(json_line({**prompt_fields, **as_json(session, engine, sampling)}, sys.stdout))
        else:
            echo()
        if options["stats"]:
            print_stats(session, engine, sampling.seed)
        if failure is not None:
            raise failure
        if session.finish_reason == "cancelled":
            sys.exit(130)


def _prompt_fields(conversation: dict[str, Any]) -> dict[str, Any]:
    """The fields of a prompt file that identify a conversation."""
    return {key: conversation[key] for key in ("question_id", "category") if key in conversation}


def _run(session: Session, progress: PromptProgress, decisions: DecisionLog, *, silent: bool) -> None:
    """Decode the answer, and print each block unless `silent`; after an error, print what was held back too."""
    n_printed = 0
    try:
        with cancelled_by_ctrl_c(session):
            for block in session.stream():
                progress.clear()
                decisions.print_block(session, block)
                if not silent:
                    write(block.text)
                    n_printed += len(block.text)
    except EdgespecError:
        progress.clear()
        if not silent:
            write(session.text[n_printed:])
        raise
