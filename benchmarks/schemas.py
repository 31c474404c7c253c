"""Answers by JSON schemas: are they valid, what does a token cost, and what does drafting by the grammar save?

python -m benchmarks.schemas answers --json benchmarks/results/schema-answers.json
python -m benchmarks.schemas speed --json benchmarks/results/schema-speed.json
python -m benchmarks.schemas drafts -m MODEL.gguf --json benchmarks/results/schema-drafts.json
"""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import jsonschema
import llama_cpp
import numpy as np
from llama_cpp import llama_grammar

from benchmarks.common import begun, save
from benchmarks.schema_generator import PATTERNS, SchemaMaker
from edgespec import Engine, SamplingParams, load
from edgespec.backend import LlamaSampler
from edgespec.core import NOTHING, AnswerPolicy, Drafter, Policy
from edgespec.drafters import make_drafter
from edgespec.drafters.grammar import GrammarDrafters
from edgespec.errors import GrammarError
from edgespec.grammar import schema_to_grammar
from edgespec.grammar.words import OBEYED, REFUSED
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.testing import FixedPolicy

ANSWERS = "answers by random schemas"
SPEED = "the time of a token with a schema"
DRAFTS = "drafting by the grammar of a schema"
ROWS = 16
"""Draft tokens of the contestants that always draft."""
PROMPT = "Answer with JSON that fits this schema, short: "
SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "email": {"type": "string"}},
        "required": ["name", "age", "email"],
    },
    "list of objects": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "title": {"type": "string"},
                "year": {"type": "integer"},
                "genre": {"enum": ["drama", "comedy", "crime"]},
            },
            "required": ["title", "year", "genre"],
        },
        "minItems": 2,
        "maxItems": 4,
    },
    "nested": {
        "type": "object",
        "properties": {
            "order": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "lines": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}},
                            "required": ["sku", "count"],
                        },
                    },
                },
                "required": ["id", "lines"],
            },
            "paid": {"type": "boolean"},
        },
        "required": ["order", "paid"],
    },
    "short texts": {
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 60} for name in ("title", "summary", "advice")},
        "required": ["title", "summary", "advice"],
    },
    "20 optional properties": {
        "type": "object",
        "properties": {f"field_{number}": {"type": "string"} for number in range(20)},
    },
    "a choice of 200": {"enum": [f"product number {number}" for number in range(200)]},
    "any object": {"type": "object"},
}
"""Schemas as people write them, of words that llama-cpp-python's converter knows too."""


TEXTS = {
    "person": "Grace Hopper was 79 when we last wrote to her, at grace.hopper@navy.example.",
    "list of objects": "On Friday we show Casablanca, a drama of 1942. On Saturday it is Some Like It Hot (1959), for "
    "those who want to laugh, and on Sunday The Godfather of 1972, about a family of criminals.",
    "nested": "Order 4711: three pieces of A-100 and twelve of B-220, one C-7. Paid on arrival of the goods.",
    "20 optional properties": "Field 0 is red, field 3 is a meadow, field 4 lies idle and field 11 has potatoes.",
}
"""What answers by some of the schemas are to be taken from."""


def old_grammar(schema: Any) -> str:
    """The grammar of llama-cpp-python's converter."""
    return str(llama_grammar.json_schema_to_gbnf(json.dumps(schema)))


