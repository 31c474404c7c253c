"""Trees and several sequences in one forward pass: rows are those of each path alone, and the cache stays true."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import LlamaContext, LlamaModel, evaluate_together, native, shared_contexts
from edgespec.backend.sequences import paths
from edgespec.core import MAX_ROWS, NOTHING, ROOT, Draft, Row, TokenSequence, Verdict
from edgespec.errors import ContextOverflow, EvaluationError, InvalidRequest
from tests.gguf_files import tiny_model
from tests.present import present

N_CTX = 192
NOISE = 0.02
"""More than rounding moves a logit of the tiny model, and less than another token does."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    return LlamaModel(tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"), gpu_layers=0)


@pytest.fixture(scope="module")
def fresh(model: LlamaModel) -> Iterator[LlamaContext]:
    """A context for what a sequence says alone."""
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    yield context
    context.close()


@st.composite
def trees(draw: st.DrawFn, most: int = 20) -> Draft:
    """Any tree: each node hangs on any node before it, with tokens that siblings do not share."""
    parents = [draw(st.integers(ROOT, index - 1)) for index in range(draw(st.integers(0, most)))]
    tokens: list[int] = []
    for index, parent in enumerate(parents):
        siblings = {tokens[other] for other in range(index) if parents[other] == parent}
        tokens.append(draw(st.sampled_from(sorted(set(range(3, 61)) - siblings))))
    count = len(parents)
    return Draft(tuple(tokens), tuple(parents), (0.5,) * count, (0,) * count, "test")


def nodes_to(draft: Draft, node: int) -> list[int]:
    nodes: list[int] = []
    while node != ROOT:
        nodes.append(node)
        node = draft.parents[node]
    return nodes[::-1]


def path_to(draft: Draft, node: int) -> list[int]:
    return [draft.tokens[place] for place in nodes_to(draft, node)]


def assert_rows(rows: Row, tokens: Sequence[int], draft: Draft, alone: LlamaContext, noise: float = NOISE) -> None:
    """Every row is what the model says after that path."""
    for node in range(ROOT, len(draft)):
        expected = present(alone.prefill([*tokens, *path_to(draft, node)]))
        assert np.abs(rows[node + 1] - expected).max() < noise, f"node {node}"


@given(draft=trees())
def test_paths_are_all_ways_from_the_root_to_a_leaf(draft: Draft) -> None:
    found = paths(draft)
    assert {node for path in found for node in path} == set(range(len(draft)))
    assert len({path[-1] for path in found}) == len(found)
    for path in found:
        assert draft.parents[path[0]] == ROOT and path[-1] not in draft.parents
        assert all(draft.parents[child] == parent for parent, child in pairwise(path))
    if found:
        assert found[0][0] == 0, "the first path begins with the first node"


@given(data=st.data())
@settings(max_examples=60)
def test_steps_with_trees_in_several_sequences_leave_true_caches(
    model: LlamaModel, fresh: LlamaContext, data: st.DataObject
) -> None:
    contexts = shared_contexts(model, data.draw(st.integers(1, 3)), n_ctx=N_CTX, threads=1, trees=True)
    token = st.integers(3, 60)
    sequences = [TokenSequence(data.draw(st.lists(token, min_size=1, max_size=9))) for _ in contexts]
    off_trunk = [0] * len(contexts)  # tokens of each that are evaluated again
    for _ in range(data.draw(st.integers(1, 6))):
        chosen = [index for index in range(len(contexts)) if data.draw(st.booleans())]
        requests = [(contexts[index], sequences[index], data.draw(trees())) for index in chosen]
        if not requests:
            continue
        evaluations = evaluate_together(requests)
        assert [evaluation.reevaluated for evaluation in evaluations] == [off_trunk[index] for index in chosen]
        rows = [evaluation.rows.copy() for evaluation in evaluations]
        for index, (context, sequence, draft), got in zip(chosen, requests, rows, strict=True):
            assert_rows(got, sequence, draft, fresh)
            before = len(sequence)
            node = data.draw(st.integers(ROOT, len(draft) - 1)) if len(draft) else ROOT
            path = path_to(draft, node)
            sequence.extend([*path, data.draw(token)])
            verdict = Verdict(tuple(nodes_to(draft, node)), tuple(path))
            off_trunk[index] = verdict.off_trunk if len(contexts) == 1 else 0
            if data.draw(st.booleans()):
                known = sequence[:-1]  # nothing drafts 62
                assert context.cached([*known, 62]) == len(known) - off_trunk[index]
            elif data.draw(st.booleans()):
                sequence.cut(data.draw(st.integers(1, before)))
                off_trunk[index] = 0
            match data.draw(st.integers(0, 9)):
                case 0:
                    context.forget()
                    off_trunk[index] = 0
                case 1:
                    context.rewind(data.draw(st.integers(0, before)))
                    off_trunk[index] = 0
                case 2:
                    contexts[index].state()
                    off_trunk[index] = 0
                case _:
                    pass
    for context, sequence in zip(contexts, sequences, strict=True):
        row = context.evaluate(sequence, NOTHING).rows[0].copy()
        assert np.abs(row - present(fresh.prefill(sequence))).max() < NOISE
        assert llama_cpp.llama_memory_seq_pos_max(context._memory, context._sequence) + 1 == len(sequence)
    taken = [path for context in contexts for path in context._branches]
    assert not taken, "all ids are free again"
    contexts[0].close()


