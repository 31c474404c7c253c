"""Peers that fail: the others go on, and the one that failed is started prefill_all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgespec.bench.measurements import Answer
from edgespec.bench.peer_pool import PeerPool
from edgespec.bench.peers import PeerSpec
from edgespec.errors import EvaluationError, InvalidRequest

SPECS = (PeerSpec("one", ()), PeerSpec("two", ()))


class _Peer:
    """Says its own number; fails where it is told to."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events
        self.broken = False

    def answer(
        self, prompt: Sequence[int], count: int, temperature: float, seed: int, *, prefill_all: bool = False
    ) -> Answer:
        if self.broken:
            raise EvaluationError(f"{self.name} fell over")
        self.events.append(f"{self.name} {list(prompt)} {count} {temperature} {seed} {prefill_all}")
        return Answer((1, 2), 1.0, 0.5, 1)

    def close(self) -> int | None:
        self.events.append(f"{self.name} closed")
        return None


class _Starter:
    """Starts peers, and keeps them."""

    def __init__(self, refuses: str = "", error: type[Exception] = EvaluationError) -> None:
        self.events: list[str] = []
        self.peers: dict[str, _Peer] = {}
        self.refuses, self.error = refuses, error

    def __call__(self, spec: PeerSpec) -> _Peer:
        self.events.append(f"{spec.name} started")
        if spec.name == self.refuses:
            raise self.error(f"{spec.name} cannot be started")
        self.peers[spec.name] = _Peer(spec.name, self.events)
        return self.peers[spec.name]


def test_all_are_started_before_anything_else_and_ended_with_the_pool() -> None:
    start = _Starter()
    with PeerPool(SPECS, start) as pool:
        assert start.events == ["one started", "two started"]
        assert pool.remaining == ["one", "two"]
        assert pool.answer("two", [5], 3, 0.0, 7, prefill_all=True) == Answer((1, 2), 1.0, 0.5, 1)
    assert start.events[2] == "two [5] 3 0.0 7 True"
    assert sorted(start.events[3:]) == ["one closed", "two closed"]


def test_a_peer_that_fails_costs_nobody_else_and_gets_another_chance() -> None:
    start = _Starter()
    with PeerPool(SPECS, start) as pool:
        start.peers["one"].broken = True
        assert pool.answer("one", [5], 3, 0.0, 7) is None
        assert pool.failed == {"one": "one fell over"}
        assert pool.remaining == ["two"]
        assert start.events[-1] == "one closed"
        assert pool.answer("two", [5], 3, 0.0, 7) is not None
        pool.begin()
        assert pool.remaining == ["one", "two"]
        assert pool.answer("one", [6], 3, 0.0, 7) is not None
        assert start.events.count("one started") == 2
        assert start.events.count("two started") == 1


def test_a_peer_that_cannot_be_started_again_has_failed_on_that_prompt_too() -> None:
    start = _Starter()
    with PeerPool(SPECS, start) as pool:
        start.peers["one"].broken = True
        pool.answer("one", [5], 3, 0.0, 7)
        start.refuses = "one"
        pool.begin()
        assert pool.answer("one", [5], 3, 0.0, 7) is None
        assert pool.failed == {"one": "one cannot be started"}
    assert start.events.count("one closed") == 1


@pytest.mark.parametrize("error", [EvaluationError, InvalidRequest, KeyboardInterrupt])
def test_one_that_cannot_be_started_at_all_ends_those_that_were(error: type[Exception]) -> None:
    start = _Starter("two", error)
    with pytest.raises(error):
        PeerPool(SPECS, start)
    assert start.events == ["one started", "two started", "one closed"]


def test_what_is_no_failure_of_the_peer_is_not_taken_for_one() -> None:
    start = _Starter()
    with PeerPool(SPECS, start) as pool, pytest.raises(KeyError):
        pool.answer("nobody", [5], 3, 0.0, 7)
    assert pool.failed == {}
