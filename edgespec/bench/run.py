"""One run of the benchmark. Its file holds what was measured after every prompt, and a stopped run goes on from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgespec.bench.contestants import PLAIN, Contestants, files_of, name_of
from edgespec.bench.divergence import divergence
from edgespec.bench.measurements import Answer, Peer
from edgespec.bench.memory import peak_of
from edgespec.bench.peer_pool import PeerPool
from edgespec.bench.peers import PeerSpec, started
from edgespec.bench.results import begun, origin, write
from edgespec.bench.settings import RunProgress, Settings
from edgespec.bench.versions import versions
from edgespec.decode.sampling import SamplingParams
from edgespec.doctor import measure
from edgespec.drafters import names_of
from edgespec.engine.exact import probe_tokens
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.system.child import program
from edgespec.system.prompts import subtask

WHAT = "drafters against plain decoding and other programs"

WARM_UP = 8
"""Tokens that everybody makes after each prompt before anything but the time to the first one counts."""

_MOST_ROUNDS = 4
"""A short answer is over in a moment, and a moment is noisy: it gets as many rounds as make the wanted ones of full
length, but no more than so many times as many."""

_MEMORY_PROMPT = "Write a short story about a lighthouse keeper."
_MEMORY_TOKENS = 32


def run(
    settings: Settings,
    prompts: Sequence[dict[str, Any]],
    *,
    out: Path | None,
    command: Iterable[str],
    tell: Callable[[RunProgress], object] = lambda _progress: None,
) -> dict[str, Any]:
    """The result, which `out` holds too. Interrupted, it goes on where it was when called again.

    `prompts` have a question_id and a category. Raises ModelError, InvalidRequest (a file of other settings, names
    twice), EvaluationError (a peer does not start), OutputError.
    """
    names = [*map(name_of, settings.drafters), PLAIN, *(spec.name for spec in settings.peers)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"{twice!r} is named twice, or is the name of something else: give each its own name")
    others = dict(versions(settings.peers, settings.server))
    tell(RunProgress("loading"))
    with contextlib.ExitStack() as stack:
        field = stack.enter_context(
            Contestants(
                settings.model, settings.drafters,
                n_ctx=settings.n_ctx, threads=settings.threads, gpu_layers=settings.gpu_layers,
            )
        )  # fmt: skip
        model = field.first.model.path.absolute()
        fresh = _fresh(settings, model, command, others) | {
            "began": field.began, "shares": field.shares("bytes"), "shares_by_parameters": field.shares("parameters")
        }  # fmt: skip
        result = (begun(out, fresh, holds="prompts") if out else None) or fresh
        asked = _not_done(prompts, result, out)
        field.begin(result["began"])
        if asked:  # of a run that goes on, with more prompts perhaps
            result |= {key: fresh[key] for key in ("command", "date")}
        threads = field.first.context.threads
        wanted = settings.peers if asked else ()
        peers = stack.enter_context(PeerPool(wanted, lambda spec: _started(spec, model, settings, threads, tell)))
        row: dict[str, Any] | None = None
        start, done = time.monotonic(), len(prompts) - len(asked)
        for number, prompt in enumerate(asked):
            left = (time.monotonic() - start) / number * (len(asked) - number) if number else None
            tell(RunProgress("measuring", done + number, len(prompts), left, row))
            row = {**_named(prompt), **_measured(field, peers, prompt, settings, _turn(prompt, result["prompts"]))}
            result["skipped" if "reason" in row else "prompts"].append(row)
            if out:
                write(out, result)
        tell(RunProgress("measuring", len(prompts), len(prompts), None, row))
        if result.get("curve", {"busy": True})["busy"]:
            tell(RunProgress("measuring T(n)"))
            result["curve"] = _curve(field)
        short = _tokens(field, _MEMORY_PROMPT)
    if out:
        write(out, result)
    if "memory" not in result:
        result["memory"] = dict(_memory(settings, model, threads, short, tell))
        if out:
            write(out, result)
    return result


def _fresh(settings: Settings, model: Path, command: Iterable[str], others: Mapping[str, str]) -> dict[str, Any]:
    """A result without figures: where they will be from, and how they will be made; `others`: versions of peers."""
    ours = (path for one in settings.drafters for path in files_of(one).values())
    theirs = (path for spec in settings.peers for path in spec.models)
    result = origin(WHAT, dict.fromkeys([model, *ours, *theirs]), command)  # each once
    result["versions"] |= others
    return {**result, "settings": settings.told(), "prompts": [], "skipped": []}


def _named(prompt: dict[str, Any]) -> dict[str, Any]:
    """What tells a prompt from others."""
    digest = hashlib.sha256(prompt["turns"][0].encode()).hexdigest()[:16]
    return {"question_id": prompt["question_id"], "category": prompt["category"], "sha256": digest}


def _not_done(prompts: Sequence[dict[str, Any]], result: dict[str, Any], out: Path | None) -> list[dict[str, Any]]:
    """The prompts that `result` does not have yet. Raises InvalidRequest where it has others."""
    done = {row["question_id"]: row for row in (*result["prompts"], *result["skipped"])}
    if strangers := done.keys() - {prompt["question_id"] for prompt in prompts}:
        raise InvalidRequest(
            f"{out}: it has {len(strangers)} prompts that are not to be measured now; choose another file, or remove "
            "this one"
        )
    for prompt in prompts:
        earlier = done.get(prompt["question_id"])
        if earlier and earlier["sha256"] != _named(prompt)["sha256"]:
            raise InvalidRequest(
                f"{out}: its prompt {prompt['question_id']!r} is another one; choose another file, or remove this one"
            )
    return [prompt for prompt in prompts if prompt["question_id"] not in done]


def _started(
    spec: PeerSpec, model: Path, settings: Settings, threads: int, tell: Callable[[RunProgress], object]
) -> Peer:
    tell(RunProgress(f"loading {spec.name}"))
    return started(
        spec, model, server=settings.server, n_ctx=settings.n_ctx, threads=threads, gpu_layers=settings.gpu_layers
    )


def _tokens(field: Contestants, text: str) -> list[int]:
    """A user's message as ids; of a model without a chat template, the text as it is."""
    engine = field.first
    return engine.tokenize(
        engine.model.render([{"role": "user", "content": text}]) if engine.model.chat_template else text
    )


