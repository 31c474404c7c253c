"""A model that drafts: it is coupled to the target, reads no more than it must, and is asked only where it pays."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec import SamplingParams, load
from edgespec.core import (
    NOTHING,
    Context,
    Draft,
    DraftCost,
    Evaluation,
    Policy,
    Row,
    SharedNoise,
    TokenSequence,
    Verdict,
)
from edgespec.decode.options import GenerationOptions
from edgespec.decode.sampling import gumbel
from edgespec.decode.session import Session
from edgespec.drafters.model import ATTENTION_SINKS, ModelDrafter, Share
from edgespec.drafters.vocab_map import MatchedVocabulary, SameVocabulary, match_texts
from edgespec.engine.drafter_set import open_drafters
from edgespec.engine.open_drafter import open_drafter
from edgespec.engine.options import Resources
from edgespec.errors import UnknownDrafter, UnsupportedModel
from edgespec.gguf.metadata import strings
from edgespec.gguf.reader import walk
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel
from edgespec.vocabtrim.counts import Counts, tokenizer_hash
from edgespec.vocabtrim.pipeline import trim
from tests.answering import Answering
from tests.gguf_files import tiny_model
from tests.present import present
from tests.rounding import assert_same_answer


def drafter_of(model: Context, kept: npt.NDArray[np.int32] | None = None, **arguments: Any) -> ModelDrafter:
    return ModelDrafter("small", model, SameVocabulary(kept), share=Share(0.2, 0.2), **arguments)


def answer(
    policy: Policy, *, seed: int = 0, temperature: float = 0.0, prompt: Sequence[int] = (1, 2, 3), count: int = 60
) -> Session:
    target = Endless(seed=1)
    sampler = KeyedSampler(seed, temperature, len(prompt))
    session = Session(target, target, sampler, policy, TokenSequence(prompt), GenerationOptions(max_tokens=count))
    for _ in session.stream():
        pass
    return session


class Endless(TableModel):
    """A table model that never ends its answer."""

    def is_end(self, token: int) -> bool:
        return False


class Kept:
    """A table model that says only some tokens, as a trimmed drafter does."""

    def __init__(self, model: TableModel, kept: npt.NDArray[np.int32]) -> None:
        self._model, self._kept = model, kept
        self.n_ctx, self.max_rows, self.trees = model.n_ctx, model.max_rows, model.trees
        self.cached = model.cached
        self.rewind, self.shift = model.rewind, model.shift
        self.prompt_states = None

    def prefill(
        self, tokens: Sequence[int], proceed: Callable[[int, int], bool] = lambda done, total: True
    ) -> Row | None:
        row = self._model.prefill(tokens, proceed)
        return None if row is None else row[self._kept]

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        evaluation = self._model.evaluate(tokens, draft)
        return replace(evaluation, rows=evaluation.rows[:, self._kept])


@pytest.mark.parametrize("temperature", [0.0, 0.8, 2.0])
def test_the_target_as_its_own_drafter_is_always_right(temperature: float) -> None:
    session = answer(FixedPolicy(drafter_of(TableModel(seed=1)), 5), seed=3, temperature=temperature)
    assert session.tally.drafted > 20
    assert session.tally.accepted == session.tally.drafted


@given(st.integers(0, 9), st.sampled_from([0.0, 0.7]), st.integers(1, 9), st.integers(1, 40), st.sampled_from([4, 64]))
@settings(max_examples=25)
def test_whatever_a_model_drafts_the_text_is_the_plain_one(
    seed: int, temperature: float, size: int, prompt_length: int, window: int
) -> None:
    prompt = [1 + (7 * place) % 31 for place in range(prompt_length)]
    plain = answer(FixedPolicy(drafter_of(TableModel(seed=2)), 0), seed=seed, temperature=temperature, prompt=prompt)
    other = drafter_of(TableModel(seed=2), window=window)
    even = np.arange(0, 32, 2, dtype=np.int32)
    near = drafter_of(Kept(TableModel(seed=1), even), even)
    for policy in (FixedPolicy(other, size), FixedPolicy(near, size), AdaptivePolicy([near], LatencyModel(64))):
        drafted = answer(policy, seed=seed, temperature=temperature, prompt=prompt)
        assert drafted.emitted == plain.emitted


def test_a_trimmed_drafter_draws_with_the_target_noise() -> None:
    kept = np.arange(1, 32, dtype=np.int32)  # all but one
    drafter = drafter_of(Kept(TableModel(seed=1), kept), kept)
    session = answer(FixedPolicy(drafter, 4), seed=5, temperature=1.0)
    wrong = session.tally.drafted - session.tally.accepted
    assert session.tally.drafted > 30 and wrong <= 4 * (1 + session.emitted.count(0))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("trimmed", [True, False])
def test_the_second_best_token_of_every_row_begins_a_side_branch(temperature: float, trimmed: bool) -> None:
    """With sampling it is the second-best with the target's noise."""
    model, ids, prompt = TableModel(seed=1), np.arange(32, dtype=np.int32), [1, 2, 3]
    drafter = drafter_of(Kept(model, ids), ids) if trimmed else drafter_of(model)
    size = iter(range(4))
    noise = SharedNoise(temperature, seed=5, position=7)
    draft = drafter.draft(prompt, 40, noise, lambda probability, bucket: next(size) < 3)
    chain, sides = draft.trunk, slice(4, None)
    assert len(chain) == 4
    checked = 0
    for token, parent, probability in zip(
        draft.tokens[sides], draft.parents[sides], draft.probabilities[sides], strict=True
    ):
        row = model.row([*prompt, *chain.tokens[: parent + 1]]).astype(np.float64)
        scores = row / temperature + gumbel(5, 7 + parent + 1, ids) if temperature else row
        assert scores.argsort()[-2:].tolist() == [token, chain.tokens[parent + 1]]
        mass = np.exp(row / (temperature or 1.0))
        assert probability == pytest.approx(mass[token] / mass.sum(), rel=1e-4)
        checked += 1
    assert checked >= 2, "those of next to no probability are left out"
    assert not set(draft.buckets[sides]) & set(chain.buckets)
    size = iter(range(4))
    assert len(drafter.draft([*prompt, 9], 5, noise, lambda probability, bucket: next(size) < 3)) == 5


