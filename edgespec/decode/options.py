"""How an answer is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgespec.decode.sampling import SamplingParams
from edgespec.errors import InvalidRequest

Overflow = Literal["stop", "shift"]
"""What happens when the context is full: the answer ends (`length`), or the oldest tokens are dropped."""

GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What an answer is like, and when it ends.

    `sampling`: how tokens are chosen. `max_tokens`: the most tokens to emit. `stop`: strings that end the answer and
    are not shown; one string is one. `overflow`: `stop` ends the answer when the context is full, `shift` drops its
    oldest tokens but the system prompt. `explain`: each block has the reasons for its draft.

    Raises InvalidRequest.
    """

    sampling: SamplingParams = GREEDY
    max_tokens: int = 512
    stop: Sequence[str] = ()
    overflow: Overflow = "stop"
    explain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.max_tokens < 1:
            raise InvalidRequest(f"{self.max_tokens} tokens to generate: it must be at least 1")

    def but(self, **changes: Any) -> GenerationOptions:
        """These options with some changed."""
        return replace(self, **changes)
