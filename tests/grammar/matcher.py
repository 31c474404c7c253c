"""llama.cpp's own grammar over single bytes: whether it allows a text, and random texts that it allows."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np

from edgespec.backend import LlamaVocabulary

END, BYTE = 2, 3
"""Ids of the tiny vocabulary: the end of an answer, and byte 0."""
_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_IDS = np.array([END, *range(BYTE, BYTE + 256)], np.int32)


class Matcher:
    """A grammar, at a place in a text."""

    def __init__(self, vocabulary: LlamaVocabulary, grammar: str) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary.pointer, grammar.encode(), b"root")
        assert self._sampler, "llama.cpp refuses the grammar"

    def allowed(self, ids: Any = _IDS) -> list[int]:
        """Those of `ids` that may come next."""
        data = np.zeros(len(ids), _DATA)
        data["id"] = ids
        array = llama_cpp.llama_token_data_array(
            data=data.ctypes.data_as(llama_cpp.llama_token_data_p), size=len(ids), selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return [int(token) for token in data["id"][data["logit"] > -np.inf]]

    def accept(self, token: int) -> None:
        """Go on by one token that is allowed."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def __enter__(self) -> Matcher:
        return self

    def __exit__(self, *error: object) -> None:
        llama_cpp.llama_sampler_free(self._sampler)


def accepts(vocabulary: LlamaVocabulary, grammar: str, text: str) -> bool:
    """Whether `text` is one that the grammar allows, from its beginning to its end."""
    with Matcher(vocabulary, grammar) as matcher:
        for byte in text.encode():
            if not matcher.allowed([BYTE + byte]):
                return False
            matcher.accept(BYTE + byte)
        return bool(matcher.allowed([END]))


@dataclass(frozen=True)
class Answer:
    """A text that a grammar allows; not `ended` where it was cut."""

    text: str
    ended: bool


_CLOSING = frozenset(BYTE + byte for byte in b'"]}')


def answer(vocabulary: LlamaVocabulary, grammar: str, seed: int, most: int = 400) -> Answer:
    """A random text of the grammar, of ASCII where it has the choice, and ending sooner rather than later."""
    chance = random.Random(seed)
    said = bytearray()
    with Matcher(vocabulary, grammar) as matcher:
        for _ in range(most):
            allowed = matcher.allowed()
            assert allowed, f"nothing may follow {bytes(said)!r}"
            if END in allowed and chance.random() < 0.7:
                return Answer(said.decode(), ended=True)
            closing = [token for token in allowed if token in _CLOSING]
            ascii_only = [token for token in allowed if BYTE <= token < BYTE + 128]
            token = chance.choice(
                closing if closing and chance.random() < 0.2 + len(said) / most else ascii_only or allowed
            )
            if token == END:
                return Answer(said.decode(), ended=True)
            matcher.accept(token)
            said.append(token - BYTE)
    return Answer(said.decode(errors="replace"), ended=False)
