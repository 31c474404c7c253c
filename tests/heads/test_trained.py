"""Heads trained on what SmolLM2 computes: what a runtime computes with the file is what was trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgespec.backend import LlamaContext, LlamaModel, published_layers  # noqa: E402
from edgespec.drafters.heads import States  # noqa: E402
from edgespec.engine.open_heads import open_heads  # noqa: E402
from edgespec.gguf.validate import read_header  # noqa: E402
from edgespec.heads.assemble import assemble  # noqa: E402
from edgespec.heads.collect import Collecting, Pair, collect_recorded  # noqa: E402
from edgespec.heads.dataset import HeadData  # noqa: E402
from edgespec.heads.examples import held_out  # noqa: E402
from edgespec.heads.format import read_heads  # noqa: E402
from edgespec.heads.learned import module_of  # noqa: E402
from edgespec.heads.pipeline import LAST, Order, train  # noqa: E402
from edgespec.heads.start import KINDS  # noqa: E402
from edgespec.heads.target import TargetWeights  # noqa: E402
from edgespec.heads.train import Training  # noqa: E402

pytestmark = pytest.mark.model
KEPT, STEPS = 2048, 3


@pytest.fixture(scope="module")
def target(smollm2: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(smollm2, gpu_layers=0)
    yield model
    model.close()


@pytest.fixture(scope="module")
def data(target: LlamaModel, tmp_path_factory: pytest.TempPathFactory) -> HeadData:
    """What it computes at a few texts as answers, of which one is held out."""
    prompts = [0, 1, 2, 3, next(number for number in range(4, 1000) if held_out(number))]
    pairs = []
    for prompt in prompts:
        tokens = list(target.vocabulary.tokenize(f"Float {prompt}: boats, corks and ducks float, being light."))
        pairs.append(Pair(prompt, tokens[:4], tokens[4:] + tokens))
    folder = tmp_path_factory.mktemp("answers") / "data"
    collect_recorded(target, read_header(target.path), pairs, folder, Collecting())
    return HeadData(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_computes_what_was_trained(kind: str, target: LlamaModel, data: HeadData, tmp_path: Path) -> None:
    header = read_header(target.path)
    learned, runnable = tmp_path / "learned.gguf", tmp_path / "runnable.gguf"
    order = Order(kind, Training(epochs=1, learning_rate=1e-3, batch=64), size=KEPT, count=STEPS, stored_as="f16")
    train(data, header, order, learned)
    heads = read_heads(learned)
    assemble(heads, header, runnable, "f16")
    answer = next(iter(data))
    states = [f"layer.{layer}" for layer in heads.spec.states] or [LAST]
    if kind == "eagle3":
        assert len(states) == (3 if published_layers(target) else 1)
    rows = np.concatenate([answer.states[name] for name in states], 1).astype(np.float32)[:20]
    tokens = answer.tokens[: 20 + STEPS].tolist()
    drafted = _module_rows(module_of(heads), header, heads.kept_ids, rows, tokens)
    context = LlamaContext(target, n_ctx=256, threads=1)
    try:
        opened = open_heads(runnable, target, context, threads=1).drafter.heads
        found = [opened.start(States(0, tokens[:20], list(rows), 0), tokens[20])]
        found += [opened.extend(token) for token in tokens[21:]]
        opened.close()
    finally:
        context.close()
    for own, expected in zip(found, drafted, strict=True):
        assert np.abs(own - expected).max() < 0.02 * np.abs(expected).max()
        assert own.argmax() == expected.argmax()


def _module_rows(module: Any, header: Any, kept: Any, rows: Any, tokens: list[int]) -> list[Any]:
    """The module's logits after each of the last STEPS tokens."""
    weights = TargetWeights(header)
    embeddings = torch.from_numpy(weights.embeddings(tokens))[None]
    output = torch.from_numpy(weights.output_rows(kept.tolist()))
    with torch.no_grad():
        memory = module.read(torch.from_numpy(rows)[None], embeddings[:, : len(rows)])
        if module.shape.kind == "eagle3":  # the base's own key is of the token after it
            memory = module.read(torch.from_numpy(np.vstack([rows, rows[-1:]]))[None], embeddings[:, : len(rows) + 1])
        chains = module.start(memory, torch.tensor([[len(rows) - 1]]))
        logits = []
        for step in range(STEPS):
            x, chains = module.step(chains, embeddings[:, len(rows) + step, None])
            logits.append((x[0, 0] @ output.T).numpy())
    return logits
