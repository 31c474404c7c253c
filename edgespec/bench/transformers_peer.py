"""transformers' assisted generation as a program, a peer of the benchmark.

    python -m edgespec.bench.transformers_peer MODEL.gguf THREADS DTYPE [ASSISTANT.gguf]

Both files are brought to numbers of DTYPE, as torch names it: transformers calculates with GGUF's own types only where
it can download kernels for them. The protocol is that of `edgespec.backend.llama_peer`. Needs torch,
transformers and gguf.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.generation.streamers import BaseStreamer

from edgespec.system.child import serve_json_lines


class _Clock(BaseStreamer):  # type: ignore[misc]
    """Records the time and the size of each block. The first call is for the prompt."""

    def __init__(self) -> None:
        self.blocks: list[tuple[float, int]] = []

    def put(self, value: Any) -> None:
        self.blocks.append((time.perf_counter(), value.numel()))

    def end(self) -> None:
        pass


class _Assisted:
    """A target in transformers, with an assistant model or without."""

    def __init__(self, path: str, dtype: str, assistant: str | None) -> None:
        self._target = _loaded(path, dtype)
        self._assistant = _loaded(assistant, dtype) if assistant else None

    def answer(self, prompt: list[int], count: int, temperature: float, seed: int, prefill_all: bool) -> dict[str, Any]:
        del prefill_all  # it has no cache between answers
        set_seed(seed)
        chosen = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        ids = torch.tensor([prompt])
        clock = _Clock()
        begun = time.perf_counter()
        with torch.inference_mode():
            said = self._target.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, streamer=clock,
                assistant_model=self._assistant, **chosen,
            )  # fmt: skip
        tokens = said[0, len(prompt) :].tolist()
        (first, at_once), (last, _) = clock.blocks[1], clock.blocks[-1]
        blocks, later = len(clock.blocks) - 2, len(tokens) - at_once
        # The first block holds drafted tokens too: the time is that of the later ones, for as many as there are.
        seconds = (last - first) * (len(tokens) - 1) / later if later else 0.0
        return {
            "tokens": tokens, "seconds": seconds, "first_token_seconds": first - begun, "blocks": blocks,
            "accepted": max(0, later - blocks) if self._assistant else 0,
        }  # fmt: skip


def _loaded(name: str, dtype: str) -> Any:
    path = Path(name)
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype)
    return model.eval()


def main(path: str, threads: str, dtype: str, assistant: str | None = None) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(int(threads))
    serve_json_lines(_Assisted(path, dtype, assistant).answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
