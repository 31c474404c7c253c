"""From a data set to a file of heads and back, on a tiny target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgespec.errors import InvalidRequest, UnsupportedModel  # noqa: E402
from edgespec.gguf.validate import Header, read_header  # noqa: E402
from edgespec.heads.dataset import HeadData  # noqa: E402
from edgespec.heads.format import Belongs, read_heads  # noqa: E402
from edgespec.heads.learned import module_of  # noqa: E402
from edgespec.heads.pipeline import Order, chosen_tokens, evaluate, read_answers, states_for, train  # noqa: E402
from edgespec.heads.start import KINDS, shape_of, started  # noqa: E402
from edgespec.heads.target import TargetWeights  # noqa: E402
from edgespec.heads.train import Training  # noqa: E402
from edgespec.vocabtrim.keep_list import KeepList  # noqa: E402
from tests.gguf_files import N_EMBD, tiny_model  # noqa: E402
from tests.heads.data_set import N_VOCAB, write_data  # noqa: E402

ORDER = Order("medusa", Training(epochs=2, learning_rate=1e-2, batch=128), size=64, count=2)


@pytest.fixture
def target(tmp_path: Path) -> Header:
    return read_header(tiny_model(tmp_path / "target.gguf"))


@pytest.fixture
def data(tmp_path: Path, target: Header) -> HeadData:
    return write_data(tmp_path / "data", target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored_as", ["q8_0", "f16"])
def test_what_is_measured_is_what_the_file_holds(
    kind: str, stored_as: str, data: HeadData, target: Header, tmp_path: Path
) -> None:
    out = tmp_path / "heads.gguf"
    history, measured = train(data, target, replace(ORDER, kind=kind, stored_as=stored_as), out)
    heads = read_heads(out)
    assert len(history) == 2 and not out.with_name("heads.gguf.checkpoint").exists()
    assert evaluate(data, target, heads) == measured
    assert heads.spec.kind == kind.removesuffix("++") and heads.spec.depth == (4 if kind == "hydra++" else 1)
    assert heads.spec.states == ((0, 1) if kind == "eagle3" else ()) and len(heads.kept_ids) == 64
    assert heads.spec.provenance["held_out"] == measured.as_json()
    assert not heads.assembled


def test_training_goes_on_from_other_heads(data: HeadData, target: Header, tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    train(data, target, replace(ORDER, stored_as="f32"), first)
    gentle = Training(epochs=1, learning_rate=1e-9, batch=128, weight_decay=0.0)
    train(data, target, replace(ORDER, training=gentle, start=read_heads(first), stored_as="f32"), second)
    before, after = (module_of(read_heads(path)).state_dict() for path in (first, second))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-6)
    with pytest.raises(UnsupportedModel, match="choose the same kind"):
        train(data, target, replace(ORDER, kind="hydra", start=read_heads(first)), tmp_path / "third.gguf")


def test_a_run_is_repeated_to_the_bit(data: HeadData, target: Header, tmp_path: Path) -> None:
    files = [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    for out in files:
        train(data, target, ORDER, out)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_answers_that_loop_are_neither_trained_nor_held_out(data: HeadData, target: Header) -> None:
    kept = chosen_tokens(data, target, 64)
    answers = read_answers(data, ["last"], kept, N_VOCAB, None)
    assert not any(example.looping for example in (*answers.train, *answers.held_out))
    assert all(example.looping for example in answers.looping)
    assert not {one.prompt for one in answers.train} & {one.prompt for one in answers.held_out}


def test_the_kept_tokens_are_frequent_ones_and_ends(data: HeadData, target: Header) -> None:
    kept = set(chosen_tokens(data, target, 64).tolist())
    answered = {int(token) for answer in data for token in answer.tokens[answer.is_answer]}
    assert answered <= kept and 2 in kept
    listed = KeepList("", np.array([300, 301, 302, *range(300)], np.int32), {})
    assert {300, 301, 302} <= set(chosen_tokens(data, target, 64, listed).tolist())
    assert len(chosen_tokens(data, target, 10**6)) == N_VOCAB


def test_answers_of_another_model_are_refused(data: HeadData, tmp_path: Path) -> None:
    other = read_header(tiny_model(tmp_path / "other.gguf", n_vocab=330))
    out = tmp_path / "heads.gguf"
    train(data, read_header(tmp_path / "target.gguf"), ORDER, out)
    data.header["target"]["target_hash"] = "another"
    with pytest.raises(InvalidRequest, match="answers of tiny, which is another model"):
        train(data, other, ORDER, tmp_path / "more.gguf")
    data.header["target"]["target_hash"] = Belongs.of(other).fingerprint
    with pytest.raises(UnsupportedModel, match="heads for a vocabulary of 320"):
        evaluate(data, other, read_heads(out))
    assert not (tmp_path / "more.gguf").exists()


def test_states_that_were_not_collected_are_refused(data: HeadData) -> None:
    assert states_for("eagle3", data) == ["layer.0", "layer.1"]
    data.header["states"] = ["last"]
    assert states_for("eagle3", data) == ["last"]
    data.header["states"] = ["layer.0"]
    with pytest.raises(InvalidRequest, match="medusa reads the last state"):
        states_for("medusa", data)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_eagle3_starts_as_the_targets_last_layer(architecture: str, tmp_path: Path) -> None:
    weights = TargetWeights(read_header(tiny_model(tmp_path / "target.gguf", architecture=architecture)))
    module: Any = started(shape_of("eagle3", weights, (0, 1), 2), weights, 0)
    layer = module.blk[0]
    for name in ("attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_norm"):
        np.testing.assert_array_equal(getattr(layer, name).weight.detach().numpy(), weights.last_layer(name))
    queries = layer.attn_q.weight.detach().numpy()[:, N_EMBD:]
    np.testing.assert_array_equal(queries, weights.last_layer("attn_q"))
    states = torch.randn(3, 2 * N_EMBD)
    torch.testing.assert_close(module.fc(states), states[:, N_EMBD:])


def test_pairs_become_neighbours(tmp_path: Path) -> None:
    """Rows i and i + half of a head, which qwen2 turns together, come to stand beside each other."""
    weights = TargetWeights(read_header(tiny_model(tmp_path / "target.gguf", architecture="qwen2")))
    found, raw = weights.last_layer("attn_k"), weights._rows("blk.1.attn_k.weight", range(16), "")
    assert found is not None
    turned = found.reshape(2, 8, N_EMBD)
    half = raw.reshape(2, 8, N_EMBD)
    np.testing.assert_array_equal(turned[:, 0::2], half[:, :4])
    np.testing.assert_array_equal(turned[:, 1::2], half[:, 4:])


def test_a_file_with_other_tensors_has_no_module(data: HeadData, target: Header, tmp_path: Path) -> None:
    out = tmp_path / "heads.gguf"
    train(data, target, ORDER, out)
    heads = read_heads(out)
    del heads.tensors["heads.1.0.bias"]
    with pytest.raises(UnsupportedModel, match="not those of edgespec heads train"):
        module_of(heads)
