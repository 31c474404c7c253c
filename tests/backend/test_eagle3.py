"""An EAGLE-3 head in llama.cpp drafts what a numpy reference drafts, and nothing ends the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import Eagle3Context, HiddenStates, LlamaContext, LlamaModel, eagle3, hidden, native
from edgespec.core import Row
from edgespec.errors import ContextOverflow, EvaluationError, InvalidRequest, MalformedModel, UnsupportedModel
from tests.gguf_files import N_EMBD, tiny_model
from tests.heads.eagle_files import SMOLLM2, Shape, random_weights, write_head
from tests.heads.eagle_reference import EagleReference

N_CTX, N_VOCAB = 256, 320
LAYERS = Shape(N_EMBD, N_EMBD, heads=4, heads_kv=2, feed_forward=64, n_kept=100)
SHAPES = {
    "llama": LAYERS,
    "qwen3": LAYERS,
    "qwen2": LAYERS._replace(state_size=16),
    "gemma3": LAYERS._replace(state_size=11),
}
LISTED = llama_cpp.__version__ == hidden._VERSION
needs_layers = pytest.mark.skipif(not LISTED, reason="the architectures of this llama.cpp are not listed yet")
pytestmark = needs_layers

EXACT: dict[str, Any] = {"kv_type": "f32", "flash_attention": "off"}
CLOSE, ROUNDED = 2e-5, 5e-3
"""How far logits of some 3 may lie from the reference's: with 32 bits throughout, and with 16-bit keys and values."""


class Target(NamedTuple):
    """A target with a head of random weights, and what a reference of it needs."""

    model: LlamaModel
    context: LlamaContext
    path: Path
    head: Path
    shape: Shape
    weights: dict[str, Any]

    def open(self, n_ctx: int = N_CTX, **settings: Any) -> Eagle3Context:
        return Eagle3Context(self.head, self.model, self.context, n_ctx=n_ctx, threads=1, **{**EXACT, **settings})

    def reference(self) -> EagleReference:
        return EagleReference(self.weights, embeddings(self.path), heads=self.shape.heads, heads_kv=self.shape.heads_kv)

    def states(self, head: Eagle3Context, tokens: Sequence[int]) -> Row:
        """The states of all tokens, as the head reads them."""
        parts: list[Row] = []
        self.context.forget()
        self.context.collect_hidden(head.states, lambda _, vectors: parts.append(vectors))
        self.context.prefill(tokens)
        self.context.collect_hidden(None)
        return np.concatenate(parts)


def embeddings(path: Path) -> Row:
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)


def filled(states: Row, shape: Shape) -> Row:
    """States as wide as the head's first matrix."""
    return np.pad(states, ((0, 0), (0, 3 * shape.state_size - states.shape[1])))


def make(folder: Path, architecture: str, **metadata: Any) -> Target:
    path = tiny_model(folder / "target.gguf", architecture=architecture)
    shape = SHAPES[architecture]
    weights = random_weights(shape, N_VOCAB)
    head = write_head(folder / "head.gguf", path, shape, weights, **metadata)
    model = LlamaModel(path, gpu_layers=0)
    return Target(model, LlamaContext(model, n_ctx=N_CTX, threads=1), path, head, shape, weights)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = make(tmp_path_factory.mktemp("eagle"), "llama")
    yield target
    target.context.close()
    target.model.close()


def drafted(head: Eagle3Context, token: int, count: int) -> tuple[list[int], list[Row]]:
    """A chain of the likeliest kept ids after `token`, with its rows."""
    rows = [head.step(token)]
    tokens = [int(head.kept_ids[rows[0].argmax()])]
    while len(rows) < count:
        rows.append(head.step(tokens[-1]))
        tokens.append(int(head.kept_ids[rows[-1].argmax()]))
    return tokens, rows


