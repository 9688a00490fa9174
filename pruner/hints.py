"""The name that was meant: of those that there are, the one with the fewest mistakes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

FAR = 0.4  # mistakes for each letter, from which on two names have nothing to do with one another
LONGEST = 100  # letters of a name that is looked at


def hint(name: object, names: Iterable[str], prefix: str = "") -> str:
    """As in ` (did you mean dtp?)`, with the `prefix` before the name; empty where none of `names` is near."""
    near = nearest(str(name), names)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""


def nearest(name: str, names: Iterable[str], most: int = 1) -> list[str]:
    """Those of `names` that `name` is likely to stand for, the likeliest first, so many at `most`.

    Of several with as few mistakes, the one whose number is nearest, and then the one of the same letters.
    """
    if len(name) > LONGEST:
        return []
    found = []
    for other in names:
        count = mistakes(name.lower(), other.lower())
        if count <= FAR * max(len(name), len(other)):
            letters = Counter(name), Counter(other)
            apart = sum(((letters[0] - letters[1]) + (letters[1] - letters[0])).values())
            found.append((count, abs(_number(name) - _number(other)), apart, other))
    return [other for *_, other in sorted(found)[:most]]


def mistakes(name: str, other: str) -> int:
    """How many letters are wrong, too many, missing, or swapped with their neighbour (Damerau and Levenshtein)."""
    # rows[i + 1][j + 1]: between the first i + 1 letters of the one and the first j + 1 of the other
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(name):
        row = [i + 1]
        for j, wanted in enumerate(other):
            best = min(rows[i][j] + (letter != wanted), rows[i][j + 1] + 1, row[j] + 1)
            if i and j and (letter, name[i - 1]) == (other[j - 1], wanted):
                best = min(best, rows[i - 1][j - 1] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _number(name: str) -> int:
    return int("".join(re.findall("[0-9]", name)) or 0)
