"""The options of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgespec.core import Drafter
from edgespec.errors import InvalidRequest
from edgespec.system import cpu

DEFAULT_CONTEXT = 8192
"""The default context length in tokens; a model that was trained for fewer gets fewer."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The arguments of `edgespec.load`, which explains them. Raises InvalidRequest where one is out of range."""

    model: str | Path | None = None
    drafter: str | Path | Drafter = "auto"
    n_ctx: int | None = None
    threads: int | None = None
    gpu_layers: int = -1
    kv_type: str = "f16"
    flash_attention: str = "auto"
    exact: bool = False
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise InvalidRequest(f"{self.threads} threads: it must be from 1 to 1024")
        if self.n_ctx is not None and not 8 <= self.n_ctx <= 1 << 22:
            raise InvalidRequest(f"a context of {self.n_ctx} tokens: it must be from 8 to {1 << 22}")


@dataclass(frozen=True, slots=True)
class Resources:
    """Context length, threads and GPU layers as settled for a target; its drafters get the same."""

    n_ctx: int
    threads: int
    gpu_layers: int
    cache_dir: Path

    @classmethod
    def of(cls, options: EngineOptions, n_ctx_train: int) -> Resources:
        """The resources by `options`, for a model that was trained for contexts of `n_ctx_train` tokens."""
        return cls(
            min(n_ctx_train, DEFAULT_CONTEXT) if options.n_ctx is None else options.n_ctx,
            cpu.default_threads() if options.threads is None else options.threads,
            options.gpu_layers,
            options.cache_dir or cpu.cache_directory(),
        )
