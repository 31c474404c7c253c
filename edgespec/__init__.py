"""edgespec: language models on laptops and phones, faster, without changing a word of the answer.

import edgespec

with edgespec.load() as engine:
    print(engine.generate("Name three rivers.").text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgespec.errors import EdgespecError

if TYPE_CHECKING:
    from edgespec.core import Draft, Drafter, Verdict
    from edgespec.decode.sampling import SamplingParams
    from edgespec.decode.session import Block, Session
    from edgespec.decode.stats import Tally
    from edgespec.engine import Engine, load
    from edgespec.engine.chat import Chat

__version__ = "0.2.0"

__all__ = [
    "Block",
    "Chat",
    "Draft",
    "Drafter",
    "EdgespecError",
    "Engine",
    "SamplingParams",
    "Session",
    "Tally",
    "Verdict",
    "__version__",
    "load",
]

_HOMES = {
    "Block": "decode",
    "Chat": "engine",
    "Draft": "core",
    "Drafter": "core",
    "Engine": "engine",
    "SamplingParams": "decode",
    "Session": "decode",
    "Tally": "decode",
    "Verdict": "core",
    "load": "engine",
}


def __getattr__(name: str) -> object:
    """A public name, loaded when first asked for: llama.cpp takes a second, and neither help nor completion need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
