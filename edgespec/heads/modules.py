"""Heads in PyTorch: Medusa, Hydra and Hydra++, EAGLE-3. Needs the extra `train`.

A heads module drafts from *bases*, positions p of answers whose token p + 1 is known: `start` reads the states up to
each base, and each `step` gets the embedding of the next known token and gives the state of the token after it, from
which the target's LM head makes logits. So training steps along the true tokens, and a drafted chain along its own.

Shapes: B answers, T tokens (padded at the end), A bases in each answer, d the target's hidden size.
Names and shapes of the parameters are those of the learned part's tensors (docs/heads.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgespec.backend.head_graph import PrefixShape


@dataclass(frozen=True, slots=True)
class HeadsShape:
    """What a heads module is: its kind, the target's hidden size, the number of tokens it drafts, and the rest by kind.

    `state_size`: numbers of the states at one position. `depth`: blocks of a head. `layer`: of EAGLE-3, or of the
    prefix attention. `reads_prompts`: whether attention sees the states before the first base, which a runtime that
    drafts from the last state does not have.
    """

    kind: str
    hidden_size: int
    state_size: int
    count: int = 4
    depth: int = 1
    layer: PrefixShape | None = None
    reads_prompts: bool = True


@dataclass(frozen=True, slots=True)
class Chains:
    """Drafts in progress, one from each base: what the steps so far left for the next.

    `states`: (B, A, numbers). `keys`, `values`: of the tokens drafted so far, each (B, A, heads, head_dim). `first`:
    the first position that attention sees, (B,), or None.
    """

    memory: Any
    at: Tensor
    states: Tensor
    first: Tensor | None = None
    steps: int = 0
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), (x.shape[-1],), self.weight, self.epsilon)


class Block(nn.Linear):
    """Medusa's residual block x + SiLU(W x + b); W is zero at first (arXiv 2401.10774, section 2.1.1).

    Of an input wider than the output, the first numbers are the residual: the target's state, in Hydra's first block.
    """

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__(inputs, size)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.out_features] + functional.silu(super().forward(x))


class Attention(nn.Module):
    """Causal attention with rotary positions in pairs of neighbours, which llama.cpp calls NORM.

    `inputs`: size of what queries, keys and values are computed from.
    """

    def __init__(self, inputs: int, size: int, shape: PrefixShape) -> None:
        super().__init__()
        self.shape = shape
        self.attn_q = nn.Linear(inputs, shape.head_count * shape.head_dim, bias=False)
        self.attn_k = nn.Linear(inputs, shape.head_count_kv * shape.head_dim, bias=False)
        self.attn_v = nn.Linear(inputs, shape.head_count_kv * shape.head_dim, bias=False)
        self.attn_output = nn.Linear(shape.head_count * shape.head_dim, size, bias=False)
        self.ffn_norm = RMSNorm(size, shape.norm_epsilon)
        self.ffn_gate = nn.Linear(size, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(size, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, size, bias=False)

    def keys_and_values(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of inputs (B, N, inputs) at `positions` (B, N): both (B, N, head_count_kv, head_dim)."""
        heads = (*x.shape[:-1], self.shape.head_count_kv, self.shape.head_dim)
        return rotated(self.attn_k(x).view(heads), positions, self.shape.rope_theta), self.attn_v(x).view(heads)

    def attend(self, x: Tensor, positions: Tensor, chains: Chains) -> Tensor:
        """Attention of inputs (B, A, inputs), which see the answer up to their base and their own chain."""
        shape = self.shape
        keys, values = chains.memory[:2]
        batch, bases = x.shape[:2]
        groups = shape.head_count // shape.head_count_kv
        query = rotated(
            self.attn_q(x).view(batch, bases, shape.head_count, shape.head_dim), positions, shape.rope_theta
        )
        query = query.view(batch, bases, shape.head_count_kv, groups, shape.head_dim) * shape.head_dim**-0.5
        scores = torch.einsum("bakgd,btkd->bkgat", query, keys)
        positions = torch.arange(keys.shape[1], device=x.device)
        hidden = positions > chains.at[..., None]
        if chains.first is not None:
            hidden = hidden | (positions < chains.first[:, None, None])
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        own = [torch.einsum("bakgd,bakd->bkga", query, key)[..., None] for key in chains.keys]
        weights = torch.softmax(torch.cat([scores, *own], -1), -1)
        mixed = torch.einsum("bkgat,btkd->bakgd", weights[..., : keys.shape[1]], values)
        for index, value in enumerate(chains.values):
            weight = weights[..., keys.shape[1] + index].permute(0, 3, 1, 2)
            mixed = mixed + weight[..., None] * value[:, :, :, None]
        return self.attn_output(mixed.reshape(batch, bases, -1))

    def feed_forward(self, x: Tensor) -> Tensor:
        """x + the feed-forward part of x."""
        norm = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(norm)) * self.ffn_up(norm))


