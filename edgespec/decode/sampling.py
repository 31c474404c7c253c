"""Sampling parameters, and the draw: a pure function of logits, parameters, seed and position.

A running random stream would make the text depend on how many tokens each forward pass emits. Here the noise of a token
is a hash of (seed, position, token id), and the draw is Gumbel-max: the token at a position is the argmax of
log p(token) + g(seed, position, token), which is distributed as p (Gumbel 1954; Maddison et al., "A* Sampling", 2014).
So a seed gives one text, whatever was drafted; and a drafter that adds the same noise to its own logits is coupled to
the target. Temperature 0 is the case g = 0.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgespec.core import arguments
from edgespec.core.arguments import MAX_INT32
from edgespec.errors import EvaluationError, InvalidRequest

Ids = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]

MAX_NOISE = -math.log(-math.log1p(-(2.0**-33)))
"""The largest noise, in nats (22.9): a hash has 32 bits, so the largest uniform number is 1 - 2**-33."""

Acceptance = Literal["lossless", "typical"]
"""Which draft tokens are accepted: those that the target draws itself, or also those that are likely enough."""

_NO_BIAS: Mapping[int, float] = MappingProxyType({})


def random_seed() -> int:
    """A random seed of 32 bits, short enough to be read aloud."""
    return secrets.randbits(32)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. The defaults choose the most likely token and filter nothing.

    Names and meanings are llama.cpp's. `seed` is 64 bits unsigned, and random
    unless given. `grammar` is GBNF text. `logprobs` asks for that many
    alternatives with each token (0: only the token's own; None: none). DRY sees no repetition across one of
    `dry_breakers`. Without `dry_prompt`, DRY looks at the answer alone, and without `penalty_prompt` the penalties do:
    the prompt may then be copied. The order is llama.cpp's: logit bias, penalties, dry, top-k, typical, top-p, min-p,
    temperature, and the draw. `acceptance` "typical" takes draft tokens that are likely enough instead of drawing
    (`edgespec.decode.typical`): the text is another one than the target's own.

    None is a parameter's default. Numbers of numpy are stored as Python's. Raises InvalidRequest.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    penalty_prompt: bool = True
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_breakers: Sequence[str] = ("\n", ":", '"', "*")
    dry_prompt: bool = True
    logit_bias: Mapping[int, float] = field(default_factory=lambda: _NO_BIAS)
    grammar: str | None = None
    seed: int = field(default_factory=random_seed)
    logprobs: int | None = None
    acceptance: Acceptance = "lossless"

    def __post_init__(self) -> None:
        arguments.none_is_default(self)
        for name, low, high, meaning in _PARAMETER_BOUNDS:
            value = getattr(self, name)
            if isinstance(low, int) and isinstance(high, int):
                checked: float = arguments.integer(name, value, low, high, meaning)
            else:
                checked = arguments.number(name, value, low, high, meaning)
            object.__setattr__(self, name, checked)
        if 0.0 < self.temperature < _COLDEST:
            raise InvalidRequest(f"temperature is {self.temperature}: it must be 0 or at least {_COLDEST:g}")
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        object.__setattr__(self, "dry_breakers", arguments.texts("dry_breakers", self.dry_breakers))
        for name in ("penalty_prompt", "dry_prompt"):
            object.__setattr__(self, name, arguments.switch(name, getattr(self, name)))
        if self.grammar is not None:
            arguments.text("grammar", self.grammar)
        if self.logprobs is not None:
            object.__setattr__(self, "logprobs", arguments.integer("logprobs", self.logprobs, 0, 1000))
        arguments.choice("acceptance", self.acceptance, get_args(Acceptance))
        if self.acceptance == "typical" and not self.temperature:
            raise InvalidRequest("typical acceptance needs a temperature above 0: at 0 it is greedy decoding")
        if self.acceptance == "typical" and self.grammar is not None:
            raise InvalidRequest("typical acceptance and a grammar or schema exclude each other: leave one of them out")

    @property
    def reweighs(self) -> bool:
        """Whether the logits depend on the tokens before, or on a bias."""
        return bool(
            self.logit_bias
            or self.repeat_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.dry_multiplier
        )

    @property
    def filters(self) -> bool:
        """Whether candidates are removed before the draw."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0 or self.typical_p < 1.0


def _checked_bias(biases: object) -> dict[int, float]:
    """The biases by token id, each below infinity. Raises InvalidRequest."""
    if not isinstance(biases, Mapping):
        raise InvalidRequest(f"logit_bias is {arguments.shown(biases)}: it must be a mapping of token ids to numbers")
    checked = {}
    for token, bias in biases.items():
        meaning = "-inf forbids the token"
        checked[arguments.integer("a token id in logit_bias", token, 0, MAX_INT32)] = arguments.number(
            f"logit_bias[{arguments.shown(token)}]", bias, -math.inf, _MAX_BIAS, meaning
        )
    return checked


