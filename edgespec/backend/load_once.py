"""Loads a model once, in a process that this may end."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

from edgespec.errors import UnsupportedModel
from edgespec.gguf.reader import malformed

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_N_CTX = 64
"""Context length in tokens."""


def load_once(path: str) -> None:
    """Load the model at `path` on the CPU, evaluate one token, and tokenize every byte there is.

    Raises MalformedModel or UnsupportedModel with llama.cpp's own reason. Some malformed files end the process
    instead, so call this in a process of its own: `edgespec.backend.load_check` does.
    """
    reasons: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def collect(level: int, text: bytes, _user_data: object) -> None:
        if level == _ERROR:
            reasons.append(text.decode(errors="replace").strip())

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    failed = _failed_call(path)
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))
    if failed:
        # The first error is the cause, the later ones say which callers gave up.
        reason = reasons[0] if reasons else f"{failed} failed without a reason"
        if "unknown model architecture" in reason:
            raise UnsupportedModel(f"{path}: {reason}; a newer llama-cpp-python may know it")
        raise malformed(Path(path), f"llama.cpp refuses it: {reason}")


def _failed_call(path: str) -> str:
    """The name of the call that failed; empty where none did."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = False  # weights repacked for speed would take twice the memory and the time
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return "llama_model_load_from_file"
    try:
        return _decode(model) or _tokenize(model)
    finally:
        llama_cpp.llama_model_free(model)


def _decode(model: object) -> str:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _N_CTX
    params.n_threads = params.n_threads_batch = min(4, os.cpu_count() or 1)
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        return "llama_init_from_model"
    try:
        token = (llama_cpp.llama_token * 1)(0)
        status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(token, 1))
        return f"llama_decode ({status})" if status else ""
    finally:
        llama_cpp.llama_free(context)


def _tokenize(model: object) -> str:
    """Some vocabularies end the process: SentencePiece at a byte that it lacks, others at blanks in a row."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    if llama_cpp.llama_vocab_type(vocabulary) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
        return ""
    text = bytes(range(256)) + b" a  b\n\n\nc \n \t d "
    tokens = (llama_cpp.llama_token * (4 * len(text)))()
    count = llama_cpp.llama_tokenize(vocabulary, text, len(text), tokens, len(tokens), False, False)
    return f"llama_tokenize ({count})" if count < 0 else ""
