"""Verification: which draft tokens the target accepts. Pure, given `choose`; no model is needed."""

from __future__ import annotations

from collections.abc import Callable

from edgespec.core import ROOT, Draft, Verdict
from edgespec.errors import EdgespecError


def children(draft: Draft) -> dict[int, list[int]]:
    """The draft tokens after each node, and after `ROOT`."""
    tokens: dict[int, list[int]] = {}
    for parent, token in zip(draft.parents, draft.tokens, strict=True):
        tokens.setdefault(parent, []).append(token)
    return tokens


def verify(draft: Draft, choose: Callable[[int], int], is_end: Callable[[int], bool], budget: int) -> Verdict:
    """Walk `draft` from its root for as long as the target chooses the draft tokens.

    `choose(row)` is the target's token at a row of the forward pass: row 0 follows the last certain token, row i + 1
    follows node i. It is called once for each emitted token and in order, so a sampler behind it only moves forward.
    The walk ends at the first token outside the draft, at an end token (`is_end`), or after `budget` >= 1 tokens. It
    also ends before a row where `choose` raises an EdgespecError, so that the tokens before it are not lost: the next
    walk begins there, and raises it. At row 0 the error is raised at once.

    The law: the emitted tokens are exactly those that plain decoding with the same `choose` would emit. Nothing is
    rejected at random and nothing recovered: a draft can only save forward passes.
    """
    children: dict[tuple[int, int], int] = {}
    for child, (parent, token) in enumerate(zip(draft.parents, draft.tokens, strict=True)):
        children.setdefault((parent, token), child)

    accepted: list[int] = []
    emitted: list[int] = []
    node: int | None = ROOT
    while node is not None and len(emitted) < budget:
        try:
            token = choose(node + 1)
        except EdgespecError:
            if not emitted:
                raise
            break
        emitted.append(token)
        node = children.get((node, token))
        if node is not None:
            accepted.append(node)
        if is_end(token):
            break
    return Verdict(tuple(accepted), tuple(emitted))
