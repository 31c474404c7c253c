"""ggml by ctypes: rows of a type as bytes and as numbers, and small graphs on the CPU.

The libraries are those that llama-cpp-python ships. What ggml would end the process for is checked here or by the
caller before: shapes, types, and rows that are no multiple of a block.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml

from edgespec.errors import EvaluationError, InvalidRequest, UnsupportedModel
from edgespec.gguf.reader import BLOCKS

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
"""The types that weights are stored in here, with ggml's numbers."""
F32, F16, I32, I64 = 0, 1, 26, 27

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_TENSOR_BYTES = 512
"""Bytes that ggml needs for a tensor's description: 368 and an object's header, by ggml_tensor_overhead."""
_GRAPH_NODES = 256

Tensor = Any
"""A pointer to a ggml_tensor."""


class _TypeTraits(ctypes.Structure):
    """ggml_type_traits of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_elements", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float", ctypes.c_void_p),
    )


class _InitParams(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@lru_cache
def to_float(kind: int) -> Any:
    """ggml's routine from a row of this type to 32-bit floats: (row, floats, number of elements)."""
    traits_of = libggml.ggml_get_type_traits
    traits_of.argtypes, traits_of.restype = (ctypes.c_int,), ctypes.POINTER(_TypeTraits)
    address = traits_of(kind).contents.to_float
    if not address:
        raise UnsupportedModel(f"embeddings of ggml type {kind} cannot be read as numbers")
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)