class PrefixAttention(Attention):
    """Hydra++'s decoder layer over the states of the accepted tokens (arXiv 2402.05109, section 4)."""

    def __init__(self, size: int, shape: PrefixShape) -> None:
        super().__init__(size, size, shape)
        self.attn_norm = RMSNorm(size, shape.norm_epsilon)
        nn.init.zeros_(self.attn_output.weight)  # at first the layer passes its input on
        nn.init.zeros_(self.ffn_down.weight)

    def memory(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states (B, T, d)."""
        positions = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        return self.keys_and_values(self.attn_norm(states), positions)

    def forward(self, states: Tensor, chains: Chains) -> Tensor:
        """The layer's outputs for the states (B, A, d) at the bases."""
        return self.feed_forward(states + self.attend(self.attn_norm(states), chains.at, chains))


class Medusa(nn.Module):
    """Independent heads on the last state (arXiv 2401.10774): step i gives head i's guess of token p + 2 + i."""

    def __init__(self, shape: HeadsShape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.heads = nn.ModuleList(
            nn.ModuleList(Block(size, size) for _ in range(shape.depth)) for _ in range(shape.count)
        )

    def read(self, states: Tensor, embeddings: Tensor) -> Any:
        """What drafts need of answers: states (B, T, state_size), embeddings of their tokens (B, T, d)."""
        return (states,)

    def start(self, memory: Any, at: Tensor, first: Tensor | None = None) -> Chains:
        """Drafts from the bases `at`, (B, A). `first`: the first base of each answer, (B,)."""
        return Chains(memory, at, taken(memory[0], at))

    def step(self, chains: Chains, embeddings: Tensor) -> tuple[Tensor, Chains]:
        """States (B, A, d) of the next token but one, given the embeddings of the next; and the chains after it."""
        x = chains.states
        for block in self.heads[chains.steps]:
            x = block(x)
        return x, _after(chains, chains.states)


class Hydra(nn.Module):
    """Heads that also see the tokens drafted before (arXiv 2402.05109); Hydra++ with a layer and more blocks."""

    def __init__(self, shape: HeadsShape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.heads = nn.ModuleList(
            nn.ModuleList(Block(size if depth else (index + 2) * size, size) for depth in range(shape.depth))
            for index in range(shape.count)
        )
        self.prefix = PrefixAttention(size, shape.layer) if shape.layer else None

    def read(self, states: Tensor, embeddings: Tensor) -> Any:
        """What drafts need of answers: states (B, T, state_size), embeddings of their tokens (B, T, d)."""
        return (*(self.prefix.memory(states) if self.prefix is not None else ()), states)

    def start(self, memory: Any, at: Tensor, first: Tensor | None = None) -> Chains:
        """Drafts from the bases `at`, (B, A). `first`: the first base of each answer, (B,)."""
        states = taken(memory[-1], at)
        if self.prefix is not None:
            states = self.prefix(states, Chains(memory, at, states, None if self.shape.reads_prompts else first))
        return Chains(memory, at, states)

    def step(self, chains: Chains, embeddings: Tensor) -> tuple[Tensor, Chains]:
        """States (B, A, d) of the next token but one, given the embeddings of the next; and the chains after it."""
        x = seen = torch.cat([chains.states, embeddings], -1)
        for block in self.heads[chains.steps]:
            x = block(x)
        return x, _after(chains, seen)


class EagleLayer(Attention):
    """EAGLE-3's decoder layer: attention sees the embedding of a token beside the state before it."""

    def __init__(self, size: int, shape: PrefixShape) -> None:
        super().__init__(2 * size, size, shape)
        self.attn_norm = RMSNorm(size, shape.norm_epsilon)
        self.attn_norm_2 = RMSNorm(size, shape.norm_epsilon)

    def joined(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """The inputs of attention, (..., 2 d)."""
        return torch.cat([self.attn_norm(embeddings), self.attn_norm_2(states)], -1)


class Eagle3(nn.Module):
    """One decoder layer that goes on from its own outputs (arXiv 2503.01840), as llama.cpp's `eagle3` computes it."""

    def __init__(self, shape: HeadsShape) -> None:
        super().__init__()
        assert shape.layer is not None
        self.shape = shape
        self.fc = nn.Linear(shape.state_size, shape.hidden_size, bias=False)
        self.blk = nn.ModuleList([EagleLayer(shape.hidden_size, shape.layer)])
        self.output_norm = RMSNorm(shape.hidden_size, shape.layer.norm_epsilon)

    def read(self, states: Tensor, embeddings: Tensor) -> Any:
        """What drafts need of answers: states (B, T, state_size), embeddings of their tokens (B, T, d)."""
        layer: Any = self.blk[0]
        fused = self.fc(states)
        # Position P holds the state of token P beside the embedding of token P + 1. What the last position gets in its
        # place is seen by no base: a base's next token is known.
        following = torch.cat([embeddings[:, 1:], embeddings[:, -1:]], 1)
        positions = torch.arange(states.shape[1], device=states.device).expand(states.shape[:2])
        return (*layer.keys_and_values(layer.joined(fused, following), positions), fused)

    def start(self, memory: Any, at: Tensor, first: Tensor | None = None) -> Chains:
        """Drafts from the bases `at`, (B, A). `first`: the first base of each answer, (B,)."""
        return Chains(memory, at, taken(memory[2], at), None if self.shape.reads_prompts else first)

    def step(self, chains: Chains, embeddings: Tensor) -> tuple[Tensor, Chains]:
        """States (B, A, d) of the next token but one, given the embeddings of the next; and the chains after it."""
        layer: Any = self.blk[0]
        positions = chains.at + chains.steps
        x = layer.joined(chains.states, embeddings)
        if chains.steps:  # those of step 0 are the base's own, which `read` computed
            key, value = layer.keys_and_values(x, positions)
            chains = replace(chains, keys=(*chains.keys, key), values=(*chains.values, value))
        states = layer.feed_forward(chains.states + layer.attend(x, positions, chains))
        return self.output_norm(states), _after(chains, states)


HeadsModule = Medusa | Hydra | Eagle3


def new_module(shape: HeadsShape) -> HeadsModule:
    """A module of this shape, as it is before training; initialised from torch's random numbers."""
    kinds: dict[str, Any] = {"medusa": Medusa, "hydra": Hydra, "eagle3": Eagle3}
    module: HeadsModule = kinds[shape.kind](shape)
    return module


def taken(rows: Tensor, at: Tensor) -> Tensor:
    """Of rows (B, T, n) those at the positions `at` (B, A): (B, A, n)."""
    return rows.gather(1, at[..., None].expand(*at.shape, rows.shape[-1]))


def rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """x (B, N, heads, head_dim) with rotary positions: neighbours 2 i, 2 i + 1 turn by position / theta^(2 i / dim)."""
    size = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    angles = (positions[..., None] * frequencies)[..., None, :]
    cosine, sine = angles.cos(), angles.sin()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _after(chains: Chains, states: Tensor) -> Chains:
    return replace(chains, states=states, steps=chains.steps + 1)
