"""Everything edgespec raises on purpose.

    EdgespecError
    ├── ModelError            a model file cannot be used
    │   ├── ModelNotFound     no such file, alias or installed default
    │   ├── MalformedModel    not a GGUF, truncated, corrupted, or refused by llama.cpp
    │   ├── UnsupportedModel  a sound file that cannot generate text here (an embedding model, say)
    │   ├── DownloadError     a model cannot be fetched
    │   └── ProofFailed       a trimmed model whose logits are not the full one's
    ├── InvalidRequest        an argument out of range, or a combination that makes no sense
    │   ├── GrammarError      a grammar or JSON schema that cannot be used
    │   └── UnknownDrafter    a drafter name nobody answers to
    ├── ContextOverflow       prompt and answer do not fit into the context
    ├── EvaluationError       llama.cpp could not evaluate a batch
    └── OutputError           a file cannot be written

The message of each is one line for the person at the terminal: the value, the reason, the remedy.
"""

from __future__ import annotations


class EdgespecError(Exception):
    """Base of every error that edgespec raises on purpose."""


class ModelError(EdgespecError):
    """A model file cannot be used."""


class ModelNotFound(ModelError):
    """There is no such model file."""


class MalformedModel(ModelError):
    """The file is not a sound GGUF."""


class UnsupportedModel(ModelError):
    """The file is sound, and edgespec cannot generate text with it."""


class DownloadError(ModelError):
    """A model cannot be fetched."""


class ProofFailed(ModelError):
    """A trimmed model does not say what the full one says."""


class InvalidRequest(EdgespecError, ValueError):
    """An argument is out of range."""


class GrammarError(InvalidRequest):
    """A grammar or a JSON schema cannot be used."""


class UnknownDrafter(InvalidRequest):
    """No drafter has this name."""


class ContextOverflow(EdgespecError):
    """Prompt and answer do not fit into the context."""


class TooBusy(EdgespecError):
    """Too many answers are in progress: the same request may be made later."""


class EvaluationError(EdgespecError):
    """llama.cpp could not evaluate a batch."""


class OutputError(EdgespecError):
    """A file cannot be written."""
