"""Collects what heads learn from: answers of the target, and its hidden states and likeliest tokens at each token.

Two stages, which the same call goes on with after an interruption. The target answers prompts, several at once, its
own ones too (`self_prompts`); then each prompt with its answer is read again, as in a prefill, which gives the states
of all tokens. Recorded answers need the second stage only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.backend import HiddenStates, LlamaContext, LlamaModel, Prompt, published_layers
from edgespec.core import MAX_ROWS, Draft, Row
from edgespec.drafters.recycling import largest
from edgespec.errors import InvalidRequest, OutputError, UnsupportedModel
from edgespec.gguf.validate import Header
from edgespec.heads.dataset import DataWriter, Recorded
from edgespec.heads.format import Belongs
from edgespec.heads.loops import end_of, loops
from edgespec.heads.self_prompts import as_prompts, header_tokens, write_prompts
from edgespec.system.files import replacing
from edgespec.vocabtrim.answers import AnswerJournal, AnswerSettings, answer_prompts, prompt_tokens

_SHARD_BYTES = 128 << 20
"""About the size of a shard."""

_LARGEST_HALF = float(np.finfo(np.float16).max)

TOP = 16
"""Likeliest tokens that are kept for each token."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a collection is: `done` of `total` prompts, answers or answers read, by `stage`.

    `tokens`: those written, or read, so far. `share`: the share of the stage that is done.
    """

    stage: str
    done: int
    total: int
    tokens: int
    share: float


Progress = Callable[[Moment], None]


@dataclass(frozen=True, slots=True)
class Collecting:
    """What to collect, and how fast. `layers`: their inputs, or None for the usual ones. `threads`: of the CPU.

    `own_prompts`: how many prompts the target writes, behind the given ones. `limit_tokens`: no answer is begun once
    there are that many tokens of answers.
    """

    settings: AnswerSettings = field(default_factory=AnswerSettings)
    own_prompts: int = 0
    layers: tuple[int, ...] | None = None
    top: int = TOP
    limit_tokens: int | None = None
    slots: int = 16
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its answer as ids, with the index of the prompt."""

    prompt: int
    tokens: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Collected:
    """Totals of a data set: answers with their tokens, how many loop, and prompts that were too long."""

    answers: int
    tokens: int
    looping: int
    too_long: int