_MAX_BIAS = float(np.finfo(np.float32).max)

_COLDEST = 1e-9
"""The lowest temperature above 0: far below it, a logit over the temperature overflows."""

_PARAMETER_BOUNDS: tuple[tuple[str, float, float, str], ...] = (  # whole numbers for whole numbers alone
    ("temperature", 0.0, 100.0, "0 takes the most likely token"),
    ("top_k", 0, MAX_INT32, "0 keeps all"),
    ("top_p", 0.0, 1.0, "1 keeps all"),
    ("min_p", 0.0, 1.0, "0 keeps all"),
    ("typical_p", 0.0, 1.0, "1 keeps all"),
    ("repeat_penalty", 0.01, 100.0, "1 is none"),
    ("presence_penalty", -100.0, 100.0, "0 is none"),
    ("frequency_penalty", -100.0, 100.0, "0 is none"),
    ("penalty_last_n", -1, MAX_INT32, "tokens looked back at; -1 is the whole context"),
    ("dry_multiplier", 0.0, 100.0, "0 is off"),
    ("dry_base", 1.0, 100.0, "growth of the penalty with the length of the repetition"),
    ("dry_allowed_length", 1, MAX_INT32, "tokens that may repeat freely"),
    ("dry_penalty_last_n", -1, MAX_INT32, "tokens looked back at; -1 is the whole context"),
    ("seed", 0, 2**64 - 1, "random unless given"),
)

assert {name for name, *_ in _PARAMETER_BOUNDS} <= {parameter.name for parameter in fields(SamplingParams)}


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_NOISE_MARGIN = 8.0
"""Nats: candidates this close to the winner get their noise at once, others only where their hash is high."""


def _mixed(value: int) -> int:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014) on one integer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _hashes(seed: int, position: int, ids: Ids) -> npt.NDArray[np.uint32]:
    """32 random bits an id: a 64-bit key of seed and position, injected twice into a 32-bit integer hash.

    32 bits because numpy multiplies those with vector instructions, and a row may have 262,144 of them.
    """
    key = _mixed((_mixed((seed + _GOLDEN) & _MASK) + (position + 1) * _GOLDEN) & _MASK)
    bits = ids.astype(np.uint32)
    bits ^= np.uint32(key & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= np.uint32(key >> 32)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(15)
    return bits


def _gumbel_of(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    return np.asarray(-np.log(-np.log((hashes.astype(np.float64) + 0.5) * 2.0**-32)))


def gumbel(seed: int, position: int, ids: Ids) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise, shape of `ids`, keyed by (seed, position, id): equal keys, equal noise, everywhere."""
    return _gumbel_of(_hashes(seed, position, ids))


def draw(ids: Ids, logits: Floats, seed: int, position: int) -> int:
    """The token drawn from softmax(logits) over `ids` (both of shape (n,), n >= 1); ties go to the lowest id."""
    scores = logits + gumbel(seed, position, ids)
    best = np.flatnonzero(scores == scores.max())
    return int(ids[best].min())


NO_NUMBERS = "the model's logits are no numbers: its file is damaged, or its weights overflow on this machine"


def draw_any(row: npt.NDArray[np.float32], temperature: float, seed: int, position: int) -> int:
    """The token that `draw` gives for a whole vocabulary, row of shape (n_vocab,), computing only noise that can win.

    The winner scores at least as much as any candidate whose noise is known. A token `gap` nats below that needs noise
    above `gap`: none has more than `MAX_NOISE`, few have more than `_NOISE_MARGIN`, and their hashes show which.
    """
    peak = float(row.max())
    if math.isnan(peak):
        raise EvaluationError(NO_NUMBERS)
    leaders = np.flatnonzero(row >= peak - 4.0 * temperature)  # the peak itself, whatever rounding does
    certain_score = float((row[leaders] / temperature + gumbel(seed, position, leaders)).max())
    candidates = np.flatnonzero(row > (certain_score - MAX_NOISE) * temperature - _SLACK)
    hashes = _hashes(seed, position, candidates)
    threshold = np.uint32(math.floor(math.exp(-math.exp(-_NOISE_MARGIN)) * 2.0**32) - 1)
    near = row[candidates] > (certain_score - _NOISE_MARGIN) * temperature - _SLACK
    possible = np.flatnonzero(near | (hashes >= threshold))
    ids = candidates[possible]
    scores = row[ids] / temperature + _gumbel_of(hashes[possible])
    return int(ids[np.flatnonzero(scores == scores.max())].min())


_SLACK = 1e-3
"""An upper bound of a logit's float32 rounding: it adds a few candidates, and never leaves one out."""


def log_probabilities(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """log softmax of a row, shape (n_vocab,), in nats."""
    logits = row.astype(np.float64)
    logits -= logits.max()
    return np.asarray(logits - np.log(np.exp(logits).sum()))
