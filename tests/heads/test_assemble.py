"""Heads that can run: nothing hostile is assembled, and a full disk leaves nothing behind."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgespec.errors import EdgespecError, InvalidRequest, MalformedModel, OutputError
from edgespec.gguf.validate import read_header
from edgespec.heads import assemble as assembling
from edgespec.heads.assemble import assemble
from edgespec.heads.format import Belongs, read_heads, write_heads
from tests.gguf_files import tiny_model
from tests.heads.learned import KINDS, heads_files, random_heads

KEPT = np.arange(0, 300, 3, dtype=np.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["missing", "vector", "narrow", "integers"])
def test_tensors_that_are_not_those_of_the_kind(kind: str, harm: str, tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    spec, weights = random_heads(kind, Belongs.of(header), KEPT, layers=(0, 1, 1))
    for name in sorted(weights):
        harmed: dict[str, Any] = dict(weights)
        if harm == "missing":
            del harmed[name]
        elif harm == "vector":
            harmed[name] = np.ones(7, np.float32)
        elif harm == "narrow":
            harmed[name] = weights[name][: len(weights[name]) // 2]
        else:
            harmed[name] = np.ones((3, 5, 7), np.float32)[0]
        with (tmp_path / "h.gguf").open("wb") as file:
            write_heads(file, spec, harmed, KEPT, "f32")
        with pytest.raises(MalformedModel, match=r"h\.gguf: .*") as error:
            assemble(read_heads(tmp_path / "h.gguf"), header, tmp_path / "out.gguf")
        assert name in str(error.value) and "\n" not in str(error.value)
        assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (5, 32)])
def test_a_tensor_of_another_kind_of_heads(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    spec, weights = random_heads(kind, Belongs.of(header), KEPT, layers=(0, 1, 1))
    name = "heads.0.output.weight" if kind == "eagle3" else "lm_head.weight"
    with (tmp_path / "h.gguf").open("wb") as file:
        write_heads(file, spec, {**weights, name: np.ones(shape, np.float32)}, KEPT, "f32")
    with pytest.raises(MalformedModel, match=rf"h\.gguf: {kind.removesuffix('++')} heads have no place for {name}"):
        assemble(read_heads(tmp_path / "h.gguf"), header, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("kind", ["hydra", "eagle3"])
def test_mutated_files_get_one_line_or_run(kind: str, tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    learned, _ = heads_files(tmp_path / "m.gguf", tmp_path, kind)
    data, rng, bad = learned.read_bytes(), random.Random(1), tmp_path / "bad.gguf"
    for _ in range(200):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(2500)] = rng.randrange(256)
        bad.write_bytes(mutated)
        try:
            assemble(read_heads(bad), header, tmp_path / "out.gguf")
        except EdgespecError as error:
            assert "\n" not in str(error)


def test_a_layer_of_absurd_sizes(tmp_path: Path) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    spec, weights = random_heads("eagle3", Belongs.of(header), KEPT, layers=(0, 1, 1))
    assert spec.layer is not None
    with (tmp_path / "h.gguf").open("wb") as file:
        write_heads(file, replace(spec, layer=replace(spec.layer, head_count=1 << 19)), weights, KEPT, "f32")
    with pytest.raises(MalformedModel, match="attn_q"):
        assemble(read_heads(tmp_path / "h.gguf"), header, tmp_path / "out.gguf")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(tiny_model(tmp_path / "m.gguf"))
    learned, out = heads_files(tmp_path / "m.gguf", tmp_path, "medusa")
    before = sorted(tmp_path.iterdir()), out.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assembling, "write_gguf", full)
    with pytest.raises(OutputError, match=r"medusa\.gguf: cannot be written: No space left"):
        assemble(read_heads(learned), header, out)
    assert before == (sorted(tmp_path.iterdir()), out.read_bytes())
    with pytest.raises(InvalidRequest, match="type 'q9': choose"):
        assemble(read_heads(learned), header, out, "q9")
