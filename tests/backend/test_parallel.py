"""Many answers at once: each is the model's own, comes once, and is as long as it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgespec.backend import LlamaContext, LlamaModel, ParallelContext, evaluate_together, shared_contexts
from edgespec.core import NOTHING, Row
from edgespec.errors import InvalidRequest
from tests.gguf_files import tiny_model

N_CTX, SLOTS, END = 48, 3, 2
PROMPTS = [(f"p{place}", [5 + place * 7 + n for n in range(length)]) for place, length in enumerate([1, 9, 30, 4, 17])]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    return LlamaModel(tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"), gpu_layers=0)


@pytest.fixture(scope="module")
def parallel(model: LlamaModel) -> Iterator[ParallelContext]:
    context = ParallelContext(model, slots=SLOTS, n_ctx=N_CTX, threads=1)
    yield context
    context.close()


def _likeliest(key: str, row: Row, position: int) -> int:
    return int(row.argmax())


def _scripted(lengths: Callable[[int], bool]) -> Callable[[str, Row, int], int]:
    """Says 7, and ends at the positions that `lengths` tells."""
    return lambda key, row, position: END if lengths(position) else 7


def test_every_answer_is_the_models_own(model: LlamaModel, parallel: ParallelContext) -> None:
    """But for rounding, which depends on how many rows there are: each token is the likeliest or next to it."""
    alone = LlamaContext(model, n_ctx=128, threads=1)
    answers = dict(parallel.answers(PROMPTS, 12, _likeliest))
    assert set(answers) == {key for key, _ in PROMPTS}
    for key, prompt in PROMPTS:
        answer = answers[key]
        assert len(answer) == 12 or answer[-1] == END
        for place, token in enumerate(answer):
            row = alone.prefill([*prompt, *answer[:place]])
            assert row is not None
            assert row[token] >= row.max() - 1e-3
    alone.close()


def test_an_answer_ends_at_its_end_token_which_is_part_of_it(parallel: ParallelContext) -> None:
    answers = dict(parallel.answers([("a", [5] * 4), ("b", [5] * 6)], 30, _scripted(lambda position: position == 8)))
    assert answers == {"a": [7] * 4 + [END], "b": [7] * 2 + [END]}


def test_an_answer_of_one_token(parallel: ParallelContext) -> None:
    assert list(parallel.answers([("a", [5]), ("b", [6])], 1, _scripted(lambda position: False))) == [
        ("a", [7]),
        ("b", [7]),
    ]
    assert list(parallel.answers([("a", [5])], 9, _scripted(lambda position: True))) == [("a", [END])]


@pytest.mark.parametrize("length", [1, 20, N_CTX - 2, N_CTX - 1])
def test_an_answer_ends_where_its_context_does(parallel: ParallelContext, length: int) -> None:
    ((_, answer),) = parallel.answers([("a", [5] * length)], 1000, _scripted(lambda position: False))
    assert len(answer) == N_CTX - length


def test_an_answer_ends_where_it_is_stopped(parallel: ParallelContext) -> None:
    prompts = [("a", [5] * 4), ("b", [5] * 6)]
    answers = dict(
        parallel.answers(prompts, 30, _scripted(lambda position: position == 8), lambda answer: len(answer) > 2)
    )
    assert answers == {"a": [7] * 3, "b": [7] * 2 + [END]}


def test_the_choice_knows_whose_token_it_is(parallel: ParallelContext) -> None:
    answers = dict(parallel.answers([(9, [5]), (8, [6])], 3, lambda key, row, position: key))
    assert answers == {9: [9] * 3, 8: [8] * 3}


def test_sequences_with_cells_of_their_own_compute_the_same_and_share_none(model: LlamaModel) -> None:
    rows = []
    for apart in (True, False):
        contexts = shared_contexts(model, 3, n_ctx=N_CTX, threads=1, trees=True, apart=apart)
        assert contexts[0].trees is (not apart)
        tokens = [[5, 6, 7 + place] for place in range(3)]
        for context, prompt in zip(contexts, tokens, strict=True):
            context.prefill(prompt)
        contexts[1].forget()
        tokens[1] = [9]
        chosen = [(contexts[place], [*tokens[place], 30 + place], NOTHING) for place in (0, 1, 2)]
        rows.append(np.concatenate([evaluation.rows for evaluation in evaluate_together(chosen)]))
        if apart:
            with pytest.raises(InvalidRequest, match="cells of their own"):
                contexts[1].share_prefix(contexts[0], 2)
        contexts[0].close()
    assert np.abs(rows[0] - rows[1]).max() < 1e-2


def test_positions_count_on_from_the_prompt(parallel: ParallelContext) -> None:
    positions: list[int] = []

    def choose(key: str, row: Row, position: int) -> int:
        assert row.shape == (320,)
        positions.append(position)
        return 7

    list(parallel.answers([("a", [5] * 10)], 4, choose))
    assert positions == [10, 11, 12, 13]


def test_answers_come_as_they_are_finished_and_others_take_their_place(parallel: ParallelContext) -> None:
    begun: list[str] = []

    def prompts() -> Iterator[tuple[str, list[int]]]:
        for name, length in (("long", 5), ("short", 9), ("middle", 7), ("next", 8)):
            begun.append(name)
            yield name, [5] * length

    answers = parallel.answers(prompts(), 100, _scripted(lambda position: position == 12))
    assert [next(answers)[0] for _ in range(2)] == ["short", "middle"]
    assert begun == ["long", "short", "middle", "next"], "as soon as there is room, and no sooner"
    assert {name for name, _ in answers} == {"long", "next"}


def test_a_slot_remembers_nothing_of_who_was_there_before(model: LlamaModel) -> None:
    context = ParallelContext(model, slots=1, n_ctx=N_CTX, threads=1)
    fresh = dict(context.answers([("a", [9, 8, 7])], 10, _likeliest))
    both = dict(context.answers([("b", [30, 31, 32, 33]), ("a", [9, 8, 7])], 10, _likeliest))
    context.close()
    assert both["a"] == fresh["a"], "one row at a time rounds alike"


def test_no_prompts_no_answers(parallel: ParallelContext) -> None:
    assert list(parallel.answers([], 5, _likeliest)) == []


@pytest.mark.parametrize("length", [0, N_CTX, N_CTX + 300])
def test_a_prompt_that_does_not_fit(parallel: ParallelContext, length: int) -> None:
    with pytest.raises(InvalidRequest, match=f"a prompt of {length} tokens, where 1 to {N_CTX - 1} fit"):
        list(parallel.answers([("a", [5] * length)], 5, _likeliest))


def test_a_prompt_longer_than_one_evaluation(model: LlamaModel) -> None:
    context = ParallelContext(model, slots=1, n_ctx=400, threads=1)
    alone = LlamaContext(model, n_ctx=400, threads=1)
    prompt = [int(token) for token in np.random.default_rng(0).integers(3, 320, 300)]
    rows: list[Row] = []

    def choose(key: str, row: Row, position: int) -> int:
        rows.append(row.copy())
        return END

    list(context.answers([("a", prompt)], 1, choose))
    expected = alone.prefill(prompt)
    assert expected is not None
    assert np.allclose(rows[0], expected, atol=1e-3)
    context.close()
    alone.close()


@pytest.mark.parametrize("slots", [0, -1, 65])
def test_numbers_of_answers_that_cannot_be(model: LlamaModel, slots: int) -> None:
    with pytest.raises(InvalidRequest, match=f"slots is {slots}: it must be a whole number from 1 to 64"):
        ParallelContext(model, slots=slots, n_ctx=N_CTX, threads=1)


def test_closing_twice_is_closing_once(model: LlamaModel) -> None:
    context = ParallelContext(model, slots=1, n_ctx=N_CTX, threads=1)
    context.close()
    context.close()