def test_it_stops_when_told() -> None:
    drafter = drafter_of(TableModel(seed=1))
    asked = []

    def twice(probability: float, buckets: Hashable) -> bool:
        asked.append((probability, buckets))
        return len(asked) < 2

    assert len(drafter.draft([1, 2, 3], 9, SharedNoise(), twice).trunk) == 2
    assert all(0 < probability <= 1 for probability, _ in asked)
    assert len(drafter.propose([1, 2, 3], 9)) == 9


def test_a_long_prompt_is_read_from_near_its_end() -> None:
    model = TableModel(seed=1)
    drafter = drafter_of(model, window=32)
    tokens = [1 + place % 31 for place in range(500)]
    drafter.propose(tokens, 3)
    assert model.widths[0] == 32 + ATTENTION_SINKS
    drafter.propose([*tokens, 5, 6], 3)
    assert sum(model.widths[1:]) <= 2 + 3 + 3, "what was read stays read"


@pytest.mark.parametrize(("target_seconds", "window"), [(0.1, 64), (0.004, 40), (0.001, 24)])
def test_it_reads_as_far_back_as_is_cheap_for_the_target(target_seconds: float, window: int) -> None:
    model = TableModel(seed=1)
    drafter = drafter_of(model)
    for n in range(1, 80):
        drafter.latency.observe(n, 0.001 * (1 + 0.2 * (n - 1)))
    tokens = [1 + place % 31 for place in range(500)]
    drafter.draft_cost(tokens, target_seconds)
    drafter.propose(tokens, 3)
    assert model.widths[0] == window + ATTENTION_SINKS
    drafter.draft_cost([*tokens, 5], 1.0)
    drafter.propose([*tokens, 5], 3)
    assert sum(model.widths[1:]) <= 2 + 1 + 3, "not further back in the same text"


