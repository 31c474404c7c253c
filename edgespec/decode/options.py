"""The options of one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgespec.core import arguments
from edgespec.decode.sampling import SamplingParams
from edgespec.errors import InvalidRequest
from edgespec.grammar import schema_to_grammar
from edgespec.grammar.json_schema import Schema

Overflow = Literal["stop", "shift"]
"""What happens when the context is full: `stop` ends the answer (`length`), `shift` drops the oldest tokens."""

GREEDY = SamplingParams()
"""Greedy decoding, without filters."""


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How the tokens of an answer are chosen, and when it ends.

    `sampling`: the sampling parameters. `max_tokens`: the most tokens to emit. `stop`: stop strings, which end the
    answer and are not shown; a single one may be given as it is. `overflow`: `stop` ends the answer when the context is
    full, `shift` drops the oldest tokens after the system prompt. `explain`: blocks carry the reasons for their drafts.
    `schema`: a JSON schema for the answer, which becomes the grammar of `sampling`: a dict, a JSON text, True, or a
    class with `model_json_schema`, like pydantic's. None is an option's default.

    Raises InvalidRequest; GrammarError, which is one, for a schema that cannot be obeyed.
    """

    sampling: SamplingParams = GREEDY
    max_tokens: int = 512
    stop: Sequence[str] = ()
    overflow: Overflow = "stop"
    explain: bool = False
    schema: Schema | None = None

    def __post_init__(self) -> None:
        arguments.none_is_default(self)
        if not isinstance(self.sampling, SamplingParams):
            raise InvalidRequest(f"sampling is {arguments.shown(self.sampling)}: it must be SamplingParams")
        for name, checked in (
            ("max_tokens", arguments.integer("max_tokens", self.max_tokens, 1, arguments.MAX_INT32)),
            ("stop", arguments.texts("stop", self.stop)),
            ("overflow", arguments.choice("overflow", self.overflow, get_args(Overflow))),
            ("explain", arguments.switch("explain", self.explain)),
        ):
            object.__setattr__(self, name, checked)
        if self.schema is not None:
            if self.sampling.grammar is not None:
                raise InvalidRequest("a schema and a grammar exclude each other: give one of them")
            grammar = schema_to_grammar(self.schema)
            object.__setattr__(self, "sampling", replace(self.sampling, grammar=grammar))
            object.__setattr__(self, "schema", None)  # so that `but` makes no grammar again

    def but(self, **changes: Any) -> GenerationOptions:
        """These options with `changes`."""
        return replace(self, **changes)
