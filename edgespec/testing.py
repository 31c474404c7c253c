"""Fakes for tests, of edgespec and of what is built on it: no weights, no files, microseconds a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgespec.core import (
    MAX_ROWS,
    NO_NOISE,
    NOTHING,
    ROOT,
    CostedDrafter,
    Draft,
    Drafter,
    Evaluation,
    Plan,
    Row,
    SharedNoise,
    TokenLogprob,
    Verdict,
    common_prefix,
)
from edgespec.decode.sampling import draw_any
from edgespec.errors import ContextOverflow, InvalidRequest
from edgespec.policy.tree import subtree, trunk_first


class TableModel:
    """A target whose logits depend on the last `order` tokens only, by a seeded table. `Context` and `Vocabulary`.

    It evaluates like the real one (a prefix cache that forgets rejected drafts) and records the width of every
    evaluation in `widths`. Token 0 ends an answer; the others are the bytes `alphabet` repeats. With `states`, the
    hidden state of a token is the ids of the last `order` tokens, its own at the end, and -1 before the first.
    """

    def __init__(
        self, n_vocab: int = 32, *, n_ctx: int = 4096, order: int = 2, seed: int = 0, alphabet: bytes = b"abcdefgh ?",
        states: bool = False,
    ) -> None:  # fmt: skip
        self.n_ctx = n_ctx
        self.prompt_states: Row | None = None
        self._states = states
        self.max_rows = MAX_ROWS
        self.trees = True
        self.widths: list[int] = []
        self._n_vocab = n_vocab
        self._order = order
        self._seed = seed
        self._alphabet = alphabet
        self._held: list[int] = []
        self._tree: list[list[int]] = []  # the tokens up to each node of the last tree, until one path is chosen
        self._rows: dict[tuple[int, ...], Row] = {}

    def cached(self, tokens: Sequence[int]) -> int:
        if self._tree:
            self._held = max([self._held, *self._tree], key=lambda path: common_prefix(path, list(tokens)))
            self._tree = []
        return common_prefix(self._held, list(tokens))

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        if not proceed(self.cached(tokens), len(tokens)):
            return None
        missing = len(tokens) - min(self.cached(tokens), len(tokens) - 1)
        row: Row = self._decode(list(tokens), 1)[0]
        self.prompt_states = self._states_of(
            [tokens[:end] for end in range(len(tokens) - missing + 1, len(tokens) + 1)]
        )
        return row

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        if draft.is_chain:
            chain = [*tokens, *draft.tokens]
            states = self._states_of([chain[:end] for end in range(len(tokens), len(chain) + 1)])
            return Evaluation(tokens, len(tokens), draft, self._decode(chain, 1 + len(draft)), states)
        if not self.trees:
            raise InvalidRequest("this fake was told to evaluate chains only")
        if len(tokens) + len(draft) > self.n_ctx:
            raise ContextOverflow(f"{len(tokens) + len(draft)} tokens do not fit into {self.n_ctx}")
        row = self._decode(tokens, 1)[0]
        self.widths[-1] += len(draft)
        paths: list[list[int]] = []
        for token, parent in zip(draft.tokens, draft.parents, strict=True):
            paths.append([*(tokens if parent == ROOT else paths[parent]), token])
        self._tree = paths
        states = self._states_of([tokens, *paths])
        return Evaluation(tokens, len(tokens), draft, np.stack([row, *map(self.row, paths)]), states)

    def rewind(self, length: int) -> None:
        self._tree = []
        del self._held[length:]

    def shift(self, keep: int, drop: int) -> None:
        self._tree = []
        if keep + drop > len(self._held):
            raise InvalidRequest(f"cannot drop {drop} tokens after {keep}: the cache holds {len(self._held)}")
        del self._held[keep : keep + drop]

    def share_prefix(self, other: TableModel, length: int) -> None:
        """Hold the first `length` tokens that `other` holds, and no others."""
        self._tree, self._held = [], other._held[:length]

    def piece(self, token: int) -> bytes:
        if self.is_end(token):
            return b""
        index = token % len(self._alphabet)
        return self._alphabet[index : index + 1]

    def control_text(self, token: int) -> str:
        return "<end>" if self.is_end(token) else ""

    def is_end(self, token: int) -> bool:
        return token == 0

    def row(self, tokens: Sequence[int]) -> Row:
        """The logits after `tokens`, shape (n_vocab,)."""
        key = tuple(tokens[-self._order :])
        cached_row = self._rows.get(key)
        if cached_row is None:
            noise = np.random.default_rng([self._seed, *key]).standard_normal(self._n_vocab)
            cached_row = self._rows[key] = (3.0 * noise).astype(np.float32)
        return cached_row

    def _states_of(self, texts: Sequence[Sequence[int]]) -> Row | None:
        """The hidden state of the last token of each text, shape (len(texts), order)."""
        if not self._states:
            return None
        empty = [-1] * self._order
        return np.array([[*empty, *text[-self._order :]][-self._order :] for text in texts], np.float32)

    def _decode(self, tokens: Sequence[int], rows: int) -> Row:
        if len(tokens) > self.n_ctx:
            raise ContextOverflow(f"{len(tokens)} tokens do not fit into {self.n_ctx}")
        self.widths.append(len(tokens) - min(self.cached(tokens), len(tokens) - rows))
        self._held = list(tokens)
        ends = range(len(tokens) - rows + 1, len(tokens) + 1)
        return np.stack([self.row(tokens[:end]) for end in ends])


def without_rows(tokens: Sequence[int], draft: Draft = NOTHING, reevaluated: int = 0) -> Evaluation:
    """An evaluation that nobody computed: for what does not look at logits."""
    return Evaluation(tokens, len(tokens), draft, _NO_ROWS, reevaluated=reevaluated)


_NO_ROWS: Row = np.empty((0, 0), np.float32)


class KeyedSampler:
    """The library's own draw, without a filter: temperature 0 is greedy."""

    def __init__(self, seed: int = 0, temperature: float = 0.0, position: int = 0) -> None:
        self.logprobs: Sequence[TokenLogprob] = ()
        self._seed = seed
        self._temperature = temperature
        self._position = position

    @property
    def noise(self) -> SharedNoise:
        return SharedNoise(self._temperature, self._seed, self._position)

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        self._position += 1
        if self._temperature == 0.0:
            return int(row.argmax())
        return draw_any(row, self._temperature, self._seed, self._position - 1)