class _Finisher:
    """Completes an answer that was cut, with single characters that its grammar allows."""

    def __init__(self, engine: Engine) -> None:
        vocabulary = engine.model.vocabulary
        self._vocabulary = vocabulary
        pieces = {token: vocabulary.piece(token) for token in range(vocabulary.size)}
        self._pieces = {token: piece for token, piece in pieces.items() if len(piece) == 1}
        self._ends = [token for token in range(vocabulary.size) if vocabulary.is_end(token)]
        order = {piece: rank for rank, piece in enumerate((b'"', b"}", b"]"))}
        wanted = sorted(self._pieces, key=lambda token: (order.get(self._pieces[token], 3), self._pieces[token] > b"~"))
        self._ids = np.array([*self._ends, *wanted], np.int32)

    def finished(self, grammar: str, tokens: list[int]) -> str | None:
        """The answer with the first allowed character at each place, ends and closing ones first; None: too long.

        A pattern may wait for certain characters: then one of the instances of the patterns is written first.
        """
        starts = ("", *(text for texts in PATTERNS.values() for text in texts))
        found = (self._finished(grammar, tokens, start.encode()) for start in starts)
        return next((text for text in found if text is not None), None)

    def _finished(self, grammar: str, tokens: list[int], start: bytes, most: int = 1000) -> str | None:
        sampler = llama_cpp.llama_sampler_init_grammar(self._vocabulary.pointer, grammar.encode(), b"root")
        try:
            for token in tokens:
                llama_cpp.llama_sampler_accept(sampler, token)
            said = self._vocabulary.spelled(tokens)
            for place in range(most):
                token = self._first(sampler, start[place : place + 1])
                if token in self._ends:
                    return said.decode()
                llama_cpp.llama_sampler_accept(sampler, token)
                said += self._pieces[token]
            return None
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _first(self, sampler: Any, wanted: bytes) -> int:
        """The first token that may come, or that of the `wanted` character where it may come."""
        data = np.zeros(len(self._ids), np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        data["id"] = self._ids
        array = llama_cpp.llama_token_data_array(
            data=data.ctypes.data_as(llama_cpp.llama_token_data_p), size=len(data), selected=-1, sorted=False
        )
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        allowed = [int(token) for token in data["id"][data["logit"] > -np.inf]]
        return next((token for token in allowed if wanted and self._pieces.get(token) == wanted), allowed[0])


def _judged(schema: Any, text: str | None) -> bool:
    """Whether a text is JSON that obeys the schema."""
    if text is None:
        return False
    kind = jsonschema.Draft202012Validator
    try:
        return bool(kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(json.loads(text)))
    except ValueError:
        return False


def refusals() -> dict[str, str]:
    """What is said of each word that is refused, and of one that is none; fails where one is not refused by name."""
    said = {}
    for word in (*REFUSED, "minLenght"):
        assert word not in OBEYED
        try:
            schema_to_grammar({"properties": {"a": {word: {}}}})
        except GrammarError as error:
            said[word] = str(error)
        if word not in said.get(word, "") or "#/properties/a" not in said[word]:
            raise click.ClickException(f"{word} was not refused by name and place")
    return said


@click.group()
def main() -> None:
    """Measure answers by JSON schemas."""


@main.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--count", type=int, default=500, show_default=True, help="Schemas.")
@click.option("-n", "tokens", type=int, default=256, show_default=True, help="Most tokens of an answer.")
@click.option("--seconds", type=float, default=1e9, help="Stop after so many; the next run goes on.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def answers(model: str | None, count: int, tokens: int, seconds: float, out: Path | None) -> None:
    """Answers at temperature 1 to random schemas, judged by the jsonschema package."""
    started = time.monotonic()
    with load(model, drafter="none", n_ctx=2048) as engine:
        settings = {"count": count, "tokens": tokens, "temperature": 1.0}
        before = begun(out, ANSWERS, [engine.model.path], settings, holds="answers")
        found = {row["seed"]: row for row in before.get("answers", []) if row["valid"]}  # others are asked again
        finisher = _Finisher(engine)
        for seed in sorted(set(range(count)) - set(found)):
            if time.monotonic() - started > seconds:
                break
            schema = SchemaMaker(seed).document().schema
            grammar = schema_to_grammar(schema)
            sampling = SamplingParams(temperature=1.0, seed=seed, grammar=grammar)
            answer = engine.generate("Answer with short JSON.", sampling=sampling, max_tokens=tokens)
            ended = answer.finish_reason == "stop"
            whole = answer.text if ended else finisher.finished(grammar, answer.emitted)
            found[seed] = {"seed": seed, "ended": ended, "valid": _judged(schema, whole),
                           "tokens": len(answer.emitted), "text": answer.text}  # fmt: skip
            if not found[seed]["valid"]:
                print(f"not valid: {seed} {answer.text!r} {whole!r:.300}")
        rows = [found[seed] for seed in sorted(found)]
        result = {"settings": settings, "refusals": refusals(), "answers": rows}
        save(out, ANSWERS, [engine.model.path], result)
    ended_rows = [row for row in rows if row["ended"]]
    print(f"{len(rows)} of {count} schemas: {len(ended_rows)} answers ended by themselves, "
          f"{sum(row['valid'] for row in ended_rows)} of them valid; of the {len(rows) - len(ended_rows)} others "
          f"{sum(row['valid'] for row in rows if not row['ended'])} were completed to valid ones")  # fmt: skip


def timed(
    engine: Engine, schema: Any, grammar: str | None, temperature: float, seed: int, count: int
) -> dict[str, Any]:
    """The milliseconds of an answer's tokens: making the grammar, choosing, and evaluating."""
    prompt = engine.model.render([{"role": "user", "content": PROMPT + json.dumps(schema)[:600]}])
    tokens = engine.tokenize(prompt)
    rows = engine.context.prefill(tokens)
    assert rows is not None
    started = time.perf_counter()
    sampler = LlamaSampler(engine.model.vocabulary, SamplingParams(temperature=temperature, seed=seed, grammar=grammar))
    made = time.perf_counter() - started
    choosing: list[float] = []
    evaluating: list[float] = []
    said: list[int] = []
    row = rows
    while len(said) < count:
        before = time.perf_counter()
        said.append(sampler.choose(row))
        chosen = time.perf_counter()
        choosing.append(chosen - before)
        if engine.model.vocabulary.is_end(said[-1]):
            break
        row = engine.context.evaluate([*tokens, *said], NOTHING).rows[0]
        evaluating.append(time.perf_counter() - chosen)
    return {
        "tokens": len(said),
        "made_ms": round(1000 * made, 3),
        "choosing_ms": round(1000 * sum(choosing), 3),
        "evaluating_ms": round(1000 * sum(evaluating), 3),
    }


@main.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("-n", "tokens", type=int, default=96, show_default=True, help="Most tokens of an answer.")
@click.option("--seconds", type=float, default=1e9, help="Stop after so many; the next run goes on.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def speed(model: str | None, rounds: int, tokens: int, seconds: float, out: Path | None) -> None:
    """What a token costs with our grammar, with that of llama-cpp-python's converter, and without, in turns."""
    started = time.monotonic()
    with load(model, drafter="none", n_ctx=2048) as engine:
        settings = {"rounds": rounds, "tokens": tokens}
        before = begun(out, SPEED, [engine.model.path], settings, holds="answers")
        found: list[dict[str, Any]] = before.get("answers", [])
        done = {(row["schema"], row["temperature"], row["round"]) for row in found}
        for name, schema in SCHEMAS.items():
            converters = {"ours": schema_to_grammar(schema), "llama-cpp-python's": old_grammar(schema), "none": None}
            for temperature in (0.0, 1.0):
                for number in range(rounds):
                    if (name, temperature, number) in done or time.monotonic() - started > seconds:
                        continue
                    for converter, grammar in converters.items():
                        row = timed(engine, schema, grammar, temperature, number, tokens)
                        found.append({"schema": name, "temperature": temperature, "round": number,
                                      "grammar": converter, **row})  # fmt: skip
        save(out, SPEED, [engine.model.path], {"settings": settings, "answers": found})
    report(found)


def report(found: list[dict[str, Any]]) -> None:
    """A line for each schema and temperature: milliseconds a token, by grammar."""
    for name, temperature in dict.fromkeys((row["schema"], row["temperature"]) for row in found):
        parts = []
        for grammar in ("none", "ours", "llama-cpp-python's"):
            rows = [row for row in found if (row["schema"], row["temperature"], row["grammar"]) == (name, temperature, grammar)]  # fmt: skip # noqa: E501
            cost = sum(row["choosing_ms"] for row in rows) / sum(row["tokens"] for row in rows)
            made = statistics.median(row["made_ms"] for row in rows)
            parts.append(f"{grammar} {cost:.3f} ms a token, made in {made:.1f} ms")
        print(f"{name}, temperature {temperature:g}: {'; '.join(parts)}")


class _Drafting:
    """A policy with drafters for each answer, which `own` makes from its grammar, instead of those of the engine."""

    def __init__(self, policy: Policy, own: Callable[[], Sequence[Drafter]]) -> None:
        self._policy, self._own = policy, own

    def begin(self, drafters: Sequence[Drafter] = ()) -> AnswerPolicy:
        return self._policy.begin(self._own())


class _Contestants:
    """The ways to draft, by name. What each learns, it learns of all answers."""

    def __init__(self, engine: Engine) -> None:
        self.grammar = ""
        trees = engine.context.trees
        shared = GrammarDrafters(engine.model.vocabulary)
        self._eager = GrammarDrafters(engine.model.vocabulary)
        self._trees = trees

        def adaptive(*names: str, own: bool) -> Policy:
            policy = AdaptivePolicy([make_drafter(name) for name in names], engine.latency, trees=trees)
            return _Drafting(policy, lambda: [shared.drafter(self.grammar)] if own else [])

        self._adaptive = {
            "none": adaptive(own=False),
            "grammar": adaptive(own=True),
            "suffix": adaptive("suffix", own=False),
            "suffix+grammar": adaptive("suffix", own=True),
        }
        self.names: tuple[str, ...] = (*self._adaptive, "always")

    def policy(self, name: str, grammar: str) -> Policy:
        """The policy of a contestant for an answer by this grammar."""
        self.grammar = grammar
        if name in self._adaptive:
            return self._adaptive[name]
        return FixedPolicy(self._eager.drafter(grammar), ROWS, trees=self._trees)


@main.command()
@click.option("-m", "--model", help="Default: the small built-in model.")
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("-n", "tokens", type=int, default=160, show_default=True, help="Most tokens of an answer.")
@click.option("--counts", is_flag=True, help="Only what does not depend on time: for a busy machine.")
@click.option("--seconds", type=float, default=1e9, help="Stop after so many; the next run goes on.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def drafts(model: str | None, rounds: int, tokens: int, counts: bool, seconds: float, out: Path | None) -> None:
    """Forward passes and time of answers with and without the drafter `grammar`, in turns.

    `always` drafts up to 16 tokens at every step, whatever that takes: what is right, not what pays.
    """
    started = time.monotonic()
    with load(model, drafter="suffix", n_ctx=2048) as engine:
        settings = {"rounds": rounds, "tokens": tokens, "counts": counts}
        before = begun(out, DRAFTS, [engine.model.path], settings, holds="answers")
        found: list[dict[str, Any]] = before.get("answers", [])
        done = {(row["schema"], row["temperature"], row["round"]) for row in found}
        contestants = _Contestants(engine)
        names = ("none", "always") if counts else contestants.names
        for number in range(rounds):
            for name in SCHEMAS:
                for temperature in (0.0, 1.0):
                    if (name, temperature, number) in done or time.monotonic() - started > seconds:
                        continue
                    for contestant in names[number % 2 :] + names[: number % 2]:
                        row = drafted(engine, contestants, contestant, name, temperature, number, tokens)
                        if counts:
                            del row["decode_ms"], row["planning_ms"]
                        found.append({"schema": name, "temperature": temperature, "round": number, **row})
        save(out, DRAFTS, [engine.model.path], {"settings": settings, "answers": found})
    report_drafts(found)


def report_drafts(found: list[dict[str, Any]]) -> None:
    """A line for each contestant."""
    plain = {_key(row): row["text"] for row in found if row["drafter"] == "none"}
    for name in dict.fromkeys(row["drafter"] for row in found):
        rows = [row for row in found if row["drafter"] == name]
        tokens, passes, drafted, accepted = (
            sum(row[part] for row in rows) for part in ("tokens", "passes", "drafted", "accepted")
        )
        decode_ms = sum(row.get("decode_ms", 0.0) for row in rows)
        speed = f"{1000 * (tokens - len(rows)) / decode_ms:.1f} tokens/s, " if decode_ms else ""
        parted = sum(row["text"] != plain[_key(row)] for row in rows)
        print(
            f"{name}: {(tokens - len(rows)) / passes:.2f} tokens a forward pass, {speed}{accepted} of {drafted} "
            f"draft tokens accepted, {parted} of {len(rows)} answers part from the plain one"
        )


def _key(row: dict[str, Any]) -> tuple[str, float, int]:
    return row["schema"], row["temperature"], row["round"]


def drafted(
    engine: Engine, contestants: _Contestants, contestant: str, name: str, temperature: float, seed: int, count: int
) -> dict[str, Any]:
    """The counts and times of one answer."""
    grammar = schema_to_grammar(SCHEMAS[name])
    prompt = f"{TEXTS.get(name, '')}\n\n{PROMPT}{json.dumps(SCHEMAS[name])[:600]}".strip()
    engine.context.forget()
    engine.policy = contestants.policy(contestant, grammar)
    sampling = SamplingParams(temperature=temperature, seed=seed, grammar=grammar)
    answer = engine.generate(prompt, sampling=sampling, max_tokens=count)
    tally = answer.tally
    return {
        "drafter": contestant,
        "tokens": tally.tokens,
        "passes": tally.blocks,
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "decode_ms": round(1000 * tally.decode_seconds, 3),
        "planning_ms": round(1000 * tally.planning_seconds, 3),
        "text": answer.text,
    }


if __name__ == "__main__":
    main()