def test_a_prefix_is_shared_without_copies(model: LlamaModel, fresh: LlamaContext) -> None:
    first, *others = shared_contexts(model, 4, n_ctx=N_CTX, threads=1, trees=True)
    prefix = list(range(3, 143))
    first.prefill(prefix)
    for index, other in enumerate(others):
        other.share_prefix(first, 130)
        assert other.cached(prefix) == 130
        tokens = [*prefix[:130], 70 + index, 5]
        assert np.abs(present(other.prefill(tokens)) - present(fresh.prefill(tokens))).max() < NOISE
    first.forget()
    tokens = [*prefix[:130], 70, 5]
    assert others[0].cached(tokens) == len(tokens), "cells stay while one sequence has them"
    with pytest.raises(InvalidRequest, match="one memory"):
        fresh.share_prefix(first, 1)
    first.close()


class Interrupted(Exception):
    pass


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Interrupted


def random_tree(rng: random.Random, size: int = 12) -> Draft:
    parents = tuple(rng.randrange(ROOT, index) for index in range(size))
    return Draft(tuple(range(10, 10 + size)), parents, (0.5,) * size, (0,) * size, "test")


def accept_and_go_on(
    contexts: Sequence[LlamaContext], sequences: Sequence[TokenSequence], drafts: Sequence[Draft], rng: random.Random
) -> None:
    """One step with drafts of which a random path is accepted, and one more for each sequence alone."""
    evaluate_together(list(zip(contexts, sequences, drafts, strict=True)))
    for sequence, draft in zip(sequences, drafts, strict=True):
        sequence.extend(path_to(draft, rng.randrange(len(draft))))
        if len(sequence) > 100:
            sequence.cut(2)
    for context, sequence in zip(contexts, sequences, strict=True):
        context.evaluate([*sequence, 7], NOTHING)


def test_interrupts_at_any_moment_leave_true_caches(model: LlamaModel, fresh: LlamaContext) -> None:
    """A signal in the middle of any line of Python: the next calls put right what is left behind."""
    contexts = shared_contexts(model, 2, n_ctx=N_CTX, threads=1, trees=True)
    rng = random.Random(4)
    interrupted = 0

    sequences = [TokenSequence([5 + index, 9]) for index in range(2)]
    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # hypothesis has a callback in there, where exceptions are lost
    try:
        for _ in range(3000):
            if interrupted >= 60:
                break
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00005, 0.002))
                    accept_and_go_on(contexts, sequences, [random_tree(rng), random_tree(rng)], rng)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
            drafts = [random_tree(rng), random_tree(rng)]
            rows = [e.rows.copy() for e in evaluate_together(list(zip(contexts, sequences, drafts, strict=True)))]
            if rng.random() < 0.1:
                for got, sequence, draft in zip(rows, sequences, drafts, strict=True):
                    assert_rows(got, sequence, draft, fresh)
    finally:
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert interrupted >= 60, "the test must interrupt to mean anything"
    contexts[0].close()


@pytest.mark.parametrize("leaf", range(ROOT, 9))
def test_an_accepted_path_leaves_the_bits_that_a_chain_leaves(model: LlamaModel, leaf: int) -> None:
    """Attention adds cells up in their order: that is the order of positions, whatever the tree was."""
    drafted, plain = (LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True) for _ in range(2))
    tree = Draft((10, 11, 12, 13, 20, 21, 22, 23, 24), (-1, 0, 1, 2, -1, 0, 5, 6, 4), (0.3,) * 9, (0,) * 9, "test")
    drafted.evaluate([5, 6], tree)
    plain.evaluate([5, 6], Draft.chain(tree.tokens, [0.5] * 9, [0] * 9, "test"))  # as wide
    nodes = nodes_to(tree, leaf)
    tokens = [5, 6, *path_to(tree, leaf), 30]
    evaluation = drafted.evaluate(tokens, NOTHING)
    assert evaluation.reevaluated == Verdict(tuple(nodes), ()).off_trunk
    assert np.array_equal(evaluation.rows[0], present(plain.prefill(tokens)))
    for token in range(31, 40):
        tokens.append(token)
        rows = [context.evaluate(tokens, NOTHING).rows[0].copy() for context in (drafted, plain)]
        assert np.array_equal(*rows)
    drafted.close()
    plain.close()


