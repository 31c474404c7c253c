"""What a run of the benchmark is asked for, and what it tells while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.bench.contestants import name_of
from edgespec.bench.peers import PeerSpec
from edgespec.bench.results import without_folders


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
            "peers": {
                spec.name: " ".join(map(without_folders, spec.server_arguments or ()))
                if spec.assistant is None
                else spec.assistant.name
                for spec in self.peers
            },
            "tokens": self.count,
            "rounds": self.rounds,
            "peer_rounds": self.peer_rounds,
            "temperature": self.temperature,
            "seed": self.seed,
            "context": self.n_ctx,
            "threads": self.threads,
            "gpu_layers": self.gpu_layers,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What is being done; of prompts, how many are, how many there are, the seconds left, what the last one gave."""

    doing: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    row: dict[str, Any] | None = None
