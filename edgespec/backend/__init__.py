"""llama.cpp by the low-level API of llama-cpp-python. No other package but `integrations` imports `llama_cpp`."""

from edgespec.backend.context import EXACT_KV, KV_TYPES, PREFILL_CHUNK, LlamaContext
from edgespec.backend.devices import gpus
from edgespec.backend.embedding import EmbeddingTable
from edgespec.backend.model import NO_VARIABLES, LlamaModel, LlamaVocabulary, Message
from edgespec.backend.native import build_name
from edgespec.backend.parallel import ParallelContext
from edgespec.backend.prompt import Prompt
from edgespec.backend.quantize import QUANTIZATIONS, quantize
from edgespec.backend.sampler import LlamaSampler

__all__ = [
    "EXACT_KV",
    "KV_TYPES",
    "NO_VARIABLES",
    "PREFILL_CHUNK",
    "QUANTIZATIONS",
    "EmbeddingTable",
    "LlamaContext",
    "LlamaModel",
    "LlamaSampler",
    "LlamaVocabulary",
    "Message",
    "ParallelContext",
    "Prompt",
    "build_name",
    "gpus",
    "quantize",
]
