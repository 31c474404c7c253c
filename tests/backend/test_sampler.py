"""The choice of a token against a plain reckoning in numpy: bias, penalties, filters, temperature, the draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgespec.backend import LlamaModel, LlamaSampler, LlamaVocabulary
from edgespec.backend import sampler as sampler_module
from edgespec.core import Row, SharedNoise
from edgespec.decode.sampling import SamplingParams, gumbel
from edgespec.errors import EvaluationError, GrammarError, InvalidRequest
from tests.gguf_files import tiny_model

N_VOCAB = 320
UNKNOWN, BEGIN = 0, 1
END, BYTE, WORD = 2, 3, 259
"""The token that ends an answer, that of byte 0, and the first word: ` w259`."""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> LlamaVocabulary:
    return LlamaModel(tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"), gpu_layers=0).vocabulary


def _row(seed: int) -> Row:
    return (4.0 * np.random.default_rng(seed).standard_normal(N_VOCAB)).astype(np.float32)


def _reweighed(row: Row, params: SamplingParams, history: Sequence[int]) -> npt.NDArray[np.float64]:
    """Bias, then what occurred among the last tokens: llama.cpp divides what is above 0 and multiplies what is not."""
    logits = row.astype(np.float64)
    for token, bias in params.logit_bias.items():
        logits[token] += bias
    last = params.penalty_last_n
    for token, count in Counter(history if last < 0 else history[len(history) - min(last, len(history)) :]).items():
        factor = params.repeat_penalty
        logits[token] = logits[token] * factor if logits[token] <= 0.0 else logits[token] / factor
        logits[token] -= count * params.frequency_penalty + params.presence_penalty
    return logits


def _kept(logits: npt.NDArray[np.float64], params: SamplingParams) -> list[int]:
    """The ids that the filters leave, each filter on what those before it left."""
    ids = sorted(range(N_VOCAB), key=lambda token: -logits[token])
    if params.top_k:
        ids = ids[: params.top_k]
    if params.typical_p < 1.0:
        shares = _softmax(logits[ids])
        entropy = -(shares * np.log(shares)).sum()
        order = np.argsort(np.abs(-np.log(shares) - entropy), kind="stable")
        ids = [ids[place] for place in order[: _enough(shares[order], params.typical_p)]]
        ids.sort(key=lambda token: -logits[token])
    if params.top_p < 1.0:
        ids = ids[: _enough(_softmax(logits[ids]), params.top_p)]
    if params.min_p > 0.0:
        shares = _softmax(logits[ids])
        ids = [token for token, share in zip(ids, shares, strict=True) if share >= params.min_p * shares.max()]
    return ids


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _enough(shares: npt.NDArray[np.float64], wanted: float) -> int:
    """How many of them make up so much."""
    return int(np.searchsorted(np.cumsum(shares), wanted)) + 1


def _reckoned(row: Row, params: SamplingParams, history: Sequence[int], position: int) -> int:
    logits = _reweighed(row, params, history)
    ids = np.array(_kept(logits, params))
    if params.temperature == 0.0:
        return int(ids[0])
    return int(ids[(logits[ids] / params.temperature + gumbel(params.seed, position, ids)).argmax()])


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "warm": {"temperature": 0.7},
    "hot": {"temperature": 8.0},
    "bias": {"logit_bias": {5: 20.0, 300: -np.inf, 7: 0.5}},
    "repeat": {"repeat_penalty": 1.5, "temperature": 1.0},
    "repeat rewarded": {"repeat_penalty": 0.6},
    "presence": {"presence_penalty": 5.0},
    "frequency": {"frequency_penalty": 2.0, "temperature": 1.0},
    "all penalties": {"repeat_penalty": 1.2, "presence_penalty": 1.0, "frequency_penalty": 0.5, "penalty_last_n": 5},
    "penalties over all": {"frequency_penalty": 1.5, "penalty_last_n": -1},
    "penalties over nothing": {"frequency_penalty": 9.0, "penalty_last_n": 0},
    "top k": {"top_k": 3, "temperature": 5.0},
    "top k of one": {"top_k": 1, "temperature": 50.0},
    "top k of more than there are": {"top_k": 10_000, "temperature": 2.0},
    "top p": {"top_p": 0.6, "temperature": 5.0},
    "top p of nothing": {"top_p": 0.0, "temperature": 50.0},
    "min p": {"min_p": 0.1, "temperature": 5.0},
    "typical": {"typical_p": 0.5, "temperature": 5.0},
    "everything": {
        "temperature": 3.0,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.02,
        "typical_p": 0.95,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": {9: 3.0},
    },
}


@pytest.mark.parametrize("wanted", CASES.values(), ids=CASES)
def test_a_choice_is_the_reckoned_one(vocabulary: LlamaVocabulary, wanted: dict[str, Any]) -> None:
    """Over an answer of some tokens, whose own tokens count for the penalties as the prompt's do."""
    for seed in range(8):
        params = SamplingParams(**wanted, seed=seed)
        history = [int(token) for token in np.random.default_rng(seed).integers(0, N_VOCAB, 12)]
        sampler = LlamaSampler(vocabulary, params, history=history, position=len(history))
        for _ in range(10):
            row = _row(100 * seed + len(history))
            expected = _reckoned(row, params, history, len(history))
            assert sampler.noise == SharedNoise(params.temperature, seed, len(history))
            assert sampler.choose(row) == expected
            history.append(expected)


