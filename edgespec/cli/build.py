"""Builds an engine and sampling parameters from the shared options."""

from __future__ import annotations

import json
from typing import Any

import click

from edgespec import Engine, SamplingParams, load
from edgespec.cli.inputs import text_or_file
from edgespec.core import arguments
from edgespec.decode.sampling import random_seed
from edgespec.errors import InvalidRequest
from edgespec.grammar import schema_to_grammar


def open_engine(options: dict[str, Any]) -> Engine:
    """Load an engine by the options."""
    return load(
        options["model"],
        drafter=options["drafter"],
        exact=options["exact"],
        n_ctx=options["ctx"],
        threads=options["threads"],
        gpu_layers=options["gpu_layers"],
        prefix_cache=_prefix_cache(options),
    )


_PARAMETERS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "penalty_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "dry_multiplier": "dry_multiplier",
    "dry_base": "dry_base",
    "dry_allowed_length": "dry_allowed_length",
    "acceptance": "acceptance",
}
"""The options that stand for a sampling parameter, with its name. One that was not given is None."""


def chosen_sampling(options: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameters that the options set, by name; a random seed where they set none."""
    return {
        **{name: options[option] for option, name in _PARAMETERS.items() if options[option] is not None},
        "logit_bias": dict(map(_bias, options["logit_bias"])),
        "grammar": _grammar(options["grammar"], options["json_schema"]),
        "seed": random_seed() if options["seed"] is None else options["seed"],
    }


def _prefix_cache(options: dict[str, Any]) -> bool | float:
    """The prefix cache's bound in GB, True for the default; False for commands without it and with --private."""
    if "prefix_cache" not in options or options["private"]:
        return False
    bound: float | None = options["prefix_cache"]
    return True if bound is None else bound


def sampling_of(options: dict[str, Any], logprobs: int | None = None) -> SamplingParams:
    """The sampling parameters by the options; greedy where they say nothing."""
    return SamplingParams(**chosen_sampling(options), logprobs=logprobs)


def template_variables_of(options: dict[str, Any]) -> dict[str, Any]:
    """The variables of the chat template by the options."""
    variables = dict(map(_variable, options["template_var"]))
    if options["think"] is not None:
        variables["enable_thinking"] = options["think"]
    return variables


def _variable(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        if name and equals:
            return name, json.loads(value)
    except (ValueError, RecursionError):
        pass
    raise InvalidRequest(
        f"template variable {arguments.shown(text)}: write NAME=JSON, like documents=[] or name='\"Ann\"'"
    )


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError as error:
        raise InvalidRequest(f"logit bias {text!r}: write ID=NUMBER, like 42=-5") from error


def _grammar(grammar: str | None, schema: str | None) -> str | None:
    if grammar is not None and schema is not None:
        raise click.UsageError("--grammar and --json-schema exclude each other")
    if schema is not None:
        return schema_to_grammar(
            text_or_file(schema, "--json-schema", text=r"^\s*(\{|true\s*$)", form="a schema begins with {")
        )
    if grammar is None:
        return None
    return text_or_file(grammar, "--grammar", text="::=", form="""a grammar has rules, like root ::= "yes" | "no\"""")
