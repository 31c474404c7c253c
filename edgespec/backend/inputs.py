"""Which ids a context takes."""

from __future__ import annotations

from edgespec.backend.context import LlamaContext


def input_size(context: LlamaContext) -> int:
    """The number of ids, from 0 on, that `context` can evaluate: a trimmed model reads more of them than it says."""
    model = context._model
    return model.inputs.rows if model.inputs is not None else model.vocabulary.size
