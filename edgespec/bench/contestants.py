"""edgespec's own contestants: plain decoding and drafters on one target, each with its own context.

They answer in lockstep: the one with the fewest tokens makes the next decode step. So a busy moment of the machine
slows all of them, and ratios are steadier than those of whole answers. Each answer starts with new n-gram drafters, no
acceptance rates and empty drafter caches; only the latency model stays, one for each contestant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgespec.backend import LlamaContext
from edgespec.bench.measurements import Answer
from edgespec.decode.sampling import SamplingParams
from edgespec.decode.session import Block, Session
from edgespec.drafters import names_of
from edgespec.engine import Engine, load
from edgespec.engine.drafter_set import close_all, is_model, open_drafters
from edgespec.engine.options import Resources
from edgespec.hub.resolve import resolve
from edgespec.latency.model import LatencyModel
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.system.cpu import cache_directory

PLAIN = "plain"


CHAINS = ":chains"
"""Behind its drafters, it makes a contestant that drafts no trees."""


def contestant_name(drafters: str) -> str:
    """The name of a contestant: its drafters as -d takes them, without folders, and CHAINS where it drafts no trees."""
    return "+".join(Path(name).name for name in drafters.split("+"))


def drafter_files(drafters: str) -> dict[str, Path]:
    """The absolute paths of the drafter models among `drafters` (as -d takes them), by their names there."""
    names = names_of(drafters.removesuffix(CHAINS))
    return {name: resolve(name, cache_dir=cache_directory()).absolute() for name in names if is_model(name)}


class Contestants:
    """Plain decoding and `drafters` (as -d takes them) on one target. Use it as a context manager.

    The first of `drafters` is what the others are compared with.
    """

    def __init__(
        self, model: str | None, drafters: Sequence[str], *, n_ctx: int, threads: int | None, gpu_layers: int
    ) -> None:
        first = load(
            model, drafter=drafters[0].removesuffix(CHAINS), n_ctx=n_ctx, threads=threads, gpu_layers=gpu_layers
        )
        first.context.trees &= not drafters[0].endswith(CHAINS)
        self.initial_latency: dict[str, Any] = first.latency.as_json()
        """The latency model before the run, as JSON."""
        self._engines = {contestant_name(drafters[0]): first}
        resources = Resources(n_ctx, first.context.threads, gpu_layers, cache_directory())
        for other in (*drafters[1:], "none"):
            context = LlamaContext(first.model, n_ctx=n_ctx, threads=first.context.threads, trees=True)
            context.trees &= not other.endswith(CHAINS)
            name = contestant_name(other) if other != "none" else PLAIN
            self._engines[name] = Engine(
                first.model, context, latency=LatencyModel(context.max_rows), drafter_name=name,
                drafters=open_drafters(names_of(other.removesuffix(CHAINS)), first.model, resources, context=context),
            )  # fmt: skip
        self.first = first
        self.begin(self.initial_latency)

    def begin(self, known: Mapping[str, Any]) -> None:
        """Let each start from what is `known` of T(n), and learn by itself; nothing of it is kept for other runs."""
        for engine in self._engines.values():
            engine.latency = LatencyModel(engine.context.max_rows)
            engine.latency.restore(known)

    @property
    def names(self) -> list[str]:
        """The contestants, plain decoding last."""
        return list(self._engines)

    @property
    def plain(self) -> Engine:
        """The contestant that decodes plainly."""
        return self._engines[PLAIN]

    def shares(self, unit: Literal["bytes", "parameters"]) -> dict[str, dict[str, float]]:
        """By contestant and drafter model: what the drafter reads for a token, over what the target reads."""
        return {
            name: {opened.name: getattr(opened.share, unit) for opened in engine.drafters if opened.share}
            for name, engine in self._engines.items()
        }

    def forget(self) -> None:
        """Empty all KV caches: then all prefill the next prompt in the same chunks, and round alike."""
        for engine in self._engines.values():
            engine.context.forget()

    def answer(
        self,
        prompt: Sequence[int],
        count: int,
        sampling: SamplingParams,
        *,
        backwards: bool = False,
        on_block: Callable[[str, Block], object] = lambda name, block: None,
    ) -> dict[str, Answer]:
        """One answer of each contestant. `backwards`: plain decoding comes first. `on_block` gets every block."""
        names = self.names[::-1] if backwards else self.names
        passes_before = {name: self._drafter_passes(name) for name in names}
        sessions = {name: self._session(name, prompt, count, sampling) for name in names}
        seconds = in_lockstep(sessions, on_block)
        return {
            name: _answer(
                session,
                seconds[name],
                {drafter: n - passes_before[name][drafter] for drafter, n in self._drafter_passes(name).items()},
            )
            for name, session in sessions.items()
        }

    def _session(self, name: str, prompt: Sequence[int], count: int, sampling: SamplingParams) -> Session:
        engine = self._engines[name]
        engine.policy = AdaptivePolicy(
            [opened.fresh() for opened in engine.drafters], engine.latency, trees=engine.context.trees
        )
        return engine.session(prompt, sampling=sampling, max_tokens=count)

    def _drafter_passes(self, name: str) -> dict[str, int]:
        return {opened.name: opened.passes() for opened in self._engines[name].drafters if opened.share}

    def __enter__(self) -> Contestants:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            if engine is not self.first:
                close_all(engine.drafters)
                engine.context.close()
        self.first.close()


def in_lockstep(
    sessions: Mapping[str, Session], on_block: Callable[[str, Block], object] = lambda name, block: None
) -> dict[str, float]:
    """Decode all answers block by block; returns the seconds of each after its first token, without `on_block`'s."""
    for name, session in sessions.items():
        on_block(name, session.step())
    seconds = dict.fromkeys(sessions, 0.0)
    while behind := [name for name, session in sessions.items() if not session.finished]:
        name = min(behind, key=lambda name: (len(sessions[name].emitted), seconds[name]))
        begun = time.perf_counter()
        block = sessions[name].step()
        seconds[name] += time.perf_counter() - begun
        on_block(name, block)
    return seconds


def _answer(session: Session, seconds: float, drafter_passes: dict[str, int]) -> Answer:
    tally = session.tally
    return Answer(
        tokens=tuple(session.emitted),
        seconds=seconds,
        first_token_seconds=tally.first_token_seconds,
        blocks=tally.blocks,
        drafted=tally.drafted,
        accepted=tally.accepted,
        drafter_passes=drafter_passes,
        judged_at={
            name: [count for _, count in sorted(drafter.judged_at.items())] for name, drafter in tally.drafters.items()
        },
        accepted_at={
            name: [drafter.accepted_at[depth] for depth in sorted(drafter.judged_at)]
            for name, drafter in tally.drafters.items()
        },
        expected_at=[tally.expected_at[tenth] for tenth in range(10)] if tally.expected_at else [],
        came_true_at=[tally.came_true_at[tenth] for tenth in range(10)] if tally.expected_at else [],
    )
