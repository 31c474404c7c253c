"""The target's own answers to prompts, in a journal: each is written as it finishes, so that a run can be resumed."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaModel, ParallelContext, Prompt
from edgespec.core import Row, arguments
from edgespec.decode.sampling import SamplingParams, draw_any
from edgespec.errors import InvalidRequest, OutputError

CollectProgress = Callable[[int, int, int], None]
"""Called with finished answers, all answers, and tokens so far."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How the target answers. A journal can be resumed with equal settings. Raises InvalidRequest."""

    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    n_ctx: int = 2048
    """Tokens of one prompt and its answer; longer prompts are skipped."""
    raw: bool = False
    """Use the prompts as they are, without the chat template."""

    def __post_init__(self) -> None:
        arguments.none_is_default(self)
        sampling = SamplingParams(temperature=self.temperature, seed=self.seed)
        for name, checked in (
            ("max_tokens", arguments.integer("max_tokens", self.max_tokens, 1, arguments.MAX_INT32)),
            ("temperature", sampling.temperature),
            ("seed", sampling.seed),
            ("n_ctx", arguments.integer("n_ctx", self.n_ctx, 8, 1 << 22)),
            ("raw", arguments.switch("raw", self.raw)),
        ):
            object.__setattr__(self, name, checked)

    def choose(self, row: Row, position: int) -> int:
        """The token at `position`, given its logits, shape (n_vocab,)."""
        if self.temperature == 0.0:
            return int(row.argmax())
        return draw_any(row, self.temperature, self.seed, position)


class AnswerJournal:
    """A file of finished answers, one JSON line each, after a header line with model, prompts and settings."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[int, list[int]] = {}
        with self._output_errors():
            if path.exists():
                self._load(header)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(header) + "\n", encoding="utf-8")

    def add(self, index: int, tokens: list[int]) -> None:
        """Append one answer to the file."""
        self.answers[index] = tokens
        with self._output_errors(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"index": index, "tokens": tokens}, separators=(",", ":")) + "\n")

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _load(self, header: dict[str, Any]) -> None:
        data = self.path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]  # a crash may have left half a line
        try:
            first, *rest = [json.loads(line) for line in complete.splitlines()] or [None]
            self.answers = {int(line["index"]): list(line["tokens"]) for line in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"{self.path}: no journal of answers ({error}); remove it to begin anew") from error
        if first != header:
            raise InvalidRequest(
                f"{self.path}: answers of another model, other prompts or settings; remove it to begin anew"
            )
        if len(complete) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(complete))


def answer_prompts(
    model: LlamaModel,
    prompts: Sequence[str],
    journal: AnswerJournal,
    settings: AnswerSettings,
    *,
    slots: int,
    threads: int,
    stop: Callable[[Sequence[int]], bool] = lambda answer: False,
    most_tokens: float = math.inf,
    progress: CollectProgress = lambda done, total, tokens: None,
) -> int:
    """Answer the prompts that the journal has no answer to, `slots` at once. Returns how many are too long.

    `stop(answer)` ends an answer early. No prompt is begun once the answers have `most_tokens` tokens. Raises
    InvalidRequest, UnsupportedModel, EvaluationError, OutputError.
    """
    n_tokens = sum(map(len, journal.answers.values()))
    skipped = 0

    def open_prompts() -> Iterator[tuple[int, list[int]]]:
        nonlocal skipped
        for index, text in enumerate(prompts):
            if n_tokens >= most_tokens:
                return
            if index in journal.answers:
                continue
            tokens = prompt_tokens(model, text, raw=settings.raw)
            if len(tokens) < settings.n_ctx:
                yield index, tokens
            else:
                skipped += 1

    def choose(_index: int, row: Row, position: int) -> int:
        return settings.choose(row, position)

    progress(len(journal.answers), len(prompts), n_tokens)
    context = ParallelContext(model, slots=max(1, min(slots, len(prompts))), n_ctx=settings.n_ctx, threads=threads)
    try:
        for index, tokens in context.answers(open_prompts(), settings.max_tokens, choose, stop):
            journal.add(index, tokens)
            n_tokens += len(tokens)
            progress(len(journal.answers), len(prompts), n_tokens)
    finally:
        context.close()
    return skipped


def prompt_tokens(model: LlamaModel, text: str, *, raw: bool) -> list[int]:
    """The ids of a prompt: as a user's message in the chat template, or (`raw`) as it is."""
    return model.vocabulary.tokenize_prompt(text) if raw else Prompt(model, [{"role": "user", "content": text}]).ids()