def default_layers(model: LlamaModel) -> tuple[int, ...]:
    """The layers whose inputs EAGLE-3 joins (arXiv 2503.01840, section 3): a low, a middle and a high one, or none."""
    count = published_layers(model)
    return tuple(sorted({min(2, count - 1), count // 2, max(0, count - 3)})) if count else ()


def collect_answers(
    model: LlamaModel, header: Header, prompts: Sequence[str], directory: Path, wanted: Collecting,
    progress: Progress = lambda moment: None,
) -> Collected:  # fmt: skip
    """Let the target answer prompts, given ones and its own, and record what it computes.

    Raises InvalidRequest, UnsupportedModel, EvaluationError, OutputError.
    """
    settings = wanted.settings
    if not prompts and not wanted.own_prompts:
        raise InvalidRequest("there are no prompts to answer")
    if wanted.own_prompts:
        header_tokens(model)  # raises where the model cannot write any, before a folder is made
    origin = {"settings": asdict(settings), "prompts": {"sha256": _digest(list(prompts)), "count": len(prompts)}}
    reader = StateReader(model, wanted.layers, wanted.top, n_ctx=settings.n_ctx, threads=wanted.threads)
    writer = None
    try:
        writer = DataWriter(directory, _header_of(header, reader, origin))
        texts = [*prompts, *_own_prompts(model, header, directory, wanted, progress)]
        journal = AnswerJournal(directory / "answers.jsonl", {"model_fingerprint": header.fingerprint, **origin})

        def answered(done: int, total: int, tokens: int) -> None:
            limit = wanted.limit_tokens
            progress(Moment("answers", done, total, tokens, max(done / total, min(1, tokens / limit) if limit else 0)))

        too_long = answer_prompts(
            model, texts, journal, settings, slots=wanted.slots, threads=wanted.threads, progress=answered,
            stop=lambda answer: loops(answer, model.vocabulary.piece), most_tokens=wanted.limit_tokens or float("inf"),
        )  # fmt: skip
        pairs = (
            Pair(index, prompt_tokens(model, texts[index], raw=settings.raw), answer)
            for index, answer in sorted(journal.answers.items())
        )
        return _record(reader, writer, pairs, len(journal.answers), progress, too_long)
    finally:
        reader.close()
        if writer is not None:
            writer.close()


def collect_recorded(
    model: LlamaModel, header: Header, pairs: Sequence[Pair], directory: Path, wanted: Collecting,
    progress: Progress = lambda moment: None,
) -> Collected:  # fmt: skip
    """Record what the target computes at recorded answers. Those that do not fit into `n_ctx` tokens are left out."""
    n_ctx = wanted.settings.n_ctx
    fitting = [pair for pair in pairs if len(pair.tokens) + len(pair.answer) <= n_ctx]
    origin = {"settings": {"n_ctx": n_ctx}, "answers": {"sha256": _digest([asdict(pair) for pair in pairs])}}
    reader = StateReader(model, wanted.layers, wanted.top, n_ctx=n_ctx, threads=wanted.threads)
    writer = None
    try:
        writer = DataWriter(directory, _header_of(header, reader, origin))
        chosen: list[Pair] = []
        total = 0
        for pair in fitting:
            if wanted.limit_tokens is not None and total >= wanted.limit_tokens:
                break
            chosen.append(pair)
            total += len(pair.answer)
        return _record(reader, writer, chosen, len(chosen), progress, len(pairs) - len(fitting))
    finally:
        reader.close()
        if writer is not None:
            writer.close()


def recorded_pairs(
    model: LlamaModel, path: Path, lines: Sequence[tuple[int, dict[str, Any]]], prompts: Sequence[Mapping[str, Any]]
) -> list[Pair]:
    """The pairs of recorded answers: (line number, object), as `edgespec generate --json --prompts` prints them.

    An answer is `tokens` (ids) or `text`. Its prompt is `prompt`, a text, or that `turn` of the one of `prompts` with
    its `question_id`, where earlier turns come with their recorded answers. Raises InvalidRequest.
    """
    by_id = {prompt["question_id"]: (index, prompt["turns"]) for index, prompt in enumerate(prompts)}
    said: dict[tuple[Any, int], str] = {}
    texts: dict[str, int] = {}
    pairs = []
    for number, line in lines:
        where = f"{path}, line {number}"
        answer = _answer_tokens(model, where, line)
        name, turn = line.get("question_id"), line.get("turn", 0)
        text = line.get("prompt")
        if isinstance(text, str):
            index = texts.setdefault(text, len(prompts) + len(texts))
            messages = [{"role": "user", "content": text}]
        elif isinstance(name, str | int) and name in by_id and isinstance(turn, int) and turn >= 0:
            index, turns = by_id[name]
            spoken = line.get("text")
            said[name, turn] = spoken if isinstance(spoken, str) else _spelled(model, answer)
            messages = _conversation(turns, [said.get((name, earlier)) for earlier in range(turn)])
        else:
            messages = []
        if not messages:
            raise InvalidRequest(
                f'{where}: it names no known prompt: give the prompts with --prompts, which have its "question_id" and '
                '"turn", or a text "prompt" in each line'
            )
        pairs.append(Pair(index, Prompt(model, messages).ids(), answer))
    return pairs


def _conversation(turns: Sequence[str], answers: Sequence[str | None]) -> list[dict[str, str]]:
    """The messages up to the turn after these answers; none where there is no such turn, or an answer is missing."""
    if len(answers) >= len(turns) or None in answers:
        return []
    pairs = zip(turns, answers, strict=False)
    said = [({"role": "user", "content": turn}, {"role": "assistant", "content": str(text)}) for turn, text in pairs]
    return [*(message for pair in said for message in pair), {"role": "user", "content": turns[len(answers)]}]


def _answer_tokens(model: LlamaModel, where: str, line: Mapping[str, Any]) -> list[int]:
    tokens, text, size = line.get("tokens"), line.get("text"), model.vocabulary.size
    if isinstance(tokens, list) and tokens and all(type(token) is int and 0 <= token < size for token in tokens):
        return tokens
    if tokens is None and isinstance(text, str) and text:
        return model.vocabulary.tokenize(text, special=False)
    raise InvalidRequest(f'{where}: it must have "tokens", ids below {size}, or "text", and not be empty')


def _spelled(model: LlamaModel, tokens: Sequence[int]) -> str:
    return b"".join(map(model.vocabulary.piece, tokens)).decode(errors="replace")


class StateReader:
    """Reads prompts with their answers, and returns what the target computes at each token.

    `layers` None: the usual ones, and the last state where the model gives it. Raises UnsupportedModel, InvalidRequest.
    """

    def __init__(
        self, model: LlamaModel, layers: tuple[int, ...] | None, top: int, *, n_ctx: int, threads: int
    ) -> None:
        self.top = top
        self._piece = model.vocabulary.piece
        wanted = default_layers(model) if layers is None else layers
        self._context = LlamaContext(model, n_ctx=n_ctx, threads=threads)
        self.names = [f"layer.{layer}" for layer in wanted]
        try:
            self._context.collect_hidden(HiddenStates(wanted, last=True))
            self.names.append("last")
        except UnsupportedModel:
            if not wanted:
                raise
            self._context.collect_hidden(HiddenStates(wanted))

    def close(self) -> None:
        """Free the context."""
        self._context.close()

    def read(self, pair: Pair) -> Recorded:
        """A prompt and its answer, up to where that is known to loop."""
        end = end_of(pair.answer, self._piece)
        tokens = [*pair.tokens, *pair.answer[:end]]
        first = len(pair.tokens) - 1  # the logits after the prompt's last token are the first that say something
        states: list[Row] = []
        top_ids = np.zeros((len(tokens), self.top), np.int32)
        top_logits = np.full((len(tokens), self.top), -np.inf, np.float16)
        logsumexp = np.zeros(len(tokens), np.float32)
        for begin in range(0, len(tokens), MAX_ROWS):
            chunk = tuple(tokens[begin + 1 : begin + MAX_ROWS])
            evaluation = self._context.evaluate(tokens[: begin + 1], Draft(chunk, tuple(range(-1, len(chunk) - 1))))
            assert evaluation.hidden is not None
            states.append(evaluation.hidden)
            for position in range(max(begin, first), begin + 1 + len(chunk)):
                row = evaluation.rows[position - begin]
                ids = largest(row, self.top)[0]
                top_ids[position, : len(ids)] = ids
                top_logits[position, : len(ids)] = row[ids]
                peak = row[ids[0]]
                logsumexp[position] = peak + np.log(np.exp(row - peak).sum())
        half = np.clip(np.concatenate(states), -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
        return Recorded(
            pair.prompt, end is not None, np.array(tokens, np.int32), np.arange(len(tokens)) > first,
            dict(zip(self.names, np.split(half, len(self.names), axis=1), strict=True)), top_ids, top_logits, logsumexp,
        )  # fmt: skip


def _record(
    reader: StateReader, writer: DataWriter, pairs: Iterator[Pair] | Sequence[Pair], total: int, progress: Progress,
    too_long: int,
) -> Collected:  # fmt: skip
    """Write the shards of all pairs that are not there yet, in their order."""
    there = Counter(writer.prompts())
    done, tokens, shard, size = 0, 0, [], 0
    for pair in pairs:
        done += 1
        if there[pair.prompt]:
            there[pair.prompt] -= 1
            continue
        answer = reader.read(pair)
        shard.append(answer)
        tokens += len(answer.tokens)
        size += sum(state.nbytes for state in answer.states.values()) + answer.top_ids.nbytes + answer.top_logits.nbytes
        if size >= _SHARD_BYTES:
            writer.add(shard)
            shard, size = [], 0
        progress(Moment("answers read", done, total, tokens, done / total))
    if shard:
        writer.add(shard)
    shards = writer.shards
    return Collected(
        sum(one.answers for one in shards),
        sum(one.tokens for one in shards),
        sum(one.looping for one in shards),
        too_long,
    )


def _own_prompts(
    model: LlamaModel, header: Header, directory: Path, wanted: Collecting, progress: Progress
) -> list[str]:
    """The prompts that the target writes, which are kept in `own_prompts.jsonl` in the form of prompt files."""
    if not wanted.own_prompts:
        return []
    seed = wanted.settings.seed
    journal = AnswerJournal(directory / "attempts.jsonl", {"model_fingerprint": header.fingerprint, "seed": seed})
    texts = write_prompts(
        model, wanted.own_prompts, journal, seed=seed, slots=wanted.slots, threads=wanted.threads,
        progress=lambda done, total, tokens: progress(Moment("prompts", done, total, tokens, done / total)),
    )  # fmt: skip
    path = directory / "own_prompts.jsonl"
    try:
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in as_prompts(texts)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    return texts


def _header_of(header: Header, reader: StateReader, origin: Mapping[str, Any]) -> dict[str, Any]:
    target = Belongs.of(header)
    return {
        "target": {
            "name": header.part.path.name,
            "fingerprint": header.fingerprint,
            "target_hash": target.fingerprint,
            "tokenizer_hash": target.tokenizer,
            "architecture": target.architecture,
            "hidden_size": target.hidden_size,
            "layers": target.layers,
            "vocab_size": target.n_vocab,
        },
        "states": reader.names,
        "top": reader.top,
        **origin,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
