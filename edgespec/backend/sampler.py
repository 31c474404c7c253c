"""Chooses the target's token at a row of logits: llama.cpp's samplers, then the draw of `edgespec.decode.sampling`."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgespec.backend import native
from edgespec.backend.model import LlamaVocabulary
from edgespec.core import Row, SharedNoise, TokenLogprob
from edgespec.decode.sampling import NO_NUMBERS, SamplingParams, draw, draw_any, gumbel, log_probabilities
from edgespec.decode.typical import typical_choice
from edgespec.errors import EvaluationError, GrammarError, InvalidRequest
from edgespec.grammar import check_grammar

_MAX_LAST_N = 1 << 20
"""The most tokens that penalties look back at; llama.cpp's dry sampler reserves memory for as many."""
_ASKED_FIRST = (16, 256, 4096)
"""How many of the best tokens a grammar is asked for before the next ones."""
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class _Candidates:
    """Token ids and logits in one array that llama.cpp's samplers and numpy share."""

    def __init__(self, size: int) -> None:
        self._data = np.zeros(size, _TOKEN_DATA)
        self._ids = np.arange(size, dtype=np.int32)
        self._array = llama_cpp.llama_token_data_array(
            data=self._data.ctypes.data_as(llama_cpp.llama_token_data_p), size=size, selected=-1, sorted=False
        )

    def fill(self, row: Row) -> None:
        """Set the candidates to all tokens with their logits."""
        self.fill_some(self._ids, row)

    def fill_some(self, ids: Any, logits: Any) -> None:
        """Set the candidates to `ids` with `logits`."""
        size = len(ids)
        self._data["id"][:size] = ids
        self._data["logit"][:size] = logits
        self._array.size, self._array.selected, self._array.sorted = size, -1, False

    def apply(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(self._array))

    @property
    def remaining(self) -> npt.NDArray[Any]:
        """The candidates that no filter has removed."""
        return self._data[: self._array.size]

    @property
    def possible(self) -> npt.NDArray[Any]:
        """The candidates that remain and have a logit above minus infinity."""
        remaining = self.remaining
        return remaining[remaining["logit"] > -np.inf]