TOKENS = [3 + number * 7 % 250 for number in range(70)]


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize(
    ("settings", "tolerance"), [(EXACT, CLOSE), ({"kv_type": "f16", "flash_attention": "auto"}, ROUNDED)]
)
def test_a_chain_equals_the_reference(
    tmp_path: Path, architecture: str, settings: dict[str, Any], tolerance: float
) -> None:
    target = make(tmp_path, architecture)
    with closing(target.model), closing(target.context), closing(target.open(**settings)) as head:
        publishes = architecture in ("llama", "qwen3")
        assert head.states == (HiddenStates((0, 1, 1)) if publishes else HiddenStates(last=True))
        assert np.array_equal(head.kept_ids, target.weights["d2t"])
        states = target.states(head, TOKENS)
        assert states.shape == (len(TOKENS), head.width)
        following = [*TOKENS[1:], 300]
        expected, rows = target.reference().rows(following, filled(states, target.shape), 4)
        head.extend(following[:-1], states)
        assert head.length == len(TOKENS) - 1
        tokens, own = drafted(head, 300, 4)
        assert tokens == expected and head.length == len(TOKENS)
        assert max(np.abs(a - b).max() for a, b in zip(own, rows, strict=True)) < tolerance
        assert np.abs(rows[0] - rows[1]).max() > 0.1, "another token has another row"


@given(data=st.data())
@settings(max_examples=25)
def test_history_may_come_in_any_pieces(target: Target, data: st.DataObject) -> None:
    """Pair by pair, in pieces or at once, with drafts in between that are dropped."""
    with closing(target.open()) as head:
        count = data.draw(st.integers(1, len(TOKENS) - 1))
        states = target.states(head, TOKENS)[:count]
        head.extend(TOKENS[1:count], states)
        _, expected = drafted(head, TOKENS[count], 3)
        head.rewind(0)
        done = 0
        while done < count:
            piece = data.draw(st.integers(1, count - done))
            head.extend(TOKENS[done + 1 : done + piece], states[done : done + piece])
            assert head.length == done + piece - 1
            _, rows = drafted(head, TOKENS[done + piece], data.draw(st.integers(1, 3)) if done + piece < count else 3)
            done += piece
            assert head.length == done, "drafted tokens are no history"
        assert max(np.abs(a - b).max() for a, b in zip(rows, expected, strict=True)) < CLOSE


def test_after_a_rewind_come_the_same_bits(target: Target) -> None:
    with closing(target.open(kv_type="f16", flash_attention="auto")) as head:
        states = target.states(head, TOKENS)
        head.extend(TOKENS[1:41], states[:41])
        head.rewind(30)
        assert head.length == 30
        head.extend(TOKENS[31:41], states[30:41])
        _, expected = drafted(head, TOKENS[41], 4)
        for length in (30, 35, 100):
            head.rewind(length)
            begin = min(length, 41)
            assert head.length == begin
            head.rewind(30)
            head.extend(TOKENS[31:41], states[30:41])
            _, rows = drafted(head, TOKENS[41], 4)
            assert all(np.array_equal(a, b) for a, b in zip(rows, expected, strict=True))


def test_two_sequences_take_turns(target: Target) -> None:
    """What they share stays, the rest is cut and read again."""
    first, second = TOKENS[:40], [*TOKENS[:25], *range(100, 110)]
    with closing(target.open()) as head:
        states = {name: target.states(head, tokens) for name, tokens in (("a", first), ("b", second))}
        expected = {}
        for name, tokens in (("a", first), ("b", second)):
            head.rewind(0)
            head.extend(tokens[1:], states[name])
            expected[name] = drafted(head, 7, 3)[1]
        for name, tokens in (("a", first), ("b", second), ("a", first)):
            head.rewind(24)
            head.extend(tokens[25:], states[name][24:])
            rows = drafted(head, 7, 3)[1]
            assert max(np.abs(a - b).max() for a, b in zip(rows, expected[name], strict=True)) < CLOSE


def test_rows_follow_the_order_of_d2t(tmp_path: Path, target: Target) -> None:
    order = np.random.default_rng(1).permutation(target.shape.n_kept)
    shuffled = {
        **target.weights,
        "d2t": target.weights["d2t"][order],
        "output.weight": target.weights["output.weight"][order],
    }
    path = write_head(tmp_path / "shuffled.gguf", target.path, target.shape, shuffled)
    with closing(target.open()) as head, closing(target._replace(head=path).open()) as other:
        states = target.states(head, TOKENS[:10])
        for one in (head, other):
            one.extend(TOKENS[1:10], states)
        assert np.array_equal(head.step(5)[order], other.step(5))
        assert np.array_equal(head.kept_ids[order], other.kept_ids)


