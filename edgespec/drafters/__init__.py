"""Drafters: each guesses what the target will say next, in its own way. One file each."""

from __future__ import annotations

from edgespec.core import Drafter
from edgespec.drafters.anpd import Anpd
from edgespec.drafters.suffix import Suffix
from edgespec.errors import UnknownDrafter

_AUTO = ("suffix",)
_KNOWN = {"anpd": Anpd, "suffix": Suffix}


def make_drafters(names: str) -> tuple[Drafter, ...]:
    """The drafters that DRAFTER names: `auto`, `none`, `anpd`, `suffix`, or several joined by `+`.

    Raises UnknownDrafter.
    """
    if names == "none":
        return ()
    wanted = _AUTO if names == "auto" else tuple(dict.fromkeys(names.split("+")))
    for name in wanted:
        if name not in _KNOWN:
            raise UnknownDrafter(f"no drafter {name!r}: choose auto, none, {', '.join(_KNOWN)}, or several joined by +")
    return tuple(_KNOWN[name]() for name in wanted)
