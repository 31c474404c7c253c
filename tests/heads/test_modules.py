"""The modules in PyTorch against the references in numpy, which the drafting graphs are compared with too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgespec.backend.head_graph import HeadShape  # noqa: E402
from edgespec.heads.modules import new_module  # noqa: E402
from tests.heads.eagle_reference import EagleReference  # noqa: E402
from tests.heads.recorded import LAYER, N_VOCAB, SHAPES, SIZE  # noqa: E402
from tests.heads.reference import Reference  # noqa: E402

LENGTH, BASES, COUNT = 9, (2, 5, 7), 3


def random_module(kind: str) -> Any:
    torch.manual_seed(3)
    module = new_module(SHAPES[kind])
    with torch.no_grad():
        for weight in module.parameters():
            scale = 0.5 * weight.shape[1] ** -0.5 if weight.dim() > 1 else 0.1
            weight.add_(torch.randn_like(weight) * scale)
    return module


def weights_of(module: Any) -> dict[str, Any]:
    return {name: weight.detach().numpy() for name, weight in module.state_dict().items()}


def stepped(module: Any, states: Any, embeddings: Any) -> Any:
    """The states that the steps along the true tokens give, (COUNT, bases, SIZE)."""
    at = torch.tensor([BASES])
    with torch.no_grad():
        chains = module.start(module.read(states[None], embeddings[None]), at)
        found = []
        for step in range(COUNT):
            x, chains = module.step(chains, embeddings[(at + 1 + step).clamp(max=len(embeddings) - 1)[0]][None])
            found.append(x[0])
    return torch.stack(found).numpy()


@pytest.fixture
def inputs() -> tuple[Any, Any, Any]:
    """States by kind of the longest, embeddings of LENGTH + COUNT tokens, and an output layer of all tokens."""
    random = np.random.default_rng(5)
    numbers = [random.standard_normal(shape) for shape in ((LENGTH, 2 * SIZE), (LENGTH + COUNT, SIZE), (N_VOCAB, SIZE))]
    states, embeddings, output = (array.astype(np.float32) for array in numbers)
    return states, embeddings, output


@pytest.mark.parametrize("kind", ["medusa", "hydra", "hydra++"])
def test_medusa_and_hydra_are_the_reference(kind: str, inputs: tuple[Any, Any, Any]) -> None:
    states, embeddings, output = inputs
    module = random_module(kind)
    layer = SHAPES[kind].layer
    shape = SHAPES[kind]
    reference = Reference(
        {**weights_of(module), "output.weight": output},
        HeadShape(shape.kind, SIZE, COUNT, shape.depth, N_VOCAB, layer),
    )
    own = states[:, :SIZE]
    logits = stepped(module, torch.from_numpy(own), torch.from_numpy(embeddings[:LENGTH])) @ output.T
    seen = reference.prefix(own.astype(np.float64)) if layer else own.astype(np.float64)
    for index, base in enumerate(BASES):
        for step in range(COUNT):
            if base + 1 + step >= LENGTH:
                continue
            tokens = embeddings[base + 1 : base + 2 + step].reshape(-1)
            expected = (
                reference.medusa(seen[base])[step]
                if kind == "medusa"
                else reference.hydra(step, np.concatenate([seen[base], tokens])[None])[0]
            )
            np.testing.assert_allclose(logits[step, index], expected, rtol=1e-4, atol=1e-4)


def test_eagle3_is_the_reference(inputs: tuple[Any, Any, Any]) -> None:
    states, embeddings, output = inputs
    module = random_module("eagle3")
    tensors = {**weights_of(module), "output.weight": output, "d2t": np.arange(N_VOCAB)}
    logits = stepped(module, torch.from_numpy(states), torch.from_numpy(embeddings[:LENGTH])) @ output.T
    for index, base in enumerate(BASES):
        reference = EagleReference(
            tensors, embeddings, heads=LAYER.head_count, heads_kv=LAYER.head_count_kv, rope_theta=LAYER.rope_theta,
            epsilon=LAYER.norm_epsilon,
        )  # fmt: skip
        for position, g in enumerate(reference.encode(states[: base + 1])):
            row, after = reference.decode(position + 1, g)
        for step in range(COUNT):
            if base + 1 + step >= LENGTH:
                break
            if step:
                row, after = reference.decode(base + 1 + step, after)
            np.testing.assert_allclose(logits[step, index], row, rtol=1e-3, atol=1e-3)


def test_medusa_begins_as_its_target(inputs: tuple[Any, Any, Any]) -> None:
    states, embeddings, _ = inputs
    own = torch.from_numpy(states[:, :SIZE])
    found = stepped(new_module(SHAPES["medusa"]), own, torch.from_numpy(embeddings))
    for step in range(COUNT):
        assert np.array_equal(found[step], own[list(BASES)].numpy())


@pytest.mark.parametrize("kind", ["hydra++", "eagle3"])
def test_prompts_that_a_runtime_does_not_read_change_nothing(kind: str, inputs: tuple[Any, Any, Any]) -> None:
    states, embeddings, _ = inputs
    module = random_module(kind)
    own = torch.from_numpy(states[None, :, : module.shape.state_size])
    other = own.clone()
    other[:, :3] += 1
    seen = torch.from_numpy(embeddings[None])
    at, first = torch.tensor([[4, 6]]), torch.tensor([3])
    results = []
    for reads in (True, False):
        module.shape = replace(module.shape, reads_prompts=reads)
        for given in (own, other):
            chains = module.start(module.read(given, seen[:, :LENGTH]), at, first)
            results.append(module.step(chains, seen[:, 5:7])[0])
    assert not torch.allclose(results[0], results[1])
    torch.testing.assert_close(results[2], results[3])
