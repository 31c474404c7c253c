"""edgespec's n-gram drafters for llama-cpp-python's own `Llama`.

    from llama_cpp import Llama
    from edgespec.integrations.llama_cpp import DraftModel

    llama = Llama("model.gguf", draft_model=DraftModel(), logits_all=True)

`Llama` does less with a drafter than edgespec's own engine (`edgespec.load()`). It does not report which draft tokens
it accepted, so that no acceptance rates are learned. It does not report the time of forward passes, so that the drafter
cannot know whether drafting pays. Without `logits_all=True` it fails for prompts of more than `n_batch` tokens. And its
`tokenize` runs on the stack of its caller, where a run of 30,000 letters ends the process with some tokenizers, and
makes control tokens of what people write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp.llama_speculative import LlamaDraftModel

from edgespec.core import Drafter, arguments
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.errors import UnknownDrafter


class DraftModel(LlamaDraftModel):  # type: ignore[misc]
    """A drafter of edgespec's as `Llama(draft_model=...)`.

    `drafter`: `auto`, `suffix`, `anpd`, or an object that implements `edgespec.Drafter`. A draft has at most
    `max_tokens` and ends where the drafter's own estimate that all of it is accepted falls below `confidence`.
    """

    def __init__(self, drafter: str | Drafter = "suffix", *, max_tokens: int = 8, confidence: float = 0.5) -> None:
        self.drafter = _n_gram_drafter(drafter)
        self._max_tokens = arguments.integer("max_tokens", max_tokens, 1, arguments.MAX_INT32)
        self._confidence = arguments.number("confidence", confidence, 0.0, 1.0)

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **_: Any) -> npt.NDArray[np.intc]:
        """The draft tokens after `input_ids`, shape (n,), n from 0 to `max_tokens`."""
        if not len(input_ids):
            return np.empty(0, np.intc)
        draft = self.drafter.propose(input_ids.tolist(), self._max_tokens)
        length, confidence_so_far = 0, 1.0
        for node, parent in enumerate(draft.parents):
            confidence_so_far *= draft.probabilities[node]
            if parent != node - 1 or confidence_so_far < self._confidence:  # a branch of a tree is no part of a chain
                break
            length += 1
        return np.array(draft.tokens[:length], np.intc)


def _n_gram_drafter(drafter: str | Drafter) -> Drafter:
    """The n-gram drafter that a name means. Raises UnknownDrafter for a model, several drafters, or what is none."""
    if isinstance(drafter, Drafter):
        return drafter
    name = str(drafter)
    names = names_of(name)
    choices = [choice for choice in KNOWN if choice != "recycle"]  # `Llama` does not show it any logits
    if len(names) != 1 or names[0] not in choices:
        raise UnknownDrafter(f"no drafter {name!r} for Llama: choose auto, {', '.join(choices)}")
    return make_drafter(names[0])
