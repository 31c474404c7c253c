"""One run of the benchmark. Its file holds what was measured after every prompt, and a stopped run goes on from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgespec import doctor
from edgespec.bench.answers import Answer, Peer
from edgespec.bench.field import PLAIN, Field, name_of
from edgespec.bench.memory import peak_of
from edgespec.bench.peers import PeerSpec, started
from edgespec.bench.results import begun, origin, without_folders, write
from edgespec.child import program
from edgespec.errors import InvalidRequest
from edgespec.exact import sample
from edgespec.lossless import parting
from edgespec.sampling import SamplingParams

WHAT = "drafters against plain decoding and other programs"

WARM_UP = 8
"""Tokens that everybody makes after each prompt before anything but the time to the first one counts."""

_MOST_ROUNDS = 4
"""A short answer is over in a moment, and a moment is noisy: it gets as many rounds as make the wanted ones of full
length, but no more than so many times as many."""

_MEMORY_PROMPT = "Write a short story about a lighthouse keeper."
_MEMORY_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """What to compare, and how long. `drafters` are as -d takes them; the first one is the one that matters."""

    model: str | None
    drafters: Sequence[str]
    peers: Sequence[PeerSpec] = ()
    server: Path | None = None
    count: int = 96
    """Tokens of an answer."""
    rounds: int = 5
    peer_rounds: int = 1
    temperature: float = 0.0
    seed: int = 7
    n_ctx: int = 2048
    threads: int | None = None
    gpu_layers: int = -1

    def told(self) -> dict[str, Any]:
        """What has to be the same for a run to be gone on with."""
        return {
            "drafters": [name_of(drafters) for drafters in self.drafters],
            "peers": {spec.name: " ".join(map(without_folders, spec.server_arguments or ())) for spec in self.peers},
            "tokens": self.count,
            "rounds": self.rounds,
            "peer_rounds": self.peer_rounds,
            "temperature": self.temperature,
            "seed": self.seed,
            "context": self.n_ctx,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """After each prompt: how many are done, how many there are, the seconds left, and what the last one gave."""

    done: int
    total: int
    seconds_left: float | None
    row: dict[str, Any] | None


def run(
    settings: Settings,
    prompts: Sequence[dict[str, Any]],
    *,
    out: Path | None,
    command: Iterable[str],
    tell: Callable[[Progress], object] = lambda _progress: None,
) -> dict[str, Any]:
    """The result, which `out` holds too. Interrupted, it goes on where it was when called again.

    `prompts` have a question_id and a category. Raises ModelError, InvalidRequest (a file of other settings, names
    twice), EvaluationError (a peer fails), OutputError.
    """
    names = [*map(name_of, settings.drafters), PLAIN, *(spec.name for spec in settings.peers)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"{twice!r} is named twice, or is the name of something else: give each its own name")
    told = settings.told()
    memory: dict[str, int | None] = {}
    earlier = begun(out, WHAT, told) if out else None
    with contextlib.ExitStack() as stack:
        field = stack.enter_context(
            Field(
                settings.model, settings.drafters,
                n_ctx=settings.n_ctx, threads=settings.threads, gpu_layers=settings.gpu_layers,
            )
        )  # fmt: skip
        model = field.first.model.path.absolute()
        result = {**origin(WHAT, [model], command), "settings": told, "prompts": [], "skipped": []}
        if earlier is not None:
            _same_model(out, earlier, result)
            result |= {key: earlier[key] for key in ("prompts", "skipped", "curve", "memory") if key in earlier}
        done = {row["question_id"] for row in (*result["prompts"], *result["skipped"])}
        asked = [prompt for prompt in prompts if prompt["question_id"] not in done]
        peers: dict[str, Peer] = {}
        if asked:
            for spec in settings.peers:
                peer = started(
                    spec, model, server=settings.server, n_ctx=settings.n_ctx, threads=field.first.context.threads
                )
                peers[spec.name] = peer
                stack.callback(_close, peer, spec.name, memory)
        start, total = time.monotonic(), len(done) + len(asked)
        tell(Progress(len(done), total, None, None))
        for number, prompt in enumerate(asked, start=1):
            row = _measured(field, peers, prompt, settings)
            result["skipped" if "reason" in row else "prompts"].append(row)
            if out:
                write(out, result)
            left = (time.monotonic() - start) / number * (len(asked) - number)
            tell(Progress(len(done) + number, total, left, row))
        result["shares"] = field.shares()
        if "curve" not in result:
            result["curve"] = _curve(field)
    if "memory" not in result:
        result["memory"] = {**_own_memory(settings), **memory}
    if out:
        write(out, result)
    return result


def _close(peer: Peer, name: str, memory: dict[str, int | None]) -> None:
    memory[name] = peer.close()


def _same_model(out: Path | None, earlier: dict[str, Any], result: dict[str, Any]) -> None:
    if earlier.get("models") != result["models"]:
        raise InvalidRequest(f"{out}: it was begun with another model; choose another file, or remove this one")


def _measured(field: Field, peers: Mapping[str, Peer], prompt: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """All of them on one prompt: its first turn, as the model's chat template renders it."""
    engine = field.first
    told = {"question_id": prompt["question_id"], "category": prompt["category"]}
    text = prompt["turns"][0]
    if engine.model.chat_template:
        text = engine.model.render([{"role": "user", "content": text}])
    tokens = engine.tokenize(text)
    if len(tokens) + settings.count > settings.n_ctx:
        return {**told, "reason": f"{len(tokens)} tokens: too long for a context of {settings.n_ctx}"}
    sampling = SamplingParams(temperature=settings.temperature, seed=settings.seed)

    def answered(count: int, peers: Mapping[str, Peer]) -> dict[str, Answer]:
        others = {name: peer.answer(tokens, count, settings.temperature, settings.seed) for name, peer in peers.items()}
        return field.answer(tokens, count, sampling) | others

    first = answered(WARM_UP, peers)
    rounds: list[dict[str, Answer]] = []
    plainly = 0
    while plainly < settings.rounds * settings.count and len(rounds) < _MOST_ROUNDS * settings.rounds:
        rounds.append(answered(settings.count, peers if len(rounds) < settings.peer_rounds else {}))
        plainly += len(rounds[-1][PLAIN].tokens)
        if len(rounds[-1][PLAIN].tokens) < 2:
            return {**told, "reason": "the answer is a single token: there is no speed to measure"}
    return {
        **told,
        "prompt_tokens": len(tokens),
        "first_token_seconds": {name: answer.first_token_seconds for name, answer in first.items()},
        "answers": {name: [one[name].told() for one in rounds if name in one] for name in first},
        "partings": _partings(field, tokens, rounds, sampling),
    }