@pytest.mark.parametrize("name", ["everything", "warm", "all penalties"])
def test_the_row_given_is_left_as_it_is(vocabulary: LlamaVocabulary, name: str) -> None:
    row = _row(0)
    before = row.copy()
    LlamaSampler(vocabulary, SamplingParams(**CASES[name], seed=1), history=[1, 2, 3]).choose(row)
    assert np.array_equal(row, before)


def test_a_token_seldom_chosen_is_chosen_as_often_as_it_is_likely(vocabulary: LlamaVocabulary) -> None:
    row = np.full(N_VOCAB, -np.inf, np.float32)
    row[[10, 20, 30]] = np.log([0.7, 0.25, 0.05])
    sampler = LlamaSampler(vocabulary, SamplingParams(temperature=1.0, seed=5))
    drawn = Counter(sampler.choose(row) for _ in range(4000))
    assert set(drawn) == {10, 20, 30}
    for token, share in ((10, 0.7), (20, 0.25), (30, 0.05)):
        assert drawn[token] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_dry_makes_what_would_repeat_itself_less_likely(vocabulary: LlamaVocabulary) -> None:
    """By multiplier * base ** (length of the repeat - allowed length), for the token that would make it longer."""
    history = [300, 301, 302, 303, 310, 300, 301, 302]
    params = SamplingParams(dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=2, seed=0)
    for ahead, chosen in ((1.9, 290), (2.1, 303)):  # 2 ** (3 - 2)
        row = np.zeros(N_VOCAB, np.float32)
        row[303], row[290] = 5.0 + ahead, 5.0
        assert LlamaSampler(vocabulary, params, history=history).choose(row) == chosen
    row = np.zeros(N_VOCAB, np.float32)
    row[303] = 0.1
    assert LlamaSampler(vocabulary, params, history=[310, 311]).choose(row) == 303, "nothing repeats itself"


def test_dry_lets_the_prompt_be_copied_where_it_is_told_to(vocabulary: LlamaVocabulary) -> None:
    """And still penalizes what the answer repeats of itself, across what is no breaker."""
    passage = [300, 301, 302, 303, BYTE + ord("\n")]
    row = np.zeros(N_VOCAB, np.float32)
    row[290] = 5.0
    params = SamplingParams(dry_multiplier=9.0, dry_allowed_length=2, dry_prompt=False, dry_breakers=(), seed=0)

    def chosen(params: SamplingParams, times: int) -> list[int]:
        """What is said in the copy of that number of a passage in the prompt, by a model that wants to copy it."""
        sampler = LlamaSampler(vocabulary, params, history=passage)
        tokens = []
        for token in passage * times:
            eager = row.copy()
            eager[token] = 10.0
            tokens.append(sampler.choose(eager))
        return tokens[-len(passage) :]

    assert chosen(params, 1) == passage
    assert chosen(params, 2) == [300, 301, 290, 303, BYTE + ord("\n")]
    assert 290 in chosen(SamplingParams(dry_multiplier=9.0, dry_allowed_length=2, seed=0), 1)
    assert chosen(params, 2) == [300, 301, 290, 303, BYTE + ord("\n")], "an answer's sampler begins anew"


