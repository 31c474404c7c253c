"""llama.cpp's quantizer."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

from edgespec.backend import native
from edgespec.errors import UnsupportedModel

QUANTIZATIONS = {
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}
"""Quantizations by name: those that take seconds, and that llama.cpp has repacked kernels for on x86 and ARM."""


def quantize(source: Path, out: Path, kind: str, *, threads: int) -> None:
    """Write `source` to `out` with all matrices, its output layer included, in `kind`, one of QUANTIZATIONS.

    A malformed file may end the process, and Ctrl-C does not stop it: `edgespec.vocabtrim.quantized` runs this in a
    child process. Raises UnsupportedModel with llama.cpp's reason; then `out` may be incomplete.
    """
    native.initialise()
    native.forget_errors()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = QUANTIZATIONS[kind]
    params.nthread = threads
    params.allow_requantize = params.pure = True
    status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params))
    if status:
        raise UnsupportedModel(
            f"{source}: llama.cpp cannot bring it to {kind} ({native.last_error() or 'no reason given'})"
        )
