"""The types that all other packages share, and the protocols between the packages.

A *drafter* drafts the next tokens of a *target*. One *forward pass* of the target verifies the draft. It emits a
*block*: the accepted draft tokens, then one token of the target's own (the bonus token).
"""

from edgespec.core.draft import MAX_ROWS, NOTHING, ROOT, Draft, Evaluation, Plan, Row, Verdict, verified
from edgespec.core.interfaces import (
    NO_NOISE,
    AnswerPolicy,
    Context,
    CostedDrafter,
    DraftCost,
    Drafter,
    GroupPolicy,
    PlanRequest,
    Policy,
    PromptStore,
    Sampler,
    SharedNoise,
    TokenLogprob,
    Vocabulary,
)
from edgespec.core.tokens import NO_MARK, Mark, TokenSequence, common_prefix, mark_of, unchanged

__all__ = [
    "MAX_ROWS",
    "NOTHING",
    "NO_MARK",
    "NO_NOISE",
    "ROOT",
    "AnswerPolicy",
    "Context",
    "CostedDrafter",
    "Draft",
    "DraftCost",
    "Drafter",
    "Evaluation",
    "GroupPolicy",
    "Mark",
    "Plan",
    "PlanRequest",
    "Policy",
    "PromptStore",
    "Row",
    "Sampler",
    "SharedNoise",
    "TokenLogprob",
    "TokenSequence",
    "Verdict",
    "Vocabulary",
    "common_prefix",
    "mark_of",
    "unchanged",
    "verified",
]