@pytest.mark.parametrize("penalty", [{"repeat_penalty": 2.0}, {"presence_penalty": 4.0}, {"frequency_penalty": 4.0}])
@pytest.mark.parametrize("prompt", [True, False])
def test_penalties_look_at_the_prompt_unless_they_are_told_not_to(
    vocabulary: LlamaVocabulary, penalty: dict[str, float], prompt: bool
) -> None:
    row = np.zeros(N_VOCAB, np.float32)
    row[300], row[290] = 5.0, 4.0
    sampler = LlamaSampler(vocabulary, SamplingParams(**penalty, penalty_prompt=prompt), history=[300])  # type: ignore[arg-type]
    assert sampler.choose(row) == (290 if prompt else 300)
    assert sampler.choose(row) == (290 if not prompt else 300), "what the answer said is penalized"


@pytest.mark.parametrize(
    "wanted", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5}], ids=["greedy", "warm", "filtered"]
)
def test_logits_that_are_no_numbers_are_told(vocabulary: LlamaVocabulary, wanted: dict[str, Any]) -> None:
    row = np.full(N_VOCAB, np.nan, np.float32)
    with pytest.raises(EvaluationError, match="logits are no numbers: its file is damaged"):
        LlamaSampler(vocabulary, SamplingParams(**wanted)).choose(row)


def test_a_bias_for_a_token_that_is_not_there(vocabulary: LlamaVocabulary) -> None:
    LlamaSampler(vocabulary, SamplingParams(logit_bias={N_VOCAB - 1: 1.0}))
    with pytest.raises(InvalidRequest, match="logit bias for token 320: the vocabulary has 320 tokens"):
        LlamaSampler(vocabulary, SamplingParams(logit_bias={1: 1.0, N_VOCAB: 1.0}))


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_log_probabilities_are_the_models_own_and_the_likeliest_come_first(
    vocabulary: LlamaVocabulary, count: int
) -> None:
    sampler = LlamaSampler(vocabulary, SamplingParams(temperature=2.0, top_k=2, seed=3, logprobs=count))
    rows = [_row(seed) for seed in range(3)]
    chosen = [sampler.choose(row) for row in rows]
    for row, token, entry in zip(rows, chosen, sampler.logprobs, strict=True):
        shares = np.log(_softmax(row.astype(np.float64)))
        assert entry.token == token
        assert entry.logprob == pytest.approx(shares[token])
        order = np.argsort(-shares, kind="stable")[:count]
        assert [id for id, _ in entry.top] == order.tolist()
        assert [value for _, value in entry.top] == pytest.approx(shares[order])


def test_log_probabilities_are_kept_only_where_they_are_asked_for(vocabulary: LlamaVocabulary) -> None:
    sampler = LlamaSampler(vocabulary, SamplingParams())
    sampler.choose(_row(0))
    assert sampler.logprobs == []


def _byte(letter: str) -> int:
    return BYTE + ord(letter)


def test_a_grammar_leaves_what_it_allows_and_ends_the_answer(vocabulary: LlamaVocabulary) -> None:
    grammar = 'root ::= " w300" | "ab"'
    allowed = {WORD + 41, _byte(" "), _byte("a")}
    for seed in range(12):
        row = _row(seed)
        sampler = LlamaSampler(vocabulary, SamplingParams(grammar=grammar))
        first = sampler.choose(row)
        assert first == max(allowed, key=lambda token: row[token])
        text = vocabulary.piece(first)
        while True:
            token = sampler.choose(_row(seed + 100))
            if token == END:
                break
            text += vocabulary.piece(token)
        assert text in (b" w300", b"ab")