def test_another_conversation_is_read_anew() -> None:
    model = TableModel(seed=1)
    drafter = drafter_of(model, window=32)
    drafter.propose(list(range(1, 30)) * 3, 3)
    before = len(model.widths)
    drafter.propose(list(range(2, 31)) * 3, 3)
    assert model.widths[before] <= 32 + ATTENTION_SINKS
    drafter.propose(list(range(3, 31)) * 2, 3)  # shorter: the window_start must come back
    assert drafter._listed.window_start == 56 - 32


def test_a_context_too_small_for_the_text() -> None:
    model = TableModel(seed=1, n_ctx=64)
    drafter = drafter_of(model, window=16)
    tokens = [1]
    for place in range(200):
        tokens.append(1 + place % 31)
        assert len(drafter.propose(tokens, 4)) == 4


def test_the_price_is_guessed_then_measured() -> None:
    drafter = drafter_of(TableModel(seed=1))
    price = drafter.draft_cost([1, 2, 3], 0.1)
    assert price.next == pytest.approx(0.02) and price.first > price.next
    drafter.propose([1, 2, 3], 5)
    assert drafter.draft_cost([1, 2, 3], 0.1).next < 0.01


def poisoned(**arguments: Any) -> ModelDrafter:
    """A drafter whose cost an earlier run measured while another process had the cores."""
    cost = LatencyModel(128)
    cost.restore({"single_seconds": 5.0, "ratios": {"2": [1.7, 6]}})
    return drafter_of(TableModel(seed=1), latency=cost, **arguments)


@pytest.mark.parametrize(("times", "doubted"), [(1.8, False), (2.2, True)])
def test_a_price_is_in_doubt_from_twice_what_its_bytes_explain(times: float, doubted: bool) -> None:
    drafter = drafter_of(TableModel(seed=1))
    drafter.latency.measure({1: times * drafter.share.bytes * 0.1})
    assert (drafter.draft_cost([1, 2, 3], 0.1).remeasure is not None) == doubted


def test_a_price_in_doubt_is_checked_once() -> None:
    drafter = poisoned()
    price = drafter.draft_cost([1, 2, 3], 0.1)
    assert price.next == pytest.approx(5.0)
    present(price.remeasure)()
    price = drafter.draft_cost([1, 2, 3], 0.1)
    assert price.next < 0.1 and price.remeasure is None
    slow = drafter_of(TableModel(seed=1))
    slow.latency.measure({1: 1e-9})
    assert slow.draft_cost([1], 1e-10).remeasure is not None  # 50 times what its bytes would take
    present(slow.draft_cost([1], 1e-10).remeasure)()
    assert slow.latency.t1 == pytest.approx(1e-9)  # slower this time: that may be another process
    assert not any(slow.draft_cost([1], 1e-10).remeasure for _ in range(500))
    assert any(slow.draft_cost([1], 1e-10).remeasure for _ in range(20))


class Costly:
    """A drafter with a price tag: right with probability `right`; counts how often it is asked, and the seconds."""

    name = "costly"

    def __init__(self, start: float, token_cost: float, right: float, once: float = 0.0) -> None:
        self.asked = 0
        self.seconds = 0.0
        self._start, self._token_cost, self._right, self._once = start, token_cost, right, once
        self._rng = np.random.default_rng(0)

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        return DraftCost(self._start + (self._once if not self.asked else 0.0), self._token_cost)

    def draft(
        self, tokens: Sequence[int], limit: int, noise: SharedNoise, go_on: Callable[[float, Hashable], bool]
    ) -> Draft:
        self.seconds += self.draft_cost(tokens, 0.0).first - self._token_cost
        self.asked += 1
        draft_tokens: list[int] = []
        while len(draft_tokens) < limit:
            self.seconds += self._token_cost
            draft_tokens.append(1 if self._rng.random() < self._right else 3)
            if not go_on(0.7, "costly"):
                break
        return Draft.chain(draft_tokens, [0.7] * len(draft_tokens), ["costly"] * len(draft_tokens), self.name)

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return NOTHING

    def observe(self, evaluation: Evaluation, verdict: Verdict) -> None:
        pass