class LlamaSampler:
    """Implements `core.Sampler` for one answer. The token depends on the row, the parameters, and the tokens before.

    `history` are the prompt's tokens, which penalties look back at; `position` is that of the first token to choose,
    which keys the noise. Raises GrammarError for a grammar that does not parse.
    """

    def __init__(
        self,
        vocabulary: LlamaVocabulary,
        params: SamplingParams,
        *,
        history: Sequence[int] = (),
        position: int = 0,
    ) -> None:
        unknown = [token for token in params.logit_bias if token >= vocabulary.size]
        if unknown:
            raise InvalidRequest(f"logit bias for token {unknown[0]}: the vocabulary has {vocabulary.size} tokens")
        self._vocabulary = vocabulary
        self._params = params
        self._position = position
        self._penalties = self._chain(_penalty_samplers(vocabulary, params))
        self._dry = self._chain(_dry_samplers(vocabulary, params))
        self._filter = self._chain(_filter_samplers(params))
        self._hidden: npt.NDArray[np.int32] | None = None
        """Tokens that a grammar takes for their texts, `<|im_start|>` say, and an answer does not show."""
        self._grammar = self._make_grammar()
        self._candidates = _Candidates(vocabulary.size) if params.reweighs or params.filters or self._grammar else None
        self._penalized: set[int] = set(params.logit_bias)
        self.logprobs: list[TokenLogprob] = []
        if params.reweighs:
            for token in history:
                self.accept(token, penalize=params.penalty_prompt, dry=params.dry_prompt)

    @property
    def noise(self) -> SharedNoise:
        """The noise of the next draw."""
        return SharedNoise(self._params.temperature, self._params.seed, self._position)

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        """The token at the next position, given its logits of shape (n_vocab,).

        One of `drafted` is taken without a draw, if it is likely enough (`edgespec.decode.typical`).
        """
        penalized_row = self.penalized(row)
        if self._hidden is not None:
            penalized_row = penalized_row.copy()
            penalized_row[self._hidden] = -np.inf
        token = self._typical(penalized_row, drafted) if drafted else None
        if token is None:
            token = self._pick(penalized_row)
        if self._grammar is not None:
            if not self._grammar_allows(token):
                token = self._pick_by_grammar(penalized_row)
            llama_cpp.llama_sampler_accept(self._grammar, token)
        if self._params.reweighs:
            self.accept(token)
        if self._params.logprobs is not None:
            self.logprobs.append(_logprob(row, token, self._params.logprobs))
        self._position += 1
        return token

    def accept(self, token: int, *, penalize: bool = True, dry: bool = True) -> None:
        """Let the penalties and DRY look back at a token, as `choose` does with those it chooses."""
        self._penalized.add(token)
        if penalize:
            llama_cpp.llama_sampler_accept(self._penalties, token)
        if dry:
            llama_cpp.llama_sampler_accept(self._dry, token)

    def penalized(self, row: Row) -> Row:
        """The row after bias and penalties, as a copy.

        These change only tokens that occurred before or have a bias. llama.cpp's samplers get those alone: on a whole
        vocabulary they cost a hash look-up for every entry.
        """
        if self._candidates is None or not self._params.reweighs:
            return row
        ids = np.fromiter(self._penalized, np.int32, len(self._penalized))
        self._candidates.fill_some(ids, row[ids])
        self._candidates.apply(self._penalties)
        self._candidates.apply(self._dry)
        penalized_row: Row = row.copy()
        penalized_row[self._candidates.remaining["id"]] = self._candidates.remaining["logit"]
        return penalized_row

    def _typical(self, row: Row, drafted: Sequence[int]) -> int | None:
        """One of `drafted` by typical acceptance, of those that no filter removes."""
        if self._candidates is None or not self._params.filters:
            return typical_choice(row / np.float32(self._params.temperature), drafted)
        self._candidates.fill(row)
        self._candidates.apply(self._filter)
        possible = self._candidates.possible
        left = np.flatnonzero(np.isin(possible["id"], drafted)).tolist()
        chosen = typical_choice(possible["logit"], left) if left else None
        return None if chosen is None else int(possible["id"][chosen])

    def _pick(self, row: Row) -> int:
        params = self._params
        if self._candidates is not None and params.filters:
            self._candidates.fill(row)
            return self._draw(self._candidates)
        if params.temperature == 0.0:
            best = int(row.argmax())  # the first NaN, if there is one
            if math.isnan(row[best]):
                raise EvaluationError(NO_NUMBERS)
            return best
        return draw_any(row, params.temperature, params.seed, self._position)

    def _pick_by_grammar(self, row: Row) -> int:
        """The token chosen among those that the grammar allows."""
        if not self._params.filters:
            return self._best_allowed(row)
        possible = self._allowed(np.arange(len(row), dtype=np.int32), row).copy()
        assert self._candidates is not None
        self._candidates.fill_some(possible["id"], possible["logit"])
        return self._draw(self._candidates)

    def _best_allowed(self, row: Row) -> int:
        """The allowed token with the highest score, which is the one that a draw among all allowed ones gives.

        The grammar is asked for the best tokens first: for a whole vocabulary it takes milliseconds.
        """
        params = self._params
        ids = np.flatnonzero(row > -np.inf).astype(np.int32)
        scores: npt.NDArray[np.floating] = row[ids]
        if params.temperature:
            scores = scores / np.float32(params.temperature) + gumbel(params.seed, self._position, ids)
        for count in _ASKED_FIRST:
            if count < len(ids):
                least = np.partition(scores, -count)[-count]
                best = ids[scores >= least]  # more than `count` where scores are equal
                possible = self._allowed(best, row[best], needed=False)["id"]
                if len(possible):
                    break
        else:
            possible = self._allowed(ids, row[ids])["id"]
        chosen = np.isin(ids, possible)
        return int(ids[chosen & (scores == scores[chosen].max())].min())

    def _allowed(self, ids: Any, logits: Any, *, needed: bool = True) -> npt.NDArray[Any]:
        """Those of the candidates that the grammar allows. Raises GrammarError where one is `needed`."""
        assert self._candidates is not None
        self._candidates.fill_some(ids, logits)
        self._candidates.apply(self._grammar)
        possible = self._candidates.possible
        if needed and not len(possible):
            raise GrammarError("the grammar allows no token of this vocabulary here: it asks for text that has none")
        return possible

    def _draw(self, candidates: _Candidates) -> int:
        candidates.apply(self._filter)
        possible = candidates.possible
        ids, logits = possible["id"], possible["logit"]
        if not len(ids):
            raise EvaluationError(NO_NUMBERS)
        if self._params.temperature == 0.0:
            return int(ids[np.flatnonzero(logits == logits.max())].min())
        return draw(ids, logits, self._params.seed, self._position)

    def _grammar_allows(self, token: int) -> bool:
        assert self._candidates is not None
        self._candidates.fill_some([token], [0.0])
        self._candidates.apply(self._grammar)
        return len(self._candidates.possible) == 1

    def _chain(self, samplers: list[Any]) -> Any:
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        weakref.finalize(self, llama_cpp.llama_sampler_free, chain)  # frees its members too
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(chain, sampler)
        return chain

    def _make_grammar(self) -> Any:
        if self._params.grammar is None:
            return None
        names_tokens = check_grammar(self._params.grammar, lambda text: len(self._vocabulary.tokenize(text)) == 1)
        self._hidden = None if names_tokens else self._vocabulary.without_text
        native.forget_errors()
        grammar = llama_cpp.llama_sampler_init_grammar(self._vocabulary.pointer, self._params.grammar.encode(), b"root")
        if not grammar:
            raise GrammarError(f"the grammar cannot be used: {native.last_error() or 'llama.cpp gives no reason'}")
        weakref.finalize(self, llama_cpp.llama_sampler_free, grammar)
        return grammar


