"""The settings of a benchmark run, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgespec.bench.contestants import contestant_name
from edgespec.bench.peers import PeerSpec
from edgespec.bench.results import without_folders


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a run. `drafters` are as -d takes them; the others are compared with the first one."""

    model: str | None
    drafters: Sequence[str]
    peers: Sequence[PeerSpec] = ()
    server: Path | None = None
    count: int = 96
    """Tokens of an answer."""
    rounds: int = 5
    peer_rounds: int = 1
    temperature: float = 0.0
    like_a_chat: bool = False
    """Whether answers are sampled as a chat's are, with the parameters recommended for the model."""
    seed: int = 7
    n_ctx: int = 2048
    threads: int | None = None
    gpu_layers: int = -1

    def as_json(self) -> dict[str, Any]:
        """The settings in a result file; a run can only be resumed with equal ones."""
        return {
            "drafters": [contestant_name(drafters) for drafters in self.drafters],
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
            **({"sampling": "chat"} if self.like_a_chat else {}),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The present stage; finished and all prompts, the seconds left, and the last prompt's result."""

    doing: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    row: dict[str, Any] | None = None