def test_a_failed_pass_leaves_true_caches(
    model: LlamaModel, fresh: LlamaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    tree = Draft((10, 11, 12, 13), (-1, -1, 0, 1), (0.5,) * 4, (0,) * 4, "test")
    context.evaluate([5, 6], tree)

    def fail(*_: Any) -> None:
        raise EvaluationError("no")

    with monkeypatch.context() as broken:
        broken.setattr(native, "decode", fail)
        with pytest.raises(EvaluationError):
            context.evaluate([5, 6, 11, 7], tree)
    assert_rows(context.evaluate([5, 6, 11, 7], tree).rows.copy(), [5, 6, 11, 7], tree, fresh)
    context.close()


def test_the_widest_and_the_deepest_trees_fit(model: LlamaModel, fresh: LlamaContext) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    size = MAX_ROWS - 1
    for parents in ([ROOT] * size, [ROOT, *range(size - 1)], [ROOT, *[0] * (size - 1)]):
        tree = Draft(tuple(range(3, 3 + size)), tuple(parents), (0.01,) * size, (0,) * size, "test")
        assert_rows(context.evaluate([5, 6], tree).rows.copy(), [5, 6], tree, fresh)
    context.close()


def test_what_cannot_be_evaluated_is_refused(model: LlamaModel) -> None:
    fork = Draft((10, 11), (-1, -1), (0.5,) * 2, (0,) * 2, "test")
    chains = LlamaContext(model, n_ctx=N_CTX, threads=1)
    assert not chains.trees
    with pytest.raises(InvalidRequest, match="test drafted a tree with branches: this context evaluates chains"):
        chains.evaluate([5], fork)
    chains.close()
    one, other = shared_contexts(model, 2, n_ctx=16, threads=1, trees=True)
    assert one.n_ctx >= 16
    full = [5] * one.n_ctx
    with pytest.raises(ContextOverflow, match="do not fit"):
        one.evaluate(full, fork)
    with pytest.raises(InvalidRequest, match="once each"):
        evaluate_together([(one, [5], fork), (one, [6], fork)])
    many = Draft.chain([7] * 40, [0.5] * 40, [0] * 40, "test")
    with pytest.raises(InvalidRequest, match="82 rows in one forward pass"):
        evaluate_together([(one, [5], many), (other, [6], many)])
    one.close()
    with pytest.raises(InvalidRequest, match="closed"):
        other.evaluate([5], fork)


@pytest.mark.parametrize("architecture", ["gemma3", "qwen2vl"])
def test_a_sliding_window_or_several_dimensions_have_no_trees(tmp_path: Path, architecture: str) -> None:
    metadata = {"gemma3.attention.sliding_window": 64} if architecture == "gemma3" else None
    path = tiny_model(tmp_path / "tiny.gguf", architecture=architecture, metadata=metadata)
    model = LlamaModel(path, gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    assert not model.can_branch and not context.trees
    context.close()
    model.close()


def test_a_closed_memory_is_left_alone_after_a_tree(model: LlamaModel) -> None:
    """llama.cpp would read freed memory."""
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    context.evaluate([5, 6, 7], Draft((8, 9), (ROOT, ROOT), (0.5, 0.4), (0, 0), "test"))
    context.close()
    with pytest.raises(InvalidRequest, match="the engine is closed"):
        context.rewind(0)
    with pytest.raises(InvalidRequest, match="the engine is closed"):
        context.prefill([5])


def test_a_shift_moves_one_sequence_of_a_memory_and_no_other(model: LlamaModel, fresh: LlamaContext) -> None:
    first, second, third = shared_contexts(model, 3, n_ctx=N_CTX, threads=1, trees=True)
    tokens, others = [5 + number % 50 for number in range(90)], [9 + number % 40 for number in range(60)]
    for context, text in ((first, tokens), (second, others), (fresh, tokens)):
        context.rewind(0)
        context.prefill(text)
        context.shift(10, 30) if text is tokens else None
    shifted = [*tokens[:10], *tokens[40:], 7]
    expected = fresh.evaluate(shifted, NOTHING).rows[0].copy()
    assert first.cached(shifted) == 60
    assert np.allclose(first.evaluate(shifted, NOTHING).rows[0], expected, atol=NOISE)
    third.share_prefix(second, 50)
    third.prefill([*others[:50], 4])
    third.shift(10, 30)
    assert third.cached([*others[:10], *others[40:50], 4]) == 10, "the cells are those of another sequence too"
    fresh.rewind(0)
    fresh.prefill(others)
    assert second.cached(others) == 60
    alone = fresh.evaluate([*others, 8], NOTHING).rows[0].copy()
    assert np.allclose(second.evaluate([*others, 8], NOTHING).rows[0], alone, atol=NOISE)
    first.close()
