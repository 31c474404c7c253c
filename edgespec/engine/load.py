"""The composition root: from options to an engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgespec.backend import EXACT_KV, LlamaContext, LlamaModel
from edgespec.backend.load_check import vet
from edgespec.core import Drafter
from edgespec.engine.drafter_set import DrafterSet, checked, close_all
from edgespec.engine.engine import Engine
from edgespec.engine.options import EngineOptions, Resources
from edgespec.engine.profile_store import ProfileStore
from edgespec.hub.resolve import resolve
from edgespec.system import cpu


def load(
    model: str | Path | None = None,
    *,
    drafter: str | Path | Drafter = "auto",
    n_ctx: int | None = None,
    threads: int | None = None,
    gpu_layers: int = -1,
    kv_type: str = "f16",
    flash_attention: str = "auto",
    exact: bool = False,
    cache_dir: Path | None = None,
) -> Engine:
    """Load a target and be ready to answer.

    `model`: a path to a .gguf or an alias; None is the small default model. `drafter`: `auto`, `none`, `anpd`,
    `suffix`, a drafter model (a .gguf, plain or trimmed, or an alias), several joined by `+`, or a drafter of your own
    (an object that implements `Drafter`). `n_ctx`: tokens of prompt and answer together (default: the smaller of the
    model's own and 8192). `threads`: default, the physical fast cores. `gpu_layers`: default, all of them where there
    is a GPU. `kv_type` (f16, q8_0, ...) and `flash_attention` (auto, on, off) are llama.cpp's. `exact`: draft only as
    many tokens at once as can be checked with the very bits of single-token decoding (`engine.context.max_rows`, found
    out once for a model on a machine), so that text is not only the same but cannot differ, as long as answers are made
    one after the other; keys and values are then kept as f16 and bf16. `cache_dir`: where measured costs are kept
    (default: the user's cache directory).

    Raises ModelError (no such file, malformed, unsupported) and InvalidRequest. A file never seen before is first
    loaded in a child process, which doubles that one start.
    """
    return open_engine(
        EngineOptions(model, drafter, n_ctx, threads, gpu_layers, kv_type, flash_attention, exact, cache_dir)
    )


def open_engine(options: EngineOptions) -> Engine:
    """`load`, with its arguments as one value."""
    drafter = checked(options.drafter)  # an unknown name is found out before the model is loaded
    cache = options.cache_dir or cpu.cache_directory()
    path = resolve(options.model, cache_dir=cache)
    header = vet(path, cache_dir=cache)
    with contextlib.ExitStack() as undo:  # what is loaded before an error is freed at once, and not some time later
        target = LlamaModel(path, gpu_layers=options.gpu_layers, part=header.part)
        undo.callback(target.close)
        resources = Resources.of(options, target.n_ctx_train)
        kv_type = EXACT_KV if options.exact and options.kv_type == "f16" else options.kv_type
        profiles = ProfileStore(
            cache, header.fingerprint, threads=resources.threads, gpu_layers=resources.gpu_layers,
            kv_type=kv_type, flash_attention=options.flash_attention,
        )  # fmt: skip
        context = LlamaContext(
            target, n_ctx=resources.n_ctx, threads=resources.threads,
            kv_type=kv_type, flash_attention=options.flash_attention,
        )  # fmt: skip
        undo.callback(context.close)
        drafter_set = DrafterSet(target, context, profiles, resources, exact=options.exact)
        drafters, name = drafter_set.open(drafter)
        undo.callback(close_all, drafters)
        engine = Engine(
            target, context, latency=profiles.latency(context.max_rows), drafters=drafters, drafter_name=name,
            profiles=profiles, drafter_set=drafter_set, fingerprint=header.fingerprint,
        )  # fmt: skip
        undo.pop_all()
        return engine
