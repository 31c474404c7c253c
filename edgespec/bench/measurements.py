"""One answer of a contestant, with its counts and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens, counts and times of an answer. The prefill gives the first token, which the speed leaves out."""

    tokens: tuple[int, ...]
    seconds: float
    """From the first token to the last."""
    first_token_seconds: float
    blocks: int
    """Forward passes of the target after the prefill."""
    drafted: int = 0
    accepted: int = 0
    drafter_passes: dict[str, int] = field(default_factory=dict)
    """Forward passes of drafter models, by name. Result files call it `guesses`."""
    judged_at: dict[str, list[int]] = field(default_factory=dict)
    """By drafter: the numbers of verified draft tokens at each depth in the draft."""
    accepted_at: dict[str, list[int]] = field(default_factory=dict)
    """By drafter: the numbers of accepted draft tokens at each depth in the draft."""

    expected_at: list[int] = field(default_factory=list)
    """Draft tokens by the tenth of the probability that they are accepted, as expected; ten numbers."""
    came_true_at: list[int] = field(default_factory=list)
    """Those of them that were accepted."""

    def as_json(self) -> dict[str, Any]:
        """The answer in a result file: the number of tokens instead of the tokens, and no empty fields."""
        fields = asdict(self)
        fields["guesses"] = fields.pop("drafter_passes")
        return {key: value for key, value in fields.items() if value} | {"tokens": len(self.tokens)}


class Peer(Protocol):
    """Another program that answers with the same model."""

    def answer(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool = False
    ) -> Answer:
        """Up to `count` tokens after `prompt`. `prefill_all`: use no cached token. Raises EvaluationError."""
        ...

    def close(self) -> int | None:
        """End the program; returns its peak memory in bytes, or None where the system does not tell."""
        ...
