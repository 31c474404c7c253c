"""Measures T(n) of a model on this machine, and says from which acceptance rate on drafting pays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edgespec.core import NOTHING, Context, Draft
from edgespec.policy.adaptive import MAX_DRAFT
from edgespec.system.cpu import CpuUse, allowed_cpus

SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)

DEPTH = 256
"""Tokens of context at which forward passes are timed."""

MIN_SPEED_UP = 1.05
"""The speed-up from which on drafting is said to pay."""

_ROUNDS = 4
"""Timed rounds over all sizes."""

_BUSY_SPREAD = 1.4
"""The median over the least time of a size, from which on the machine counts as busy."""


class DrafterCost(NamedTuple):
    """The cost of a drafter model, in units of the target's T(1)."""

    draft_token: float
    prefill: float
    """The drafter prefill, before its first draft token."""


class Times(NamedTuple):
    """T(n) in seconds by n, and whether the machine was busy with something else meanwhile."""

    seconds: dict[int, float]
    busy: bool


def timed(
    context: Context,
    tokens: Sequence[int],
    *,
    depth: int = DEPTH,
    prefill: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Times:
    """T(n) for the SIZES that `context` allows, after `depth` of `tokens`: the least time of _ROUNDS rounds.

    All n tokens get logits, as in verification; with `prefill` only the last one does. A first round warms up. Other
    programs only make a forward pass slower, so the least time is nearest to the machine's own. `busy` is set where the
    rounds differ by much, or where other programs used the cores. `progress(done, total)` counts forward passes.
    """
    sizes = [n for n in SIZES if n <= context.max_rows and depth + n <= min(context.n_ctx, len(tokens))]
    times: dict[int, list[float]] = {n: [] for n in sizes}
    context.evaluate(tokens[: depth + 1], NOTHING)
    start = CpuUse.now()
    for done in range((_ROUNDS + 1) * len(sizes)):
        n = sizes[done % len(sizes)]
        draft = tokens[depth + 1 : depth + n]
        context.rewind(depth)
        begun = time.perf_counter()
        if prefill:
            context.prefill(tokens[: depth + n])
        else:
            context.evaluate(tokens[: depth + 1], Draft.chain(draft, [1.0] * len(draft), draft, "doctor"))
        if done >= len(sizes):
            times[n].append(time.perf_counter() - begun)
        if progress:
            progress(done + 1, (_ROUNDS + 1) * len(sizes))
    spread = statistics.median(statistics.median(seconds) / min(seconds) for seconds in times.values())
    crowded = start.crowded(CpuUse.now(), len(allowed_cpus()))
    return Times({n: min(seconds) for n, seconds in times.items()}, crowded or spread > _BUSY_SPREAD)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The speed-up that drafts of a fixed length can reach, given a latency model and the cost of draft tokens."""

    best: float
    """The speed-up where every draft token is accepted."""
    size: int
    """The draft length of that speed-up, in tokens."""
    break_even: float | None
    """The acceptance rate that gives a speed-up of MIN_SPEED_UP; None where even 1 is not enough."""


def outlook(ratios: Mapping[int, float], draft_token: float = 0.0) -> Outlook:
    """The outlook for chains of a fixed length and an acceptance rate that is the same for all draft tokens.

    `ratios` are T(n)/T(1) by n; `draft_token` is the cost of a draft token in T(1).
    """
    ratios = {n: ratio for n, ratio in ratios.items() if n <= MAX_DRAFT + 1}
    best, size = max((speed_up(n - 1, 1.0, ratio, draft_token), n - 1) for n, ratio in ratios.items())
    if best < MIN_SPEED_UP:
        return Outlook(best, size, None)
    for percent in range(1, 101):
        if max(speed_up(n - 1, percent / 100, ratio, draft_token) for n, ratio in ratios.items()) >= MIN_SPEED_UP:
            return Outlook(best, size, percent / 100)
    raise AssertionError("at 100% it is the best")


def speed_up(size: int, acceptance: float, ratio: float, draft_token: float) -> float:
    """The expected speed-up of drafts of `size` tokens (Leviathan et al., arXiv 2211.17192, theorem 3.8)."""
    return sum(acceptance**depth for depth in range(size + 1)) / (ratio + size * draft_token)


def advice(ratios: Mapping[int, float], costs: Mapping[str, DrafterCost], *, busy: bool = False) -> Iterator[str]:
    """Sentences that say whether drafting can pay, by `ratios`, T(n)/T(1), and `costs` of drafter models in T(1)."""
    if busy:
        yield "The machine was busy with something else. Stop that and run doctor again: these figures are unreliable."
    n_grams = outlook(ratios)
    if n_grams.break_even is None:
        yield (
            f"Speculation cannot pay here: even if all draft tokens are right, text comes {n_grams.best:.2f} times "
            "as fast. edgespec will decode plainly."
        )
        return
    yield (
        f"Speculation can pay: drafts of {n_grams.size} tokens that are all right make text {n_grams.best:.1f} times "
        f"as fast, and n-gram drafts pay where more than {n_grams.break_even:.0%} of their tokens are right."
    )
    for name, (draft_token, prefill) in costs.items():
        model = outlook(ratios, draft_token)
        if model.break_even is None:
            yield f"{name} cannot pay: a draft token takes {draft_token:.2f} T(1), too much even if all are right."
        else:
            yield (
                f"{name} pays where more than {model.break_even:.0%} of its draft tokens are right (each takes "
                f"{draft_token:.2f} T(1)): at most {model.best:.1f} times as fast. First it reads the end of the "
                f"text, for {prefill:.1f} T(1), so it is asked only where an answer is long enough to earn that "
                "back."
            )
