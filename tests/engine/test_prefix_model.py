"""The prefix cache with a real model: the same text, and with `exact` the same bits; several processes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgespec import Engine, SamplingParams, load
from edgespec.core import NOTHING, Row
from edgespec.engine.prefix_files import stored_prefixes
from edgespec.system.child import IMPORT_ROOT
from tests.gguf_files import tiny_model
from tests.rounding import assert_same_answer

TEXT = "The river rises in the hills, and runs past the mill, the bridge and the old town to the sea. "


def prompt_of(engine: Engine, end: str) -> list[int]:
    """Some 330 tokens, of which the last few differ."""
    return engine.tokenize("".join(f"{number}. {TEXT}" for number in range(13)) + end)


def answered(engine: Engine, prompt: list[int]) -> tuple[list[int], Row, int]:
    """The answer's ids, the logits after the last but one, and how many tokens of the prompt were cached."""
    engine.context.forget()
    session = engine.session(prompt, max_tokens=12)
    for _ in session.stream():
        pass
    if engine.prefix_cache:
        engine.prefix_cache.wait()
    row = engine.context.evaluate([*prompt, *session.emitted[:-1]], NOTHING).rows[0].copy()
    return session.emitted, row, session.tally.cached_tokens


@pytest.mark.model
@pytest.mark.parametrize("options", [{}, {"kv_type": "q8_0"}, {"exact": True}], ids=["plain", "quantized", "exact"])
def test_the_text_is_that_without(smollm2: Path, tmp_path: Path, options: dict[str, str]) -> None:
    with load(smollm2, drafter="none", n_ctx=512, cache_dir=tmp_path, prefix_cache=1.0, **options) as engine:  # type: ignore[arg-type]
        cache = engine.prefix_cache
        prompts = [prompt_of(engine, end) for end in ("Where does it rise?", "Where does it run to?")]
        engine.prefix_cache = None
        plain = [answered(engine, prompt) for prompt in prompts]
        engine.prefix_cache = cache
        first = answered(engine, prompts[0])
        second = answered(engine, prompts[1])
        assert first[2] == 0
        assert second[2] > 300 or (options.get("exact") and second[2] == 256)
        for prompt, one, other in zip(prompts, plain, (first, second), strict=True):
            if options.get("exact"):
                assert one[0] == other[0]
                assert np.array_equal(one[1], other[1])
            else:
                assert_same_answer(engine, prompt, one[0], other[0], SamplingParams(temperature=0.0))


_PROGRAM = """
import sys
from edgespec import load
from edgespec.engine import prefix_cache
prefix_cache.LEAST_SECONDS, prefix_cache.DISK_SPEED = 0.0, 1e15
model, cache, name = sys.argv[1:]
with load(model, drafter="none", threads=1, cache_dir=cache, prefix_cache=0.0003) as engine:
    for number in range(30):
        session = engine.generate("a" * 150 + name * (number % 7) + "b" * 40, raw=True, max_tokens=2)
        engine.context.forget()
    print(session.tally.cached_tokens)
"""


def test_several_processes_use_one_folder(tmp_path: Path) -> None:
    """They write and use the same prefixes, and remove each other's: the bound holds some six of them."""
    model = tiny_model(tmp_path / "tiny.gguf")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(model), str(tmp_path / "cache"), name],
            cwd=IMPORT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("xy", "xy", "z")
    ]  # fmt: skip
    for run in runs:
        out, errors = run.communicate()
        assert run.returncode == 0, errors
        assert errors == ""
        assert int(out) >= 0
    stored = stored_prefixes(tmp_path / "cache" / "prefixes")
    assert stored
    assert sum(prefix.bytes for prefix in stored) <= 300_000
