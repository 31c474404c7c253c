"""The options of one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgespec.core import arguments
from edgespec.decode.sampling import SamplingParams
from edgespec.errors import InvalidRequest

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
    None is an option's default.

    Raises InvalidRequest.
    """

    sampling: SamplingParams = GREEDY
    max_tokens: int = 512
    stop: Sequence[str] = ()
    overflow: Overflow = "stop"
    explain: bool = False

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

    def but(self, **changes: Any) -> GenerationOptions:
        """These options with `changes`."""
        return replace(self, **changes)
