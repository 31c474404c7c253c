"""The kinds of heads: how Medusa, Hydra and EAGLE-3 get their rows from states and draft tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgespec.core import Row
from edgespec.drafters.heads import States


class HeadRows(Protocol):
    """The graphs of Medusa's and Hydra's heads; d is the target's hidden size."""

    def medusa(self, state: Row) -> Row:
        """The logits of all heads, shape (heads, n_kept), given a state, shape (d,)."""
        ...

    def hydra(self, head: int, inputs: Row) -> Row:
        """The logits of one head, shape (rows, n_kept), given the state and head + 1 embeddings in each row."""
        ...

    def prefix(self, states: Row, position: int) -> Row:
        """The outputs of the prefix-attention layer, shape (n, d), for states that follow `position` earlier ones."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Embeddings(Protocol):
    """The target's input embeddings."""

    columns: int

    def fill(self, tokens: Sequence[int], vectors: Row) -> None:
        """Write the vectors of `tokens` into `vectors`, shape (len(tokens), columns)."""
        ...


class MedusaHeads:
    """Medusa (arXiv 2401.10774): each head predicts the token at its own distance, all from the last state."""

    window = 0
    together = True

    def __init__(self, rows: HeadRows, count: int) -> None:
        self.length = count
        self.close = rows.close
        self._heads = rows
        self._rows: Row = np.empty((0, 0), np.float32)
        self._next = 0

    def unread(self, states: States) -> int:
        return 0

    def start(self, states: States, token: int) -> Row:
        """The first head's logits; `token` is the one that the target itself said after the state."""
        self._rows, self._next = self._heads.medusa(states.rows[-1]), 0
        return self.extend(token)

    def extend(self, token: int) -> Row:
        row: Row = self._rows[self._next]
        self._next += 1
        return row


class HydraHeads:
    """Hydra (arXiv 2402.05109): each head also sees the embeddings of the tokens before, drafted ones too.

    With `window`, the state goes through Hydra++'s prefix-attention layer, which reads at least that many states.
    """

    together = False

    def __init__(self, rows: HeadRows, count: int, embeddings: Embeddings, *, window: int = 0) -> None:
        self.length = count
        self.window = window
        self.close = rows.close
        self._heads, self._embeddings = rows, embeddings
        self._inputs = np.empty((count + 1, embeddings.columns), np.float32)  # the state, then the embeddings
        self._seen = 0  # tokens among the inputs
        self._generation, self._read = 0, 0  # of the states that the prefix layer holds, and how many of them

    def unread(self, states: States) -> int:
        return len(states.rows) - 1 - min(self._held(states), len(states.rows) - 1) if self.window else 0

    def start(self, states: States, token: int) -> Row:
        self._inputs[0] = self._prefixed(states) if self.window else states.rows[-1]
        self._seen = 0
        return self.extend(token)

    def extend(self, token: int) -> Row:
        head, self._seen = self._seen, self._seen + 1
        self._embeddings.fill([token], self._inputs[self._seen : self._seen + 1])
        row: Row = self._heads.hydra(head, self._inputs[: self._seen + 1].reshape(1, -1))[0]
        return row

    def _prefixed(self, states: States) -> Row:
        """The layer's output for the last state: read again where it was read before, as a pass may be repeated."""
        begin = min(self._held(states), len(states.rows) - 1)
        self._read = 0  # an interrupt leaves a layer that reads anew
        row: Row = self._heads.prefix(np.stack(states.rows[begin:]), begin)[-1]
        self._generation, self._read = states.generation, len(states.rows)
        return row

    def _held(self, states: States) -> int:
        return self._read if self._generation == states.generation else 0


class History(Protocol):
    """An EAGLE-3 head with a history: pairs of a token and the state of the token before it."""

    @property
    def length(self) -> int:
        """The number of pairs."""
        ...

    def extend(self, tokens: Sequence[int], states: Row) -> None:
        """Add the states, shape (n, width), of tokens in a row, and the n - 1 tokens that follow the first of them."""
        ...

    def step(self, token: int) -> Row:
        """The logits after a token, shape (n_kept,)."""
        ...

    def rewind(self, length: int) -> None:
        """Cut the history."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Eagle3Heads:
    """EAGLE-3 (arXiv 2503.01840): one layer with a history of the text, which goes on from its own output."""

    together = False

    def __init__(self, history: History, *, length: int, window: int) -> None:
        self.length, self.window = length, window
        self.close = history.close
        self.extend = history.step
        self._history = history
        self._generation = 0  # of the states in the history

    def unread(self, states: States) -> int:
        return len(states.rows) - 1 - min(self._held(states), len(states.rows) - 1)

    def start(self, states: States, token: int) -> Row:
        begin = min(self._held(states), len(states.rows) - 1)
        self._history.rewind(begin)
        self._generation = states.generation
        self._history.extend(states.tokens[begin + 1 :], np.stack(states.rows[begin:]))
        return self._history.step(token)

    def _held(self, states: States) -> int:
        return self._history.length if self._generation == states.generation else 0
