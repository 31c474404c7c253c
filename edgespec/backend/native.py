"""Calls into llama.cpp with its log, its errors and signals handled."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from edgespec.backend.pages import NewMemory
from edgespec.core import Row
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.system.signals import EARLY_END, ENDING, delayed_signals

_log = logging.getLogger("edgespec.llama_cpp")
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}  # ggml.h: debug, info, warn, error
_CONTINUED = 5
_abort_callback = (
    # Called for each operation of a forward pass: a function of Python would be slow. This one returns 0 while the
    # string is empty.
    ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
    if os.name == "posix"
    else llama_cpp.ggml_abort_callback(0)
)


class _LogCollector:
    """Joins the pieces that llama.cpp logs into lines. The last error line is the reason behind a failed call."""

    def __init__(self) -> None:
        self.last_error = ""
        self._line = ""
        self._level = logging.DEBUG

    def receive(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _CONTINUED:
            self._flush()
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._line += text.decode(errors="replace")
        if self._line.endswith("\n"):
            self._flush()

    def _flush(self) -> None:
        line, self._line = self._line.strip(), ""
        if not line:
            return
        if self._level >= logging.ERROR:
            self.last_error = line
        _log.log(self._level, "%s", line)


_collector = _LogCollector()
_callback = llama_cpp.llama_log_callback(_collector.receive)  # kept here: llama.cpp holds only its address


def initialise() -> None:
    """Start llama.cpp once a process, with its log going to `logging` ("edgespec.llama_cpp").

    Raises InvalidRequest in a process that was forked after that: it lacks the parent's threads, and OpenMP would wait
    for them for ever.
    """
    if os.getpid() != (starter := _started_by()):
        raise InvalidRequest(
            f"process {os.getpid()} was forked from {starter} after that had started llama.cpp, and lacks its threads: "
            'use multiprocessing\'s "spawn" method, or load models in the children alone'
        )


@lru_cache(maxsize=1)
def _started_by() -> int:
    """The id of the process that started llama.cpp: this one, at the first call."""
    logging.getLogger("edgespec").addHandler(logging.NullHandler())
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return os.getpid()


def forget_errors() -> None:
    """Clear `last_error` before a call."""
    _collector.last_error = ""


def last_error() -> str:
    """The last error that llama.cpp logged since `forget_errors`; empty where there is none."""
    return _collector.last_error


def load_model(path: Path, params: Any) -> Any:
    """`llama_model_load_from_file`: a model, or nothing. Raises KeyboardInterrupt, and what signals raise."""
    model = None
    try:
        with delayed_signals() as interrupted:
            memory = NewMemory()  # at first it is asked with all memory allocated, and nothing read
            proceed = llama_cpp.llama_progress_callback(
                lambda share, _data: (share > 0.0 or memory.advise() >= 0) and not interrupted()
            )
            params.progress_callback = proceed
            model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    except BaseException:
        if model:
            llama_cpp.llama_model_free(model)
        raise
    return model


def new_context(model: Any, params: Any) -> Any:
    """`llama_init_from_model`: a context, or nothing. Raises KeyboardInterrupt, and what signals raise."""
    initialise()
    forget_errors()
    params.abort_callback, params.abort_callback_data = _abort_callback, ENDING
    context = None
    try:
        with delayed_signals():
            context = llama_cpp.llama_init_from_model(model, params)
    except BaseException:
        if context:
            llama_cpp.llama_free(context)
        raise
    return context


def decode(context: Any, batch: Any) -> None:
    """One forward pass of a llama_batch. Raises EvaluationError with llama.cpp's reason; InvalidRequest in a fork.

    A signal that ends the program ends the pass at once, and its exception is raised here: KeyboardInterrupt, say.
    """
    _evaluate(llama_cpp.llama_decode, context, batch)


def encode(context: Any, batch: Any) -> None:
    """One pass of a llama_batch through a model's encoder. Raises as `decode` does."""
    _evaluate(llama_cpp.llama_encode, context, batch)


def _evaluate(function: Callable[[Any, Any], int], context: Any, batch: Any) -> None:
    initialise()
    forget_errors()
    with EARLY_END:
        status = function(context, batch)
    if status:
        raise EvaluationError(
            f"llama.cpp could not evaluate {batch.n_tokens} tokens from position {batch.pos[0]} on "
            f"(status {status}: {last_error() or 'no reason given'})"
        )


def logits(pointer: Any, rows: int, n_vocab: int) -> Row:
    """The logits that `llama_get_logits` points to, shape (rows, n_vocab), without a copy."""
    view: Row = np.ctypeslib.as_array(pointer, (rows, n_vocab))
    return view


def build_name() -> str:
    """The build of llama.cpp in use, as far as its speed depends on it: version and CPU features."""
    initialise()
    return f"llama-cpp-python {llama_cpp.__version__}; {llama_cpp.llama_print_system_info().decode().strip(' |')}"