def _turn(prompt: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int:
    """A number of the prompt that is odd for every other one of its subtask, and for every other subtask's first."""
    subtasks = [subtask(row["category"]) for row in (*rows, prompt)]
    own = subtasks.pop()
    return subtasks.count(own) + list(dict.fromkeys([*subtasks, own])).index(own)


def _measured(
    field: Contestants, peers: PeerPool, prompt: dict[str, Any], settings: Settings, number: int
) -> dict[str, Any]:
    """All of them on the prompt of that number: its first turn, as the model's chat template renders it.

    The first answers begin with everybody's own reading of all of it. What a cache shares with an earlier prompt was
    read in other evaluations, which round in other ways: kept, it would let texts part without any draft. Who comes
    later may find the machine warmer, or throttled, so every other time the order is the opposite. A peer that fails
    takes no part, and it is said why.
    """
    tokens = _tokens(field, prompt["turns"][0])
    if len(tokens) + settings.count > settings.n_ctx:
        return {"reason": f"{len(tokens)} tokens: too long for a context of {settings.n_ctx}"}
    sampling = SamplingParams(temperature=settings.temperature, seed=settings.seed)

    def answered(count: int, taking_part: Sequence[str], turn: int, *, prefill_all: bool = False) -> dict[str, Answer]:
        backwards = turn % 2 == 1
        ours = {} if backwards else field.answer(tokens, count, sampling)
        others = {
            name: peers.answer(name, tokens, count, settings.temperature, settings.seed, prefill_all=prefill_all)
            for name in (reversed(taking_part) if backwards else taking_part)
        }
        there = {name: answer for name, answer in others.items() if answer}
        return (ours or field.answer(tokens, count, sampling, backwards=True)) | there

    rounds: list[dict[str, Answer]] = []
    plainly = 0
    field.forget()
    peers.begin()
    names = [*field.names, *peers.left]
    first = answered(WARM_UP, peers.left, number, prefill_all=True)
    while plainly < settings.rounds * settings.count and len(rounds) < _MOST_ROUNDS * settings.rounds:
        taking_part = peers.left if len(rounds) < settings.peer_rounds else []
        rounds.append(answered(settings.count, taking_part, number + len(rounds)))
        plainly += len(rounds[-1][PLAIN].tokens)
        if len(rounds[-1][PLAIN].tokens) < 2:
            return {"reason": "the answer is a single token: there is no speed to measure"}
    for one in (first, *rounds):  # half of an answer is none
        for name in peers.failed:
            one.pop(name, None)
    return {
        "prompt_tokens": len(tokens),
        "backwards": number % 2 == 1,
        "first_token_seconds": {name: first[name].first_token_seconds for name in names if name in first},
        "answers": {name: [one[name].told() for one in rounds if name in one] for name in names},
        "partings": _partings(field, tokens, rounds, sampling),
        **({"failed": dict(peers.failed)} if peers.failed else {}),
    }


def _partings(
    field: Contestants, tokens: Sequence[int], rounds: Sequence[Mapping[str, Answer]], sampling: SamplingParams
) -> dict[str, Any]:
    """Where each one's answer first differed from the plain one. Peers draw with other numbers than we do."""
    partings: dict[str, Any] = {}
    for answers in rounds:
        for name, answer in answers.items():
            own = name in field.names
            if name not in partings and answer.tokens != answers[PLAIN].tokens and (own or not sampling.temperature):
                parted = divergence(
                    field.plain.context, tokens, answers[PLAIN].tokens, answer.tokens, sampling, cached=True
                )
                assert parted is not None
                partings[name] = asdict(parted)
    return partings


def _curve(field: Contestants) -> dict[str, Any]:
    """T(n) in milliseconds, measured on purpose, and whether the machine was busy."""
    context = field.plain.context
    depth = min(measure.DEPTH, context.n_ctx // 2)
    times, busy = measure.timed(context, probe_tokens(field.first.model.vocabulary.size), depth=depth)
    return {"context": depth, "busy": busy, "ms": {str(n): 1e3 * seconds for n, seconds in times.items()}}


def _memory(
    settings: Settings, model: Path, threads: int, short: Sequence[int], tell: Callable[[RunProgress], object]
) -> Iterator[tuple[str, int | None]]:
    """The peak memory of each contestant alone, answering one short prompt; None where it cannot be told."""
    for drafter in (*settings.drafters, "none"):
        name = PLAIN if drafter == "none" else name_of(drafter)
        tell(RunProgress(f"measuring the memory of {name}"))
        files = files_of(drafter)  # that process has another working directory
        whole = "+".join(str(files.get(one, one)) for one in names_of(drafter)) or "none"
        command = [
            *program("edgespec"), "--config", os.devnull, "generate", "--raw", "-m", str(model), "-d", whole,
            "-p", _MEMORY_PROMPT, "-n", str(_MEMORY_TOKENS), "--ctx", str(settings.n_ctx), "--threads", str(threads),
            "--gpu-layers", str(settings.gpu_layers),
        ]  # fmt: skip
        try:
            yield name, peak_of(command)
        except EvaluationError as error:
            tell(RunProgress(str(error)))
            yield name, None
    for spec in settings.peers:
        tell(RunProgress(f"measuring the memory of {spec.name}"))
        try:
            peer = _started(spec, model, settings, threads, lambda progress: None)
        except EvaluationError as error:
            tell(RunProgress(str(error)))
            yield spec.name, None
            continue
        try:
            peer.answer(short, _MEMORY_TOKENS, 0.0, settings.seed)
        except EvaluationError as error:
            tell(RunProgress(str(error)))
        finally:
            peak = peer.close()
        yield spec.name, peak
