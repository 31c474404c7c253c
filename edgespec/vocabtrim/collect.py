"""Counts tokens in answers of the target, in recorded answers or in plain text.

The target's own answers are the best calibration (VocabTrim, arXiv 2506.22694, section 4).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaModel
from edgespec.errors import InvalidRequest
from edgespec.vocabtrim.answers import AnswerJournal, AnswerSettings, CollectProgress, answer_prompts
from edgespec.vocabtrim.counts import Counts, CountSource, tokenizer_hash

_LINES_PER_TEXT = 64
"""Lines of plain text that count as one text: they are counted or held out together."""


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
    skipped = answer_prompts(model, prompts, answer_journal, settings, slots=slots, threads=threads, progress=progress)
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
