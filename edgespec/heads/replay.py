"""Replays heads against recorded answers: what would have been accepted, without the target. Needs the extra `train`.

A recorded answer is walked as a decode step would: the heads draft from the state before the last known token, the
draft tokens that the record goes on with are accepted, and the record's next token is the bonus token. So acceptance
by position is that of tokens whose predecessors were accepted, and the mean acceptance length counts the bonus token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgespec.heads.examples import Batch, Example, by_positions, padded
from edgespec.heads.modules import Chains, HeadsModule, Medusa
from edgespec.heads.shared import Shared

_BATCH = 16_384
"""Positions that are replayed together, prompts and padding included: their states take some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Counts of a replay: tokens emitted, forward passes, and by position the draft tokens judged and accepted."""

    tokens: int = 0
    passes: int = 0
    judged: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def mean_length(self) -> float:
        """Tokens of a forward pass, bonus token included; 1.0 where there was none."""
        return self.tokens / self.passes if self.passes else 1.0

    @property
    def rates(self) -> tuple[float, ...]:
        """The acceptance rate at each position, given that the draft tokens before it were accepted."""
        return tuple(right / max(1, judged) for right, judged in zip(self.accepted, self.judged, strict=True))


def replay(module: HeadsModule, shared: Shared, examples: Iterable[Example], nodes: int | None = None) -> Replayed:
    """Replay answers: greedy chains of `module.shape.count` tokens, or trees of `nodes` nodes.

    A tree has the nodes of largest probability under the heads.
    """
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    batches = (padded(part, shared.head.n_kept, shared.device) for part in by_positions(ordered, _BATCH))
    count = module.shape.count
    tokens = passes = 0
    judged, accepted = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    with torch.no_grad():
        for batch in batches:
            memory = module.read(batch.states, shared.embed(batch.tokens))
            base = batch.first.clone()
            while (active := base + 2 < batch.lengths).any():
                chains = module.start(memory, base[:, None], batch.first)
                follows = _following(batch, base, count)
                walk = _chain(module, shared, chains, follows, active) if nodes is None else _tree(
                    module, shared, chains, follows, nodes
                )  # fmt: skip
                right = (walk & active[:, None]).long().cumprod(1)
                reached = torch.cat([active[:, None].long(), right[:, :-1]], 1) * (follows[:, 1:] >= 0)
                judged += reached.sum(0).cpu()
                accepted += right.sum(0).cpu()
                emitted = torch.where(active, torch.minimum(right.sum(1) + 1, batch.lengths - base - 2), 0)
                tokens += int(emitted.sum())
                passes += int(active.sum())
                base = torch.where(active, base + emitted, base)
    return Replayed(tokens, passes, tuple(judged.tolist()), tuple(accepted.tolist()))


def _following(batch: Batch, base: Tensor, count: int) -> Tensor:
    """The recorded tokens after each base, (B, 1 + count): the known one, then those to draft; -1 after the end."""
    at = base[:, None] + 1 + torch.arange(1 + count, device=base.device)
    recorded = batch.tokens.gather(1, at.clamp(max=batch.tokens.shape[1] - 1))
    return torch.where(at < batch.lengths[:, None], recorded, -1)


def _chain(module: HeadsModule, shared: Shared, chains: Chains, follows: Tensor, alive: Tensor) -> Tensor:
    """Whether each token of the greedy chain is the recorded one, (B, count); False after the first that is not."""
    token = follows[:, :1].clamp(min=0)
    walk = torch.zeros_like(follows[:, 1:], dtype=torch.bool)
    for step in range(walk.shape[1]):
        x, chains = module.step(chains, shared.embed(token))
        rows = alive.nonzero()[:, 0]
        token = token.clone()
        token[rows, 0] = shared.kept[shared.head.logits(x[rows, 0]).argmax(-1)]
        alive = alive & (token[:, 0] == follows[:, step + 1])
        walk[:, step] = alive
        if not alive.any():
            break
    return walk


def _tree(module: HeadsModule, shared: Shared, chains: Chains, follows: Tensor, nodes: int) -> Tensor:
    """Whether the recorded tokens are nodes of the tree of each base, (B, count).

    Level by level, the `nodes` likeliest children of the level before; those of the whole tree are among them, since a
    child is no likelier than its parent.
    """
    token = follows[:, :1].clamp(min=0)
    reach = torch.zeros_like(token, dtype=torch.float32)
    true = torch.ones_like(token, dtype=torch.bool)
    reaches, found = [], []
    for step in range(follows.shape[1] - 1):
        x, chains = module.step(chains, shared.embed(token))
        if isinstance(module, Medusa):  # its heads see no drafted token: one row serves all parents
            x = x[:, :1]
        likely, child = shared.head.logits(x.flatten(0, 1)).log_softmax(-1).topk(min(nodes, shared.head.n_kept))
        width = likely.shape[-1]
        total = (reach[..., None] + likely.view(*x.shape[:2], width)).flatten(1)
        child = child.view(*x.shape[:2], width).expand(*token.shape, width).flatten(1)
        reach, best = total.topk(min(nodes, total.shape[1]))
        parent = best // width
        token = shared.kept[child.gather(1, best)]
        true = true.gather(1, parent) & (token == follows[:, step + 1, None])
        chains = _of_parents(chains, parent)
        reaches.append(reach)
        found.append(torch.where(true, reach, -torch.inf).amax(1))
    every = torch.cat(reaches, 1)
    least = every.topk(min(nodes, every.shape[1])).values[:, -1:]
    return torch.stack(found, 1) >= least


def _of_parents(chains: Chains, parent: Tensor) -> Chains:
    """The chains of each node's parent: `parent` (B, M) is an index among those so far."""

    def picked(rows: Tensor) -> Tensor:
        index = parent.view(*parent.shape, *(1,) * (rows.dim() - 2)).expand(*parent.shape, *rows.shape[2:])
        return rows.gather(1, index)

    return replace(
        chains, at=chains.at.gather(1, parent), states=picked(chains.states),
        keys=tuple(map(picked, chains.keys)), values=tuple(map(picked, chains.values)),
    )  # fmt: skip
