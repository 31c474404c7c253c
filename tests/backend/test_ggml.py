"""Rows as bytes of a ggml type, and back."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from edgespec.backend.ggml import (
    TYPES,
    Cpu,
    Weight,
    dequantize_rows,
    fill,
    new_input,
    new_tensor,
    op,
    quantize_rows,
    read,
)
from edgespec.errors import InvalidRequest, UnsupportedModel


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(1, 32), (7, 576), (3, 1536)])
def test_rows_come_back_as_another_program_reads_them(kind: str, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    data = quantize_rows(rows, kind)
    back = dequantize_rows(data, TYPES[kind], *shape)
    raw = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
    number = gguf.GGMLQuantizationType(TYPES[kind])
    assert np.allclose(back, gguf.quants.dequantize(raw, number).astype(np.float32), atol=1e-6)
    step = {"f32": 0.0, "f16": 2e-3, "q8_0": 0.02, "q4_0": 0.6}[kind]
    assert np.abs(back - rows).max() <= step


@pytest.mark.parametrize("shape", [(2, 33), (64,)])
def test_rows_that_are_no_multiple_of_a_block_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="must be a multiple of 32"):
        quantize_rows(np.zeros(shape, np.float32), "q4_0")


def test_bytes_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no matrix of 2 x 32"):
        dequantize_rows(bytes(10), TYPES["q8_0"], 2, 32)
    with pytest.raises(InvalidRequest, match="has 10 bytes: it must have 68"):
        Weight(TYPES["q8_0"], (2, 32), bytes(10)).check("w", 2, 32)
    with pytest.raises(InvalidRequest, match=r"w has shape \(2, 32\) in ggml type 8: it must be \(2, 64\)"):
        Weight(TYPES["q8_0"], (2, 32), bytes(68)).check("w", 2, 64)
    with pytest.raises(InvalidRequest, match="in ggml type 99"):
        Weight(99, (2, 32), bytes(68)).check("w", 2, 32)


def test_a_graph_is_computed_as_often_as_wanted() -> None:
    cpu = Cpu(1)
    context = cpu.context(2)
    weight = new_tensor(context, TYPES["f32"], 2, 3)
    cpu.allocate(context)
    fill(weight, np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    step = cpu.context(4)
    x = new_input(step, TYPES["f32"], 1, 3)
    product = op("mul_mat", "pp")(step, weight, x)
    graph = cpu.graph(step, product)
    for row in ([1, 0, 0], [0, 1, 1]):
        fill(x, np.array([row], np.float32))
        cpu.compute(graph)
        assert read(product, 1, 2).tolist() == [[np.dot(row, [1, 2, 3]), np.dot(row, [4, 5, 6])]]
    cpu.close()
    cpu.close()


def test_a_function_that_this_build_lacks_is_an_error_of_one_line() -> None:
    with pytest.raises(UnsupportedModel, match="has no ggml_frobnicate, which heads need"):
        op("frobnicate", "p")


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("columns", [32, 576])
def test_products_of_a_repacked_matrix_are_those_of_the_plain_one(rows: int, columns: int) -> None:
    """One to three rows go another way in ggml than four and more."""
    random = np.random.default_rng(rows)
    data = quantize_rows(random.standard_normal((72, columns)).astype(np.float32), "q4_0")
    inputs, products = random.standard_normal((rows, columns)).astype(np.float32), []
    for repacked in (False, True):
        cpu = Cpu(1)
        if repacked and not cpu.repacks(TYPES["q4_0"], 72, columns):
            pytest.skip("this processor has no such form")
        context, step = cpu.context(1), cpu.context(4)
        weight = new_tensor(context, TYPES["q4_0"], 72, columns)
        cpu.allocate(context, repacked=repacked)
        fill(weight, data)
        x = new_input(step, TYPES["f32"], rows, columns)
        product = op("mul_mat", "pp")(step, weight, x)
        graph = cpu.graph(step, product)
        fill(x, inputs)
        cpu.compute(graph)
        products.append(read(product, rows, 72))
        cpu.close()
    exact = inputs @ dequantize_rows(data, TYPES["q4_0"], 72, columns).T
    for computed in products:
        assert np.sqrt(((computed - exact) ** 2).mean()) <= 0.03 * np.sqrt((exact**2).mean())


def test_matrices_that_have_no_other_form_are_left_as_they_are() -> None:
    cpu = Cpu(1)
    assert not any(cpu.repacks(TYPES[kind], 64, 64) for kind in ("f32", "f16"))
    assert not cpu.repacks(TYPES["q4_0"], 61, 64)
    assert not cpu.repacks(TYPES["q4_0"], 64)
    cpu.close()