def _partings(
    field: Field, tokens: Sequence[int], rounds: Sequence[Mapping[str, Answer]], sampling: SamplingParams
) -> dict[str, Any]:
    """Where each one's answer first differed from the plain one. Peers draw with other numbers than we do."""
    partings: dict[str, Any] = {}
    for answers in rounds:
        for name, answer in answers.items():
            own = name in field.names
            if name not in partings and answer.tokens != answers[PLAIN].tokens and (own or not sampling.temperature):
                parted = parting(field.plain.context, tokens, answers[PLAIN].tokens, answer.tokens, sampling)
                assert parted is not None
                partings[name] = asdict(parted)
    return partings


def _curve(field: Field) -> dict[str, Any]:
    """T(n) in milliseconds, measured on purpose, and whether the machine was busy."""
    context = field.plain.context
    depth = min(doctor.DEPTH, context.n_ctx // 2)
    times, busy = doctor.timed(context, sample(field.first.model.vocabulary.size), depth=depth)
    return {"context": depth, "busy": busy, "ms": {str(n): 1e3 * seconds for n, seconds in times.items()}}


def _own_memory(settings: Settings) -> dict[str, int]:
    """The peak memory of edgespec with each of the drafters, and without: of a process that answers one prompt."""
    peaks: dict[str, int] = {}
    for drafter in (*settings.drafters, "none"):
        command = [
            *program("edgespec"), "generate", "-d", drafter, "-p", _MEMORY_PROMPT, "-n", str(_MEMORY_TOKENS),
            "--ctx", str(settings.n_ctx), "--gpu-layers", str(settings.gpu_layers),
        ]  # fmt: skip
        command += ["--threads", str(settings.threads)] if settings.threads else []
        command += ["-m", settings.model] if settings.model else []
        peaks[PLAIN if drafter == "none" else name_of(drafter)] = peak_of(command)
    return peaks
