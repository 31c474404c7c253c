"""Several answers at once on real llama.cpp: each is the one that its prompt gives alone, but for rounding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec import EdgespecError, SamplingParams, Session
from edgespec.engine import fit as fit_module
from edgespec.errors import ContextOverflow, InvalidRequest
from edgespec.system.memory import FreeMemory
from tests.backend.test_sequences import NOISE
from tests.gguf_files import tiny_model, tiny_recurrent
from tests.rounding import assert_same_answer

PROMPTS = [
    *(f"these words go first in all the prompts and then come others {number}" for number in range(5)),
    "something else",
]


def llama(path: Path) -> Path:
    return tiny_model(path)


def sliding(path: Path) -> Path:
    return tiny_model(path, architecture="gemma3", metadata={"gemma3.attention.sliding_window": 32})


def several_dimensions(path: Path) -> Path:
    return tiny_model(path, architecture="qwen2vl")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[edgespec.Engine]:
    with edgespec.load(llama(tmp_path / "tiny.gguf"), n_ctx=512, threads=1, cache_dir=tmp_path) as engine:
        yield engine


@pytest.mark.parametrize("make", [llama, sliding, several_dimensions, tiny_recurrent])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("parallel", [1, 4])
def test_each_answer_is_the_one_that_its_prompt_gives_alone(
    make: Callable[[Path], Path], temperature: float, parallel: int, tmp_path: Path
) -> None:
    sampling = SamplingParams(temperature=temperature, seed=3)
    with edgespec.load(make(tmp_path / "m.gguf"), n_ctx=512, threads=1, cache_dir=tmp_path) as engine:
        alone = [engine.generate(prompt, raw=True, max_tokens=50, sampling=sampling) for prompt in PROMPTS]
        together = engine.generate_many(PROMPTS, parallel=parallel, raw=True, max_tokens=50, sampling=sampling)
        assert len(together) == len(PROMPTS)
        for prompt, one, other in zip(PROMPTS, alone, together, strict=True):
            assert other.tally.prompt_tokens == one.tally.prompt_tokens
            assert_same_answer(engine, engine.tokenize(prompt), one.emitted, other.emitted, sampling, NOISE)


def test_prompts_that_begin_alike_are_read_once_as_far_as_they_do(engine: edgespec.Engine) -> None:
    answers = engine.generate_many(PROMPTS, parallel=3, raw=True, max_tokens=5)
    cached = [answer.tally.cached_tokens for answer in answers]
    assert cached[0] == 0 and min(cached[1:5]) > 20


def test_several_answers_to_a_prompt_have_seeds_that_count_up(engine: edgespec.Engine) -> None:
    def sampling(seed: int) -> SamplingParams:
        return SamplingParams(temperature=2.0, seed=seed)

    answers = engine.generate_many(PROMPTS[4:], n=3, raw=True, max_tokens=20, sampling=sampling(2**64 - 2))
    assert len(answers) == 6
    for index, answer in enumerate(answers):
        assert (answer.tally.cached_tokens == answer.tally.prompt_tokens - 1) == (index % 3 > 0)
        chosen = sampling((2**64 - 2 + index % 3) % 2**64)
        prompt = PROMPTS[4 + index // 3]
        alone = engine.generate(prompt, raw=True, max_tokens=20, sampling=chosen)
        assert_same_answer(engine, engine.tokenize(prompt), alone.emitted, answer.emitted, chosen, NOISE)


def test_the_engines_own_context_stays_as_it_is(engine: edgespec.Engine) -> None:
    begun = engine.stream("a prompt of its own", raw=True, max_tokens=30)
    for _ in range(5):
        begun.step()
    engine.generate_many(PROMPTS, raw=True, max_tokens=5)
    assert engine.context.cached(begun.tokens) == len(begun.tokens) - 1


def test_one_prompt_that_cannot_be_answered_costs_no_other_its_answer(engine: edgespec.Engine) -> None:
    prompts = ["one", "w300 " * 90, "three"]
    answers = engine.generate_many(prompts, errors="return", raw=True, max_tokens=5)
    assert isinstance(answers[1], ContextOverflow)
    for index in (0, 2):
        answer = answers[index]
        assert isinstance(answer, Session) and answer.tally.tokens > 0
    with pytest.raises(ContextOverflow, match=r"prompts\[1\]: .* the context holds 512"):
        engine.generate_many(prompts, raw=True, max_tokens=5)
    (first, error), *others = engine.generate_as_completed(prompts, raw=True, max_tokens=5)
    assert first == 1 and isinstance(error, EdgespecError)
    assert {index for index, _ in others} == {0, 2}


def test_answers_come_as_they_are_finished(tmp_path: Path) -> None:
    """Nothing is drafted: with drafts, a long answer that repeats itself may be finished before a short one."""
    never = SamplingParams(logit_bias={2: -1000.0})
    prompts = ["w300 " * 58, "short", "other"]  # the context ends the first answer
    path = llama(tmp_path / "tiny.gguf")
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=tmp_path, drafter="none") as engine:
        answers = list(engine.generate_as_completed(prompts, raw=True, max_tokens=200, sampling=never))
    assert answers[0][0] == 0 and sorted(index for index, _ in answers) == [0, 1, 2]


def test_a_full_context_shifts_as_it_does_alone(engine: edgespec.Engine) -> None:
    sampling = SamplingParams(logit_bias={2: -1000.0})
    options: dict[str, Any] = {"raw": True, "max_tokens": 300, "overflow": "shift", "sampling": sampling}
    prompts = [f"{number} " + "w300 " * 58 for number in range(3)]
    alone = [engine.generate(prompt, **options) for prompt in prompts]
    for one, other in zip(alone, engine.generate_many(prompts, **options), strict=True):
        assert (len(other.emitted), other.dropped_tokens) == (300, one.dropped_tokens) and one.dropped_tokens


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"parallel": 0}, "parallel is 0: it must be a whole number from 1 to 64"),
        ({"parallel": 65}, "parallel is 65: it must be a whole number from 1 to 64"),
        ({"n": 0}, "n is 0: it must be a whole number from 1 to 128"),
        ({"n": 10**9}, "n is 1000000000: it must be a whole number from 1 to 128"),
        ({"errors": "ignore"}, "errors is 'ignore'"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_arguments_that_cannot_be_used(engine: edgespec.Engine, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        engine.generate_many(PROMPTS, raw=True, **arguments)


@pytest.mark.parametrize("prompts", ["one text", {"role": "user"}, 3])
def test_prompts_are_a_list(engine: edgespec.Engine, prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match="it must be a list of prompts"):
        engine.generate_many(prompts)


def test_no_prompts_no_answers(engine: edgespec.Engine) -> None:
    assert engine.generate_many([]) == []


def test_where_memory_is_short_there_are_fewer_at_once(
    engine: edgespec.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine.fit is not None
    sizes = [engine.fit._one_more(total) for total in (100, 200, 300, 400)]
    monkeypatch.setattr(fit_module, "free_memory", lambda: FreeMemory(sizes[1], sizes[1]))
    assert engine.fit.at_once([100] * 4) == sum(size <= sizes[1] for size in sizes) < 4
    assert "4 answers at once take" in caplog.text
    caplog.clear()
    monkeypatch.setattr(fit_module, "free_memory", lambda: FreeMemory(10, 10))
    with caplog.at_level(logging.WARNING):
        answers = engine.generate_many(PROMPTS, raw=True, max_tokens=5)
    assert "one after the other" in caplog.text
    assert len(answers) == len(PROMPTS)


def test_an_engine_that_is_closed_ends_the_answers(tmp_path: Path) -> None:
    engine = edgespec.load(llama(tmp_path / "tiny.gguf"), n_ctx=512, threads=1, cache_dir=tmp_path)
    never = SamplingParams(logit_bias={2: -1000.0})
    answers = engine.generate_as_completed(["w300 " * 58, *PROMPTS], raw=True, max_tokens=100, sampling=never)
    next(answers)
    engine.close()
    others = [answer for _, answer in answers]
    errors = [answer for answer in others if isinstance(answer, InvalidRequest)]
    assert errors and all(answer.finished for answer in others if isinstance(answer, Session))
    assert len(others) == len(PROMPTS)


@pytest.mark.model
def test_exact_answers_come_one_after_the_other(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, exact=True, drafter="none", n_ctx=256, cache_dir=tmp_path) as engine:
        prompts = ["Name a river.", "Name a mountain."]
        alone = [engine.generate(prompt, max_tokens=12).emitted for prompt in prompts]
        engine.context.forget()
        assert [answer.emitted for answer in engine.generate_many(prompts, max_tokens=12)] == alone


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_of_a_real_model(smollm2: Path, tmp_path: Path, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=1)
    prompts = [f"Name {number} things that begin with the letter {letter}." for number, letter in enumerate("abcde", 2)]
    with edgespec.load(smollm2, n_ctx=512, cache_dir=tmp_path) as engine:
        alone = [engine.generate(prompt, max_tokens=40, sampling=sampling) for prompt in prompts]
        together = engine.generate_many(prompts, parallel=4, max_tokens=40, sampling=sampling)
        assert all(answer.tally.cached_tokens > 20 for answer in together[1:])
        for one, other in zip(alone, together, strict=True):
            prompt = one.tokens[: one.tally.prompt_tokens]
            assert_same_answer(engine, prompt, one.emitted, other.emitted, sampling, together=True)