def play(drafter: Costly, blocks: int = 300, slope: float = 0.1) -> list[int]:
    """Blocks in which the target always says 1, by a clock that goes on when the drafter drafts; each draft's size."""
    cost = LatencyModel(64)
    for _ in range(5):
        for n in range(1, 33):
            cost.observe(n, 0.01 * (1 + slope * (n - 1)))
    policy = Answering(AdaptivePolicy([drafter], cost, clock=lambda: drafter.seconds))
    policy.prefilled(10, 0.05)
    sizes = []
    for _ in range(blocks):
        draft = policy.plan([1], 60)
        right = next((i for i, token in enumerate(draft.tokens) if token != 1), len(draft))
        policy.settle(draft, Verdict(tuple(range(right)), (1,) * (right + 1)), 0.01 * (1 + slope * len(draft)))
        sizes.append(len(draft))
    return sizes


def test_a_free_drafter_that_was_wrong_comes_back_while_a_model_drafts() -> None:
    drafted: list[str] = []
    free = ScriptedDrafter(lambda tokens, limit: [3 if len(drafted) < 20 else 1] * 16)
    model = Costly(start=0.002, token_cost=0.002, right=0.8)
    cost = LatencyModel(64)
    cost.measure({n: 0.01 * (1 + 0.1 * (n - 1)) for n in range(1, 33)})
    policy = Answering(AdaptivePolicy([free, model], cost, clock=lambda: model.seconds))
    policy.prefilled(10, 0.05)
    for _ in range(120):
        draft = policy.plan([1], 60)
        drafted.append(draft.drafter)
        right = next((i for i, token in enumerate(draft.tokens) if token != 1), len(draft))
        policy.settle(draft, Verdict(tuple(range(right)), (1,) * (right + 1)), 0.01 * (1 + 0.1 * len(draft)))
    assert drafted[:20].count(free.name) < 6 and model.name in drafted[:40]
    assert set(drafted[90:]) == {free.name}


def test_a_model_that_pays_is_asked_again_and_again() -> None:
    sizes = play(Costly(start=0.002, token_cost=0.002, right=0.95))
    assert sum(size > 0 for size in sizes) > 250
    assert np.mean(sizes[50:]) > 3


class Poisoned(Costly):
    """One that an earlier run measured while another process had the cores."""

    checked = 0

    def draft_cost(self, tokens: Sequence[int], target_seconds: float) -> DraftCost:
        return super().draft_cost(tokens, target_seconds) if self.checked else DraftCost(5.0, 5.0, self.check)

    def check(self) -> None:
        self.checked += 1
        self.seconds += 2 * self._token_cost


def test_a_model_that_was_measured_in_a_bad_moment_is_asked_all_the_same() -> None:
    drafter = Poisoned(start=0.002, token_cost=0.002, right=0.95)
    sizes = play(drafter)
    assert drafter.checked == 1 and sizes[0] == 0
    assert sum(size > 0 for size in sizes) > 250


def test_a_model_that_is_wrong_is_given_up() -> None:
    drafter = Costly(start=0.002, token_cost=0.002, right=0.1)
    sizes = play(drafter)
    verified = sum(0.1 * size for size in sizes)  # units of T(1), beyond plain decoding's one a block
    assert drafter.seconds / 0.01 + verified < 0.035 * 300


def test_a_model_too_slow_is_never_asked() -> None:
    drafter = Costly(start=0.01, token_cost=0.01, right=1.0)
    play(drafter)
    assert drafter.asked == 0


