"""The peers of a run. One that fails is started anew for the next prompt, and nobody else's figures are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgespec.bench.measurements import Answer, Peer
from edgespec.bench.peers import PeerSpec
from edgespec.errors import EvaluationError


class PeerPool:
    """All that `specs` name, each as `start` makes it. Use it as a context manager.

    Raises what `start` raises: a peer that cannot be started at all is a mistake, and found out before anything else.
    """

    def __init__(self, specs: Iterable[PeerSpec], start: Callable[[PeerSpec], Peer]) -> None:
        self._start = start
        self._specs = {spec.name: spec for spec in specs}
        self._peers: dict[str, Peer] = {}
        self.failed: dict[str, str] = {}
        """Who failed on the prompt in hand, and why."""
        try:
            for name, spec in self._specs.items():
                self._peers[name] = start(spec)
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Another prompt: who failed on the last one may do better."""
        self.failed = {}

    @property
    def left(self) -> list[str]:
        """Who has not failed on this prompt."""
        return [name for name in self._specs if name not in self.failed]

    def answer(
        self, name: str, prompt: Sequence[int], count: int, *sampling: Any, prefill_all: bool = False
    ) -> Answer | None:
        """As `Peer.answer`; None where it failed."""
        try:
            if name not in self._peers:
                self._peers[name] = self._start(self._specs[name])
            return self._peers[name].answer(prompt, count, *sampling, prefill_all=prefill_all)
        except EvaluationError as error:
            self.failed[name] = str(error)
            if peer := self._peers.pop(name, None):
                peer.close()
            return None

    def close(self) -> None:
        """End them all."""
        while self._peers:
            self._peers.popitem()[1].close()

    def __enter__(self) -> PeerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
