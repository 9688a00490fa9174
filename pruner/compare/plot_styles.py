"""How methods look in every picture: told apart by colour, by marker and by dashes, so that print in grey works too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito 2008, for the colour-blind; without their yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # Matplotlib's names
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2))  # lengths in points of what is drawn and what is left out


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dashes: tuple[int, ...]


def looks(names: Iterable[object]) -> dict[object, Look]:
    """A look for each name, whatever their order; no two of 63 names have both colour and marker in common."""
    found = {}
    for place, name in enumerate(sorted(set(names), key=str)):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        found[name] = Look(colour, marker, DASHES[place % len(DASHES)])
    return found
