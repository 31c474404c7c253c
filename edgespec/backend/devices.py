"""The devices that llama.cpp computes on, besides the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import lru_cache

from llama_cpp._ggml import libggml

from edgespec.backend import native

_GPU, _IGPU = 1, 2
"""ggml_backend_dev_type of ggml-backend.h: with memory of its own, and with the CPU's. BLAS is neither."""


@lru_cache(maxsize=1)
def gpus() -> tuple[str, ...]:
    """The GPUs that this build of llama.cpp finds, as they call themselves: `NVIDIA H100 (CUDA0)`."""
    native.initialise()
    return tuple(_device_texts(_GPU, _IGPU))


def _device_texts(*kinds: int) -> Iterator[str]:
    """The names of ggml's devices of these kinds; none where the library exports no list of devices."""
    if not hasattr(libggml, "ggml_backend_dev_count"):
        return
    count, get, kind_of = libggml.ggml_backend_dev_count, libggml.ggml_backend_dev_get, libggml.ggml_backend_dev_type
    texts = libggml.ggml_backend_dev_description, libggml.ggml_backend_dev_name
    count.argtypes, count.restype = (), ctypes.c_size_t
    get.argtypes, get.restype = (ctypes.c_size_t,), ctypes.c_void_p
    kind_of.argtypes, kind_of.restype = (ctypes.c_void_p,), ctypes.c_int
    for text_of in texts:
        text_of.argtypes, text_of.restype = (ctypes.c_void_p,), ctypes.c_char_p
    for index in range(count()):
        device = get(index)
        if kind_of(device) in kinds:
            description, name = (text_of(device).decode(errors="replace") for text_of in texts)
            yield f"{description} ({name})"
