"""What a load will take, by the headers of its files: known before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgespec.backend import EXACT_KV, gpus
from edgespec.core import Drafter
from edgespec.drafters import names_of
from edgespec.engine.drafter_set import is_model, validated_drafter
from edgespec.engine.fit import Fit
from edgespec.engine.open_heads import is_heads_file
from edgespec.engine.options import EngineOptions, Resources
from edgespec.gguf.footprint import Footprint, footprint
from edgespec.gguf.validate import Header, read_header
from edgespec.hub.resolve import resolve
from edgespec.system import cpu
from edgespec.system.memory import free_memory


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a load will take, by the headers of the files alone: the target at `path` first, then drafter models.

    `fit` is None where GPUs take part, whose memory is not looked at.
    """

    path: Path
    drafter: str | Drafter
    headers: Mapping[Path, Header]
    models: Sequence[Footprint]
    resources: Resources
    kv_type: str
    fit: Fit | None


def plan_load(options: EngineOptions) -> LoadPlan:
    """The plan of a load. Raises ModelError and UnknownDrafter."""
    drafter = validated_drafter(options.drafter)
    cache = Path(options.cache_dir or cpu.cache_directory())
    path = resolve(options.model, cache_dir=cache)
    names = [name for name in names_of(drafter) if is_model(name)] if isinstance(drafter, str) else []
    drafter_paths = [each for name in names if not is_heads_file(each := resolve(name, cache_dir=cache))]
    headers = {each: read_header(each) for each in (path, *drafter_paths)}
    models = [footprint(headers[each]) for each in (path, *drafter_paths)]
    resources = Resources.of(options, models[0].n_ctx_train)
    kv_type = EXACT_KV if options.exact and options.kv_type == "f16" else options.kv_type
    on_gpu = bool(options.gpu_layers and gpus())
    fit = None if on_gpu else Fit(models, resources.n_ctx, kv_type, free_memory())
    resources = replace(resources, repack=fit is None or fit.can_repack)
    return LoadPlan(path, drafter, headers, models, resources, kv_type, fit)
