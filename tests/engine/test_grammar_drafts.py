"""Answers by a schema, whose grammar drafts what it leaves no choice about: the same text in fewer forward passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.backend import LlamaSampler
from edgespec.core import Sampler
from edgespec.decode.session import Session
from edgespec.drafters.grammar import GrammarDrafters
from edgespec.engine.messages import conversation
from edgespec.grammar import schema_to_grammar
from edgespec.testing import FixedPolicy, ScriptedDrafter
from tests.gguf_files import tiny_model
from tests.rounding import assert_same_choices

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Grace", "Alan"]}, "age": {"type": "integer"}, "email": {"type": "null"}},
    "required": ["name", "age", "email"],
}
PROMPT = "Invent a person, as JSON."
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


def fixed(engine: Engine, grammar: str | None) -> FixedPolicy:
    """Always drafts what the grammar says, in any answer that obeys it; None: drafts nothing."""
    if grammar is None:
        return FixedPolicy(ScriptedDrafter(lambda tokens, limit: ()), 16)
    return FixedPolicy(GrammarDrafters(engine.model.vocabulary).drafter(grammar), 16)


def answered(engine: Engine, sampling: SamplingParams, *, drafting: bool) -> Session:
    before = engine.policy
    engine.policy = fixed(engine, sampling.grammar if drafting else None)
    engine.context.forget()
    try:
        return engine.generate(PROMPT, sampling=sampling, max_tokens=60)
    finally:
        engine.policy = before


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("tiny")
    path = tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=folder) as engine:
        yield engine


def test_the_engine_drafts_by_the_grammar_of_each_answer(tiny: Engine) -> None:
    tiny.latency.measure(dict.fromkeys(range(1, tiny.latency.rows + 1), 0.01))
    sampling = SamplingParams(grammar='root ::= "the only answer" | "two"', seed=1)
    answer = tiny.generate(PROMPT, sampling=sampling, max_tokens=40, explain=True)
    assert answer.tally.drafters["grammar"].accepted > 0
    tiny.drafting = False
    plain = tiny.generate(PROMPT, sampling=sampling, max_tokens=40)
    tiny.drafting = True
    assert plain.emitted == answer.emitted
    assert not plain.tally.drafters
    blocks = tiny.stream(PROMPT, sampling=SamplingParams(), max_tokens=10, explain=True).stream()
    assert not any("grammar" in reason for block in blocks for reason in block.reasons), "without a grammar, nobody"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_text_is_the_plain_one(tiny: Engine, temperature: float, seed: int) -> None:
    sampling = SamplingParams(temperature=temperature, seed=seed, grammar=schema_to_grammar(PERSON))
    drafted = answered(tiny, sampling, drafting=True)
    plain = answered(tiny, sampling, drafting=False)
    assert_same(tiny, plain, drafted, sampling)
    assert drafted.tally.accepted > 0 and drafted.tally.blocks < plain.tally.blocks


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with edgespec.load(smollm2, n_ctx=512, cache_dir=tmp_path_factory.mktemp("cache")) as engine:
        yield engine


@pytest.mark.model
@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0.9, seed=5)], ids=["greedy", "seed"]
)
def test_a_real_model_says_what_it_would_say_in_fewer_passes(engine: Engine, sampling: SamplingParams) -> None:
    sampling = SamplingParams(temperature=sampling.temperature, seed=sampling.seed, grammar=schema_to_grammar(PERSON))
    drafted = answered(engine, sampling, drafting=True)
    plain = answered(engine, sampling, drafting=False)
    assert_same(engine, plain, drafted, sampling)
    assert drafted.finish_reason == "stop" and set(json.loads(drafted.text)) == set(PERSON["properties"])
    assert drafted.tally.mean_block_length > 1.5
    assert drafted.tally.accepted > 8


def assert_same(engine: Engine, plain: Session, drafted: Session, sampling: SamplingParams) -> None:
    """The answers are equal, but for rounding."""
    prompt = engine.tokenize(engine.model.render(conversation(PROMPT, None)))
    vocabulary = engine.model.vocabulary

    def sampler_after(tokens: list[int]) -> Sampler:
        sampler = LlamaSampler(vocabulary, sampling, history=prompt, position=len(prompt))
        for token in tokens[len(prompt) :]:
            row = np.full(vocabulary.size, -np.inf, np.float32)
            row[token] = 0.0
            assert sampler.choose(row) == token
        return sampler

    assert_same_choices(engine.context, prompt, plain.emitted, drafted.emitted, sampler_after)
