"""One run of the benchmark. The result file is written after each prompt, and a stopped run resumes from it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgespec.backend import LlamaSampler, Prompt
from edgespec.bench.contestants import CHAINS, PLAIN, Contestants, contestant_name, drafter_files
from edgespec.bench.divergence import divergence
from edgespec.bench.measurements import Answer, Peer
from edgespec.bench.memory import peak_of
from edgespec.bench.peer_pool import PeerPool
from edgespec.bench.peers import PeerSpec, start_peer
from edgespec.bench.results import origin, resumed, write
from edgespec.bench.settings import RunProgress, Settings
from edgespec.bench.versions import versions
from edgespec.decode.sampling import SamplingParams
from edgespec.doctor import measure
from edgespec.drafters import names_of
from edgespec.engine import Engine
from edgespec.engine.exact import probe_tokens
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.system.child import program
from edgespec.system.prompts import subtask

SUBJECT = "drafters against plain decoding and other programs"

WARM_UP = 8
"""Tokens of the first answer to a prompt, of which only the time to the first token counts."""

_MOST_ROUNDS = 4
"""Short answers are noisy, so they get more rounds, up to this multiple of the rounds that were asked for."""

_MEMORY_PROMPT = "Write a short story about a lighthouse keeper."
_MEMORY_TOKENS = 32


def run(
    settings: Settings,
    prompts: Sequence[dict[str, Any]],
    *,
    out: Path | None,
    command: Iterable[str],
    on_progress: Callable[[RunProgress], object] = lambda _progress: None,
) -> dict[str, Any]:
    """Run the benchmark and return its result, which is written to `out` too. A later call resumes a stopped run.

    `prompts` have a question_id and a category. Raises ModelError, InvalidRequest (a file of other settings, a name
    given twice), EvaluationError (a peer does not start), OutputError.
    """
    names = [*map(contestant_name, settings.drafters), PLAIN, *(spec.name for spec in settings.peers)]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"{repeated!r} is named twice, or is the name of something else: give each its own name")
    peer_versions = dict(versions(settings.peers, settings.server))
    on_progress(RunProgress("loading"))
    with contextlib.ExitStack() as stack:
        contestants = stack.enter_context(
            Contestants(
                settings.model, settings.drafters,
                n_ctx=settings.n_ctx, threads=settings.threads, gpu_layers=settings.gpu_layers,
            )
        )  # fmt: skip
        model = contestants.first.model.path.absolute()
        fresh = _fresh(settings, model, command, peer_versions) | {
            "began": contestants.initial_latency,
            "shares": contestants.shares("bytes"),
            "shares_by_parameters": contestants.shares("parameters"),
            **({"chat_sampling": contestants.first.sampling_defaults.describe({})} if settings.like_a_chat else {}),
        }
        result = (resumed(out, fresh, holds="prompts") if out else None) or fresh
        prompts_left = _prompts_left(prompts, result, out)
        contestants.begin(result["began"])
        if prompts_left:  # a resumed run, with more prompts perhaps
            result |= {key: fresh[key] for key in ("command", "date")}
        threads = contestants.first.context.threads
        peer_specs = settings.peers if prompts_left else ()
        peers = stack.enter_context(
            PeerPool(peer_specs, lambda spec: _start_peer(spec, model, settings, threads, on_progress))
        )
        row: dict[str, Any] | None = None
        start, done = time.monotonic(), len(prompts) - len(prompts_left)
        for number, prompt in enumerate(prompts_left):
            seconds_left = (time.monotonic() - start) / number * (len(prompts_left) - number) if number else None
            on_progress(RunProgress("measuring", done + number, len(prompts), seconds_left, row))
            row = {
                **_identity(prompt),
                **_measure_prompt(contestants, peers, prompt, settings, _order_number(prompt, result["prompts"])),
            }
            result["skipped" if "reason" in row else "prompts"].append(row)
            if out:
                write(out, result)
        on_progress(RunProgress("measuring", len(prompts), len(prompts), None, row))
        if result.get("curve", {"busy": True})["busy"]:
            on_progress(RunProgress("measuring T(n)"))
            result["curve"] = _latency_curve(contestants)
        memory_prompt = _tokens(contestants, _MEMORY_PROMPT)
    if out:
        write(out, result)
    memory = result.setdefault("memory", {})
    for name, peak in _peak_memory(settings, model, threads, memory_prompt, on_progress, known=memory):
        memory[name] = peak
        if out:
            write(out, result)
    return result


def _fresh(settings: Settings, model: Path, command: Iterable[str], peer_versions: Mapping[str, str]) -> dict[str, Any]:
    """A result without measurements: its origin and its settings."""
    own_models = (path for drafters in settings.drafters for path in drafter_files(drafters).values())
    peer_models = (path for spec in settings.peers for path in spec.models)
    result = origin(SUBJECT, dict.fromkeys([model, *own_models, *peer_models]), command)  # each once
    result["versions"] |= peer_versions
    return {**result, "settings": settings.as_json(), "prompts": [], "skipped": []}


def _identity(prompt: dict[str, Any]) -> dict[str, Any]:
    """The fields that identify a prompt."""
    digest = hashlib.sha256(prompt["turns"][0].encode()).hexdigest()[:16]
    return {"question_id": prompt["question_id"], "category": prompt["category"], "sha256": digest}


def _prompts_left(prompts: Sequence[dict[str, Any]], result: dict[str, Any], out: Path | None) -> list[dict[str, Any]]:
    """The prompts that `result` does not have yet. Raises InvalidRequest where it has unknown ones."""
    done = {row["question_id"]: row for row in (*result["prompts"], *result["skipped"])}
    if unknown_ids := done.keys() - {prompt["question_id"] for prompt in prompts}:
        raise InvalidRequest(
            f"{out}: it has {len(unknown_ids)} prompts that are not to be measured now; choose another file, or remove "
            "this one"
        )
    for prompt in prompts:
        earlier = done.get(prompt["question_id"])
        if earlier and earlier["sha256"] != _identity(prompt)["sha256"]:
            raise InvalidRequest(
                f"{out}: its prompt {prompt['question_id']!r} is another one; choose another file, or remove this one"
            )
    return [prompt for prompt in prompts if prompt["question_id"] not in done]


def _start_peer(
    spec: PeerSpec, model: Path, settings: Settings, threads: int, on_progress: Callable[[RunProgress], object]
) -> Peer:
    on_progress(RunProgress(f"loading {spec.name}"))
    return start_peer(
        spec, model, server=settings.server, n_ctx=settings.n_ctx, threads=threads, gpu_layers=settings.gpu_layers
    )


def _tokens(contestants: Contestants, text: str) -> list[int]:
    """The ids of a user's message; for a model without a chat template, of the plain text."""
    engine = contestants.first
    if not engine.model.chat_template:
        return engine.tokenize(text)
    return Prompt(engine.model, [{"role": "user", "content": text}]).ids()


