"""Drafts with a small language model, plain or trimmed, that shares the target's vocabulary or most of it.

The drafter reads what the target reads, and guesses token by token for as long as the policy finds it worth its time.
With sampling it adds the target's own noise to its logits, so that the two draw the same token where they agree
(noise by common Gumbel noise; see `edgespec.sampling`).
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgespec.core import (
    NO_MARK,
    NOTHING,
    Context,
    Draft,
    DraftCost,
    Evaluation,
    Row,
    SharedNoise,
    TokenSequence,
    Verdict,
    mark_of,
    unchanged,
)
from edgespec.cost import PROMPT_CHUNK, CostCurve, is_typical
from edgespec.sampling import draw_any, gumbel

WINDOWS = (24, 32, 40, 48, 56, 64)
"""Tokens of the text before that a drafter may begin with: the most of these that are read in _CHEAP. It reads on from
there: a long prompt is never read to its start, because a short answer would not earn that back."""

_CHEAP = 2.6
"""In units of T(1) of the target. Replayed on answers to prompts of our own, a drafter with guesses of 0.15 T(1) did
best with 64 tokens (more help mathematics and translations, and cost others more), one with 0.23 T(1) with 24."""

SINK = 4
"""The first tokens of the text, read as well: models put attention there that has nowhere else to go (StreamingLLM,
arXiv 2309.17453, section 3)."""

_IN_DOUBT = 2.0
"""An evaluation that seems to take so many times what its bytes would take is doubted: it may have been measured while
another process had the cores, which makes it ten times as slow, and a drafter so slow is never asked again."""

_SLOWED = 2.0
"""A drafter that seems to have become so many times as slow within one draft is doubted, too."""

_CHECKED_AFTER = 512
"""Blocks without its drafts after which a drafter in doubt is measured again."""

_BUCKETS = 20
"""Classes of confidence that the policy learns the acceptance of."""


class Share(NamedTuple):
    """What a drafter reads for a token, as a share of what the target reads: of parameters, and of bytes."""

    parameters: float
    bytes: float


class Reader(Protocol):
    """How a drafter sees the target's tokens."""

    def read(self, tokens: Sequence[int]) -> list[int]:
        """The drafter's ids for target ids; where one of these is unknown to it, several may stand for it."""
        ...

    @property
    def said(self) -> npt.NDArray[np.int32] | None:
        """The target's id for each of the drafter's rows, negative where it has none; None: they are the same."""
        ...


class SameVocabulary:
    """Equal ids. `said`: the ids of a trimmed drafter's rows; it reads all tokens all the same.

    `size`: the number of tokens that the drafter can read, where the target's vocabulary is padded to more; padding
    never occurs in text, so it does not matter as what it is read.
    """

    def __init__(self, said: npt.NDArray[np.int32] | None = None, size: int | None = None) -> None:
        self.said = said
        self._size = size

    def read(self, tokens: Sequence[int]) -> list[int]:
        if self._size is None:
            return list(tokens)
        return [token if token < self._size else 0 for token in tokens]


class _View:
    """What the drafter reads of one sequence, as its own ids: the first few tokens, and all from `anchor` on.

    The first `size` of `ids` stand for the tokens that `mark` saw; what comes after is the last draft.
    """

    __slots__ = ("anchor", "ids", "mark", "reach", "size")

    def __init__(self, reach: int) -> None:
        self.ids = TokenSequence()
        self.mark = NO_MARK
        self.size = 0
        self.anchor = 0
        self.reach = reach

    def extend(self, tokens: Sequence[int], reader: Reader) -> None:
        """Drop the last draft and read what is new in `tokens`."""
        if len(self.ids) > self.size:
            self.ids.cut(self.size)
        if len(tokens) > self.mark.length:
            self.ids.extend(reader.read(tokens[self.mark.length :]))
            self.size, self.mark = len(self.ids), mark_of(tokens)


