"""Heads files: what is written is read back, and nothing that is torn, hostile or of another target gets through."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgespec.backend.ggml import TYPES, dequantize_rows
from edgespec.backend.head_graph import PrefixShape
from edgespec.errors import EdgespecError, MalformedModel, UnsupportedModel
from edgespec.gguf.validate import read_header
from edgespec.heads.format import Belongs, HeadsSpec, read_heads, write_heads
from tests.gguf_files import tiny_model

KEPT = np.array([0, 3, 7, 11], np.int64)


def spec_of(model: Path, **changes: Any) -> HeadsSpec:
    target = Belongs.of(read_header(model))
    layer = PrefixShape(4, 2, 16, 96, 10000.0, 1e-5)
    return replace(HeadsSpec("hydra", target, 2, 1, (0, 1), layer, {"tokens": 5}), **changes)


def written(path: Path, spec: HeadsSpec, kind: str = "q8_0") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    weights = {
        "heads.0.0.weight": rng.standard_normal((32, 64)).astype(np.float32),
        "heads.0.0.bias": rng.standard_normal(32).astype(np.float32),
        "odd": rng.standard_normal((3, 5)).astype(np.float32),
    }
    with path.open("wb") as file:
        write_heads(file, spec, weights, KEPT, kind)
    return weights


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    spec = spec_of(tiny_model(tmp_path / "m.gguf"))
    weights = written(tmp_path / "h.gguf", spec, kind)
    heads = read_heads(tmp_path / "h.gguf")
    assert replace(heads.spec, layer=None) == replace(spec, layer=None) and heads.kept_ids.tolist() == KEPT.tolist()
    assert heads.spec.layer == pytest.approx(spec.layer) or heads.spec.layer is not None
    assert not heads.assembled
    for name, values in weights.items():
        weight = heads.tensors[name].check(name, *values.shape)
        rows = values.reshape(-1, values.shape[-1])
        back = dequantize_rows(bytes(weight.data), weight.kind, *rows.shape).reshape(values.shape)
        assert np.abs(back - values).max() <= (0.7 if kind == "q4_0" else 0.05)
    assert heads.tensors["odd"].kind == (TYPES["f32"] if kind == "f32" else TYPES["f16"])


def test_another_program_reads_the_file(tmp_path: Path) -> None:
    written(tmp_path / "h.gguf", spec_of(tiny_model(tmp_path / "m.gguf")))
    reader = gguf.GGUFReader(tmp_path / "h.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["d2t"].data.tolist() == KEPT.tolist()
    assert tensors["heads.0.0.weight"].shape.tolist() == [64, 32]
    assert reader.fields["edgespec.heads.states"].contents() == [0, 1]


def test_heads_belong_to_their_target_in_every_quantization(tmp_path: Path) -> None:
    model = read_header(tiny_model(tmp_path / "m.gguf"))
    spec = spec_of(tmp_path / "m.gguf")
    spec.check(model)
    for change, reason in (
        ({"hidden_size": 33}, "heads for a hidden size of 33, and m.gguf has"),
        ({"layers": 99}, "heads for a number of layers of 99"),
        ({"n_vocab": 7}, "heads for a vocabulary of 7"),
        ({"architecture": "qwen2"}, "heads for an architecture of qwen2"),
        ({"tokenizer": "0"}, "shaped like m.gguf and has another tokenizer"),
        ({"fingerprint": "0"}, "shaped like m.gguf and has other weights"),
    ):
        with pytest.raises(UnsupportedModel, match=reason):
            replace(spec, target=replace(spec.target, **change)).check(model)


def test_a_target_that_nothing_identifies_has_no_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_header(tiny_model(tmp_path / "m.gguf"))
    spec = spec_of(tmp_path / "m.gguf")
    monkeypatch.setattr("edgespec.heads.format.F32", 1)  # as if all norms had another type
    with pytest.raises(UnsupportedModel, match=r"m\.gguf has no 32-bit norms"):
        spec.check(model)


def test_a_model_is_no_heads_file(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'llama' is no file of heads"):
        read_heads(tiny_model(tmp_path / "m.gguf"))


def test_torn_and_mutated_files_get_one_line(tmp_path: Path) -> None:
    path, torn = tmp_path / "h.gguf", tmp_path / "torn.gguf"
    written(path, spec_of(tiny_model(tmp_path / "m.gguf")))
    data = path.read_bytes()
    for size in (0, 3, 30, len(data) // 2, len(data) - 40):
        torn.write_bytes(data[:size])
        with pytest.raises(EdgespecError, match=r"torn\.gguf: ") as error:
            read_heads(torn)
        assert "\n" not in str(error.value)
    rng = random.Random(5)
    for _ in range(400):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(min(len(data), 2500))] = rng.randrange(256)
        torn.write_bytes(mutated)
        try:
            heads = read_heads(torn)
        except EdgespecError as error:
            assert "\n" not in str(error)
        else:
            assert all(len(bytes(weight.data)) for weight in heads.tensors.values())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "other"}, "heads of the kind 'other'"),
        ({"count": 0}, "edgespec.heads.count is 0: it must be from 1"),
        ({"states": (5000,)}, re.escape("reads the states of layers (5000,)")),
        ({"layer": PrefixShape(4, 2, 16, 96, -1.0, 1e-5)}, "a layer with -1.0 as rope_theta"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    written(tmp_path / "h.gguf", spec_of(tiny_model(tmp_path / "m.gguf"), **changes))
    with pytest.raises((MalformedModel, UnsupportedModel), match=reason):
        read_heads(tmp_path / "h.gguf")


@pytest.mark.parametrize("kept", [[], [3, 3], [4, 2], [-1, 2], [0, 10**6]])
def test_a_list_of_kept_tokens_that_is_none(tmp_path: Path, kept: list[int]) -> None:
    with (tmp_path / "h.gguf").open("wb") as file:
        write_heads(file, spec_of(tiny_model(tmp_path / "m.gguf")), {}, np.array(kept, np.int64))
    with pytest.raises(MalformedModel, match="its list d2t"):
        read_heads(tmp_path / "h.gguf")
