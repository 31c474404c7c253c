"""Medusa's and Hydra's heads in ggml equal the same in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend.ggml import I32, I64, TYPES, Weight, dequantize_rows, quantize_rows
from edgespec.backend.head_graph import HeadGraph, HeadShape, PrefixShape, expected_tensors
from edgespec.errors import InvalidRequest
from edgespec.gguf.reader import BLOCKS
from tests.heads.reference import Reference

LAYER = PrefixShape(4, 2, 16, 96, 10000.0, 1e-5)
MEDUSA = HeadShape("medusa", 64, 4, 1, 500)
HYDRA = HeadShape("hydra", 64, 3, 1, 500)
PLUS = HeadShape("hydra", 64, 4, 4, 500, LAYER)

TOLERANCES = {"f32": 1e-5, "f16": 2e-3, "q8_0": 0.03, "q4_0": 0.03}
"""Root mean square of the differences over that of the logits: ggml brings rows to f16, and for quantized weights to 8
bits."""


def near(rows: Any, expected: Any, kind: str = "f32") -> bool:
    difference = np.sqrt(((rows - expected) ** 2).mean())
    return bool(difference <= TOLERANCES[kind] * np.sqrt((expected**2).mean()))


def heads_of(
    shape: HeadShape, kind: str = "f32", *, skip: bool = False, lm_heads: bool = False, seed: int = 0
) -> tuple[dict[str, Weight], Reference]:
    """Random weights, and a reference with the numbers that they have after quantizing."""
    names = dict(expected_tensors(shape, {}))
    if skip:
        for head in range(shape.count):
            names[f"heads.{head}.0.skip.weight"] = (shape.hidden_size, (head + 2) * shape.hidden_size)
            names[f"heads.{head}.0.skip.bias"] = (shape.hidden_size,)
    if lm_heads:
        for head in range(shape.count):
            names[f"heads.{head}.output.weight"] = (shape.n_kept, shape.hidden_size)
            names[f"heads.{head}.output.bias"] = (shape.n_kept,)
        if shape.prefix is not None:
            names["prefix.output_norm.weight"] = (shape.hidden_size,)
    rng, weights, numbers = np.random.default_rng(seed), {}, {}
    for name, form in names.items():
        values = rng.standard_normal(form).astype(np.float32) / np.float32(np.sqrt(form[-1]) if len(form) > 1 else 4)
        if "norm" in name:
            values = 1 + values
        own = kind if len(form) > 1 else "f32"
        data = quantize_rows(values.reshape(-1, form[-1]), own)
        weights[name] = Weight(TYPES[own], form, data)
        numbers[name] = dequantize_rows(data, TYPES[own], values.size // form[-1], form[-1]).reshape(form)
    return weights, Reference(numbers, shape)


def random_rows(*form: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(form).astype(np.float32)


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("depth", [1, 3])
def test_medusa(kind: str, depth: int) -> None:
    shape = replace(MEDUSA, depth=depth)
    weights, reference = heads_of(shape, kind)
    with closing(HeadGraph(weights, shape)) as heads:
        for seed in range(3):
            state = random_rows(64, seed=seed)
            assert near(heads.medusa(state), reference.medusa(state), kind)


@pytest.mark.parametrize("shape", [MEDUSA, HYDRA, PLUS], ids=["medusa", "hydra", "hydra++"])
def test_heads_with_lm_heads_of_their_own(shape: HeadShape) -> None:
    weights, reference = heads_of(shape, lm_heads=True)
    with closing(HeadGraph(weights, shape, positions=64)) as heads:
        if shape.kind == "medusa":
            state = random_rows(64)
            assert near(heads.medusa(state), reference.medusa(state))
        for head in range(shape.count if shape.kind == "hydra" else 0):
            inputs = random_rows(2, (head + 2) * 64)
            assert near(heads.hydra(head, inputs), reference.hydra(head, inputs))
        if shape.prefix is not None:
            states = random_rows(5, 64)
            assert near(heads.prefix(states, 0), reference.prefix(states))


@pytest.mark.parametrize("kind", TOLERANCES)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("shape", [HYDRA, PLUS], ids=["hydra", "hydra++"])
def test_hydra(kind: str, skip: bool, shape: HeadShape) -> None:
    weights, reference = heads_of(shape, kind, skip=skip)
    with closing(HeadGraph(weights, shape, positions=64)) as heads:
        for head in range(shape.count):
            for rows in (1, 3, 1):
                inputs = random_rows(rows, (head + 2) * 64, seed=rows)
                together = heads.hydra(head, inputs)
                assert near(together, reference.hydra(head, inputs), kind)
                alone = np.concatenate([heads.hydra(head, inputs[row : row + 1]) for row in range(rows)])
                assert near(together, alone, kind)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    head_dim=st.sampled_from([2, 16, 32]),
    groups=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    hidden_size=st.sampled_from([32, 96]),
)
def test_the_prefix_layer_step_by_step_is_the_whole(
    sizes: list[int], head_dim: int, groups: int, kv_heads: int, hidden_size: int
) -> None:
    layer = PrefixShape(groups * kv_heads, kv_heads, head_dim, 64, 10000.0, 1e-5)
    shape = HeadShape("hydra", hidden_size, 1, 1, 10, layer)
    weights, reference = heads_of(shape)
    states = random_rows(sum(sizes), hidden_size)
    with closing(HeadGraph(weights, shape, positions=64)) as heads:
        ends = np.cumsum(sizes)
        parts = [heads.prefix(states[end - size : end], int(end - size)) for size, end in zip(sizes, ends, strict=True)]
        assert np.allclose(np.concatenate(parts), reference.prefix(states), atol=1e-4)


def test_what_the_prefix_layer_read_beyond_a_position_is_forgotten() -> None:
    weights, reference = heads_of(PLUS)
    states, others = random_rows(10, 64), random_rows(4, 64, seed=5)
    with closing(HeadGraph(weights, PLUS, positions=32)) as heads:
        heads.prefix(states, 0)
        again = heads.prefix(others, 3)
        assert np.allclose(again, reference.prefix(np.concatenate([states[:3], others]))[3:], atol=1e-4)
        first = heads.prefix(states, 0)
        assert np.array_equal(first, heads.prefix(states, 0))


@pytest.fixture
def plus() -> Iterator[HeadGraph]:
    with closing(HeadGraph(heads_of(PLUS)[0], PLUS, positions=8)) as heads:
        yield heads


def test_what_ggml_would_end_the_process_for_is_refused(plus: HeadGraph) -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: plus.hydra(4, random_rows(1, 64 * 6)), "head 4 of 4"),
        (lambda: plus.hydra(1, random_rows(1, 64)), r"inputs of shape \(1, 64\): they must be \(1, 192\)"),
        (lambda: plus.hydra(0, random_rows(0, 128)), r"inputs of shape \(0, 128\): they must be \(1, 128\)"),
        (lambda: plus.hydra(0, random_rows(128)), r"inputs of shape \(128,\): they must be \(128, 128\)"),
        (lambda: plus.medusa(random_rows(64)), "medusa heads are asked for, and these are hydra"),
        (lambda: plus.prefix(random_rows(1, 64), 8), "1 states after 8: the prefix layer holds 8"),
        (lambda: plus.prefix(random_rows(0, 64), 0), "0 states after 0"),
        (lambda: plus.prefix(random_rows(1, 32), 0), r"they must be \(1, 64\)"),
    ]
    for call, reason in calls:
        with pytest.raises(InvalidRequest, match=reason):
            call()
    plus.close()
    with pytest.raises(InvalidRequest, match="closed"):
        plus.hydra(0, random_rows(1, 128))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "eagle"}, "heads that are none"),
        ({"hidden_size": 0}, "heads that are none"),
        ({"count": 17}, "17 heads"),
        ({"prefix": replace(LAYER, head_count=3)}, "whose attention is none"),
        ({"prefix": replace(LAYER, head_dim=15)}, "whose attention is none"),
        ({"n_kept": 501}, r"output.weight has shape \(500, 64\)"),
        ({"depth": 5}, "the heads have no tensor heads.0.4.weight"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str) -> None:
    weights, _ = heads_of(PLUS)
    with pytest.raises(InvalidRequest, match=reason):
        HeadGraph(weights, replace(PLUS, **changes))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("heads.0.0.bias", TYPES["f16"]),
        ("prefix.attn_norm.weight", TYPES["q8_0"]),
        ("prefix.ffn_norm.weight", I32),
        ("heads.0.0.weight", I32),
        ("output.weight", I64),
    ],
)
def test_types_that_ggml_would_end_the_process_for_are_refused(name: str, number: int) -> None:
    weights, _ = heads_of(PLUS)
    shape = weights[name].shape
    elements, size = BLOCKS[number]
    weights[name] = Weight(number, shape, bytes(int(np.prod(shape)) // elements * size))
    with pytest.raises(InvalidRequest, match=f"{name} has the ggml type {number}, and heads are computed in others"):
        HeadGraph(weights, PLUS)


@pytest.mark.parametrize("hidden_size", [576, 1536])
@pytest.mark.parametrize("kind", TOLERANCES)
def test_sizes_of_real_targets(hidden_size: int, kind: str) -> None:
    """576 is a multiple of the 32 numbers of a block, and not of 256."""
    for shape in (replace(MEDUSA, hidden_size=hidden_size), replace(PLUS, hidden_size=hidden_size, count=2, depth=1)):
        weights, reference = heads_of(shape, kind)
        with closing(HeadGraph(weights, shape, positions=16)) as heads:
            if shape.kind == "medusa":
                state = random_rows(hidden_size)
                assert near(heads.medusa(state), reference.medusa(state), kind)
                continue
            inputs, states = random_rows(2, 3 * hidden_size), random_rows(5, hidden_size)
            assert near(heads.hydra(1, inputs), reference.hydra(1, inputs), kind)
            assert near(heads.prefix(states, 0), reference.prefix(states), kind)
