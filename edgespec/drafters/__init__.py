"""Drafters: each guesses what the target will say next, in its own way. One file each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgespec.core import Drafter
from edgespec.drafters.aded import Aded
from edgespec.drafters.anpd import Anpd
from edgespec.drafters.recycling import Recycle
from edgespec.drafters.suffix import Suffix
from edgespec.errors import UnknownDrafter
from edgespec.system.files import names_file

_AUTO = ("suffix",)
KNOWN: dict[str, Callable[[], Drafter]] = {"anpd": Anpd, "suffix": Suffix, "recycle": Recycle, "aded": Aded}


def names_of(names: str) -> tuple[str, ...]:
    """What DRAFTER names, one by one: `none` is nothing, `auto` is what edgespec chooses, `+` joins several."""
    if names == "none":
        return ()
    parts = (part for name in _split(names.split("+")) for part in (_AUTO if name == "auto" else (name,)))
    return tuple(dict.fromkeys(parts))


def _split(pieces: list[str]) -> Iterator[str]:
    """The names, where the path of an existing file may hold a + of its own."""
    while pieces:
        length = next((n for n in range(len(pieces), 1, -1) if names_file("+".join(pieces[:n]))), 1)
        yield "+".join(pieces[:length])
        pieces = pieces[length:]


def make_drafter(name: str) -> Drafter:
    """One drafter that needs no model. Raises UnknownDrafter."""
    if name not in KNOWN:
        raise UnknownDrafter(
            f"no drafter {name!r}: choose auto, none, {', '.join(KNOWN)}, the .gguf of a drafter model, or several "
            "joined by +"
        )
    return KNOWN[name]()
