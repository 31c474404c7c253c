"""llama.cpp by the low-level API of llama-cpp-python. No other package but `integrations` imports `llama_cpp`."""

from edgespec.backend.context import LlamaContext, evaluate_together, shared_contexts
from edgespec.backend.devices import gpus
from edgespec.backend.embedding import EmbeddingTable
from edgespec.backend.model import NO_VARIABLES, LlamaModel, LlamaVocabulary, Message
from edgespec.backend.native import build_name
from edgespec.backend.parallel import ParallelContext
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
    "EmbeddingTable",
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
    "quantize",
    "shared_contexts",
]
