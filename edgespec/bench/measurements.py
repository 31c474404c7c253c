"""What a contestant of the benchmark made of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens and times. The first token is the prompt's evaluation's, and so no part of the speed."""

    tokens: tuple[int, ...]
    seconds: float
    """From the first token to the last."""
    first_token_seconds: float
    blocks: int
    """Evaluations of the target after the prompt's."""
    drafted: int = 0
    accepted: int = 0
    guesses: dict[str, int] = field(default_factory=dict)
    """Evaluations of drafter models, by name."""
    judged_at: dict[str, list[int]] = field(default_factory=dict)
    """By drafter: drafted tokens by place in the draft, as far as the target came to judge them."""
    accepted_at: dict[str, list[int]] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For a result file: all but the tokens, of which only the number is kept."""
        return {key: value for key, value in asdict(self).items() if value} | {"tokens": len(self.tokens)}


class Peer(Protocol):
    """Another program that answers with the same model."""

    def answer(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool = False
    ) -> Answer:
        """Up to `count` tokens after `prompt`. `prefill_all`: use no cached token. Raises EvaluationError."""
        ...

    def close(self) -> int | None:
        """End it; its peak memory in bytes, where the system tells."""
        ...
