"""The counts of one answer. Counts are stored; every rate is a property computed from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgespec.core import ROOT, Plan, Verdict


@dataclass(slots=True)
class DrafterTally:
    """The counts of one drafter. All are numbers of draft tokens, but for `drafts`."""

    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    judged_at: Counter[int] = field(default_factory=Counter)
    """Verified draft tokens by depth in the draft, from 0: those whose parents were accepted."""
    accepted_at: Counter[int] = field(default_factory=Counter)
    """Accepted draft tokens by depth in the draft, from 0."""

    @property
    def acceptance(self) -> float:
        """The acceptance rate: the accepted share of the draft tokens."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def acceptance_by_depth(self) -> list[float]:
        """The acceptance rate at each depth, given that the parent was accepted."""
        return [self.accepted_at[depth] / count for depth, count in sorted(self.judged_at.items())]


@dataclass(slots=True)
class Tally:
    """The counts and times of one answer."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that were in the KV cache already."""
    prompt_seconds: float = 0.0
    """From the start to the logits of the prompt's last token."""
    first_token_seconds: float = 0.0
    """From the start to the first text or token."""
    decode_seconds: float = 0.0
    """From the first token to the last."""
    blocks: int = 0
    """Forward passes of the target after the prefill."""
    tokens: int = 0
    """Emitted tokens, the first one included, which the prefill gives."""
    planning_seconds: float = 0.0
    """Seconds outside forward passes and sampling: drafting, planning, verification, text."""
    sampling_seconds: float = 0.0
    """Seconds of choosing tokens at rows of logits."""
    dropped_tokens: int = 0
    """Tokens that context shifts removed."""
    drafters: dict[str, DrafterTally] = field(default_factory=dict)
    expected_at: Counter[int] = field(default_factory=Counter)
    """Draft tokens by the tenth of the probability that they are accepted, as the policy expected it, from 0 to 9."""
    came_true_at: Counter[int] = field(default_factory=Counter)
    """Those of them that were accepted."""
    draft_tokens: Counter[str] = field(default_factory=Counter)
    """By costed drafter: the number of its draft tokens, verified or not."""

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, without the prefill and the token that it gives."""
        return (self.tokens - 1) / self.decode_seconds if self.tokens > 1 and self.decode_seconds > 0 else 0.0

    @property
    def mean_block_length(self) -> float:
        """Mean acceptance length: tokens per forward pass after the prefill. 1.0 is plain decoding."""
        return (self.tokens - 1) / self.blocks if self.blocks else 1.0

    @property
    def drafted(self) -> int:
        return sum(drafter.drafted for drafter in self.drafters.values())

    @property
    def accepted(self) -> int:
        return sum(drafter.accepted for drafter in self.drafters.values())

    def count(self, plan: Plan, verdict: Verdict, emitted: int) -> None:
        """Count one decode step; a stop string may have cut its block to `emitted` tokens."""
        draft = plan.draft
        self.draft_tokens.update(plan.drafted)
        self.blocks += 1
        self.tokens += emitted
        accepted = verdict.accepted[:emitted]
        for name, count in Counter(map(draft.author, range(len(draft)))).items():
            drafter = self.of(name)
            drafter.drafts += 1
            drafter.drafted += count
        for depth, node in enumerate(accepted):
            drafter = self.of(draft.author(node))
            drafter.accepted += 1
            drafter.accepted_at[depth] += 1
        if emitted > len(accepted):  # else the answer ended inside its draft
            tenths = [min(int(10.0 * chance), 9) for chance in plan.reach[: len(draft)]]
            self.expected_at.update(tenths)
            self.came_true_at.update([tenths[node] for node in accepted if node < len(tenths)])
        authors: dict[int, set[str]] = {}  # of the children of each node
        for node, parent in enumerate(draft.parents):
            authors.setdefault(parent, set()).add(draft.author(node))
        for depth, node in enumerate((ROOT, *accepted)[:emitted]):  # an answer may end inside its draft
            for name in authors.get(node, ()):
                self.of(name).judged_at[depth] += 1

    def of(self, name: str) -> DrafterTally:
        """The counts of the drafter called `name`."""
        return self.drafters.setdefault(name, DrafterTally())