def quantize_rows(rows: npt.NDArray[np.float32], kind: str) -> bytes:
    """The bytes of a matrix, shape (rows, columns), in a type of `TYPES`, by ggml's own quantizer.

    Raises InvalidRequest for columns that are no multiple of the type's block.
    """
    number = TYPES[kind]
    elements, size = BLOCKS[number]
    if rows.ndim != 2 or rows.shape[1] % elements:
        raise InvalidRequest(f"rows of shape {rows.shape} as {kind}: the last number must be a multiple of {elements}")
    data = np.ascontiguousarray(rows, np.float32)
    if kind in ("f32", "f16"):
        return data.astype("<f4" if kind == "f32" else "<f2").tobytes()
    out = np.empty(data.size // elements * size, np.uint8)
    written = _function("ggml_quantize_chunk", ctypes.c_size_t, "ippqqqp")(
        number, data.ctypes.data, out.ctypes.data, 0, data.shape[0], data.shape[1], None
    )
    assert written == len(out)
    return out.tobytes()


def dequantize_rows(data: bytes, kind: int, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """The numbers of a matrix's bytes in a ggml type, shape (rows, columns)."""
    elements, size = BLOCKS[kind]
    if columns % elements or len(data) != rows * (columns // elements) * size:
        raise InvalidRequest(f"{len(data)} bytes are no matrix of {rows} x {columns} in ggml type {kind}")
    if kind == F32:
        return np.frombuffer(data, "<f4").reshape(rows, columns).astype(np.float32)
    raw, numbers = np.frombuffer(data, np.uint8), np.empty((rows, columns), np.float32)
    to_float(kind)(raw.ctypes.data, numbers.ctypes.data, rows * columns)
    return numbers


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of a file: its ggml type, its shape as numpy has it, the fastest dimension last, and its bytes."""

    kind: int
    shape: tuple[int, ...]
    data: Any

    def check(self, name: str, *shape: int) -> Weight:
        """This weight, if it has that shape and a type that heads are computed in. Raises InvalidRequest.

        Matrices have a type of `TYPES`, vectors are f32: on others ggml ends the process.
        """
        elements, size = BLOCKS.get(self.kind, (0, 0))
        if self.shape != shape or not elements or shape[-1] % elements:
            raise InvalidRequest(f"{name} has shape {self.shape} in ggml type {self.kind}: it must be {shape}")
        if self.kind not in ((F32,) if len(shape) == 1 else TYPES.values()):
            raise InvalidRequest(f"{name} has the ggml type {self.kind}, and heads are computed in others")
        expected = int(np.prod(shape)) // elements * size
        if memoryview(self.data).nbytes != expected:
            raise InvalidRequest(f"{name} has {memoryview(self.data).nbytes} bytes: it must have {expected}")
        return self


class Cpu:
    """ggml's CPU backend with a number of threads, and what was allocated on it. Not thread-safe."""

    def __init__(self, threads: int) -> None:
        self._backend = _function("ggml_backend_init_by_type", ctypes.c_void_p, "ip")(_CPU, None)
        if not self._backend:
            raise UnsupportedModel("this build of llama-cpp-python has no CPU backend for heads")
        self._free: list[tuple[Callable[[Any], object], Any]] = [
            (_function("ggml_backend_free", None, "p"), self._backend)
        ]
        self._finalizer = weakref.finalize(self, _release, self._free)
        device = _function("ggml_backend_get_device", ctypes.c_void_p, "p")(self._backend)
        registry = _function("ggml_backend_dev_backend_reg", ctypes.c_void_p, "p")(device)
        address = _function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, "ps")(
            registry, b"ggml_backend_set_n_threads"
        )
        if address:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(self._backend, threads)
        self._buffer_type = _function("ggml_backend_get_default_buffer_type", ctypes.c_void_p, "p")(self._backend)
        self._device, self._repacking = device, _repacking(registry, device)

    def close(self) -> None:
        """Free everything that was made here."""
        self._finalizer()

    def context(self, tensors: int) -> Any:
        """A context for the descriptions of so many tensors, and a graph."""
        overhead = _function("ggml_graph_overhead_custom", ctypes.c_size_t, "Nb")(_GRAPH_NODES, False)
        params = _InitParams(tensors * _TENSOR_BYTES + overhead, None, True)
        init = libggml.ggml_init
        init.argtypes, init.restype = (_InitParams,), ctypes.c_void_p
        context = init(params)
        self._free.append((_function("ggml_free", None, "p"), context))
        return context

    def allocate(self, context: Any, *, repacked: bool = False) -> None:
        """Allocate all tensors of a context, filled with zeros; `repacked` only those that `repacks` is true of."""
        buffer = _allocated(context, self._repacking if repacked else self._buffer_type)
        self._free.append((_function("ggml_backend_buffer_free", None, "p"), buffer))
        _function("ggml_backend_buffer_clear", None, "pB")(buffer, 0)

    def repacks(self, kind: int, *shape: int) -> bool:
        """Whether a matrix has a form in which products of one row read it faster here, as llama.cpp's own have.

        ggml is asked with a tensor of that shape: filling one that has no such form ends the process.
        """
        if self._repacking is None or len(shape) != 2 or kind in (F32, F16):
            return False
        context = self.context(3)
        matrix = new_tensor(context, kind, *shape)
        buffer = _allocated(context, self._repacking)
        product = op("mul_mat", "pp")(context, matrix, new_tensor(context, F32, 1, shape[1]))
        supported = _function("ggml_backend_dev_supports_op", ctypes.c_bool, "pp")(self._device, product)
        _function("ggml_backend_buffer_free", None, "p")(buffer)
        return bool(supported)

    def graph(self, context: Any, *outputs: Tensor) -> Any:
        """A graph that computes the outputs, with memory for what is between."""
        graph = _function("ggml_new_graph_custom", ctypes.c_void_p, "pNb")(context, _GRAPH_NODES, False)
        for output in outputs:
            _function("ggml_set_output", None, "p")(output)
            _function("ggml_build_forward_expand", None, "pp")(graph, output)
        allocator = _function("ggml_gallocr_new", ctypes.c_void_p, "p")(self._buffer_type)
        self._free.append((_function("ggml_gallocr_free", None, "p"), allocator))
        if not _function("ggml_gallocr_alloc_graph", ctypes.c_bool, "pp")(allocator, graph):
            raise EvaluationError("there is no memory for the heads")
        return graph

    def compute(self, graph: Any) -> None:
        """Compute a graph. Raises EvaluationError where ggml fails."""
        if status := _function("ggml_backend_graph_compute", ctypes.c_int, "pp")(self._backend, graph):
            raise EvaluationError(f"the heads could not be computed (ggml status {status})")


def _repacking(registry: Any, device: Any) -> Any:
    """The CPU's buffer type that repacks matrices; None where this build has none."""
    address = _function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, "ps")(
        registry, b"ggml_backend_dev_get_extra_bufts"
    )
    if not address:
        return None
    types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    name = _function("ggml_backend_buft_name", ctypes.c_char_p, "p")
    for index in itertools.count():
        if not types[index]:
            return None
        if name(types[index]) == b"CPU_REPACK":
            return types[index]
    return None


def _allocated(context: Any, buffer_type: Any) -> Any:
    """A buffer of a type with all tensors of a context."""
    allocate = _function("ggml_backend_alloc_ctx_tensors_from_buft", ctypes.c_void_p, "pp")
    buffer = allocate(context, buffer_type)
    if not buffer:
        raise EvaluationError("there is no memory for the heads")
    return buffer


def _release(made: list[tuple[Callable[[Any], object], Any]]) -> None:
    while made:
        free, pointer = made.pop()
        free(pointer)


def new_tensor(context: Any, kind: int, *shape: int) -> Tensor:
    """A tensor of a numpy shape: the fastest dimension last."""
    sizes = (ctypes.c_int64 * len(shape))(*reversed(shape))
    return _function("ggml_new_tensor", ctypes.c_void_p, "piip")(context, kind, len(shape), sizes)


def new_input(context: Any, kind: int, *shape: int) -> Tensor:
    """A tensor of a graph that is filled before it is computed."""
    tensor = new_tensor(context, kind, *shape)
    _function("ggml_set_input", None, "p")(tensor)
    return tensor


def fill(tensor: Tensor, data: Any) -> None:
    """Copy an array, or bytes, into a tensor of the same size."""
    array = np.ascontiguousarray(data) if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    _function("ggml_backend_tensor_set", None, "ppNN")(tensor, array.ctypes.data, 0, array.nbytes)


def read(tensor: Tensor, *shape: int) -> npt.NDArray[np.float32]:
    """A copy of a tensor of 32-bit floats."""
    array = np.empty(shape, np.float32)
    _function("ggml_backend_tensor_get", None, "ppNN")(tensor, array.ctypes.data, 0, array.nbytes)
    return array


_CODES = {
    "p": ctypes.c_void_p, "i": ctypes.c_int, "q": ctypes.c_int64, "N": ctypes.c_size_t, "f": ctypes.c_float,
    "b": ctypes.c_bool, "B": ctypes.c_uint8, "s": ctypes.c_char_p,
}  # fmt: skip
"""Argument types by letter: pointer, int, int64_t, size_t, float, bool, uint8_t, char *."""


@lru_cache(maxsize=256)
def _function(name: str, result: Any, arguments: str) -> Callable[..., Any]:
    """A function of ggml. Raises UnsupportedModel where this build does not export it."""
    try:
        function = libggml[name]  # an object of its own, whose argument types nobody else sets
    except AttributeError:
        raise UnsupportedModel(f"this build of llama-cpp-python has no {name}, which heads need") from None
    function.argtypes, function.restype = [_CODES[code] for code in arguments], result
    return function  # type: ignore[no-any-return]


def op(name: str, arguments: str) -> Callable[..., Tensor]:
    """The function `ggml_<name>` that makes a tensor, given its argument types after the context."""
    return _function(f"ggml_{name}", ctypes.c_void_p, f"p{arguments}")
