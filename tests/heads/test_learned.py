"""A module becomes a file and comes back, rounded to the file's type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgespec.gguf.validate import read_header  # noqa: E402
from edgespec.heads.format import Belongs, read_heads, write_heads  # noqa: E402
from edgespec.heads.learned import module_of, round_weights, spec_of, weights_of  # noqa: E402
from edgespec.heads.modules import new_module  # noqa: E402
from tests.gguf_files import tiny_model  # noqa: E402
from tests.heads.recorded import SHAPES  # noqa: E402


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("stored_as", ["f32", "f16", "q8_0", "q4_0"])
def test_rounded_weights_are_those_of_the_file(kind: str, stored_as: str, tmp_path: Path) -> None:
    target = Belongs.of(read_header(tiny_model(tmp_path / "target.gguf")))
    module = new_module(SHAPES[kind])
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_()
    exact = weights_of(module)
    round_weights(module, stored_as)
    spec = spec_of(module.shape, target, (0, 1) if kind == "eagle3" else (), {"tokens": 3})
    with (tmp_path / "heads.gguf").open("wb") as file:
        write_heads(file, spec, exact, np.arange(40), stored_as)
    heads = read_heads(tmp_path / "heads.gguf")
    found = weights_of(module_of(heads))
    assert replace(heads.spec, layer=None) == replace(spec, layer=None)  # numbers of the layer are rounded
    assert found.keys() == exact.keys()
    for name, weight in weights_of(module).items():
        np.testing.assert_array_equal(found[name], weight)
    changed = any((found[name] != values).any() for name, values in exact.items())
    assert changed == (stored_as != "f32")
