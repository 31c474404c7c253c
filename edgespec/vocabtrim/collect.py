"""Counting tokens: in answers that the target gives now, in recorded answers, in plain text.

What the target says is the best calibration for what it will say (VocabTrim, arXiv 2506.22694, section 4). Answers go
into a journal as they are finished, so a long run can be stopped and gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaModel, ParallelContext
from edgespec.core import Row
from edgespec.decode.sampling import draw_any
from edgespec.errors import InvalidRequest, OutputError
from edgespec.vocabtrim.counts import Counts, Source, tokenizer_hash

_LINES = 64
"""Lines of plain text that are counted, or held out, together."""

CollectProgress = Callable[[int, int, int], None]
"""Called with answers done, answers in all, and tokens so far."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How the target answers. With equal settings a journal can be gone on with."""

    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    n_ctx: int = 2048
    """Tokens of one prompt and its answer; longer prompts are left out."""
    raw: bool = False
    """Go on with the prompts as they are, without the chat template."""

    def choose(self, row: Row, position: int) -> int:
        if self.temperature == 0.0:
            return int(row.argmax())
        return draw_any(row, self.temperature, self.seed, position)


class Journal:
    """Finished answers, a JSON line each, after a line that says what they answer."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[int, list[int]] = {}
        with self._writing():
            if path.exists():
                self._read(about)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(about) + "\n", encoding="utf-8")

    def add(self, index: int, tokens: list[int]) -> None:
        """Record one answer at once."""
        self.answers[index] = tokens
        with self._writing(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"index": index, "tokens": tokens}, separators=(",", ":")) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _read(self, about: dict[str, Any]) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # a crash may have left half a line
        try:
            first, *rest = [json.loads(line) for line in whole.splitlines()] or [None]
            self.answers = {int(line["index"]): list(line["tokens"]) for line in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"{self.path}: no journal of answers ({error}); remove it to begin anew") from error
        if first != about:
            raise InvalidRequest(
                f"{self.path}: answers of another model, other prompts or settings; remove it to begin anew"
            )
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))


def count_answers_of(
    model: LlamaModel,
    prompts: Sequence[str],
    *,
    fingerprint: str,
    settings: AnswerSettings,
    journal: Path,
    slots: int,
    threads: int,
    progress: CollectProgress = lambda done, total, tokens: None,
) -> Counts:
    """Have the target answer each prompt, as a user's message, `slots` at once, and count what it says.

    `fingerprint` names the model's file. Raises InvalidRequest, UnsupportedModel, EvaluationError.
    """
    origin = {
        "model": model.path.name,
        "model_fingerprint": fingerprint,
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "settings": asdict(settings),
    }
    if not prompts:
        raise InvalidRequest("there are no prompts to answer")
    book = Journal(journal, origin)
    context = ParallelContext(model, slots=min(slots, len(prompts)), n_ctx=settings.n_ctx, threads=threads)
    said = sum(map(len, book.answers.values()))
    skipped = 0

    def waiting() -> Iterator[tuple[int, list[int]]]:
        nonlocal skipped
        for index, text in enumerate(prompts):
            if index in book.answers:
                continue
            prompt = text if settings.raw else model.render([{"role": "user", "content": text}])
            tokens = model.vocabulary.tokenize_prompt(prompt)
            if len(tokens) < settings.n_ctx:
                yield index, tokens
            else:
                skipped += 1

    try:
        progress(len(book.answers), len(prompts), said)
        for index, tokens in context.answers(waiting(), settings.max_tokens, settings.choose):
            book.add(index, tokens)
            said += len(tokens)
            progress(len(book.answers), len(prompts), said)
    finally:
        context.close()
    if not book.answers:
        raise InvalidRequest(f"none of the {len(prompts)} prompts fits into {settings.n_ctx} tokens")
    answers = [tokens for _, tokens in sorted(book.answers.items())]
    return _counted("target", model, answers, {**origin, "prompts": len(prompts), "prompts_too_long": skipped})


def count_recorded(model: LlamaModel, path: Path, lines: Sequence[tuple[int, dict[str, Any]]]) -> Counts:
    """Count recorded answers: objects with `tokens` (ids), or else `text`; each with the number of its line."""
    size = model.vocabulary.size
    answers = []
    for number, line in lines:
        tokens, text = line.get("tokens"), line.get("text")
        if isinstance(tokens, list) and all(type(token) is int and 0 <= token < size for token in tokens):
            answers.append(tokens)
        elif tokens is None and isinstance(text, str):
            answers.append(model.vocabulary.tokenize(text))
        else:
            raise InvalidRequest(f'{path}, line {number}: it must have "tokens", ids below {size}, or "text"')
    return _counted("answers", model, answers, {"file": path.name})


def count_text(model: LlamaModel, path: Path, text: str) -> Counts:
    """Count the tokens of a plain text, which is held out by the paragraph of 64 lines."""
    lines = text.splitlines(keepends=True)
    parts = ["".join(lines[start : start + _LINES]) for start in range(0, len(lines), _LINES)]
    return _counted("text", model, [model.vocabulary.tokenize(part) for part in parts], {"file": path.name})


def _counted(source: Source, model: LlamaModel, texts: Sequence[Sequence[int]], origin: dict[str, Any]) -> Counts:
    counts = Counts(source, tokenizer_hash(model.part), origin={"model": model.path.name, **origin})
    for tokens in texts:
        counts.add(tokens)
    if not counts.tokens:
        raise InvalidRequest("there is nothing to count")
    return counts
