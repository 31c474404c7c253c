"""Hidden states of the forward passes of a context: the inputs of layers, and the last state.

Layer inputs come by two functions of llama.cpp that are not in its public header, so their symbols are looked up by
name. They come for every token of a batch. Asking for those of a graph that does not publish them ends the process:
`_PUBLISHING` lists the architectures that do.

The last state, after the output norm, comes by llama.cpp's public functions, and only where all tokens of a batch are
outputs: such a batch pays the output layer for each token, and has at most MAX_ROWS tokens, as many as there is room
for rows.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llama_cpp
import numpy as np

from edgespec.backend.model import LlamaModel
from edgespec.core import Row
from edgespec.errors import InvalidRequest, UnsupportedModel

_VERSION = "0.3.36"
"""The llama-cpp-python whose llama.cpp the lists below were read from."""

_PUBLISHING = frozenset(
    [
        *("bailingmoe3", "deepseek4", "gemma4", "gpt-oss", "hunyuan-dense", "hunyuan_vl", "lfm2", "lfm2moe", "llama"),
        *("mimo2", "minimax-01", "minimax-m2", "muse-glimmer", "nanbeige", "nemotron_h", "nemotron_h_moe", "qwen3"),
        *("qwen35", "qwen35moe", "qwen3moe", "qwen3next"),
    ]
)
"""Architectures whose graph sets `t_layer_inp` for all layers, n_embd numbers wide: `grep t_layer_inp src/models/*`,
their names in src/llama-arch.cpp, and those whose `using graph =` in src/models/models.h is one of these graphs. Left
out: qwen4exp, whose tensors are wider."""

_STATE_OR_LOGITS = frozenset(["lfm2", "lfm2moe"])
"""Architectures that leave the logits out where the last state is asked for: `grep cparams.embeddings src/models`."""

_SET = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
_GET = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)
"""The names of a function in C, and as the C++ compilers of Linux and macOS, and of Windows, write them."""


Prefilled = Callable[[int, Row], None]
"""Gets the index of the first token of a prefill's chunk, and the states of its tokens, shape (tokens, width)."""


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Which hidden states a forward pass returns: for each token one vector, in which they follow each other.

    `layers`: the inputs of these layers. `last`: the state from which the output layer computes the logits, after the
    output norm; it is the last part of the vector. Each has n_embd numbers.
    """

    layers: tuple[int, ...] = ()
    last: bool = False


class PrefillStates:
    """The hidden states of the last `tail` tokens of a prefill, in whole chunks.

    `receive` gets them instead of a list, where it is given: by default those of all tokens, else of none.
    """

    def __init__(self, tail: int | None = None, receive: Prefilled | None = None) -> None:
        self._receive = receive
        self._tail: float = (0 if receive is None else math.inf) if tail is None else tail
        self._total = 0
        self._chunks: list[Row] = []

    def begin(self, total: int) -> None:
        """A prefill of `total` tokens begins."""
        self._total = total
        self._chunks = []

    def wants(self, end: int) -> bool:
        """Whether the states of a chunk that ends before token `end` are collected."""
        return self._tail > 0 and end > self._total - self._tail

    def add(self, begin: int, states: Row) -> None:
        """The states of a chunk from token `begin` on, shape (tokens, width)."""
        if self._receive is None:
            self._chunks.append(states)
        else:
            self._receive(begin, states)

    @property
    def collected(self) -> Row | None:
        """The states, shape (tokens, width); None where there are none."""
        return np.concatenate(self._chunks) if self._chunks else None


NO_STATES = PrefillStates()
"""Of a context that collects none."""


def published_layers(model: LlamaModel) -> int:
    """The number of layers whose inputs can be had, from layer 0 on: all of them, or 0."""
    known = llama_cpp.__version__ == _VERSION and _functions() is not None
    publishes = known and model.metadata("general.architecture") in _PUBLISHING
    return int(llama_cpp.llama_model_n_layer(model.pointer)) if publishes else 0


def states_of(model: LlamaModel, layers: Sequence[int]) -> HiddenStates:
    """The inputs of these layers where the model has them, else the last state."""
    return HiddenStates(tuple(layers)) if published_layers(model) else HiddenStates(last=True)


class HiddenReader:
    """Reads the hidden states of the forward passes of one context of llama.cpp, from `start` to `stop`.

    Raises UnsupportedModel for states that the model does not give, InvalidRequest for layers that it does not have.
    """

    def __init__(self, context: Any, model: LlamaModel, states: HiddenStates) -> None:
        if not states.layers and not states.last:
            raise InvalidRequest("no hidden states are named: name layers, or the last state")
        if states.last:
            _check_last(context, model)
        if states.layers:
            _check_layers(model, states.layers)
        self.states = states
        self._context = context
        self._width = int(llama_cpp.llama_model_n_embd(model.pointer))
        functions: tuple[Any, Any] = _functions() or (None, None)
        self._set_layer, self._get_layer = functions

    def start(self) -> None:
        """Ask for the layers in the passes to come."""
        self._ask(True)

    def stop(self) -> None:
        """Ask for nothing: the passes of the context are as they were before."""
        self.switch(False)
        self._ask(False)

    def switch(self, wanted: bool) -> bool:
        """Before a forward pass: whether its states will be read. True where all of its tokens become outputs."""
        all_outputs = wanted and self.states.last
        llama_cpp.llama_set_embeddings(self._context, all_outputs)
        return all_outputs

    def read(self, begin: int, count: int) -> Row:
        """The states of `count` tokens of the last batch from its token `begin` on, shape (count, width): a copy."""
        addresses = [self._get_layer(self._context, layer) for layer in self.states.layers]
        if self.states.last:
            addresses.append(ctypes.addressof(llama_cpp.llama_get_embeddings(self._context).contents))
        states: Row = np.concatenate([_view(address, begin, count, self._width) for address in addresses], axis=1)
        return states

    def _ask(self, wanted: bool) -> None:
        for layer in self.states.layers:
            self._set_layer(self._context, layer, wanted)


def _check_last(context: Any, model: LlamaModel) -> None:
    """Raises UnsupportedModel where llama.cpp would end the process over the last state, or return something else."""
    architecture = model.metadata("general.architecture")
    remedy = "ask for layer inputs" if published_layers(model) else "it has no layer inputs either"
    if architecture in _STATE_OR_LOGITS:
        raise UnsupportedModel(f"{model.path}: {architecture} gives no last state beside logits; {remedy}")
    projected = any(model.metadata(f"{architecture}.dense_{index}_feat_out") is not None for index in (2, 3))
    widths = {llama_cpp.llama_model_n_embd(model.pointer), llama_cpp.llama_model_n_embd_out(model.pointer)}
    if projected or len(widths) > 1 or llama_cpp.llama_pooling_type(context) != llama_cpp.LLAMA_POOLING_TYPE_NONE:
        raise UnsupportedModel(f"{model.path}: llama.cpp pools or projects its last state; {remedy}")


def _check_layers(model: LlamaModel, layers: Sequence[int]) -> None:
    """Raises where llama.cpp would end the process over the inputs of these layers."""
    count = published_layers(model)
    if not count:
        raise UnsupportedModel(
            f"{model.path}: no layer inputs of {model.metadata('general.architecture')} are known to come from the "
            f"llama.cpp of llama-cpp-python {llama_cpp.__version__}; ask for the last state"
        )
    for layer in layers:
        if not 0 <= layer < count:
            raise InvalidRequest(f"layer {layer} has no input: {model.path.name} has layers 0 to {count - 1}")


def find_function(names: Sequence[str]) -> Any:
    """The function of llama.cpp that its build exports by one of these names; None where it has none of them."""
    library = llama_cpp.llama_cpp._lib
    return next((getattr(library, name) for name in names if hasattr(library, name)), None)


@lru_cache(maxsize=1)
def _functions() -> tuple[Any, Any] | None:
    """llama.cpp's functions (set, get) for layer inputs; None where this build does not export them."""
    setter, getter = find_function(_SET), find_function(_GET)
    if setter is None or getter is None:
        return None
    setter.argtypes, setter.restype = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool), None
    getter.argtypes, getter.restype = (ctypes.c_void_p, ctypes.c_uint32), ctypes.c_void_p
    return setter, getter


def _view(address: int, begin: int, count: int, width: int) -> Row:
    """Rows of a matrix at an address, `width` numbers each, without a copy."""
    row_bytes = width * ctypes.sizeof(ctypes.c_float)
    numbers: Any = (ctypes.c_float * (count * width)).from_address(address + begin * row_bytes)
    view: Row = np.frombuffer(numbers, np.float32).reshape(count, width)
    return view
