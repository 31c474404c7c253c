"""The peers of a run. One that fails is restarted for the next prompt; the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edgespec.bench.measurements import Answer, Peer
from edgespec.bench.peers import PeerSpec
from edgespec.errors import EvaluationError
from edgespec.system.signals import delayed_signals


class PeerPool:
    """The peers that `specs` name, each started by `start`. Use it as a context manager.

    Raises what `start` raises: a peer that cannot be started is a mistake, and ends the run at once.
    """

    def __init__(self, specs: Iterable[PeerSpec], start: Callable[[PeerSpec], Peer]) -> None:
        self._start = start
        self._specs = {spec.name: spec for spec in specs}
        self._peers: dict[str, Peer] = {}
        self.failed: dict[str, str] = {}
        """The peers that failed on this prompt, with their reasons."""
        try:
            for name, spec in self._specs.items():
                self._peers[name] = start(spec)
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Start another prompt, on which all peers take part again."""
        self.failed = {}

    @property
    def remaining(self) -> list[str]:
        """The peers that have not failed on this prompt."""
        return [name for name in self._specs if name not in self.failed]

    def answer(
        self, name: str, prompt: Sequence[int], count: int, *sampling: Any, prefill_all: bool = False
    ) -> Answer | None:
        """The answer of a peer, as `Peer.answer`; None where it failed."""
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
        """End all peers. A second signal cannot keep any of them."""
        with delayed_signals():
            while self._peers:
                self._peers.popitem()[1].close()

    def __enter__(self) -> PeerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