def _penalty_samplers(vocabulary: LlamaVocabulary, params: SamplingParams) -> list[Any]:
    """llama.cpp's samplers for bias and penalties, in its own order; only those that `params` ask for."""
    samplers = []
    if params.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(params.logit_bias))(*params.logit_bias.items())
        samplers.append(llama_cpp.llama_sampler_init_logit_bias(vocabulary.size, len(biases), biases))
    if params.repeat_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
        samplers.append(
            llama_cpp.llama_sampler_init_penalties(
                vocabulary.size,
                _last_n(params.penalty_last_n),
                params.repeat_penalty,
                params.frequency_penalty,
                params.presence_penalty,
            )
        )
    return samplers


def _dry_samplers(vocabulary: LlamaVocabulary, params: SamplingParams) -> list[Any]:
    """llama.cpp's DRY sampler, where `params` ask for it.

    It looks for the breakers in all tokens, which takes 0.1 s for 150,000 of them: once for a vocabulary, then copied.
    """
    if not params.dry_multiplier:
        return []
    settings = (
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        _last_n(params.dry_penalty_last_n),
        tuple(params.dry_breakers),
    )
    known, prototype = _dry_prototypes.get(vocabulary, (None, None))
    if prototype is None or known != settings:
        *numbers, texts = settings
        breakers = (ctypes.c_char_p * len(texts))(*map(str.encode, texts))
        prototype = _Prototype(llama_cpp.llama_sampler_init_dry(vocabulary.pointer, *numbers, breakers, len(breakers)))
        _dry_prototypes[vocabulary] = settings, prototype
    return [llama_cpp.llama_sampler_clone(prototype.pointer)]


class _Prototype:
    """A sampler that copies are made of; freed with this object."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        weakref.finalize(self, llama_cpp.llama_sampler_free, pointer)


_dry_prototypes: weakref.WeakKeyDictionary[LlamaVocabulary, tuple[tuple[Any, ...], _Prototype]] = (
    weakref.WeakKeyDictionary()
)
"""The last DRY sampler of each vocabulary, with its settings."""


def _filter_samplers(params: SamplingParams) -> list[Any]:
    """llama.cpp's samplers that remove candidates, in its own order, then temperature; none of them selects a token."""
    samplers = []
    if params.top_k > 0:
        samplers.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
    if params.typical_p < 1.0:
        samplers.append(llama_cpp.llama_sampler_init_typical(params.typical_p, 1))
    if params.top_p < 1.0:
        samplers.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0.0:
        samplers.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
    if params.temperature > 0.0:
        samplers.append(llama_cpp.llama_sampler_init_temp(params.temperature))
    return samplers


def _last_n(last_n: int) -> int:
    return _MAX_LAST_N if last_n < 0 else min(last_n, _MAX_LAST_N)


def _logprob(row: Row, token: int, count: int) -> TokenLogprob:
    values = log_probabilities(row)
    count = min(count, len(values))
    top = np.argpartition(values, -count)[-count:] if count else np.empty(0, np.int64)
    top = top[np.argsort(-values[top], kind="stable")]
    return TokenLogprob(token, float(values[token]), tuple((int(i), float(values[i])) for i in top))
