"""Replays against a walk that drafts for one base after the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgespec.heads.examples import padded  # noqa: E402
from edgespec.heads.modules import new_module  # noqa: E402
from edgespec.heads.replay import Replayed, replay  # noqa: E402
from tests.heads.recorded import SHAPES, Recorded, recorded  # noqa: E402

KINDS = st.sampled_from(sorted(SHAPES))


def random_module(kind: str, seed: int) -> Any:
    """A module with random weights everywhere, so that no two kinds draft alike."""
    torch.manual_seed(seed)
    module = new_module(SHAPES[kind])
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.5 * weight.shape[1] ** -0.5)
    return module


def paths(module: Any, data: Recorded, example: Any, base: int, nodes: int | None) -> dict[tuple[int, ...], float]:
    """The drafted paths from one base, with their log-probability: the chain's, or those of the tree."""
    states = torch.from_numpy(padded([example], data.shared.head.n_kept).states.numpy()[:, : base + 1])
    tokens = torch.tensor(example.tokens[None, : base + 2].astype("int64"))
    found: dict[tuple[int, ...], float] = {}
    level: list[tuple[int, ...]] = [()]
    for _ in range(module.shape.count):
        children: dict[tuple[int, ...], float] = {}
        for path in level:
            memory = module.read(torch.cat([states, states[:, -1:]], 1), data.shared.embed(tokens))
            chains = module.start(memory, torch.tensor([[base]]))
            for token in (int(tokens[0, base + 1]), *path):
                x, chains = module.step(chains, data.shared.embed(torch.tensor([[token]])))
            likely = data.shared.head.logits(x[0])[0].log_softmax(-1)
            width = 1 if nodes is None else min(nodes, len(likely))
            values, indices = (part.tolist() for part in likely.topk(width))
            for value, index in zip(values, indices, strict=True):
                child = (*path, int(data.shared.kept[index]))
                children[child] = found.get(path, 0.0) + value
        found |= children
        level = list(children)
    likeliest = sorted(found, key=lambda path: -found[path])
    return found if nodes is None else {path: found[path] for path in likeliest[:nodes]}


def walked(module: Any, data: Recorded, nodes: int | None) -> Replayed:
    """The replay of all examples, one base after the other."""
    count = module.shape.count
    tokens = passes = 0
    judged, accepted = [0] * count, [0] * count
    for example in data.examples:
        base, length = example.first, len(example.tokens)
        while base + 2 < length:
            drafted = paths(module, data, example, base, nodes)
            right = 0
            for depth in range(min(count, length - base - 2)):
                judged[depth] += 1
                if tuple(example.tokens[base + 2 : base + 3 + depth].tolist()) not in drafted:
                    break
                accepted[depth] += 1
                right += 1
            emitted = min(right + 1, length - base - 2)
            tokens, passes, base = tokens + emitted, passes + 1, base + emitted
    return Replayed(tokens, passes, tuple(judged), tuple(accepted))


@given(KINDS, st.integers(0, 50), st.sampled_from([None, 3]))
@settings(max_examples=16)
def test_a_replay_is_the_walk(kind: str, seed: int, nodes: int | None) -> None:
    data = recorded(3, kind, seed=seed, longest=10)
    module = random_module(kind, seed)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgespec.heads.replay._BATCH", 8)
        assert replay(module, data.shared, data.examples, nodes) == walked(module, data, nodes)


def test_lengths_follow_from_the_counts() -> None:
    counted = Replayed(tokens=20, passes=10, judged=(10, 6, 0), accepted=(6, 3, 0))
    assert counted.mean_length == 2.0
    assert counted.rates == (0.6, 0.5, 0.0)
    assert Replayed().mean_length == 1.0
