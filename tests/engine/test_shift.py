"""A full context goes on where llama.cpp can shift its keys, and where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import edgespec
from edgespec.backend import LlamaContext
from tests.gguf_files import tiny_model
from tests.present import present


@pytest.fixture(params=["llama", "qwen2vl"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[edgespec.Engine]:
    path = tiny_model(tmp_path / "tiny.gguf", architecture=request.param)
    with edgespec.load(path, n_ctx=256, threads=1, cache_dir=tmp_path) as engine:
        yield engine


def test_an_answer_goes_on_beyond_the_context(engine: edgespec.Engine) -> None:
    bias = edgespec.SamplingParams(logit_bias={2: -1000.0})  # never the end
    answer = engine.generate("hello", raw=True, max_tokens=700, overflow="shift", sampling=bias)
    assert (len(answer.emitted), answer.finish_reason) == (700, "length")
    assert answer.dropped_tokens > 400


def test_a_chat_goes_on_beyond_the_context(engine: edgespec.Engine) -> None:
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    path = tiny_model(
        engine.model.path.with_name("chat.gguf"), architecture=str(engine.model.metadata("general.architecture")),
        metadata={"tokenizer.chat_template": template},
    )  # fmt: skip
    with edgespec.load(path, n_ctx=256, threads=1, cache_dir=path.parent) as chatting:
        chat = chatting.chat()
        for turn in range(8):
            session = chat.stream(f"turn {turn}", max_tokens=60, overflow="shift")
            for _ in session.stream():
                pass
            assert session.finish_reason in ("stop", "length")
        assert len(chat.messages) == 16


def test_what_cannot_be_shifted_is_evaluated_again(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", architecture="qwen2vl")
    with edgespec.load(path, n_ctx=256, threads=1, cache_dir=tmp_path) as engine:
        text = [token % 300 + 3 for token in range(200)]
        engine.context.prefill(text)
        engine.context.shift(10, 80)
        shifted = text[:10] + text[90:]
        assert engine.context.cached(shifted) == 10
        with closing(LlamaContext(engine.model, n_ctx=256, threads=1)) as fresh:
            expected = present(fresh.prefill(shifted)).copy()
        np.testing.assert_allclose(present(engine.context.prefill(shifted)), expected, atol=1e-3)
