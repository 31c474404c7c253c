"""Counts tokens in answers of the target, in recorded answers or in plain text.

The target's own answers are the best calibration (VocabTrim, arXiv 2506.22694, section 4). Answers are written to a
journal as they finish, so that a long run can be stopped and resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaModel, ParallelContext, Prompt
from edgespec.core import Row, arguments
from edgespec.decode.sampling import SamplingParams, draw_any
from edgespec.errors import InvalidRequest, OutputError
from edgespec.vocabtrim.counts import Counts, CountSource, tokenizer_hash

_LINES_PER_TEXT = 64
"""Lines of plain text that count as one text: they are counted or held out together."""

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
    """Let the target answer each prompt as a user's message, `slots` at once, and count the tokens of the answers.

    `fingerprint` identifies the model's file. Raises InvalidRequest, UnsupportedModel, EvaluationError.
    """
    origin = {
        "model": model.path.name,
        "model_fingerprint": fingerprint,
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "settings": asdict(settings),
    }
    if not prompts:
        raise InvalidRequest("there are no prompts to answer")
    answer_journal = AnswerJournal(journal, origin)
    context = ParallelContext(model, slots=min(slots, len(prompts)), n_ctx=settings.n_ctx, threads=threads)
    n_tokens = sum(map(len, answer_journal.answers.values()))
    skipped = 0

    def open_prompts() -> Iterator[tuple[int, list[int]]]:
        nonlocal skipped
        for index, text in enumerate(prompts):
            if index in answer_journal.answers:
                continue
            message = {"role": "user", "content": text}
            tokens = model.vocabulary.tokenize_prompt(text) if settings.raw else Prompt(model, [message]).ids()
            if len(tokens) < settings.n_ctx:
                yield index, tokens
            else:
                skipped += 1

    try:
        progress(len(answer_journal.answers), len(prompts), n_tokens)
        for index, tokens in context.answers(open_prompts(), settings.max_tokens, settings.choose):
            answer_journal.add(index, tokens)
            n_tokens += len(tokens)
            progress(len(answer_journal.answers), len(prompts), n_tokens)
    finally:
        context.close()
    if not answer_journal.answers:
        raise InvalidRequest(f"none of the {len(prompts)} prompts fits into {settings.n_ctx} tokens")
    answers = [tokens for _, tokens in sorted(answer_journal.answers.items())]
    return _counts_of("target", model, answers, {**origin, "prompts": len(prompts), "prompts_too_long": skipped})


def count_recorded(model: LlamaModel, path: Path, lines: Sequence[tuple[int, dict[str, Any]]]) -> Counts:
    """Count recorded answers: (line number, object) pairs, whose objects have `tokens` (ids) or `text`."""
    size = model.vocabulary.size
    answers = []
    for number, line in lines:
        tokens, text = line.get("tokens"), line.get("text")
        if isinstance(tokens, list) and all(type(token) is int and 0 <= token < size for token in tokens):
            answers.append(tokens)
        elif tokens is None and isinstance(text, str):
            answers.append(model.vocabulary.tokenize(text, special=False))
        else:
            raise InvalidRequest(f'{path}, line {number}: it must have "tokens", ids below {size}, or "text"')
    return _counts_of("answers", model, answers, {"file": path.name})


def count_text(model: LlamaModel, path: Path, text: str) -> Counts:
    """Count the tokens of a plain text, in texts of _LINES_PER_TEXT lines."""
    lines = text.splitlines(keepends=True)
    parts = ["".join(lines[start : start + _LINES_PER_TEXT]) for start in range(0, len(lines), _LINES_PER_TEXT)]
    return _counts_of(
        "text", model, [model.vocabulary.tokenize(part, special=False) for part in parts], {"file": path.name}
    )


def _counts_of(
    source: CountSource, model: LlamaModel, texts: Sequence[Sequence[int]], origin: dict[str, Any]
) -> Counts:
    counts = Counts(source, tokenizer_hash(model.part), origin={"model": model.path.name, **origin})
    for tokens in texts:
        counts.add(tokens)
    if not counts.tokens:
        raise InvalidRequest("there is nothing to count")
    return counts
