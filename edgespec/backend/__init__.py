"""llama.cpp by the low-level API of llama-cpp-python. No other package but `integrations` imports `llama_cpp`."""

from edgespec.backend.context import LlamaContext, evaluate_together
from edgespec.backend.devices import gpus
from edgespec.backend.eagle3 import Eagle3Context
from edgespec.backend.embedding import EmbeddingTable
from edgespec.backend.hidden import HiddenStates, published_layers, states_of
from edgespec.backend.model import NO_VARIABLES, LlamaModel, LlamaVocabulary, Message
from edgespec.backend.native import build_name
from edgespec.backend.parallel import ParallelContext, shared_contexts
from edgespec.backend.prompt import Prompt
from edgespec.backend.quantize import QUANTIZATIONS, quantize
from edgespec.backend.sampler import LlamaSampler
from edgespec.backend.sequences import EXACT_KV, FLASH_ATTENTION, KV_TYPES, PREFILL_CHUNK

__all__ = [
    "EXACT_KV",
    "FLASH_ATTENTION",
    "KV_TYPES",
    "NO_VARIABLES",
    "PREFILL_CHUNK",
    "QUANTIZATIONS",
    "Eagle3Context",
    "EmbeddingTable",
    "HiddenStates",
    "LlamaContext",
    "LlamaModel",
    "LlamaSampler",
    "LlamaVocabulary",
    "Message",
    "ParallelContext",
    "Prompt",
    "build_name",
    "evaluate_together",
    "gpus",
    "published_layers",
    "quantize",
    "shared_contexts",
    "states_of",
]
