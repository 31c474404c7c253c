"""A tiny model that writes prompts and answers, and a child process that collects from it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaModel
from edgespec.gguf.validate import read_header
from edgespec.heads import collect as collecting
from edgespec.heads import dataset, self_prompts
from edgespec.heads.collect import Collected, Collecting, Progress, collect_answers
from edgespec.vocabtrim.answers import AnswerSettings
from tests.gguf_files import byte_level, tiny_model

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = [f"say {number} and {number * number}" for number in range(14)]
WANTED = Collecting(AnswerSettings(max_tokens=40, temperature=1.0, n_ctx=128, seed=3), own_prompts=5, slots=3)
SHARD_BYTES = 50_000
"""So that there are several shards."""


def talker(path: Path, template: str = TEMPLATE) -> Path:
    """A model with this chat template, which says anything."""
    return tiny_model(path, tied=False, metadata={**byte_level("gpt-2"), "tokenizer.chat_template": template})


def collect(path: Path, directory: Path, wanted: Collecting = WANTED, progress: Progress = lambda _: None) -> Collected:
    """Collect answers to PROMPTS."""
    model = LlamaModel(path, gpu_layers=0)
    try:
        return collect_answers(model, read_header(path), PROMPTS, directory, wanted, progress)
    finally:
        model.close()


def spelled(_model: LlamaModel, tokens: list[int]) -> str | None:
    """A prompt out of any attempt: this model writes no texts."""
    return " ".join(map(str, tokens[:8])) if tokens[0] % 3 else None


def killed(name: str, count: str, path: str, directory: str) -> None:
    """Collect in this process, which kills itself at the `count`-th progress or write to the disk (`name`)."""
    collecting._SHARD_BYTES = SHARD_BYTES
    vars(self_prompts)["_text"] = spelled
    left = int(count)

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return counted

    if name == "flush":
        vars(dataset)["_flush"] = counting(dataset._flush)
    collect(Path(path), Path(directory), progress=counting(lambda _: None) if name == "progress" else lambda _: None)


if __name__ == "__main__":
    killed(*sys.argv[1:])