class ModelDrafter:
    """A language model as a `CostedDrafter`. It owns its context, whose time it measures.

    By its `share` of bytes the time of an evaluation is guessed until it has been measured; by the `fingerprint` of its
    file is remembered how good its guesses are.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        reader: Reader,
        *,
        share: Share,
        cost: CostCurve | None = None,
        window: int | None = None,
        fingerprint: str = "",
        remember: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.cost = cost or CostCurve(PROMPT_CHUNK)
        self.share = share
        self.fingerprint = fingerprint
        self.remember = remember
        """Stores what was learned of its time."""
        self.close = close
        self.context = context
        self.clock: Callable[[], float] = time.perf_counter
        """By which its evaluations are timed, in seconds."""
        self.evaluations = 0
        """How often it read its weights."""
        self._reader = reader
        self._window = window
        self._unasked = _CHECKED_AFTER  # blocks since it was measured: in an earlier run, perhaps
        self._reach = window or WINDOWS[0]  # of a text that it begins to read
        self._views: weakref.WeakKeyDictionary[TokenSequence, _View] = weakref.WeakKeyDictionary()
        self._listed = _View(self._reach)  # of plain lists, which have no identity

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        """What drafting after `tokens` would cost; `target_seconds` is T(1) of the target."""
        single = self._single(target_seconds)
        self._reach = self._reach_for(target_seconds)
        owed = self._owed(self._view(tokens, 1).ids)
        self._unasked += 1
        doubted = self._unasked > _CHECKED_AFTER and single > _IN_DOUBT * self.share.bytes * target_seconds
        return DraftCost(single * self._reading(owed), single, self._check if doubted else None)

    def reading_seconds(self, target_seconds: float) -> float:
        """How long it reads in a long text before its first guess; `target_seconds` is T(1) of the target."""
        return self._single(target_seconds) * self._reading(self._reach_for(target_seconds) + SINK)

    def _single(self, target_seconds: float) -> float:
        return self.cost.single if self.cost.known else self.share.bytes * target_seconds

    def _reach_for(self, target_seconds: float) -> int:
        if self._window is not None:
            return self._window
        single, cheap = self._single(target_seconds), _CHEAP * target_seconds
        return max((window for window in WINDOWS if single * self._reading(window + SINK) <= cheap), default=WINDOWS[0])

    def _check(self) -> None:
        """Evaluate one token, twice, since the first time weights may come from the disk; a faster time is true."""
        seconds = []
        for view in ([0], [0, 0]):
            begun = self.clock()
            self.context.evaluate(view, NOTHING)
            seconds.append(self.clock() - begun)
        self.evaluations += len(seconds)
        self._unasked = 0
        if min(seconds) < self.cost.single:
            self.cost.measure({1: min(seconds)})

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A greedy chain of `limit` tokens, however unsure."""
        return self.draft(tokens, limit, SharedNoise(), lambda probability, evidence: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """A chain of at most `limit` tokens. After each, `go_on(probability, evidence)` says whether to guess another.

        The probability is the drafter's own for the token it guessed; the evidence is the class of that probability.
        """
        view = self._view(tokens, limit).ids
        if len(view) + limit > self.context.n_ctx:
            return NOTHING
        before = self.cost.single
        guesses: list[int] = []
        probabilities: list[float] = []
        evidence: list[Hashable] = []
        for place in range(limit):
            chosen = self._choose(self._next_row(view), noise, place)
            if chosen is None:
                break
            choice, probability = chosen
            token = choice if self._reader.said is None else int(self._reader.said[choice])
            if token < 0:  # a token that the target does not have
                break
            guesses.append(token)
            probabilities.append(probability)
            evidence.append((min(int(probability * _BUCKETS), _BUCKETS - 1), bool(noise.temperature > 0.0)))
            if len(guesses) == limit or not go_on(probability, evidence[-1]):
                break
            view.extend(self._reader.read([token]))
        if self.cost.single > _SLOWED * before:
            self._unasked = _CHECKED_AFTER  # a busy moment, perhaps: at this price nobody might ask again
        return Draft.chain(guesses, probabilities, evidence, self.name) if guesses else NOTHING

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Nothing: the next call rewinds to what was accepted."""

    def _view(self, tokens: Sequence[int], limit: int) -> _View:
        """What the drafter reads of `tokens`: the first few, and all from an anchor on.

        The anchor moves where the text is another one or has become too long, and then reading begins anew.
        """
        view = self._view_of(tokens)
        if unchanged(tokens, view.mark) < max(view.mark.length, 1):
            self._begin(view, tokens, view.anchor)
        else:
            view.extend(tokens, self._reader)
        begins = max(0, len(tokens) - view.reach)
        if (
            view.anchor > begins
            or self._owed(view.ids) > view.reach
            or len(view.ids) + limit > self.context.n_ctx
        ):  # fmt: skip
            view.reach = self._reach
            self._begin(view, tokens, max(0, len(tokens) - view.reach))
        return view

    def _view_of(self, tokens: Sequence[int]) -> _View:
        if not isinstance(tokens, TokenSequence):
            return self._listed
        view = self._views.get(tokens)
        if view is None:
            view = self._views[tokens] = _View(self._reach)
        return view

    def _begin(self, view: _View, tokens: Sequence[int], anchor: int) -> None:
        """Let the view be the first few of `tokens` and all from the anchor on."""
        view.anchor = anchor
        view.mark = NO_MARK  # an interrupt leaves a view that begins anew
        whole = anchor <= SINK or anchor >= len(tokens)
        ids = self._reader.read(tokens if whole else [*tokens[:SINK], *tokens[anchor:]])
        view.ids.cut(0)
        view.ids.extend(ids)
        view.size, view.mark = len(ids), mark_of(tokens)

    def _owed(self, view: TokenSequence) -> int:
        """How many tokens are to be read before the first guess; the last one is always."""
        return len(view) - min(self.context.cached(view), len(view) - 1)

    def _reading(self, owed: int) -> float:
        """The price of reading, in evaluations of one token."""
        whole, rest = divmod(owed, PROMPT_CHUNK)
        return whole * self.cost.ratio(PROMPT_CHUNK) + (self._reading_together(rest) if rest else 0.0)

    def _reading_together(self, owed: int) -> float:
        """Two tokens often cost more together than one after the other."""
        return min(float(owed), self.cost.ratio(owed)) if owed <= 2 else self.cost.ratio(owed)

    def _next_row(self, view: TokenSequence) -> Row:
        """The logits after `view`, and the time that took."""
        owed = self._owed(view)
        self._unasked = 0
        begun = self.clock()
        if owed == 1 or (owed == 2 and self.cost.hoped()[1] > 2.0):  # together again, where that was long ago
            row: Row = self.context.evaluate(view, NOTHING).rows[0]  # one by one
            self.evaluations += owed
            self.cost.observe(1, (self.clock() - begun) / owed)
            return row
        prefilled = self.context.prefill(view)
        assert prefilled is not None
        self.evaluations += 1
        if is_typical(len(view) - owed, len(view)):
            self.cost.observe(owed, self.clock() - begun)
        return prefilled

    def _choose(self, row: Row, noise: SharedNoise, place: int) -> tuple[int, float] | None:
        """The row's index of the guess, and the probability that the drafter gives it; None where numbers ran over."""
        best = int(row.argmax())  # the first that is no number, if there is one
        if not math.isfinite(row[best]):
            return None
        if noise.temperature == 0.0:
            return best, float(1.0 / np.exp(row - row[best]).sum())
        position = noise.position + place
        said = self._reader.said
        if said is None:
            choice = draw_any(row, noise.temperature, noise.seed, position)
        else:
            near = np.flatnonzero(row >= row[best] - 24.0 * noise.temperature)
            drawn = gumbel(noise.seed, position, said[near])
            choice = int(near[(row[near] / noise.temperature + drawn).argmax()])
        scaled = (row - row[best]) / np.float32(noise.temperature)
        return choice, math.exp(float(scaled[choice])) / float(np.exp(scaled).sum())
