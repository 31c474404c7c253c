"""Drafts with a small language model, plain or trimmed, that shares the target's vocabulary or most of it.

The drafter reads what the target reads, and guesses token by token for as long as the policy finds it worth its time.
With sampling it adds the target's own noise to its logits, so that the two draw the same token where they agree
(noise by common Gumbel noise; see `edgespec.decode.sampling`).
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

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
from edgespec.decode.sampling import draw_any, gumbel
from edgespec.drafters.vocab_map import TokenMap
from edgespec.latency.model import PROMPT_CHUNK, LatencyModel, is_typical
from edgespec.policy.tree import HOPELESS

WINDOWS = (24, 32, 40, 48, 56, 64)
"""Tokens of the text before that a drafter may begin with: the most of these that are read in _CHEAP. It reads on from
there: a long prompt is never read to its start, because a short answer would not earn that back."""

_CHEAP = 2.6
"""In units of T(1) of the target. Replayed on answers to prompts of our own, a drafter with guesses of 0.15 T(1) did
best with 64 tokens (more help mathematics and translations, and cost others more), one with 0.23 T(1) with 24."""

ATTENTION_SINKS = 4
"""The first tokens of the text, read as well: models put attention there that has nowhere else to go (StreamingLLM,
arXiv 2309.17453, section 3)."""

_IN_DOUBT = 2.0
"""An evaluation that seems to take so many times what its bytes would take is doubted: it may have been measured while
another process had the cores, which makes it ten times as slow, and a drafter so slow is never asked again."""

_SLOWED = 2.0
"""A drafter that seems to have become so many times as slow within one draft is doubted, too."""

_CHECKED_AFTER = 512
"""Blocks without its drafts after which a drafter in doubt is measured again."""

_NEAR = 8.0
"""Nats below the best logit down to which the second-best token with noise is looked for: most of a vocabulary is below
that, and noise takes time."""

_BUCKETS = 20
"""Classes of confidence that the policy learns the acceptance of."""


_Guess = tuple[int, float]
"""A token of the target, and the probability that the drafter gives it."""


class Share(NamedTuple):
    """What a drafter reads for a token, as a share of what the target reads: of parameters, and of bytes."""

    parameters: float
    bytes: float


class _View:
    """What the drafter reads of one sequence, as its own ids: the first few tokens, and all from `window_start` on.

    The first `size` of `ids` stand for the tokens that `mark` saw; what comes after is the last draft.
    """

    __slots__ = ("ids", "mark", "size", "window", "window_start")

    def __init__(self, window: int) -> None:
        self.ids = TokenSequence()
        self.mark = NO_MARK
        self.size = 0
        self.window_start = 0
        self.window = window

    def extend(self, tokens: Sequence[int], token_map: TokenMap) -> None:
        """Drop the last draft and read what is new in `tokens`."""
        if len(self.ids) > self.size:
            self.ids.cut(self.size)
        if len(tokens) > self.mark.length:
            self.ids.extend(token_map.read(tokens[self.mark.length :]))
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
        token_map: TokenMap,
        *,
        share: Share,
        latency: LatencyModel | None = None,
        window: int | None = None,
        fingerprint: str = "",
        n_inputs: int = 0,
        save: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.latency = latency or LatencyModel(PROMPT_CHUNK)
        self.share = share
        self.fingerprint = fingerprint
        self.n_inputs = n_inputs
        """The number of ids that it reads."""
        self.save = save
        """Stores what was learned of its time."""
        self.close = close
        self.context = context
        self.clock: Callable[[], float] = time.perf_counter
        """By which its evaluations are timed, in seconds."""
        self.evaluations = 0
        """How often it read its weights."""
        self._token_map = token_map
        self._window = window
        self._unasked = _CHECKED_AFTER  # blocks since it was measured: in an earlier run, perhaps
        self._begin_window = window or WINDOWS[0]  # of a text that it begins to read
        self._views: weakref.WeakKeyDictionary[TokenSequence, _View] = weakref.WeakKeyDictionary()
        self._listed = _View(self._begin_window)  # of plain lists, which have no identity

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        """What drafting after `tokens` would cost; `target_seconds` is T(1) of the target."""
        single = self._single(target_seconds)
        self._begin_window = self._reach_for(target_seconds)
        uncached = self._uncached(self._view(tokens, 1).ids)
        self._unasked += 1
        doubted = self._unasked > _CHECKED_AFTER and single > _IN_DOUBT * self.share.bytes * target_seconds
        return DraftCost(single * self._reading(uncached), single, self._check if doubted else None)

    def prefill_seconds(self, target_seconds: float) -> float:
        """How long it reads in a long text before its first guess; `target_seconds` is T(1) of the target."""
        return self._single(target_seconds) * self._reading(self._reach_for(target_seconds) + ATTENTION_SINKS)

    def _single(self, target_seconds: float) -> float:
        return self.latency.t1 if self.latency.known else self.share.bytes * target_seconds

    def _reach_for(self, target_seconds: float) -> int:
        if self._window is not None:
            return self._window
        single, cheap = self._single(target_seconds), _CHEAP * target_seconds
        return max(
            (window for window in WINDOWS if single * self._reading(window + ATTENTION_SINKS) <= cheap),
            default=WINDOWS[0],
        )

    def _check(self) -> None:
        """Evaluate one token, twice, since the first time weights may come from the disk; a faster time is true."""
        seconds = []
        for view in ([0], [0, 0]):
            begun = self.clock()
            self.context.evaluate(view, NOTHING)
            seconds.append(self.clock() - begun)
        self.evaluations += len(seconds)
        self._unasked = 0
        if min(seconds) < self.latency.t1:
            self.latency.measure({1: min(seconds)})

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A greedy chain of `limit` tokens, however unsure: side branches find no room."""
        return self.draft(tokens, limit, SharedNoise(), lambda probability, bucket: True)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        """A chain, and the second-best token of each of its rows as a side branch: at most `limit` nodes.

        After each token of the chain, `go_on(probability, bucket)` says whether to guess another. The probability is
        the drafter's own; the bucket is its class, and whether the target samples. Those of side branches stand apart.
        """
        view = self._view(tokens, limit).ids
        if len(view) + limit > self.context.n_ctx:
            return NOTHING
        before, noisy = self.latency.t1, bool(noise.temperature > 0.0)
        chain: list[tuple[int, float, Hashable]] = []
        sides: list[tuple[int, float, Hashable, int]] = []
        for place in range(limit):
            best, second = self._choose(self._next_row(view), noise, place)
            if best is None:  # or a token that the target does not have
                break
            if second is not None and second[1] >= HOPELESS:
                sides.append((*second[:2], (_class_of(second[1]), noisy, 2), place - 1))
            chain.append((*best, (_class_of(best[1]), noisy)))
            if len(chain) == limit or not go_on(*chain[-1][1:]):
                break
            view.extend(self._token_map.read([best[0]]))
        if self.latency.t1 > _SLOWED * before:
            self._unasked = _CHECKED_AFTER  # a busy moment, perhaps: at this price nobody might ask again
        if not chain:
            return NOTHING
        nodes = [(*node, place - 1) for place, node in enumerate(chain)] + sides[: limit - len(chain)]
        guesses, probabilities, buckets, parents = zip(*nodes, strict=True)
        return Draft(guesses, parents, probabilities, buckets, self.name)

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        """Nothing: the next call rewinds to what was accepted."""

    def _view(self, tokens: Sequence[int], limit: int) -> _View:
        """What the drafter reads of `tokens`: the first few, and all from an window_start on.

        The window_start moves where the text is another one or has become too long, and then reading begins anew.
        """
        view = self._view_of(tokens)
        if unchanged(tokens, view.mark) < max(view.mark.length, 1):
            self._begin(view, tokens, view.window_start)
        else:
            view.extend(tokens, self._token_map)
        begins = max(0, len(tokens) - view.window)
        if (
            view.window_start > begins
            or self._uncached(view.ids) > view.window
            or len(view.ids) + limit > self.context.n_ctx
        ):  # fmt: skip
            view.window = self._begin_window
            self._begin(view, tokens, max(0, len(tokens) - view.window))
        return view

    def _view_of(self, tokens: Sequence[int]) -> _View:
        if not isinstance(tokens, TokenSequence):
            return self._listed
        view = self._views.get(tokens)
        if view is None:
            view = self._views[tokens] = _View(self._begin_window)
        return view

    def _begin(self, view: _View, tokens: Sequence[int], window_start: int) -> None:
        """Let the view be the first few of `tokens` and all from the window_start on."""
        view.window_start = window_start
        view.mark = NO_MARK  # an interrupt leaves a view that begins anew
        whole = window_start <= ATTENTION_SINKS or window_start >= len(tokens)
        ids = self._token_map.read(tokens if whole else [*tokens[:ATTENTION_SINKS], *tokens[window_start:]])
        view.ids.cut(0)
        view.ids.extend(ids)
        view.size, view.mark = len(ids), mark_of(tokens)

    def _uncached(self, view: TokenSequence) -> int:
        """How many tokens are to be read before the first guess; the last one is always."""
        return len(view) - min(self.context.cached(view), len(view) - 1)

    def _reading(self, uncached: int) -> float:
        """The price of reading, in evaluations of one token."""
        whole, rest = divmod(uncached, PROMPT_CHUNK)
        return whole * self.latency.ratio(PROMPT_CHUNK) + (self._reading_together(rest) if rest else 0.0)

    def _reading_together(self, uncached: int) -> float:
        """Two tokens often cost more together than one after the other."""
        return min(float(uncached), self.latency.ratio(uncached)) if uncached <= 2 else self.latency.ratio(uncached)

    def _next_row(self, view: TokenSequence) -> Row:
        """The logits after `view`, and the time that took."""
        uncached = self._uncached(view)
        self._unasked = 0
        begun = self.clock()
        if uncached == 1 or (
            uncached == 2 and self.latency.optimistic()[1] > 2.0
        ):  # together again, where that was long ago
            row: Row = self.context.evaluate(view, NOTHING).rows[0]  # one by one
            self.evaluations += uncached
            self.latency.observe(1, (self.clock() - begun) / uncached)
            return row
        prefilled = self.context.prefill(view)
        assert prefilled is not None
        self.evaluations += 1
        if is_typical(len(view) - uncached, len(view)):
            self.latency.observe(uncached, self.clock() - begun)
        return prefilled

    def _choose(self, row: Row, noise: SharedNoise, place: int) -> tuple[_Guess | None, _Guess | None]:
        """The best guess and the second-best, None where numbers ran over or the target does not have the token.

        With sampling they are those of the largest logits with noise.
        """
        top = int(row.argmax())  # the first that is no number, if there is one
        if not math.isfinite(row[top]):
            return None, None
        scaled = row - row[top]
        row_to_target, temperature = self._token_map.row_to_target, noise.temperature
        if temperature:
            scaled /= np.float32(temperature)
        masses = np.exp(scaled)
        total = float(masses.sum())
        if not temperature:
            best, mass = top, 1.0
            masses[top] = 0.0
            second = int(masses.argmax())
        else:
            position = noise.position + place
            near = np.flatnonzero(scaled >= (-_NEAR if row_to_target is None else -24.0))
            noised = scaled[near] + gumbel(noise.seed, position, near if row_to_target is None else row_to_target[near])
            if row_to_target is None:
                best = draw_any(row, temperature, noise.seed, position)
                noised[near == best] = -math.inf
            else:
                place_of_best = int(noised.argmax())
                best, noised[place_of_best] = int(near[place_of_best]), -math.inf
            mass = float(masses[best])
            second = int(near[noised.argmax()])
        return self._guess(best, mass / total), self._guess(second, float(masses[second]) / total)

    def _guess(self, row: int, probability: float) -> _Guess | None:
        """The target's token of a row's index, where it has that."""
        row_to_target = self._token_map.row_to_target
        token = row if row_to_target is None else int(row_to_target[row])
        return None if token < 0 else (token, probability)


def _class_of(probability: float) -> int:
    return min(int(probability * _BUCKETS), _BUCKETS - 1)
