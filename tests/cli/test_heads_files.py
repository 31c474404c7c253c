"""`heads info`, `heads assemble` and `heads convert` as a person meets them, on tiny targets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgespec
from edgespec.backend.ggml import TYPES, dequantize_rows
from edgespec.cli import main
from edgespec.gguf.validate import read_header
from edgespec.heads.format import OUTPUT, read_heads
from edgespec.heads.target import TargetWeights
from edgespec.system import cpu
from tests.gguf_files import N_EMBD, tiny_model
from tests.heads import published
from tests.heads.eagle_files import Shape, random_weights, write_head
from tests.heads.learned import KINDS, heads_files


def heads(*arguments: object) -> Result:
    return CliRunner().invoke(main, ("heads", *map(str, arguments)))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cpu, "data_directory", lambda: tmp_path / "data")
    return tiny_model(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_part_becomes_heads_that_draft(kind: str, model: Path, tmp_path: Path) -> None:
    learned, _ = heads_files(model, tmp_path, kind)
    shown = heads("assemble", learned, "-m", model)
    assert shown.exit_code == 0, shown.output
    (out,) = (tmp_path / "data" / "heads").glob("*.gguf")
    target = json.loads(heads("info", learned, "--json").stdout)["target"]
    assert out.name == f"{learned.stem}-{target['target_hash'][:16]}.gguf" and str(out) in shown.stdout
    assert ("llama-server" in shown.stdout) == (kind == "eagle3")
    described = heads("info", out, "-m", model)
    assert described.exit_code == 0, described.output
    assert kind in described.stdout and "can run" in described.stdout
    assert described.stdout.splitlines()[-1] == "they belong to m.gguf"
    with edgespec.load(model, drafter=str(out), n_ctx=256, threads=1, cache_dir=tmp_path) as engine:
        assert engine.generate("some words", raw=True, max_tokens=8).emitted


@pytest.mark.parametrize(("stored", "most"), [("q4_0", 0.2), ("q8_0", 0.01), ("f16", 0.001)])
@pytest.mark.parametrize("tied", [False, True])
def test_the_rows_are_those_of_the_target(stored: str, most: float, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.gguf", tied=tied)
    learned, _ = heads_files(model, tmp_path, "medusa")
    assert heads("assemble", learned, "-m", model, "-o", tmp_path / "o.gguf", "--type", stored).exit_code == 0
    assembled = read_heads(tmp_path / "o.gguf")
    rows = assembled.tensors[OUTPUT]
    expected = TargetWeights(read_header(model)).output_rows(assembled.kept_ids.tolist())
    assert rows.kind == TYPES[stored]
    assert np.abs(dequantize_rows(bytes(rows.data), rows.kind, *rows.shape) - expected).max() < most


def test_nothing_is_replaced_unasked(model: Path, tmp_path: Path) -> None:
    learned, out = heads_files(model, tmp_path, "medusa")
    before = out.read_bytes()
    refused = heads("assemble", learned, "-m", model, "-o", out)
    assert refused.exit_code == 1 and "--force" in refused.stderr and out.read_bytes() == before
    assert heads("assemble", learned, "-m", model, "-o", out, "--force").exit_code == 0
    for source in (learned, model):
        data = source.read_bytes()
        refused = heads("assemble", learned, "-m", model, "-o", source, "--force")
        assert refused.exit_code == 1 and "choose another name" in refused.stderr and source.read_bytes() == data
    refused = heads("assemble", out, "-m", model, "-o", tmp_path / "twice.gguf")
    assert refused.exit_code == 1 and "assembled already" in refused.stderr
    assert not (tmp_path / "twice.gguf").exists()


def test_another_target_is_named_with_the_reason(model: Path, tmp_path: Path) -> None:
    learned, _ = heads_files(model, tmp_path, "hydra")
    other = tiny_model(tmp_path / "other.gguf", n_vocab=300)
    shown = heads("info", learned, "-m", other)
    assert shown.exit_code == 1 and "heads for a vocabulary of 320, and other.gguf has 300" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    value = json.loads(heads("info", learned, "-m", other, "--json").stdout)
    assert value["belongs"] is False and "vocabulary" in value["reason"]
    assert json.loads(heads("info", learned, "-m", model, "--json").stdout)["belongs"] is True
    refused = heads("assemble", learned, "-m", other, "-o", tmp_path / "o.gguf")
    assert refused.exit_code == 1 and "vocabulary" in refused.stderr and not (tmp_path / "o.gguf").exists()


def test_an_eagle3_head_of_another_program(model: Path, tmp_path: Path) -> None:
    shape = Shape(32, 32, heads=4, heads_kv=2, feed_forward=64, n_kept=64)
    head = write_head(tmp_path / "head.gguf", model, shape, random_weights(shape, 320))
    shown = heads("info", head)
    assert shown.exit_code == 1 and "name their target with -m" in shown.stderr
    shown = heads("info", head, "-m", model)
    assert shown.exit_code == 0 and "drafts 64 of 320 tokens" in shown.stdout


@pytest.mark.parametrize("command", ["info", "assemble"])
def test_what_is_no_heads_file_is_one_line(command: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").write_bytes(b"")
    for path in (model, tmp_path / "empty.gguf", tmp_path / "missing.gguf", tmp_path):
        shown = heads(command, path, "-m", model)
        assert shown.exit_code == 1 and len(shown.stderr.splitlines()) == 1, shown.output


def test_published_heads_become_a_learned_part(model: Path, tmp_path: Path) -> None:
    checkpoint = published.safetensors(tmp_path / "medusa.safetensors", published.medusa(N_EMBD, 320))
    shown = heads("convert", checkpoint, "-m", model, "-o", tmp_path / "learned.gguf", "--size", 280)
    assert shown.exit_code == 0, shown.output
    assert "medusa" in shown.stdout and "drafts 280 of 320 tokens" in shown.stdout
    source = json.loads(heads("info", tmp_path / "learned.gguf", "--json").stdout)["provenance"]["converted_from"]
    assert list(source) == ["medusa.safetensors"]
    out = tmp_path / "heads.gguf"
    assert heads("assemble", tmp_path / "learned.gguf", "-m", model, "-o", out).exit_code == 0
    with edgespec.load(model, drafter=str(out), n_ctx=256, threads=1, cache_dir=tmp_path) as engine:
        assert engine.generate("some words", raw=True, max_tokens=8).emitted
    refused = heads("convert", checkpoint, "-m", model, "-o", tmp_path / "learned.gguf")
    assert refused.exit_code == 1 and "--force" in refused.stderr
    refused = heads("convert", checkpoint, "-m", model, "-o", tmp_path / "o.gguf", "--kind", "eagle3")
    assert refused.exit_code == 1 and len(refused.stderr.splitlines()) == 1 and not (tmp_path / "o.gguf").exists()
    refused = heads("convert", checkpoint, "-m", model, "-o", tmp_path / "o.gguf", "--kept", "qwen2.5")
    assert refused.exit_code == 1 and "a list of another tokenizer" in refused.stderr
