"""A small data set of made-up answers on disk, for tests that read one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgespec.gguf.validate import Header
from edgespec.heads.dataset import DataWriter, HeadData, Recorded
from edgespec.heads.format import Belongs
from tests.gguf_files import N_EMBD

N_VOCAB = 320
"""The vocabulary of `tiny_model`."""

STATES = ("layer.0", "layer.1", "last")


def write_data(directory: Path, target: Header) -> HeadData:
    """Answers of 80 prompts by a `tiny_model`, in two shards: some are held out, and a tenth loops."""
    random = np.random.default_rng(0)
    of = {"name": "tiny", "target_hash": Belongs.of(target).fingerprint}
    writer = DataWriter(directory, {"target": of, "states": list(STATES), "top": 8})
    writer.add([_answer(prompt, random) for prompt in range(40)])
    writer.add([_answer(prompt, random) for prompt in range(40, 80)])
    writer.close()
    return HeadData(directory)


def _answer(prompt: int, random: np.random.Generator) -> Recorded:
    length, begin = int(random.integers(6, 20)), int(random.integers(0, 4))
    states = {name: random.standard_normal((length, N_EMBD)).astype(np.float16) for name in STATES}
    top_ids = np.stack([random.choice(N_VOCAB, 8, replace=False) for _ in range(length)]).astype(np.int32)
    logits = -np.sort(-random.standard_normal((length, 8)), 1).astype(np.float16)
    return Recorded(
        prompt, prompt % 10 == 3, (260 + random.integers(0, 40, length)).astype(np.int32),
        np.arange(length) >= begin, states, top_ids, logits, np.full(length, 4.0, np.float32),
    )  # fmt: skip
