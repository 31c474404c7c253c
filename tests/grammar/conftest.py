"""The tiny vocabulary of bytes, whose grammar sampler judges texts."""

from __future__ import annotations

import pytest

from edgespec.backend import LlamaModel, LlamaVocabulary
from tests.gguf_files import tiny_model


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> LlamaVocabulary:
    return LlamaModel(tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"), gpu_layers=0).vocabulary