def test_a_grammar_and_filters_leave_what_both_allow(vocabulary: LlamaVocabulary) -> None:
    """The likeliest token of all is out; of those that the grammar allows, top-k keeps the likeliest."""
    row = _row(0)
    row[_byte("a")], row[_byte("b")], row[_byte("c")] = 1.0, 3.0, 2.0
    params = SamplingParams(grammar='root ::= "a" | "b" | "c"', top_k=1, temperature=30.0, seed=1)
    assert LlamaSampler(vocabulary, params).choose(row) == _byte("b")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 20.0])
def test_a_choice_by_a_grammar_is_the_best_of_all_allowed_tokens(
    vocabulary: LlamaVocabulary, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far down the best one is, and the first of equal ones."""
    monkeypatch.setattr(sampler_module, "_ASKED_FIRST", (2, 8))
    for seed in range(20):
        allowed = [_byte(letter) for letter in "qwerty"]
        params = SamplingParams(grammar="root ::= [qwerty]+", temperature=temperature, seed=seed)
        sampler = LlamaSampler(vocabulary, params)
        for position in range(4):
            row = np.round(_row(100 * seed + position))
            row[allowed] -= 5.0 * (seed % 5)
            row[END] = -999.0
            scores = row[allowed].astype(np.float64)
            if temperature:
                noise = gumbel(seed, position, np.array(allowed))
                scores = (row[allowed] / np.float32(temperature)).astype(np.float64) + noise
            best = min(token for token, score in zip(allowed, scores, strict=True) if score == scores.max())
            assert sampler.choose(row) == best


def test_a_grammar_that_allows_nothing_that_may_be_said(vocabulary: LlamaVocabulary) -> None:
    params = SamplingParams(grammar='root ::= "a"', logit_bias={_byte("a"): -np.inf})
    with pytest.raises(GrammarError, match="the grammar allows no token of this vocabulary here"):
        LlamaSampler(vocabulary, params).choose(_row(0))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("", "the grammar is empty"),
        (" \n\t", "the grammar is empty"),
        ('start ::= "a"', "no rule named root"),
        ("root ::= (", r"line 1, column 11: \) should be here"),
        ('root ::= "ab" bad', "there is no rule named bad"),
        ('root ::= "a" )', "line 1, column 14: the end of the line should be here, not '\\)'"),
        ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "groups within each other"),
        ('root ::= "a\0b"', "NUL at character 12"),
        ("root ::= <|nowhere|>", r"<\|nowhere\|> is not one token of this vocabulary"),
    ],
)
def test_grammars_that_are_none_are_refused_in_one_line(
    vocabulary: LlamaVocabulary, grammar: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GrammarError, match=reason) as refused:
        LlamaSampler(vocabulary, SamplingParams(grammar=grammar))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("filters", [{}, {"top_k": 300}])
def test_a_grammar_takes_no_control_token_for_its_text(vocabulary: LlamaVocabulary, filters: dict[str, Any]) -> None:
    """llama.cpp lets `<s>` fill three characters, of which an answer shows none."""
    sampler = LlamaSampler(vocabulary, SamplingParams(grammar='root ::= "\\"" .{3,9} "\\""', **filters))
    text = b""
    for seed in range(12):
        row = _row(seed)
        row[BEGIN], row[UNKNOWN] = 99.0, 98.0
        token = sampler.choose(row)
        assert token not in (BEGIN, UNKNOWN)
        if token == END:
            break
        text += vocabulary.piece(token)
    assert len(text.decode(errors="replace")) >= 5


def test_a_grammar_may_name_tokens(vocabulary: LlamaVocabulary) -> None:
    sampler = LlamaSampler(vocabulary, SamplingParams(grammar=f"root ::= <[{WORD}]> !<[{WORD}]>"))
    row = _row(0)
    row[WORD] = 99.0
    assert sampler.choose(row) == WORD
    assert sampler.choose(row) != WORD
