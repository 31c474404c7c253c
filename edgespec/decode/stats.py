"""Counts of what happened. Counts are stored; every rate is a property of counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgespec.core import ROOT, Draft, Plan, Verdict


@dataclass(slots=True)
class DrafterTally:
    """What became of one drafter's drafts. All counts are of tokens, but for `drafts`."""

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    judged_at: Counter[int] = field(default_factory=Counter)
    """Drafted tokens by depth in the draft, from 0, as far as the target came to judge them."""
    accepted_at: Counter[int] = field(default_factory=Counter)

    @property
    def acceptance(self) -> float:
        """Accepted share of the drafted tokens."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def acceptance_by_depth(self) -> list[float]:
        """The chance that a token at depth i is accepted, given that those before it were."""
        return [self.accepted_at[depth] / count for depth, count in sorted(self.judged_at.items())]


@dataclass(slots=True)
class Tally:
    """What happened while one answer was made."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were in the KV cache already."""
    prompt_seconds: float = 0.0
    """From the start to the logits of the prompt's last token."""
    first_token_seconds: float = 0.0
    """From the start to the first text or token."""
    decode_seconds: float = 0.0
    """From the first token to the last."""
    blocks: int = 0
    """Evaluations of the target after the prompt's."""
    tokens: int = 0
    """Emitted tokens, the first one (which the prompt's evaluation gives) included."""
    planning_seconds: float = 0.0
    """Outside evaluations and sampling: drafting, deciding, verifying, text."""
    sampling_seconds: float = 0.0
    """Choosing tokens at rows of logits."""
    dropped_tokens: int = 0
    """Taken out of a full context by shifts."""
    drafters: dict[str, DrafterTally] = field(default_factory=dict)
    guessed: Counter[str] = field(default_factory=Counter)
    """By drafter whose guesses cost time: how many it made, drafted or not."""

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, the prompt and the token that its evaluation gives left out."""
        return (self.tokens - 1) / self.decode_seconds if self.tokens > 1 and self.decode_seconds > 0 else 0.0

    @property
    def mean_block_length(self) -> float:
        """Tokens per evaluation after the prompt's: 1.0 is plain decoding."""
        return (self.tokens - 1) / self.blocks if self.blocks else 1.0

    @property
    def drafted(self) -> int:
        return sum(drafter.drafted for drafter in self.drafters.values())

    @property
    def accepted(self) -> int:
        return sum(drafter.accepted for drafter in self.drafters.values())

    def count(self, plan: Plan, verdict: Verdict, emitted: int) -> None:
        """Count one forward pass after the prompt's; a stop string may have cut its block to `emitted` tokens."""
        draft = plan.draft
        self.guessed.update(plan.drafted)
        self.blocks += 1
        self.tokens += emitted
        if not draft.tokens:
            return
        drafter = self.of(draft.drafter)
        drafter.drafts += 1
        drafter.drafted += len(draft)
        accepted = min(emitted, len(verdict.accepted))
        drafter.accepted += accepted
        drafter.judged_at.update(range(_judged_depths(draft, verdict, emitted)))
        drafter.accepted_at.update(range(accepted))

    def of(self, name: str) -> DrafterTally:
        """The tally of the drafter called `name`."""
        return self.drafters.setdefault(name, DrafterTally())


def _judged_depths(draft: Draft, verdict: Verdict, emitted: int) -> int:
    """Down to which depth the target had the choice to say what was drafted; an answer may end inside its draft."""
    accepted = verdict.accepted[:emitted]
    if len(accepted) == emitted:
        return emitted
    last = accepted[-1] if accepted else ROOT
    return len(accepted) + (last in draft.parents)