def test_nor_where_verifying_costs_too_much() -> None:
    drafter = Costly(start=0.003, token_cost=0.003, right=1.0)
    play(drafter, slope=0.9)
    assert drafter.asked == 0


def test_nor_where_reading_would_cost_more_than_an_answer_can_earn() -> None:
    drafter = Costly(start=0.002, token_cost=0.002, right=1.0, once=5.0)
    play(drafter)
    assert drafter.asked == 0


def test_drafters_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownDrafter, match="two drafters are called small"):
        open_drafters(["a/small.gguf", "b/small.gguf"], None, Resources(64, 1, 0, tmp_path))  # type: ignore[arg-type]


def test_a_file_called_like_a_drafter_of_ours_is_refused_beside_it(tmp_path: Path) -> None:
    with pytest.raises(UnknownDrafter, match="two drafters are called suffix"):
        open_drafters(["suffix", "b/suffix.gguf"], None, Resources(64, 1, 0, tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("trimmed", [True, False])
def test_numbers_that_ran_over_draft_nothing(temperature: float, trimmed: bool) -> None:
    model = TableModel(seed=1)
    ids = np.arange(32, dtype=np.int32)
    rows = []

    class Broken(Kept):
        def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
            rows.append(len(tokens))
            found = super().evaluate(tokens, draft)
            return found if len(rows) < 3 else replace(found, rows=found.rows * np.nan)

    drafter = drafter_of(Broken(model, ids), ids if trimmed else None)
    noise = SharedNoise(temperature=temperature, seed=1, position=3)
    draft = drafter.draft([1, 2, 3], 9, noise, lambda probability, bucket: True)
    assert len(draft) < 9 and all(0 <= probability <= 1 for probability in draft.probabilities)
    assert not len(drafter.draft([1, 2, 3, *draft.trunk.tokens, 5], 9, noise, lambda probability, bucket: True))


def test_a_temperature_of_numpy_is_one() -> None:
    drafter = drafter_of(TableModel(seed=1))
    draft = drafter.draft([1, 2], 2, SharedNoise(temperature=np.float64(0.5)), lambda probability, bucket: True)
    assert json.dumps(draft.buckets)


def test_two_tokens_are_read_together_again_after_a_busy_moment() -> None:
    model = TableModel(seed=1)
    drafter = drafter_of(model)
    for _ in range(9):
        drafter.latency.observe(1, 0.01)
    drafter.latency.observe(2, 0.5)  # once, and much too long
    tokens = [1, 2, 3]
    for _ in range(3):
        drafter.propose(tokens, 1)
        tokens += [4, 5]
    assert 2 in model.widths


def test_a_drafter_that_became_slow_within_one_draft_is_measured_again() -> None:
    drafter = drafter_of(TableModel(seed=1))
    for _ in range(9):
        drafter.latency.observe(1, 0.01)
    seconds = itertools.chain([0.0], itertools.accumulate(itertools.repeat(1.0)))
    drafter.clock = lambda: next(seconds)  # every evaluation takes a second
    drafter.propose([1, 2, 3], 9)
    assert drafter.latency.t1 > 0.02
    assert drafter.draft_cost([1, 2, 3], 0.01).remeasure is not None


texts = st.lists(st.binary(min_size=1, max_size=2), max_size=30)


@given(texts, texts)
def test_matching_is_by_text_and_both_ways(target: list[bytes], drafter: list[bytes]) -> None:
    match = match_texts(target, drafter)
    for token, place in enumerate(match.to_drafter.tolist()):
        if place >= 0:
            assert target[token] == drafter[place] and match.to_target[place] == token
        else:
            assert target.count(target[token]) > 1 or drafter.count(target[token]) != 1
    assert (match.to_drafter >= 0).sum() == (match.to_target >= 0).sum()


def test_a_token_that_the_drafter_lacks_is_read_as_its_text() -> None:
    spelled = []

    class Words:
        def piece(self, token: int) -> bytes:
            return (b"ab", b"b", b"a")[token]

        def tokenize(self, text: str) -> list[int]:
            spelled.append(text)
            return [{"a": 0, "b": 1}[letter] for letter in text]

    reader = MatchedVocabulary(match_texts([b"ab", b"b", b"a"], [b"a", b"b"]), Words(), Words())
    assert reader.read([2, 1]) == [0, 1]
    assert reader.read([0, 2]) == reader.read([0, 2]) == [0, 1, 0]
    assert spelled == ["ab"], "it is spelled once, though read for every price and draft"
    assert present(reader.row_to_target).tolist() == [2, 1]


def test_padding_does_not_make_another_vocabulary(tmp_path: Path) -> None:
    full = tiny_model(tmp_path / "full.gguf")
    counts = Counts("text", tokenizer_hash(walk(full)))
    counts.add(range(20, 60))
    small = trim(full, tmp_path / "small.gguf", [counts], size=64).path
    texts = [*map(bytes.decode, strings(walk(full), "tokenizer.ggml.tokens")), *(f"[PAD{n}]" for n in range(320, 336))]
    padded = tiny_model(tmp_path / "padded.gguf", n_vocab=336, metadata={"tokenizer.ggml.tokens": texts})
    for drafter in (small, full):
        with load(padded, n_ctx=256, drafter=str(drafter)) as engine:
            engine.policy = FixedPolicy(engine.drafters[0].drafter, 3)
            drafted = engine.session([5, 330, 7], max_tokens=12)
            plain = engine.session([5, 330, 7], max_tokens=12)
            assert [block.tokens for block in drafted.stream()]
            engine.policy = FixedPolicy(engine.drafters[0].drafter, 0)
            assert [block.tokens for block in plain.stream()]
            assert drafted.emitted == plain.emitted and drafted.tally.drafted > 0


@pytest.fixture(scope="module")
def small(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 trimmed to 8192 tokens: those of low ids."""
    counts = Counts("text", tokenizer_hash(walk(smollm2)))
    counts.add(range(20))
    return trim(smollm2, tmp_path_factory.mktemp("small") / "small.gguf", [counts], size=8192).path


@pytest.mark.model
def test_smollm2_drafts_for_itself(small: Path, tmp_path: Path) -> None:
    prompt = "List three colours and say what each one reminds you of."
    with load(n_ctx=512) as engine:
        plain = {temp: engine.generate(prompt, sampling=_sampling(temp), max_tokens=40) for temp in (0.0, 0.8)}
    with load(n_ctx=512) as engine:
        drafter = open_drafter(small, engine.model, Resources(512, 2, 0, tmp_path), window=512)
        tokens = engine.tokenize(engine.model.render([{"role": "user", "content": prompt}]))
        for temp, expected in plain.items():
            engine.policy = FixedPolicy(drafter, 4)
            drafted = engine.generate(prompt, sampling=_sampling(temp), max_tokens=40)
            assert_same_answer(engine, tokens, expected.emitted, drafted.emitted, _sampling(temp))
            assert drafted.tally.accepted / drafted.tally.drafted > 0.5
        drafter.close()
        again = open_drafter(small, engine.model, Resources(512, 2, 0, tmp_path))
        assert again.latency.known and again.latency.t1 == pytest.approx(drafter.latency.t1)
        again.close()


def _sampling(temperature: float) -> SamplingParams:
    return SamplingParams(temperature=temperature, seed=11)


@pytest.mark.model
def test_a_drafter_of_another_family_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="choose a drafter of the target's family"):
        load(n_ctx=512, drafter=str(tiny_model(tmp_path / "tiny.gguf")))
    with pytest.raises(UnsupportedModel, match="its vocabulary is another one"):
        load(tiny_model(tmp_path / "tiny.gguf"), n_ctx=128, drafter=str(small))