def test_a_head_may_bring_its_embeddings_and_all_rows(tmp_path: Path, target: Target) -> None:
    shape = target.shape._replace(n_kept=N_VOCAB)
    tensors = {**random_weights(shape, N_VOCAB, seed=2), "token_embd.weight": embeddings(target.path)[::-1].copy()}
    del tensors["d2t"]
    path = write_head(tmp_path / "own.gguf", target.path, shape, tensors)
    with closing(target._replace(head=path).open()) as head:
        states = target.states(head, TOKENS[:10])
        reference = EagleReference(
            {**tensors, "d2t": np.arange(N_VOCAB)}, tensors["token_embd.weight"], heads=4, heads_kv=2
        )
        expected, rows = reference.rows([*TOKENS[1:10], 300], states, 3)
        head.extend(TOKENS[1:10], states)
        tokens, own = drafted(head, 300, 3)
        assert tokens == expected and max(np.abs(a - b).max() for a, b in zip(own, rows, strict=True)) < CLOSE


def test_the_output_layer_may_be_the_targets(tmp_path: Path, target: Target) -> None:
    tensors = {key: value for key, value in target.weights.items() if key not in ("d2t", "output.weight")}
    path = write_head(tmp_path / "shared.gguf", target.path, target.shape, tensors)
    with closing(target._replace(head=path).open()) as head:
        states = target.states(head, TOKENS[:10])
        output = next(tensor for tensor in gguf.GGUFReader(target.path).tensors if tensor.name == "output.weight").data
        reference = EagleReference(
            {**tensors, "d2t": np.arange(N_VOCAB), "output.weight": output},
            embeddings(target.path),
            heads=4,
            heads_kv=2,
        )
        _, rows = reference.rows([*TOKENS[1:10], 300], states, 1)
        head.extend(TOKENS[1:10], states)
        assert np.abs(head.step(300) - rows[0]).max() < CLOSE


def test_what_makes_no_sense_is_one_line(target: Target) -> None:
    with closing(target.open(n_ctx=10)) as head:
        states = target.states(head, TOKENS[:20])
        with pytest.raises(InvalidRequest, match="extend the history first"):
            head.step(5)
        with pytest.raises(ContextOverflow, match=r"head\.gguf: 19 pairs do not fit into a history of 10: cut it"):
            head.extend(TOKENS[1:20], states)
        for tokens, rows in (
            ([5], states[:1]),
            ([], states[:2]),
            ([], states[0]),
            ([], states[:1, :-1]),
            ([], states[:0]),
        ):
            with pytest.raises(InvalidRequest, match=f"a head reads one state more, each of {head.width} numbers"):
                head.extend(tokens, rows)
        for token in (-1, N_VOCAB):
            with pytest.raises(InvalidRequest, match=f"{token} is no token of target.gguf, which has {N_VOCAB}"):
                head.extend([token], states[:2])
        with pytest.raises(InvalidRequest, match="-1 pairs"):
            head.rewind(-1)
        head.extend(TOKENS[1:9], states[:9])
        with pytest.raises(InvalidRequest, match="is no token"):
            head.step(N_VOCAB)
        head.step(5)
        head.step(5)
        with pytest.raises(ContextOverflow, match="11 pairs"):
            head.step(5)
        head.rewind(3)
        with pytest.raises(InvalidRequest, match="extend the history first"):
            head.step(5)
        head.extend(TOKENS[4:9], states[3:9])
        assert head.length == 8 and np.isfinite(head.step(5)).all()
    with pytest.raises(InvalidRequest, match=r"head\.gguf is closed, or its target is"):
        head.step(5)
    with pytest.raises(InvalidRequest, match="a history of 0 pairs"):
        target.open(n_ctx=0)


