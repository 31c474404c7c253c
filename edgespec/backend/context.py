"""A KV cache and the forward passes that fill it: a prefix cache of one token list.

Every call takes the whole token list. The shared prefix stays in the cache, what differs is removed, the rest is
evaluated. The length of the cache is read from llama.cpp at each call (`llama_memory_seq_pos_max`), so that an
exception or an interrupt at any moment needs no clean-up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgespec.backend import native
from edgespec.backend.batch import Node
from edgespec.backend.hidden import NO_STATES, HiddenStates, Prefilled, PrefillStates
from edgespec.backend.model import LlamaModel
from edgespec.backend.sequences import PREFILL_CHUNK, Sequences, paths
from edgespec.core import MAX_ROWS, NO_MARK, ROOT, Draft, Evaluation, Row, common_prefix, mark_of, unchanged
from edgespec.errors import ContextOverflow, InvalidRequest


class LlamaContext:
    """The KV cache of a model for one sequence of `n_ctx` tokens. Implements `core.Context`.

    `trees`: drafts may have branches, where the model allows that. Not thread-safe; another thread stops a prefill by
    its `proceed`. Several that share one context of llama.cpp come from `shared_contexts`.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        threads: int,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        trees: bool = False,
        cells: Sequences | None = None,
        sequence: int = 0,
    ) -> None:
        """`cells`: the memory that it shares with others, and `sequence` its id in there; else it has its own."""
        self._cells = cells or Sequences(
            model, n_ctx=n_ctx, threads=threads, trees=trees, kv_type=kv_type, flash_attention=flash_attention
        )
        self._sequence = sequence
        self._model = model
        self.kv_type, self.flash_attention = kv_type, flash_attention
        self._pointer, self._memory = self._cells.pointer, self._cells.memory
        self._tokens: list[int] = []  # the cached tokens; after an interrupt the cache holds fewer
        self._mark = NO_MARK  # of the sequence that the cached tokens are a prefix of
        self._branches = self._cells.path_ids()  # of the last tree but the first path, until one is chosen
        self._branch_tokens: list[list[int]] = []  # the tokens of those paths
        self._tree_base = 0  # the number of tokens before that tree
        self._trunk = 0  # its first nodes, as many as are a chain: their cells lie in the order of their positions
        self._accepted = range(0)  # positions of its path behind the trunk, which the next pass evaluates again
        self._unrotated_from: int | None = None  # first position whose keys were shifted; the next pass rotates them
        self._shifted_from: int | None = None  # first position that was computed with dropped tokens in view
        self._shares = False  # whether cells may be those of another sequence too
        self._prefill_states = NO_STATES
        self._uncuttable = 0  # tokens of a restored state that is complete only as a whole
        self.max_rows = MAX_ROWS
        """The most rows that one forward pass returns; may be lowered."""
        self.trees = self._cells.trees
        """Whether a draft may have branches; may be set to False."""
        self.can_cut = self._cells.can_cut
        """Whether tokens can be taken back, as drafts need it; else the cache starts over."""
        self.n_ctx = self._cells.n_ctx
        self.threads = threads
        self.settings = f"{native.build_name()}; keys and values {kv_type}, flash attention {flash_attention}"
        if (first := model.n_ctx_before_scaling) is not None:  # llama.cpp rotates keys by other factors beyond it
            self.settings += f"; {'more than' if self.n_ctx > first else 'at most'} {first} tokens"
        if not model.repacked:
            self.settings += "; weights as in the file"
        """The build and settings that a saved state depends on, besides the model."""

    @property
    def input_size(self) -> int:
        """The number of token ids that it evaluates, from 0 on; a trimmed model has fewer logits than that."""
        inputs = self._model.inputs
        return self._model.vocabulary.size if inputs is None else inputs.rows

    def close(self) -> None:
        """Free the cache. Any later use raises InvalidRequest."""
        self._cells.close()

    def cached(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens that are in the cache; 0 where it is closed.

        Of the last draft tree, the path of these tokens stays, and the others leave the cache.
        """
        if not self._cells.is_open:
            return 0
        self._choose_path(tokens)
        return self._shared(tokens)

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        """Bring the cache to `tokens` (not empty) in chunks; the logits after the last, shape (n_vocab,).

        `proceed(done, total)` is called before every chunk; on False, the result is None and the cache holds the first
        `done` tokens. Raises ContextOverflow when they do not fit, EvaluationError when llama.cpp fails.
        """
        if not tokens:
            raise InvalidRequest("there is nothing to evaluate: the prompt has no tokens")
        total = len(tokens)
        self._prefill_states.begin(total)
        done = self._rewind(tokens, total - 1)  # the last token is evaluated in any case, for its logits
        while done < total:
            if not proceed(done, total):
                return None
            end = min(total, (done // PREFILL_CHUNK + 1) * PREFILL_CHUNK)
            collected = self._prefill_states.wants(end)
            if collected:
                end = min(end, (done // self._cells.states_limit + 1) * self._cells.states_limit)
            self._decode(tokens[done:end], done, rows=int(end == total), states=collected)
            if collected and (states := self._cells.states(0, end - done)) is not None:
                self._prefill_states.add(done, states)
            done = end
        self._mark = mark_of(tokens)
        row: Row = self._cells.rows(1)[0]
        return row

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        """One forward pass: logits after the last of `tokens` and after every node of `draft`.

        Where more than the last token is missing in the cache, the others are prefilled first, except for those of the
        last tree's path: `Evaluation.reevaluated`. Raises InvalidRequest for a draft that is too long, or has branches
        where `trees` is False; other errors as for `prefill`.
        """
        if not draft.is_chain:
            return evaluate_together([(self, tokens, draft)])[0]
        begin = self._prepare(tokens, draft)
        count, again = 1 + len(draft), len(tokens) - 1 - begin
        self._decode([*tokens[begin:], *draft.tokens], begin, rows=count)
        self._mark = mark_of(tokens)
        rows, states = self._cells.rows(count), self._cells.states(again, count)
        return Evaluation(tokens, len(tokens), draft, rows, hidden=states, reevaluated=again)

    def collect_hidden(
        self, states: HiddenStates | None, prefilled: Prefilled | None = None, *, tail: int | None = None
    ) -> None:
        """Return these hidden states with every evaluation from now on; None ends that.

        `tail` collects those of the last `tail` tokens of a prefill too, in whole chunks: `prompt_states`. What is
        cached is not evaluated, and has none. With `prefilled`, it gets them instead, chunk by chunk, by default of all
        tokens. Contexts on one memory collect the same states.

        Raises UnsupportedModel where the model does not give them, InvalidRequest for layers that it does not have.
        """
        self._check_open()
        self._cells.collect(states)
        self._prefill_states = PrefillStates(tail, prefilled) if states else NO_STATES

    @property
    def prompt_states(self) -> Row | None:
        """The hidden states of the last tokens of the last prefill, shape (k, width); None where none are collected."""
        return self._prefill_states.collected

    def _prepare(self, tokens: Sequence[int], draft: Draft) -> int:
        """Bring the cache to all of `tokens` that are not evaluated with `draft`; the index of the first that is."""
        if not (draft.is_chain or self.trees):
            raise InvalidRequest(f"{draft.drafter} drafted a tree with branches: this context evaluates chains")
        if len(draft) >= self.max_rows:
            raise InvalidRequest(f"a draft of {len(draft)} tokens: one evaluation checks at most {self.max_rows - 1}")
        last = len(tokens) - 1
        begin = self._rewind(tokens, last)
        again = begin in self._accepted and last <= self._accepted.stop
        if begin < last and not (again and 1 + last - begin + len(draft) <= self._cells.states_limit):
            self.prefill(tokens[:last])
            begin = last
        if len(tokens) + len(draft) > self.n_ctx:  # each node takes a cell
            raise self._overflow(len(tokens) + len(draft))
        return begin

    def _grow(self, tokens: Sequence[int], draft: Draft) -> list[Node]:
        """The nodes of the tokens that are not cached and of a draft, and ids for its paths. `_prepare` came before."""
        begin = len(self._tokens)
        tree = paths(draft) or [[]]
        self._tree_base, self._trunk = len(tokens), len(draft.trunk)
        self._branch_tokens = [[draft.tokens[node] for node in path] for path in tree[1:]]
        self._cells.take_ids(self._branches, len(tree) - 1)  # from here on, an interrupt leaves them to the next call
        for path in self._branches:
            self._cells.share(self._sequence, path, 0, begin)
        ids: list[list[int]] = [[] for _ in draft.tokens]
        for sequence, nodes in zip((self._sequence, *self._branches), tree, strict=True):
            for node in nodes:
                ids[node].append(sequence)
        positions: list[int] = []
        for parent in draft.parents:
            positions.append(len(tokens) if parent == ROOT else positions[parent] + 1)
        self._tokens += [*tokens[begin:], *(draft.tokens[node] for node in tree[0])]
        every = (self._sequence, *self._branches)
        last = len(tokens) - 1
        again = [Node(tokens[place], place, every, output=False) for place in range(begin, last)]
        return [*again, Node(tokens[last], last, every), *map(Node, draft.tokens, positions, ids)]

    def shift(self, keep: int, drop: int) -> None:
        """Drop `drop` tokens after the first `keep` and move the rest up, without a forward pass.

        The rest was computed with the dropped tokens in view. Where llama.cpp cannot shift (positions of several
        dimensions, M-RoPE), or another sequence may have the same cells, the rest leaves the cache, and the next call
        evaluates it again.
        """
        held = len(self._cached_tokens())
        self._drop_branches()
        if keep < 0 or drop < 1 or keep + drop > held:
            raise InvalidRequest(f"cannot drop {drop} tokens after {keep}: the cache holds {held}")
        if self._shares or not llama_cpp.llama_memory_can_shift(self._memory):
            self._truncate(keep)
            return
        tail = self._tokens[keep + drop :]
        self._mark = self._mark._replace(length=min(self._mark.length, keep))
        del self._tokens[keep:]  # an interrupt from here on only loses the tail
        self._unrotated_from = keep if self._unrotated_from is None else min(keep, self._unrotated_from)
        self._shifted_from = keep if self._shifted_from is None else min(keep, self._shifted_from)
        self._uncuttable = max(0, self._uncuttable - drop)
        llama_cpp.llama_memory_seq_rm(self._memory, self._sequence, keep, keep + drop)
        llama_cpp.llama_memory_seq_add(self._memory, self._sequence, keep + drop, -1, -drop)
        self._tokens += tail

    def share_prefix(self, other: LlamaContext, length: int) -> None:
        """Begin with the first `length` tokens that `other` holds, in the same cells, instead of what is held now.

        Both come from one call of `shared_contexts`.
        """
        if other._cells is not self._cells:
            raise InvalidRequest("a prefix can be shared only in one memory")
        self.forget()
        tokens = other._cached_tokens()[:length]
        if other._unrotated_from is not None:
            del tokens[other._unrotated_from :]  # keys that are yet to be turned, once
        self._shares = other._shares = True
        self._cells.share(other._sequence, self._sequence, 0, len(tokens))
        self._tokens += tokens
        self._shifted_from = other._shifted_from

    def rewind(self, length: int) -> None:
        """Cut the cache to at most `length` tokens."""
        self._drop_branches()
        if len(self._cached_tokens()) > length:
            self._truncate(length)

    def forget(self) -> None:
        """Empty the cache."""
        self._check_open()
        self._drop_branches()
        self._tokens.clear()
        self._mark = NO_MARK
        self._unrotated_from = self._shifted_from = None
        self._uncuttable = 0
        if self._cells.count == 1:
            llama_cpp.llama_memory_clear(self._memory, False)
        else:
            self._cells.remove(self._sequence, 0)

    @property
    def unshifted(self) -> int:
        """The number of leading cached tokens that were computed with the tokens before them in view, and no others."""
        held = len(self._cached_tokens())
        return held if self._shifted_from is None else min(held, self._shifted_from)

    @property
    def state_bytes(self) -> int:
        """The size of `state`."""
        self._check_open()
        return int(llama_cpp.llama_state_seq_get_size(self._pointer, self._sequence))

    def state(self) -> tuple[list[int], memoryview]:
        """The cached tokens, and a copy of their keys and values as llama.cpp writes them.

        Tokens that a shift moved since the last forward pass are dropped: llama.cpp would write their old keys.
        """
        self._drop_branches()
        if self._unrotated_from is not None:
            self.rewind(self._unrotated_from)
        tokens = list(self._cached_tokens())
        buffer = np.empty(self.state_bytes, np.uint8)
        written = int(llama_cpp.llama_state_seq_get_data(self._pointer, _address(buffer), len(buffer), self._sequence))
        return tokens, buffer.data[:written]

    def set_state(self, tokens: Sequence[int], data: bytes | memoryview, *, unshifted: bool = False) -> bool:
        """Restore a `state` of the same model and settings; False, and an empty cache, where llama.cpp refuses it.

        `unshifted`: all of its tokens were. The data has to be complete: llama.cpp ends the process over data that is
        not.
        """
        self.forget()
        if len(tokens) > self.n_ctx:
            return False
        buffer = np.frombuffer(data, np.uint8)
        taken = int(llama_cpp.llama_state_seq_set_data(self._pointer, _address(buffer), len(buffer), self._sequence))
        if not taken or self._cells.length(self._sequence) != len(tokens):
            self.forget()
            return False
        self._tokens[:] = tokens
        self._shifted_from = None if unshifted else 0
        self._uncuttable = len(tokens) if len(tokens) > self._model.max_cuttable else 0
        return True

    def _check_open(self) -> None:
        """Raises InvalidRequest where the context is closed: llama.cpp would read freed memory."""
        if not self._cells.is_open:
            raise InvalidRequest("the engine is closed: an answer has to be finished before that")

    def _cached_tokens(self) -> list[int]:
        """The tokens in the cache, by llama.cpp's own count."""
        self._check_open()
        held = self._cells.length(self._sequence)
        if held < len(self._tokens):
            del self._tokens[held:]
        return self._tokens

    def _shared(self, tokens: Sequence[int]) -> int:
        """The number of leading tokens that the cache shares with `tokens`: first by the mark, then by comparison."""
        held = self._cached_tokens()
        known = min(unchanged(tokens, self._mark), len(held))
        return known + common_prefix(held[known:], tokens[known:])

    def _rewind(self, tokens: Sequence[int], limit: int) -> int:
        """Remove all that differs from tokens[:limit]; returns the number of tokens that stay."""
        self._check_open()
        if len(tokens) > self.n_ctx:
            raise self._overflow(len(tokens))
        self._choose_path(tokens)
        length = min(self._shared(tokens), limit)
        self._mark = mark_of(tokens)._replace(length=length)
        return self._truncate(length)

    def _truncate(self, length: int) -> int:
        """Remove all but the first `length` tokens; returns the number of tokens that stay."""
        self._mark = self._mark._replace(length=min(self._mark.length, length))
        del self._tokens[length:]
        if self._shifted_from is not None and length <= self._shifted_from:
            self._shifted_from = None
        if self._cells.length(self._sequence) <= length:
            return length  # nothing to remove: llama.cpp would search all cells
        if length < self._uncuttable or not self.can_cut or not self._cells.remove(self._sequence, length):
            self.forget()  # a recurrent state cannot be cut: start over
            return 0
        return length

    def _choose_path(self, tokens: Sequence[int]) -> None:
        """Keep the path of the last tree that `tokens` go on with, and end the others.

        Attention adds cells up in their order. So of a sequence that is alone, the path stays as far as its cells lie
        in the order of its positions; the next pass evaluates the rest again, and adds up as after a chain.
        """
        if not self._branches:
            return
        after = list(tokens[self._tree_base :])
        known = common_prefix(self._cached_tokens()[self._tree_base :], after)
        if self._shared(tokens) >= self._tree_base:
            path, best = None, known
            for sequence, branch in zip(self._branches, self._branch_tokens, strict=True):
                shared = common_prefix(branch, after)
                if shared > best and self._cells.length(sequence) >= self._tree_base + shared:
                    path, best = sequence, shared
            if self._cells.count == 1:
                trunk = self._tree_base + min(known, self._trunk)
                self._accepted = range(trunk, self._tree_base + best)
                self._truncate(trunk)
            elif path is not None:
                self._truncate(self._tree_base + known)
                self._cells.share(path, self._sequence, self._tree_base + known, self._tree_base + best)
                self._tokens += after[known:best]
        self._drop_branches()

    def _drop_branches(self) -> None:
        """End all paths of the last tree but the first. After an interrupt, the next call does it again."""
        if self._branches:
            self._check_open()
            self._cells.end_paths(self._sequence, self._branches)

    def _decode(self, tokens: Sequence[int], position: int, rows: int, *, states: bool = True) -> None:
        if position + len(tokens) > self.n_ctx:
            raise self._overflow(position + len(tokens))
        self._tokens += tokens
        self._cells.decode(self._sequence, tokens, position, rows, states=states)
        self._unrotated_from = None

    def _overflow(self, count: int) -> ContextOverflow:
        return ContextOverflow(f"{count} tokens do not fit into a context of {self.n_ctx}: enlarge --ctx")


def evaluate_together(requests: Sequence[tuple[LlamaContext, Sequence[int], Draft]]) -> list[Evaluation]:
    """One forward pass for several sequences of one memory: (context, tokens, draft) each, as for `evaluate`.

    All of them together have at most MAX_ROWS rows, one for each sequence and each node.
    """
    total = sum(1 + len(draft) for _, _, draft in requests)
    if total > MAX_ROWS:
        raise InvalidRequest(f"{total} rows in one forward pass: llama.cpp was asked for at most {MAX_ROWS}")
    cells = requests[0][0]._cells
    if len({id(context) for context, _, _ in requests if context._cells is cells}) < len(requests):
        raise InvalidRequest("sequences are evaluated together once each, and in one memory")
    missing = [len(tokens) - 1 - context._prepare(tokens, draft) for context, tokens, draft in requests]
    nodes = [node for context, tokens, draft in requests for node in context._grow(tokens, draft)]
    cells.decode_nodes(nodes)
    rows = cells.rows(total)
    place = 0
    evaluations: list[Evaluation] = []
    for again, (context, tokens, draft) in zip(missing, requests, strict=True):
        context._unrotated_from = None
        context._mark = mark_of(tokens)
        own, rows = rows[: 1 + len(draft)], rows[1 + len(draft) :]
        states = cells.states(place + again, len(own))
        evaluations.append(Evaluation(tokens, len(tokens), draft, own, hidden=states, reevaluated=again))
        place += again + len(own)
    return evaluations


def _address(buffer: npt.NDArray[np.uint8]) -> Any:
    """The address of a buffer's bytes, as ctypes wants it; the buffer has to outlive its use."""
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
