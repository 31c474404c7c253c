"""Hidden states: those of a draft, a prefill and several sequences are the ones of each token alone; no ask aborts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import (
    HiddenStates,
    LlamaContext,
    LlamaModel,
    evaluate_together,
    hidden,
    native,
    published_layers,
    shared_contexts,
    states_of,
)
from edgespec.core import MAX_ROWS, NOTHING, ROOT, Draft, Row, TokenSequence
from edgespec.errors import EvaluationError, InvalidRequest, UnsupportedModel
from tests.backend.test_sequences import path_to, trees
from tests.gguf_files import N_BLOCKS, N_EMBD, tiny_model
from tests.present import present

N_CTX = 256
NOISE = 0.02
"""More than rounding moves a state of the tiny model, and less than another token does."""
ALL = HiddenStates(layers=(1, 0), last=True)
CHOICES = [HiddenStates(last=True), HiddenStates(layers=(1,)), ALL]
LISTED = llama_cpp.__version__ == hidden._VERSION
needs_layers = pytest.mark.skipif(not LISTED, reason="the architectures of this llama.cpp are not listed yet")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(path, gpu_layers=0)
    yield model
    model.close()


@pytest.fixture(scope="module")
def alone(model: LlamaModel) -> Iterator[LlamaContext]:
    """A context that evaluates one token at a time, and collects all states."""
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    context.collect_hidden(ALL if LISTED else HiddenStates(last=True))
    yield context
    context.close()


def width(states: HiddenStates) -> int:
    return N_EMBD * (len(states.layers) + states.last)


def picked(states: HiddenStates, vectors: Row) -> Row:
    """What `states` names of vectors that have those of ALL."""
    parts = [(0, 1)[layer == 0] for layer in states.layers] + [len(ALL.layers)] * states.last
    return np.concatenate([vectors[..., N_EMBD * part : N_EMBD * (part + 1)] for part in parts], axis=-1)


def after(alone: LlamaContext, tokens: Sequence[int], states: HiddenStates) -> Row:
    """The states of the last of `tokens`, each evaluated in a pass of its own."""
    for end in range(alone.cached(tokens[:-1]) + 1, len(tokens) + 1):
        vectors = present(alone.evaluate(tokens[:end], NOTHING).hidden)[0]
    return picked(states, vectors) if LISTED else vectors


@needs_layers
@pytest.mark.parametrize("states", CHOICES, ids=str)
@given(data=st.data())
@settings(max_examples=15)
def test_states_of_trees_in_several_sequences_are_those_of_each_path(
    model: LlamaModel, alone: LlamaContext, states: HiddenStates, data: st.DataObject
) -> None:
    contexts = shared_contexts(model, data.draw(st.integers(1, 3)), n_ctx=N_CTX, threads=1, trees=True)
    contexts[0].collect_hidden(states)
    token = st.integers(3, 60)
    sequences = [TokenSequence(data.draw(st.lists(token, min_size=1, max_size=9))) for _ in contexts]
    for _ in range(data.draw(st.integers(1, 3))):
        drafts = [data.draw(trees(12)) for _ in contexts]
        evaluations = evaluate_together(list(zip(contexts, sequences, drafts, strict=True)))
        for evaluation, sequence, draft in zip(evaluations, sequences, drafts, strict=True):
            vectors = present(evaluation.hidden)
            assert vectors.shape == (1 + len(draft), width(states)) and vectors.dtype == np.float32
            for node in range(ROOT, len(draft)):
                tokens = [*sequence, *path_to(draft, node)]
                expected = after(alone, tokens, states)
                assert np.abs(vectors[node + 1] - expected).max() < NOISE, f"node {node}"
                row = alone.evaluate(tokens, NOTHING).rows[0]
                assert np.abs(evaluation.rows[node + 1] - row).max() < NOISE, f"logits of node {node}"
            node = data.draw(st.integers(ROOT, len(draft) - 1)) if len(draft) else ROOT
            sequence.extend([*path_to(draft, node), data.draw(token)])
    contexts[0].close()


@pytest.mark.parametrize("states", [HiddenStates(last=True), pytest.param(ALL, marks=needs_layers)], ids=str)
def test_states_of_a_prefill_are_those_of_each_token(
    model: LlamaModel, alone: LlamaContext, states: HiddenStates
) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    tokens = [3 + number * 7 % 50 for number in range(201)]
    expected = np.stack([after(alone, tokens[:end], states) for end in range(1, len(tokens) + 1)])
    got: dict[int, Row] = {}
    context.collect_hidden(states, lambda begin, vectors: got.update({begin: vectors}))
    row = present(context.prefill(tokens)).copy()
    assert np.abs(row - alone.evaluate(tokens, NOTHING).rows[0]).max() < NOISE
    assert [begin + len(vectors) for begin, vectors in got.items()] == [*list(got)[1:], len(tokens)], "no gaps"
    assert np.abs(np.concatenate([*got.values()]) - expected).max() < NOISE

    got.clear()
    present(context.prefill([*tokens[:150], 60, 61]))
    assert list(got) == [150] and got[150].shape == (2, width(states)), "what is cached has none"
    got.clear()
    context.evaluate([*tokens[:100], 60, 61, 62], NOTHING)
    assert list(got) == [100] and len(got[100]) == 2, "the last token's come with the evaluation"

    context.forget()
    got.clear()
    context.collect_hidden(states, lambda begin, vectors: got.update({begin: vectors}), tail=10)
    context.prefill(tokens)
    assert next(iter(got)) == 128 and sum(map(len, got.values())) == len(tokens) - 128, "the chunks of the tail"
    got.clear()
    context.collect_hidden(states)
    context.forget()
    context.prefill(tokens)
    assert not got
    context.close()


@pytest.mark.parametrize("states", [HiddenStates(last=True), pytest.param(ALL, marks=needs_layers)], ids=str)
def test_tokens_that_are_evaluated_again_find_room(
    model: LlamaModel, alone: LlamaContext, states: HiddenStates
) -> None:
    """Rows of all tokens of a pass may be more than llama.cpp has room for: it would end the process."""
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    context.collect_hidden(states)
    side = list(range(10, 50))
    tree = Draft((9, *side), (ROOT, ROOT, *range(1, 40)), (0.5,) * 41, (0,) * 41, "test")
    for size in (5, 30, MAX_ROWS - 1):
        context.forget()
        context.evaluate([5, 6], tree)
        tokens = [5, 6, *side, 7]
        chain = Draft.chain([3 + number for number in range(size)], [0.5] * size, [0] * size, "test")
        evaluation = context.evaluate(tokens, chain)
        assert evaluation.reevaluated == (0 if states.last and size > 20 else len(side))
        vectors = present(evaluation.hidden)
        assert vectors.shape == (1 + size, width(states))
        for row in (0, 1, size):
            path = [*tokens, *chain.tokens[:row]]
            assert np.abs(vectors[row] - after(alone, path, states)).max() < NOISE
            assert np.abs(evaluation.rows[row] - alone.evaluate(path, NOTHING).rows[0]).max() < NOISE
    context.close()


@pytest.mark.parametrize("states", [HiddenStates(last=True), pytest.param(ALL, marks=needs_layers)], ids=str)
def test_collecting_leaves_the_bits_of_logits_as_they_are(model: LlamaModel, states: HiddenStates) -> None:
    draft = Draft((10, 11, 12, 13), (ROOT, ROOT, 0, 2), (0.5,) * 4, (0,) * 4, "test")

    def rows(context: LlamaContext) -> list[Row]:
        context.forget()
        prompt = present(context.prefill([3 + number % 50 for number in range(180)])).copy()
        evaluations = [context.evaluate([5, 6], NOTHING), context.evaluate([5, 6, 7], draft)]
        assert all((evaluation.hidden is not None) == collects for evaluation in evaluations)
        return [prompt, *(evaluation.rows.copy() for evaluation in evaluations)]

    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    collects = False
    plain = rows(context)
    for wanted in (states, None, states, HiddenStates(last=True), None):
        context.collect_hidden(wanted)
        collects = wanted is not None
        for before, now in zip(plain, rows(context), strict=True):
            assert np.array_equal(before, now), wanted
    context.close()


def test_failures_leave_true_states(model: LlamaModel, alone: LlamaContext, monkeypatch: pytest.MonkeyPatch) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1, trees=True)
    states = HiddenStates(last=True)

    def refuse(*_: Any) -> None:
        raise EvaluationError("no")

    context.collect_hidden(states, refuse)
    tokens = [3 + number % 50 for number in range(100)]
    with pytest.raises(EvaluationError):
        context.prefill(tokens)
    context.collect_hidden(states)
    with monkeypatch.context() as broken:
        broken.setattr(native, "decode", refuse)
        with pytest.raises(EvaluationError):
            context.evaluate(tokens, NOTHING)
    for draft in (NOTHING, Draft((10, 11), (ROOT, ROOT), (0.5,) * 2, (0,) * 2, "test")):
        vectors = present(context.evaluate(tokens, draft).hidden)
        expected = after(alone, tokens, states)
        assert np.abs(vectors[0] - expected).max() < NOISE
    context.close()


def output_matrix(path: Path) -> Row:
    """The rows of the output layer: those of the embeddings where it has none."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensor = tensors.get("output.weight", tensors["token_embd.weight"])
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen2vl", "qwen3", "gemma", "gemma3"])
def test_the_last_state_gives_the_logits(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", architecture=architecture, tied=architecture == "gemma")
    model = LlamaModel(path, gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    assert states_of(model, (1,)) == (HiddenStates((1,)) if published_layers(model) else HiddenStates(last=True))
    context.collect_hidden(HiddenStates(last=True))
    evaluation = context.evaluate([5, 6, 7], Draft.chain([8, 9], [0.5] * 2, [0] * 2, "test"))
    assert np.allclose(present(evaluation.hidden) @ output_matrix(path).T, evaluation.rows, atol=1e-4)
    context.close()
    model.close()


@needs_layers
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_input_of_layer_0_is_the_embedding(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", architecture=architecture, tied=True)
    model = LlamaModel(path, gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    assert published_layers(model) == N_BLOCKS
    context.collect_hidden(HiddenStates(layers=(0,)))
    evaluation = context.evaluate([5, 6, 7], Draft.chain([8, 9], [0.5] * 2, [0] * 2, "test"))
    assert np.array_equal(present(evaluation.hidden), output_matrix(path)[[7, 8, 9]])
    context.close()
    model.close()


@pytest.mark.parametrize("architecture", ["qwen2", "qwen2vl", "gemma", "gemma2", "gemma3"])
def test_layers_that_would_end_the_process_are_refused(tmp_path: Path, architecture: str) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", architecture=architecture, tied=architecture.startswith("gemma"))
    model = LlamaModel(path, gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    with pytest.raises(UnsupportedModel, match=f"no layer inputs of {architecture} are .* ask for the last state"):
        context.collect_hidden(HiddenStates(layers=(0,)))
    assert context.evaluate([5], NOTHING).hidden is None
    context.close()
    model.close()


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("llama", "embedding_length_out", 2 * N_EMBD),
        ("llama", "pooling_type", 1),
        ("gemma3", "dense_2_feat_out", 8),
        ("gemma3", "dense_3_feat_out", 8),
    ],
)
def test_last_states_that_are_something_else_are_refused(
    tmp_path: Path, architecture: str, key: str, value: int
) -> None:
    """llama.cpp would return other numbers, or read past the end of a tensor, and end the process."""
    metadata = {f"{architecture}.{key}": value}
    model = LlamaModel(tiny_model(tmp_path / "tiny.gguf", architecture=architecture, metadata=metadata), gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    publishes = bool(published_layers(model))
    remedy = "ask for layer inputs" if publishes else "it has no layer inputs either"
    with pytest.raises(UnsupportedModel, match=f"pools or projects its last state; {remedy}"):
        context.collect_hidden(HiddenStates(last=True))
    if publishes:
        context.collect_hidden(HiddenStates(layers=(1,)))
        assert present(context.evaluate([5], NOTHING).hidden).shape == (1, N_EMBD)
    context.close()
    model.close()


def test_a_refused_request_leaves_the_one_before(model: LlamaModel) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    context.collect_hidden(HiddenStates(last=True))
    with pytest.raises((InvalidRequest, UnsupportedModel)):
        context.collect_hidden(HiddenStates(layers=(N_BLOCKS,)))
    assert present(context.evaluate([5], NOTHING).hidden).shape == (1, N_EMBD)
    context.close()


def test_what_cannot_be_collected_is_refused(model: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    with pytest.raises(InvalidRequest, match="no hidden states are named"):
        context.collect_hidden(HiddenStates())
    if LISTED:
        for layer in (N_BLOCKS, -1):
            with pytest.raises(InvalidRequest, match=f"layer {layer} has no input: tiny.gguf has layers 0 to 1"):
                context.collect_hidden(HiddenStates(layers=(0, layer), last=True))
    for name, value in (("_functions", lambda: None), ("_VERSION", "0.0.0")):
        with monkeypatch.context() as other:
            other.setattr(hidden, name, value)
            assert states_of(model, (1,)) == HiddenStates(last=True)
            with pytest.raises(UnsupportedModel, match="no layer inputs"):
                context.collect_hidden(HiddenStates(layers=(1,)))
            context.collect_hidden(HiddenStates(last=True))
            assert context.evaluate([5], NOTHING).hidden is not None
            context.collect_hidden(None)
    with monkeypatch.context() as other:
        other.setattr(hidden, "_STATE_OR_LOGITS", {"llama"})
        with pytest.raises(UnsupportedModel, match="no last state beside logits"):
            context.collect_hidden(HiddenStates(last=True))
    assert context.evaluate([5, 6], NOTHING).hidden is None
    context.close()
    with pytest.raises(InvalidRequest, match="closed"):
        context.collect_hidden(HiddenStates(last=True))


@pytest.mark.model
def test_states_of_a_real_model_give_its_logits(smollm2: Path) -> None:
    model = LlamaModel(smollm2, gpu_layers=0)
    context, plain = (LlamaContext(model, n_ctx=N_CTX, threads=1) for _ in range(2))
    tokens = model.vocabulary.tokenize("The river rises in the hills, and runs past the mill to the")
    layers = states_of(model, (2, 15, 27)).layers
    context.collect_hidden(HiddenStates(layers, last=True))
    draft = Draft.chain(model.vocabulary.tokenize(" sea."), [0.5] * 2, [0] * 2, "test")
    evaluation = context.evaluate(tokens, draft)
    vectors = present(evaluation.hidden)
    assert vectors.shape == (3, 576 * (len(layers) + 1)) and len(layers) == (3 if LISTED else 0)
    assert np.array_equal(evaluation.rows, plain.evaluate(tokens, draft).rows)
    product = vectors[:, -576:] @ output_matrix(smollm2).T
    assert np.abs(product - evaluation.rows).max() < 0.05 * np.abs(evaluation.rows).max(), "but for rounding to 8 bits"
    assert np.array_equal(product.argmax(axis=1), evaluation.rows.argmax(axis=1))
    context.close()
    plain.close()
    model.close()


def test_a_prefill_keeps_the_states_of_its_tail(tmp_path: Path) -> None:
    """In whole chunks, the last token's at the end; what was cached has none."""
    with_states = HiddenStates((0,)) if LISTED else HiddenStates(last=True)
    model = LlamaModel(tiny_model(tmp_path / "m.gguf"), gpu_layers=0)
    with closing(model), closing(LlamaContext(model, n_ctx=512, threads=1)) as context:
        tokens = [5 + i % 90 for i in range(300)]
        context.prefill(tokens)
        assert context.prompt_states is None
        got: dict[int, Row] = {}
        context.collect_hidden(with_states, lambda begin, vectors: got.update({begin: vectors}))
        context.forget()
        context.prefill(tokens)
        assert context.prompt_states is None
        every = np.concatenate(list(got.values()))
        context.collect_hidden(with_states, tail=10)
        context.forget()
        context.prefill(tokens)
        states = context.prompt_states
        assert states is not None and 10 <= len(states) < 300
        assert np.array_equal(states, every[-len(states) :])
        context.prefill([*tokens, 7])
        again = context.prompt_states
        assert again is not None and len(again) == 1
        context.collect_hidden(with_states, tail=0)
        context.forget()
        context.prefill(tokens)
        assert context.prompt_states is None