def test_a_failed_pass_leaves_a_true_history(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(target.open()) as head:
        states = target.states(head, TOKENS)
        head.extend(TOKENS[1:20], states[:20])
        expected = head.step(TOKENS[20])
        passes: list[Any] = []
        decode = native.decode

        def fail_after_one(context: Any, batch: Any) -> None:
            passes.append(batch)
            if len(passes) == 2:
                raise EvaluationError("no")
            decode(context, batch)

        with monkeypatch.context() as broken:
            broken.setattr(native, "decode", fail_after_one)
            with pytest.raises(EvaluationError):
                head.extend(TOKENS[21:69], states[20:69])
        assert head.length == 52, "the first 32"
        with pytest.raises(InvalidRequest, match="extend the history first"):
            head.step(5)
        head.rewind(19)
        head.extend([], states[19:20])
        assert np.abs(head.step(TOKENS[20]) - expected).max() < CLOSE


def test_a_closed_target_ends_its_head(tmp_path: Path) -> None:
    target = make(tmp_path, "llama")
    with closing(target.model), closing(target.open()) as head:
        states = target.states(head, TOKENS[:3])
        head.extend(TOKENS[1:3], states)
        target.context.close()
        with pytest.raises(InvalidRequest, match="or its target is"):
            head.step(5)
        with pytest.raises(InvalidRequest, match="or its target is"):
            head.extend([], states[:1])


def test_where_llama_cpp_lets_nothing_out_heads_are_refused(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eagle3, "_functions", lambda: None)
    with pytest.raises(UnsupportedModel, match="lets out no states of EAGLE-3 heads"):
        target.open()


def test_a_head_for_layers_that_a_target_does_not_give_is_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "target.gguf", architecture="qwen2")
    head = write_head(tmp_path / "head.gguf", path, LAYERS, random_weights(LAYERS, N_VOCAB))
    model = LlamaModel(path, gpu_layers=0)
    context = LlamaContext(model, n_ctx=N_CTX, threads=1)
    with closing(model), closing(context), pytest.raises(UnsupportedModel, match=r"qwen2 .* ask for the last state"):
        Eagle3Context(head, model, context, n_ctx=N_CTX)


@pytest.mark.parametrize("layers", [(0, 1, 2), (-1, 0, 1)])
def test_a_head_for_layers_beyond_the_target_is_refused(tmp_path: Path, target: Target, layers: Sequence[int]) -> None:
    path = write_head(tmp_path / "head.gguf", target.path, target.shape, target.weights, layers=layers)
    with pytest.raises(UnsupportedModel, match=r"a head for the layers .*, and target.gguf has 0 to 1"):
        target._replace(head=path).open()


def test_a_file_that_llama_cpp_refuses_is_one_line(tmp_path: Path, target: Target) -> None:
    tensors = {key: value for key, value in target.weights.items() if key != "blk.0.ffn_norm.weight"}
    path = write_head(tmp_path / "head.gguf", target.path, target.shape, tensors)
    with pytest.raises(MalformedModel, match=r"llama\.cpp cannot load it"):
        target._replace(head=path).open()


@pytest.mark.model
def test_a_chain_on_a_real_model_equals_the_reference(tmp_path: Path, smollm2: Path) -> None:
    weights = random_weights(SMOLLM2, 49152)
    path = write_head(tmp_path / "head.gguf", smollm2, SMOLLM2, weights, layers=(2, 15, 27))
    model = LlamaModel(smollm2, gpu_layers=0)
    with closing(model), closing(LlamaContext(model, n_ctx=N_CTX, threads=1)) as context:
        target = Target(model, context, smollm2, path, SMOLLM2, weights)
        tokens = model.vocabulary.tokenize("The river rises in the hills, and runs past the mill to the sea.")
        for settings, tolerance in ((EXACT, 1e-4), ({"kv_type": "f16", "flash_attention": "auto"}, 2e-2)):
            with closing(target.open(**settings)) as head:
                states = target.states(head, tokens[:-1])
                expected, rows = target.reference().rows(tokens[1:], states, 4)
                head.extend(tokens[1:-1], states)
                drafts, own = drafted(head, tokens[-1], 4)
                assert drafts == expected
                errors = [float(np.abs(a - b).max()) for a, b in zip(own, rows, strict=True)]
                assert max(errors) < tolerance, errors
