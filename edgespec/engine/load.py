"""Loads an engine by its options: the one place where all parts are put together."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgespec.backend import LlamaContext, LlamaModel
from edgespec.backend.load_check import check_loads
from edgespec.core import Drafter
from edgespec.engine.drafter_set import DrafterSet, close_all
from edgespec.engine.engine import Engine
from edgespec.engine.fit import check_trained
from edgespec.engine.options import EngineOptions
from edgespec.engine.plan import plan_load
from edgespec.engine.prefix_cache import prefix_cache
from edgespec.engine.profile_store import ProfileStore


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
    cache_dir: str | Path | None = None,
    prefix_cache: bool | float = False,
) -> Engine:
    """Load a target with its drafters.

    `model`: a path to a .gguf or an alias; None is the small default model. `drafter`: `auto`, `none`, `anpd`,
    `suffix`, `recycle`, `aded`, a drafter model (a .gguf, plain or trimmed, or an alias), heads (a .gguf), several
    joined by `+`, or a drafter of your own (an object that implements `Drafter`). `n_ctx`: tokens of prompt and
    answer together (default: the smaller of the model's own and 8192). `threads`: default, the physical fast cores.
    `gpu_layers`: default, all of them where there is a GPU. `kv_type` (f16, q8_0, ...) and `flash_attention` (auto,
    on, off) are llama.cpp's. `exact`: draft only as many tokens as a forward pass checks with logits bit-identical to
    single-token decoding (`engine.context.max_rows`, which a self-test finds once for a model on a machine). Text
    then cannot differ, as long as answers are decoded one after the other; keys and values are stored as f16 and
    bf16. `cache_dir`: where profiles and prefixes are stored (default: the user's cache directory). `prefix_cache`:
    store on disk what is read of long prompts, so that later prompts which begin alike are read faster, in other
    processes too. True allows a tenth of the free space, at most 4 GB; a number is the bound in GB. It is off by
    default, since prompts are then on disk, readable by their owner.

    Raises ModelError (no such file, malformed, unsupported) and InvalidRequest, which a context that cannot fit into
    memory is too; where memory is short, a warning is logged. The first load of a file runs in a child process too,
    which doubles the time of that one start.
    """
    return open_engine(
        EngineOptions(
            model, drafter, n_ctx, threads, gpu_layers, kv_type, flash_attention, exact, cache_dir, prefix_cache
        )
    )


def open_engine(options: EngineOptions) -> Engine:
    """The engine that `load` returns, by its arguments as one value."""
    plan = plan_load(options)  # an unknown name is an error before the model is loaded
    if plan.fit is not None:
        plan.fit.check()
    check_trained(plan.models[0], plan.resources.n_ctx)
    path, resources, kv_type, cache = plan.path, plan.resources, plan.kv_type, plan.resources.cache_dir
    header = check_loads(path, cache_dir=cache, header=plan.headers[path])
    with contextlib.ExitStack() as cleanup:  # on an error, what is loaded already is freed at once
        target = LlamaModel(path, gpu_layers=options.gpu_layers, part=header.part, repack=resources.repack)
        cleanup.callback(target.close)
        profiles = ProfileStore(
            cache, header.fingerprint, threads=resources.threads, gpu_layers=resources.gpu_layers,
            kv_type=kv_type, flash_attention=options.flash_attention, repacked=target.repacked,
        )  # fmt: skip
        context = LlamaContext(
            target, n_ctx=resources.n_ctx, threads=resources.threads,
            kv_type=kv_type, flash_attention=options.flash_attention,
            trees=not options.exact,  # exact mode tests chains
        )  # fmt: skip
        cleanup.callback(context.close)
        drafter_set = DrafterSet(target, context, profiles, resources, exact=options.exact, headers=plan.headers)
        drafters, name = drafter_set.open(plan.drafter)
        cleanup.callback(close_all, drafters)
        engine = Engine(
            target, context, latency=profiles.latency(context.max_rows), drafters=drafters, drafter_name=name,
            profiles=profiles, drafter_set=drafter_set, fingerprint=header.fingerprint,
            prefix_cache=prefix_cache(options, target, context, header.fingerprint) if options.prefix_cache else None,
            fit=plan.fit,
        )  # fmt: skip
        cleanup.pop_all()
        return engine
