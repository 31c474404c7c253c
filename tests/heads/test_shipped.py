"""The learned parts in models/heads: small enough, whole, and heads of the model that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgespec import SamplingParams, load
from edgespec.gguf.validate import read_header
from edgespec.heads.assemble import assemble
from edgespec.heads.format import read_heads
from edgespec.heads.tensors import check_tensors
from edgespec.testing import FixedPolicy
from tests.rounding import assert_same_answer

SHIPPED = sorted((Path(__file__).parents[2] / "models" / "heads").glob("*.gguf"))
MOST_BYTES = 8_000_000


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_is_small_whole_and_says_how_it_was_trained(path: Path) -> None:
    assert path.stat().st_size <= MOST_BYTES
    heads = read_heads(path)
    check_tensors(heads)
    assert not heads.assembled
    provenance = heads.spec.provenance
    assert provenance["tokens"] > 0 and provenance["held_out"]["chain"]["mean_acceptance_length"] > 1


@pytest.mark.model
@pytest.mark.parametrize("path", [path for path in SHIPPED if "smollm2" in path.stem], ids=lambda path: path.stem)
def test_smollm2_says_the_same_with_it_in_fewer_passes(path: Path, smollm2: Path, tmp_path: Path) -> None:
    runnable = tmp_path / f"{path.stem}.gguf"
    assemble(read_heads(path), read_header(smollm2), runnable)
    prompt = "List five things that float on water, and say why each of them does."
    with load(smollm2, drafter="none", n_ctx=512) as engine:
        plain = engine.generate(prompt, max_tokens=64)
        engine.change_drafter(runnable)
        engine.policy = FixedPolicy(engine.drafters[0].drafter, 8, trees=True)  # drafts also where that does not pay
        drafted = engine.generate(prompt, max_tokens=64)
        tokens, _ = engine.read_prompt(prompt, None, None, raw=False, shift=False)
        assert_same_answer(engine, tokens, plain.emitted, drafted.emitted, SamplingParams())
    assert drafted.tally.accepted > 5
