"""Calls llama.cpp's tokenizer on a stack that is large enough for the text.

Many pre-tokenizers (`tokenizer.ggml.pre`) of llama.cpp are regular expressions, which libstdc++ matches by recursion:
one level for each character of a match. A long run of letters, blanks or dots overflows the stack and ends the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import llama_cpp

from edgespec.core import arguments
from edgespec.errors import InvalidRequest
from edgespec.system.signals import delayed_signals

_STACK_PER_CHARACTER = 640
"""Bytes of stack for a character of a match: twice what llama.cpp's builds for x86-64 take (324, see
benchmarks/results/tokenizing.json)."""

_STACK_RESERVE = 1 << 18
"""Bytes of stack for everything else."""

_MOST_STACK = 1 << 30
"""Bytes of stack that a text may get. They are reserved; only a run of that length uses them."""

_PAGE = 1 << 16
"""Stack sizes are multiples of it on every system."""

_SHORT = 128
"""Characters that the stack of any thread is large enough for."""

_MOST_BYTES = 1 << 26
"""Bytes of a text: far beyond any context, far below what llama.cpp's 32-bit lengths hold."""

_BORDER = re.compile(r"(?<=\n)(?=\w)")
"""A place that no match extends over: behind a line break, only whitespace or a slash can still belong to it."""

_stack_size = threading.Lock()
"""Held while threads of this process are started with another stack size."""


def tokenize(vocabulary: Any, text: str, *, special: bool) -> list[int]:
    """The ids of `text` by llama.cpp's vocabulary, with no BOS or EOS token added.

    `special`: recognise control tokens by their texts; user-defined tokens always are. Raises InvalidRequest for
    text that is not UTF-8 (half a surrogate pair), too large, or needs more stack than there is.
    """
    data = arguments.text("the input", text).encode()
    if len(data) > _MOST_BYTES:
        raise InvalidRequest(f"the text has {len(data) >> 20} MiB: at most {_MOST_BYTES >> 20} can be read at once")
    if len(text) <= _SHORT:
        return _tokenize(vocabulary, data, special)
    longest = max(map(len, _BORDER.split(text)))
    size = _STACK_RESERVE + _STACK_PER_CHARACTER * longest
    if size > _MOST_STACK:
        raise InvalidRequest(f"the text has {longest} characters without a line break: break it into lines")
    return _on_stack(size, lambda: _tokenize(vocabulary, data, special), f"a line of {longest} characters")


def _tokenize(vocabulary: Any, data: bytes, special: bool) -> list[int]:
    size = len(data) + 8
    while True:
        buffer = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), buffer, size, False, special)
        if count >= 0:
            return list(buffer[:count])
        size = -count


def _on_stack(size: int, call: Callable[[], list[int]], purpose: str) -> list[int]:
    """The result of `call`, in a thread with `size` bytes of stack. Signals wait for its end, as for any C function."""
    results: list[list[int]] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="tokenizer", daemon=True)
    interrupt: BaseException | None = None
    try:
        with _stack_size, delayed_signals():  # else a thread could run that Python does not call alive yet
            usual = threading.stack_size(-(-size // _PAGE) * _PAGE)
            try:
                thread.start()
            except RuntimeError as error:
                raise InvalidRequest(f"no memory to read {purpose}: break it into shorter lines") from error
            finally:
                threading.stack_size(usual)
    finally:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # what a signal raised: the thread still reads the vocabulary
                interrupt = error
    for raised in (interrupt, *errors):
        if raised is not None:
            raise raised
    return results[0]
