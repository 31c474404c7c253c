"""The options of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgespec.backend import FLASH_ATTENTION, KV_TYPES
from edgespec.core import Drafter, arguments
from edgespec.core.arguments import MAX_INT32, integer, number
from edgespec.system import cpu

DEFAULT_CONTEXT = 8192
"""The default context length in tokens; a model that was trained for fewer gets fewer."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The arguments of `edgespec.load`, which explains them. Raises InvalidRequest where one cannot be used.

    `drafter` is checked where it is opened.
    """

    model: str | Path | None = None
    drafter: str | Path | Drafter = "auto"
    n_ctx: int | None = None
    threads: int | None = None
    gpu_layers: int = -1
    kv_type: str = "f16"
    flash_attention: str = "auto"
    exact: bool = False
    cache_dir: str | Path | None = None
    prefix_cache: bool | float = False

    def __post_init__(self) -> None:
        arguments.none_is_default(self, but=("drafter",))  # it could mean "none", or "auto"
        checked: dict[str, object] = {
            "gpu_layers": integer("gpu_layers", self.gpu_layers, -MAX_INT32, MAX_INT32, "below 0: all"),
            "kv_type": arguments.choice("kv_type", self.kv_type, KV_TYPES),
            "flash_attention": arguments.choice("flash_attention", self.flash_attention, FLASH_ATTENTION),
            "exact": arguments.switch("exact", self.exact),
        }
        if self.model is not None:
            checked["model"] = arguments.path("model", self.model)
        if self.n_ctx is not None:
            checked["n_ctx"] = integer("n_ctx", self.n_ctx, 8, 1 << 22, "the context in tokens, --ctx")
        if self.threads is not None:
            checked["threads"] = integer("threads", self.threads, 1, 1024)
        if self.cache_dir is not None:
            checked["cache_dir"] = Path(arguments.path("cache_dir", self.cache_dir))
        if not isinstance(self.prefix_cache, bool):
            checked["prefix_cache"] = number("prefix_cache", self.prefix_cache, 0.0, 1e6, "gigabytes on disk")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Resources:
    """Context length, threads and GPU layers as settled for a target; its drafters get the same."""

    n_ctx: int
    threads: int
    gpu_layers: int
    cache_dir: Path
    repack: bool = True
    """Whether there is memory for weights that llama.cpp repacks for speed."""

    @classmethod
    def of(cls, options: EngineOptions, n_ctx_train: int) -> Resources:
        """The resources by `options`, for a model that was trained for contexts of `n_ctx_train` tokens."""
        return cls(
            min(n_ctx_train, DEFAULT_CONTEXT) if options.n_ctx is None else options.n_ctx,
            cpu.default_threads() if options.threads is None else options.threads,
            options.gpu_layers,
            Path(options.cache_dir or cpu.cache_directory()),
        )
