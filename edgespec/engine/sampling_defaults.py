"""The sampling parameters of a chat: what the user sets, else what the file, the catalogue or edgespec recommends.

A file recommends by the keys `general.sampling.*`, which llama.cpp's own programs obey too (common.cpp). Where neither
it nor the catalogue names a repetition penalty, the repetition guard applies: llama.cpp's DRY on the answer alone. It
penalizes what the answer repeats of itself; what is in the prompt may be copied freely, which drafting lives from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from edgespec.backend import LlamaModel
from edgespec.decode.sampling import SamplingParams
from edgespec.errors import InvalidRequest
from edgespec.hub.catalogue import entry_of_file

_log = logging.getLogger("edgespec.engine.sampling_defaults")

MODERATE: Mapping[str, Any] = {"temperature": 0.7, "min_p": 0.05}
"""For a model of which nothing is known."""

GUARD: Mapping[str, Any] = {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 2, "dry_prompt": False}
"""The repetition guard; benchmarks/results has what it does to edits. Its breakers let lines of code repeat."""

_FILE_KEYS: Mapping[str, tuple[str, type[int] | type[float]]] = {
    "temp": ("temperature", float),
    "top_k": ("top_k", int),
    "top_p": ("top_p", float),
    "min_p": ("min_p", float),
    "penalty_repeat": ("repeat_penalty", float),
    "penalty_last_n": ("penalty_last_n", int),
}
"""The keys after `general.sampling.`, with the parameter that each sets. Mirostat and XTC do not exist here."""

_INSTEAD_OF_THE_GUARD = {"repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier"}
"""Parameters that the user sets against repetition: then the guard does not apply."""

_NAMES = {
    "temperature": "temperature",
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
    "typical_p": "typical",
    "repeat_penalty": "repeat penalty",
    "presence_penalty": "presence penalty",
    "frequency_penalty": "frequency penalty",
    "dry_multiplier": "DRY",
}
"""What the banner calls the parameters that it names."""


class Recommended(NamedTuple):
    """A recommended value of a sampling parameter, and whose recommendation it is."""

    value: Any
    source: str


class SamplingDefaults:
    """The recommended sampling parameters of a model; `chosen` are the user's, by the names of `SamplingParams`."""

    def __init__(self, model: LlamaModel) -> None:
        entry = entry_of_file(model.path)
        listed = (entry.sampling or {}) if entry else {}
        self.recommended: dict[str, Recommended] = {
            **{name: Recommended(value, "recommended") for name, value in listed.items()},
            **{name: Recommended(value, "the file's") for name, value in _of_file(model).items()},
        }
        if "temperature" not in self.recommended:
            for name, value in MODERATE.items():
                self.recommended.setdefault(name, Recommended(value, "edgespec's"))
        self._guarded = self.recommended.get("repeat_penalty", Recommended(1.0, "")).value == 1.0

    def sampling(self, chosen: Mapping[str, Any]) -> SamplingParams:
        """The parameters in force. A chosen temperature of 0 is greedy decoding with nothing but what was chosen.

        Raises InvalidRequest for a chosen value out of range.
        """
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return SamplingParams(**{**self._in_force(chosen), **chosen})

    def describe(self, chosen: Mapping[str, Any]) -> str:
        """The parameters in force in a few words: "temperature 0.7, top-p 0.8 (recommended), repetition guard"."""
        values = self._in_force(chosen)
        by_source: dict[str, list[str]] = {}
        for name, words in _NAMES.items():
            if name in chosen:
                by_source.setdefault("yours", []).append(f"{words} {chosen[name]:g}")
            elif name in values and name in self.recommended:
                by_source.setdefault(self.recommended[name].source, []).append(f"{words} {values[name]:g}")
        parts = [f"{', '.join(parameters)} ({source})" for source, parameters in by_source.items()]
        return ", ".join([*parts, *(["repetition guard"] if GUARD.items() <= values.items() else [])])

    def _in_force(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The recommended values that apply beside what was chosen."""
        if chosen.get("temperature") == 0:
            return {}
        values = {name: recommended.value for name, recommended in self.recommended.items()}
        guarded = self._guarded and not _INSTEAD_OF_THE_GUARD & chosen.keys()
        return {**values, **GUARD} if guarded else values


def _of_file(model: LlamaModel) -> dict[str, Any]:
    """What the file recommends. A value that cannot be used is left out, with a warning."""
    values: dict[str, Any] = {}
    for key, (name, kind) in _FILE_KEYS.items():
        text = model.metadata(f"general.sampling.{key}")
        if text is None:
            continue
        try:
            value: Any = kind(float(text))
            if name in ("temperature", "top_k"):
                value = max(value, kind(0))  # llama.cpp takes less than 0 as 0
            SamplingParams(**{name: value})
        except (ValueError, OverflowError, InvalidRequest):
            _log.warning("%s: general.sampling.%s is %r, which is left out", model.path.name, key, text)
        else:
            values[name] = value
    return values