def _order_number(prompt: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int:
    """A number whose parity alternates over the prompts of a subtask, and over the first ones of subtasks."""
    subtasks = [subtask(row["category"]) for row in (*rows, prompt)]
    this_subtask = subtasks.pop()
    return subtasks.count(this_subtask) + list(dict.fromkeys([*subtasks, this_subtask])).index(this_subtask)


def _sampling(engine: Engine, settings: Settings) -> SamplingParams:
    """How all contestants sample."""
    if settings.like_a_chat:
        return engine.chat_sampling(seed=settings.seed)
    return SamplingParams(temperature=settings.temperature, seed=settings.seed)


def _measure_prompt(
    contestants: Contestants, peers: PeerPool, prompt: dict[str, Any], settings: Settings, number: int
) -> dict[str, Any]:
    """The measurements of all contestants and peers on one prompt: its first turn, by the model's chat template.

    Each first answer includes a prefill of the whole prompt: tokens cached from an earlier prompt were evaluated in
    other chunks, which round differently, so that texts could diverge without any draft. The machine may get warm, so
    the order is reversed where `number` is odd. A peer that fails is left out, with its reason.
    """
    tokens = _tokens(contestants, prompt["turns"][0])
    if len(tokens) + settings.count > settings.n_ctx:
        return {"reason": f"{len(tokens)} tokens: too long for a context of {settings.n_ctx}"}
    sampling = _sampling(contestants.first, settings)

    def answered(count: int, taking_part: Sequence[str], turn: int, *, prefill_all: bool = False) -> dict[str, Answer]:
        backwards = turn % 2 == 1
        own_answers = {} if backwards else contestants.answer(tokens, count, sampling)
        peer_results = {
            name: peers.answer(name, tokens, count, settings.temperature, settings.seed, prefill_all=prefill_all)
            for name in (reversed(taking_part) if backwards else taking_part)
        }
        peer_answers = {name: answer for name, answer in peer_results.items() if answer}
        return (own_answers or contestants.answer(tokens, count, sampling, backwards=True)) | peer_answers

    rounds: list[dict[str, Answer]] = []
    plain_tokens = 0
    contestants.forget()
    peers.begin()
    names = [*contestants.names, *peers.remaining]
    first = answered(WARM_UP, peers.remaining, number, prefill_all=True)
    while plain_tokens < settings.rounds * settings.count and len(rounds) < _MOST_ROUNDS * settings.rounds:
        taking_part = peers.remaining if len(rounds) < settings.peer_rounds else []
        rounds.append(answered(settings.count, taking_part, number + len(rounds)))
        plain_tokens += len(rounds[-1][PLAIN].tokens)
        if len(rounds[-1][PLAIN].tokens) < 2:
            return {"reason": "the answer is a single token: there is no speed to measure"}
    for answers in (first, *rounds):  # an incomplete answer does not count
        for name in peers.failed:
            answers.pop(name, None)
    return {
        "prompt_tokens": len(tokens),
        "backwards": number % 2 == 1,
        "first_token_seconds": {name: first[name].first_token_seconds for name in names if name in first},
        "answers": {name: [answers[name].as_json() for answers in rounds if name in answers] for name in names},
        "partings": _divergences(contestants, tokens, rounds, sampling),
        **({"failed": dict(peers.failed)} if peers.failed else {}),
    }


def _divergences(
    contestants: Contestants, tokens: Sequence[int], rounds: Sequence[Mapping[str, Answer]], sampling: SamplingParams
) -> dict[str, Any]:
    """The first divergence of each answer from the plain one. Above temperature 0, peers draw other noise."""
    divergences: dict[str, Any] = {}
    for answers in rounds:
        for name, answer in answers.items():
            is_contestant = name in contestants.names
            if (
                name not in divergences
                and answer.tokens != answers[PLAIN].tokens
                and (is_contestant or not sampling.temperature)
            ):
                vocabulary = contestants.plain.model.vocabulary
                first_difference = divergence(
                    contestants.plain.context, tokens, answers[PLAIN].tokens, answer.tokens, sampling, cached=True,
                    sampler=LlamaSampler(vocabulary, sampling, history=tokens) if sampling.reweighs else None,
                )  # fmt: skip
                assert first_difference is not None
                divergences[name] = asdict(first_difference)
    return divergences


def _latency_curve(contestants: Contestants) -> dict[str, Any]:
    """T(n) in milliseconds, measured in a run of its own, and whether the machine was busy."""
    context = contestants.plain.context
    depth = min(measure.DEPTH, context.n_ctx // 2)
    times, busy = measure.timed(context, probe_tokens(contestants.first.model.vocabulary.size), depth=depth)
    return {"context": depth, "busy": busy, "ms": {str(n): 1e3 * seconds for n, seconds in times.items()}}


def _peak_memory(
    settings: Settings,
    model: Path,
    threads: int,
    memory_prompt: Sequence[int],
    on_progress: Callable[[RunProgress], object],
    *,
    known: Container[str],
) -> Iterator[tuple[str, int | None]]:
    """The peak memory in bytes of each contestant alone, with one short prompt; None where it cannot be measured.

    Those in `known` are left out.
    """
    for drafter in (*settings.drafters, "none"):
        name = PLAIN if drafter == "none" else contestant_name(drafter)
        if name in known:
            continue
        on_progress(RunProgress(f"measuring the memory of {name}"))
        files = drafter_files(drafter)  # that process has another working directory
        full_names = "+".join(str(files.get(part, part)) for part in names_of(drafter.removesuffix(CHAINS))) or "none"
        command = [
            *program("edgespec"), "--config", os.devnull, "generate", "--raw", "-m", str(model), "-d", full_names,
            "-p", _MEMORY_PROMPT, "-n", str(_MEMORY_TOKENS), "--ctx", str(settings.n_ctx), "--threads", str(threads),
            "--gpu-layers", str(settings.gpu_layers),
        ]  # fmt: skip
        try:
            yield name, peak_of(command)
        except EvaluationError as error:
            on_progress(RunProgress(str(error)))
            yield name, None
    for spec in settings.peers:
        if spec.name in known:
            continue
        on_progress(RunProgress(f"measuring the memory of {spec.name}"))
        try:
            peer = _start_peer(spec, model, settings, threads, lambda progress: None)
        except EvaluationError as error:
            on_progress(RunProgress(str(error)))
            yield spec.name, None
            continue
        try:
            peer.answer(memory_prompt, _MEMORY_TOKENS, 0.0, settings.seed)
        except EvaluationError as error:
            on_progress(RunProgress(str(error)))
        finally:
            peak = peer.close()
        yield spec.name, peak