class ScriptedDrafter:
    """Drafts what `guess(tokens, limit)` says, with probability 1, and remembers what became of it in `verdicts`."""

    def __init__(self, guess: Callable[[Sequence[int], int], Sequence[int]], name: str = "scripted") -> None:
        self.name = name
        self.verdicts: list[tuple[Draft, Verdict]] = []
        self._guess = guess

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        draft_tokens = list(self._guess(tokens, limit))[:limit]
        return Draft.chain(draft_tokens, [1.0] * len(draft_tokens), ["scripted"] * len(draft_tokens), self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        self.verdicts.append((evaluation.draft, verdict))


class FixedPolicy:
    """Always drafts what one drafter offers, up to `size` tokens: for tests, and for measuring what others do.

    It is a `Policy` and the `AnswerPolicy` of every answer. Without `trees`, it drafts the trunk of what is offered.
    """

    def __init__(self, drafter: Drafter, size: int, *, trees: bool = False) -> None:
        self._drafter = drafter
        self._size = size
        self._trees = trees

    def begin(self, drafters: Sequence[Drafter] = ()) -> FixedPolicy:
        return self

    def prefilled(self, evaluation: Evaluation, verdict: Verdict, *, cached: int, seconds: float) -> None:
        self._drafter.observe(evaluation, verdict)

    def plan(self, tokens: Sequence[int], room: int, noise: SharedNoise = NO_NOISE, *, explain: bool = False) -> Plan:
        limit = min(self._size, room, MAX_ROWS - 1)
        if limit <= 0:
            return Plan()
        costed = isinstance(self._drafter, CostedDrafter)
        if isinstance(self._drafter, CostedDrafter):
            proposal = self._drafter.draft(tokens, limit, noise, lambda probability, bucket: True)
        else:
            proposal = self._drafter.propose(tokens, limit)
        draft = (proposal if self._trees else proposal.trunk).first(limit)
        draft = subtree(draft, trunk_first(draft.parents))
        return Plan(draft, (draft,), {self._drafter.name: 0.0} if costed else {})

    def settle(self, plan: Plan, evaluation: Evaluation, verdict: Verdict, seconds: float | None) -> None:
        self._drafter.observe(evaluation, verdict)
