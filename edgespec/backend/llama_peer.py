"""llama-cpp-python's own `Llama` as a program, which the benchmark compares edgespec with.

    python -m edgespec.backend.llama_peer MODEL N_CTX THREADS GPU_LAYERS LOOKUP

It reads one JSON object a line, {"prompt": ids, "count", "temperature", "seed", "anew"}, and writes one: the fields of
`edgespec.bench.measurements.Answer`. LOOKUP is how many tokens LlamaPromptLookupDecoding drafts; 0: nothing is drafted.
Flash attention is on, as llama.cpp's `auto` has it in edgespec and in the server; `Llama` leaves it off unless asked.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from edgespec.system.child import serve


class _Counted:
    """A model whose evaluations are counted, and what its drafter gave."""

    def __init__(self, path: str, n_ctx: int, threads: int, gpu_layers: int, lookup: int) -> None:
        self._drafter = LlamaPromptLookupDecoding(num_pred_tokens=lookup) if lookup else None
        self.llama = llama_cpp.Llama(
            path, n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, n_gpu_layers=gpu_layers, flash_attn=True,
            verbose=False, draft_model=self._draft if lookup else None,
            logits_all=bool(lookup),  # without, drafting fails beyond n_batch tokens
        )  # fmt: skip
        self.evaluations = self.drafted = 0
        self._evaluate = self.llama.eval
        self.llama.eval = self._counting

    def _counting(self, tokens: Any) -> None:
        self.evaluations += 1
        self._evaluate(tokens)

    def _draft(self, ids: Any, /, **options: Any) -> Any:
        assert self._drafter is not None
        drafted = self._drafter(ids, **options)
        self.drafted += len(drafted)
        return drafted

    def answer(self, prompt: list[int], count: int, temperature: float, seed: int, anew: bool) -> dict[str, Any]:
        self.evaluations = self.drafted = 0
        if anew:
            self.llama.reset()
        self.llama.set_seed(seed)
        tokens: list[int] = []
        begun = first = last = time.perf_counter()
        for token in self.llama.generate(prompt, temp=temperature, top_k=0, top_p=1.0, min_p=0.0):
            last = time.perf_counter()
            if not tokens:
                first = last
                self.evaluations = 0
            tokens.append(int(token))
            if len(tokens) == count or self.llama._model.token_eos() == token or self._ends(token):
                break
        return {
            "tokens": tokens,
            "seconds": last - first,
            "first_token_seconds": first - begun,
            "blocks": self.evaluations,
            "drafted": self.drafted,
            "accepted": max(0, len(tokens) - 1 - self.evaluations) if self._drafter else 0,
        }

    def _ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.llama._model.vocab, token))


def main(path: str, *numbers: str) -> None:
    """Answer until standard input ends."""
    serve(_Counted(path, *map(int, numbers)).answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
