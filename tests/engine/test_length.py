"""A text that cannot fit is refused before its tokens are made, and no text that could fit is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgespec
from edgespec import Engine
from edgespec.backend.model import LlamaVocabulary
from edgespec.errors import ContextOverflow
from tests.gguf_files import tiny_model
from tests.vocabtrim.test_pipeline import TEMPLATE

_N_CTX = 256


def _opened(path: Path, folder: Path) -> Iterator[Engine]:
    with edgespec.load(path, drafter="none", n_ctx=_N_CTX, threads=1, cache_dir=folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("tiny")
    yield from _opened(tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE}), folder)


@pytest.fixture(scope="module")
def small(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _opened(smollm2, tmp_path_factory.mktemp("small"))


@pytest.fixture
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenize(*_: object, **__: object) -> list[int]:
        raise AssertionError("that would take seconds")

    for name in ("tokenize", "tokenize_prompt"):
        monkeypatch.setattr(LlamaVocabulary, name, tokenize)


def test_megabytes_are_refused_at_once(tiny: Engine, no_tokenizer: None) -> None:
    text, chat = "wort " * 1_000_000, tiny.chat()
    asked: list[Callable[[], object]] = [
        lambda: tiny.stream(text), lambda: tiny.stream(text, raw=True), lambda: chat.stream(text)
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(ContextOverflow, match=r"has 50\d+ characters, so at least \d+ tokens, and .* holds 256"):
            ask()
    assert not chat.messages


_TEXTS = st.text(st.sampled_from(" \n=-.aäw3→𝒳"), max_size=40).flatmap(
    lambda part: st.integers(1, 400).map(part.__mul__)
)


def _check_law(engine: Engine, text: str) -> None:
    tokens = engine.tokenize(text)
    assert len(text) <= len(tokens) * engine.longest_piece
    if len(tokens) < _N_CTX:
        engine.check_length(text)


@given(_TEXTS)
def test_a_token_is_no_longer_than_the_longest_piece(tiny: Engine, text: str) -> None:
    _check_law(tiny, text)


@pytest.mark.model
@given(_TEXTS)
def test_a_token_of_a_real_model_is_no_longer_either(small: Engine, text: str) -> None:
    _check_law(small, text)


@pytest.mark.model
def test_the_longest_piece_is_found_by_its_text(small: Engine) -> None:
    vocabulary = small.model.vocabulary
    longest = max(range(vocabulary.size), key=lambda token: len(vocabulary.piece(token)))
    text = vocabulary.piece(longest).decode() * (_N_CTX - 1)
    assert len(text) > 16 * _N_CTX
    assert len(small.tokenize(text)) < _N_CTX
    small.check_length(text)  # it fits
