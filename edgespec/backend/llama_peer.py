"""llama-cpp-python's own `Llama` as a program, which the benchmark compares edgespec with.

    python -m edgespec.backend.llama_peer MODEL N_CTX THREADS GPU_LAYERS LOOKUP

It reads one JSON object a line, {"prompt": ids, "count", "temperature", "seed", "prefill_all"}, and writes one: the
fields of `edgespec.bench.measurements.Answer`. LOOKUP is the number of tokens that LlamaPromptLookupDecoding drafts;
0 means no drafts. Flash attention is on, as llama.cpp's `auto` has it in edgespec and in the server; the default of
`Llama` is off.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import llama_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from edgespec.system.child import serve_json_lines


class _CountingLlama:
    """A `Llama` that counts its forward passes and its draft tokens."""

    def __init__(self, path: str, n_ctx: int, threads: int, gpu_layers: int, lookup: int) -> None:
        self._drafter = LlamaPromptLookupDecoding(num_pred_tokens=lookup) if lookup else None
        self.llama = llama_cpp.Llama(
            path, n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, n_gpu_layers=gpu_layers, flash_attn=True,
            verbose=False, draft_model=self._draft if lookup else None,
            logits_all=bool(lookup),  # without, drafting fails beyond n_batch tokens
        )  # fmt: skip
        self.forward_passes = self.drafted = 0
        self._evaluate = self.llama.eval
        self.llama.eval = self._counted_eval

    def _counted_eval(self, tokens: Any) -> None:
        self.forward_passes += 1
        self._evaluate(tokens)

    def _draft(self, ids: Any, /, **options: Any) -> Any:
        assert self._drafter is not None
        drafted = self._drafter(ids, **options)
        self.drafted += len(drafted)
        return drafted

    def answer(self, prompt: list[int], count: int, temperature: float, seed: int, prefill_all: bool) -> dict[str, Any]:
        self.forward_passes = self.drafted = 0
        if prefill_all:
            self.llama.reset()
        self.llama.set_seed(seed)
        tokens: list[int] = []
        begun = first = last = time.perf_counter()
        for token in self.llama.generate(prompt, temp=temperature, top_k=0, top_p=1.0, min_p=0.0):
            last = time.perf_counter()
            if not tokens:
                first = last
                self.forward_passes = 0
            tokens.append(int(token))
            if len(tokens) == count or self.llama._model.token_eos() == token or self._is_end(token):
                break
        return {
            "tokens": tokens,
            "seconds": last - first,
            "first_token_seconds": first - begun,
            "blocks": self.forward_passes,
            "drafted": self.drafted,
            "accepted": max(0, len(tokens) - 1 - self.forward_passes) if self._drafter else 0,
        }

    def _is_end(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.llama._model.vocab, token))


def main(path: str, *numbers: str) -> None:
    """Answer until standard input ends."""
    serve_json_lines(_CountingLlama(path, *map(int, numbers)).answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
