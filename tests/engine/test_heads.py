"""Heads of every kind on real llama.cpp: lossless, chains and trees, whatever they draft; and files that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgespec
from edgespec import SamplingParams
from edgespec.drafters.heads import HeadDrafter
from edgespec.errors import EdgespecError, UnsupportedModel
from edgespec.gguf.reader import walk
from edgespec.gguf.validate import data_start, read_header
from edgespec.heads.assemble import assemble, runnable_path
from edgespec.heads.format import read_heads
from edgespec.testing import FixedPolicy
from tests.backend.test_sequences import NOISE
from tests.gguf_files import tiny_model
from tests.heads.learned import KINDS, heads_files
from tests.rounding import assert_same_answer

PROMPT = "some words to begin with, and a few more"


def opened(model: Path, drafter: str, folder: Path, **options: Any) -> edgespec.Engine:
    return edgespec.load(model, drafter=drafter, n_ctx=256, threads=1, cache_dir=folder, **options)


def head_drafter(engine: edgespec.Engine) -> HeadDrafter:
    (only,) = engine.drafters
    assert isinstance(only.drafter, HeadDrafter)
    return only.drafter


@pytest.mark.parametrize(
    ("kind", "architecture"),
    # of a hidden size as small as this, a last state filled up for llama.cpp is as wide as three layers
    [*((kind, "llama") for kind in KINDS), *((kind, "qwen2") for kind in KINDS if kind != "eagle3")],
)
def test_the_text_is_the_target_s_own(kind: str, architecture: str, tmp_path: Path) -> None:
    """With a draft in every pass: `llama` gives the inputs of its layers, `qwen2` only its last state."""
    model = tiny_model(tmp_path / "m.gguf", architecture=architecture)
    _, heads = heads_files(model, tmp_path, kind)
    for temperature in (0.0, 0.9):
        sampling = SamplingParams(temperature=temperature, seed=4)
        with opened(model, "none", tmp_path) as engine:
            plain = engine.generate(PROMPT, raw=True, max_tokens=60, sampling=sampling)
        for trees, size in ((False, 3), (True, 10)):
            with opened(model, str(heads), tmp_path) as engine:
                engine.policy = FixedPolicy(head_drafter(engine), size, trees=trees)
                session = engine.generate(PROMPT, raw=True, max_tokens=60, sampling=sampling)
                assert session.tally.drafted > 60
                prompt = engine.tokenize(PROMPT)
                assert_same_answer(engine, prompt, plain.emitted, session.emitted, sampling, NOISE)


@pytest.mark.parametrize("kind", KINDS)
def test_by_its_own_rule_the_policy_may_draft_with_heads(kind: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.gguf")
    _, heads = heads_files(model, tmp_path, kind)
    with opened(model, "none", tmp_path) as engine:
        plain = engine.generate(PROMPT, raw=True, max_tokens=40)
        engine.change_drafter(f"suffix+{heads}")
        session = engine.generate(PROMPT, raw=True, max_tokens=40)
        assert_same_answer(engine, engine.tokenize(PROMPT), plain.emitted, session.emitted, SamplingParams(), NOISE)
        engine.change_drafter("none")
        assert engine.context.evaluate([5, 6, 7], edgespec.core.NOTHING).hidden is None, "nobody reads states any more"


def test_two_kinds_read_their_own_parts_of_the_states(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.gguf")
    files = [heads_files(model, tmp_path, kind)[1] for kind in ("medusa", "eagle3")]
    with opened(model, "+".join(map(str, files)), tmp_path) as engine:
        columns = {each.name: each.drafter.columns for each in engine.drafters}  # type: ignore[attr-defined]
        width = engine.model.n_embd
        every = np.arange(3 * width).reshape(3, width)  # the inputs of both layers, and the last state
        assert every.ravel()[columns["medusa"]].tolist() == every[2].tolist()
        assert every.ravel()[columns["eagle3"]].tolist() == every[[0, 1, 1]].ravel().tolist()
        assert engine.generate(PROMPT, raw=True, max_tokens=12).finish_reason


def with_other_norms(model: Path, other: Path) -> Path:
    """A copy of a model, as if it had been trained on."""
    part = walk(model)
    (norm,) = (tensor for tensor in part.tensors if tensor.name == "output_norm.weight")
    data, place = bytearray(model.read_bytes()), data_start(part) + norm.offset
    data[place : place + 4] = np.float32(1.25).tobytes()
    other.write_bytes(data)
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_part_and_another_target_are_refused_with_the_remedy(kind: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.gguf")
    learned, heads = heads_files(model, tmp_path, kind)
    with pytest.raises(UnsupportedModel, match=r"only the learned part of heads; edgespec heads assemble -m m\.gguf"):
        opened(model, str(learned), tmp_path)
    other = with_other_norms(model, tmp_path / "other.gguf")
    with pytest.raises(UnsupportedModel, match=r"shaped like other\.gguf and has other weights"):
        opened(other, str(heads), tmp_path)
    with pytest.raises(EdgespecError, match="head"):
        opened(heads, "none", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_file_is_an_error_of_one_line(kind: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m.gguf")
    _, heads = heads_files(model, tmp_path, kind)
    torn = tmp_path / "torn.gguf"
    data = heads.read_bytes()
    for size in (10, len(data) // 2, len(data) - 100):
        torn.write_bytes(data[:size])
        with pytest.raises(EdgespecError, match=r"torn\.gguf") as error:
            opened(model, str(torn), tmp_path)
        assert "\n" not in str(error.value)


def test_auto_drafts_with_the_heads_that_were_assembled_for_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = tiny_model(tmp_path / "m.gguf")
    learned, _ = heads_files(model, tmp_path, "hydra")
    with opened(model, "auto", tmp_path) as engine:
        assert [drafter.name for drafter in engine.drafters] == ["suffix"]
    out = runnable_path(read_heads(learned))
    out.parent.mkdir(parents=True)
    assemble(read_heads(learned), read_header(model), out, "f32")
    with opened(model, "auto", tmp_path) as engine:
        assert [drafter.name for drafter in engine.drafters] == ["suffix", out.stem] and engine.drafter_name == "auto"
    with opened(model, "suffix", tmp_path) as engine:
        assert [drafter.name for drafter in engine.drafters] == ["suffix"]
    with opened(with_other_norms(model, tmp_path / "other.gguf"), "auto", tmp_path) as engine:
        assert [drafter.name for drafter in engine.drafters] == ["suffix"]
    out.write_bytes(out.read_bytes()[:-2000])
    with opened(model, "auto", tmp_path) as engine:
        assert [drafter.name for drafter in engine.drafters] == ["suffix"]
    assert "incomplete" in caplog.text and "left aside" in caplog.text
