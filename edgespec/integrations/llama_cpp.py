"""edgespec's n-gram drafters for llama-cpp-python's own `Llama`.

    from llama_cpp import Llama
    from edgespec.integrations.llama_cpp import DraftModel

    llama = Llama("model.gguf", draft_model=DraftModel(), logits_all=True)

What `Llama` can do with a drafter is less than what edgespec's engine does, and `edgespec.load()` is there for that:
`Llama` does not tell what became of a draft, so nothing is learned of acceptance, nor does it say what an evaluation
costs, so it cannot be told from here whether drafting pays. It evaluates every draft in full. And without
`logits_all=True` it fails where a prompt has more than `n_batch` tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp.llama_speculative import LlamaDraftModel

from edgespec.core import Drafter
from edgespec.drafters import KNOWN, make_drafter, names_of
from edgespec.errors import InvalidRequest, UnknownDrafter


class DraftModel(LlamaDraftModel):  # type: ignore[misc]
    """A drafter of edgespec's as `Llama(draft_model=...)`.

    `drafter`: `auto`, `suffix`, `anpd`, or an object that implements `edgespec.Drafter`. A draft has at most
    `max_tokens` and ends where, by the drafter's own estimate, all of it is right less often than `confidence`: a
    doubtful draft costs time, and nobody notices here when it does.
    """

    def __init__(self, drafter: str | Drafter = "suffix", *, max_tokens: int = 8, confidence: float = 0.5) -> None:
        if max_tokens < 1 or not 0.0 <= confidence <= 1.0:
            raise InvalidRequest(f"max_tokens {max_tokens} must be at least 1, confidence {confidence} from 0 to 1")
        self.drafter = _named(drafter) if isinstance(drafter, str) else drafter
        self._max_tokens = max_tokens
        self._confidence = confidence

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **_: Any) -> npt.NDArray[np.intc]:
        """The tokens that may follow `input_ids`, shape (n,), n from 0 to `max_tokens`."""
        if not len(input_ids):
            return np.empty(0, np.intc)
        draft = self.drafter.propose(input_ids.tolist(), self._max_tokens)
        length, sure = 0, 1.0
        for node, parent in enumerate(draft.parents):
            sure *= draft.probabilities[node]
            if parent != node - 1 or sure < self._confidence:  # a branch of a tree is no part of a chain
                break
            length += 1
        return np.array(draft.tokens[:length], np.intc)


def _named(name: str) -> Drafter:
    """The one drafter that `name` means; for several, or a model, there is no place in `Llama`."""
    names = names_of(name)
    if len(names) != 1 or names[0] not in KNOWN:
        raise UnknownDrafter(f"no drafter {name!r} for Llama: choose auto, {', '.join(KNOWN)}")
    return make_drafter(names[0])
