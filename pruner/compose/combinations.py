"""Which methods, granularities and scopes go together; whatever is not ruled out here works, with either budget.

Nothing here imports torch. `python -m pruner.compose.combinations` prints the README's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pruner.checks import ConfigError
from pruner.compose.choices import choices, conf_folder
from pruner.config import GRANULARITIES, SCOPES, Choice


@dataclass(frozen=True)
class Limit:
    """What a method or a score is restricted to, and why."""

    why: str
    granularities: tuple[str, ...] = GRANULARITIES
    scopes: tuple[str, ...] = SCOPES


# By the name of a built-in method or score; a user's own is not restricted.
LIMITS = {
    "dsa": Limit(
        "it learns the share of every layer itself",
        granularities=tuple(name for name in GRANULARITIES if name != "nm"),
        scopes=("global",),
    ),
    "fpgm": Limit("it compares the filters of a layer", granularities=("filter",)),
    "l1": Limit(
        "of a single weight it is the magnitude",
        granularities=tuple(name for name in GRANULARITIES if name not in ("weight", "nm")),
    ),
}
WHOLE_OUTPUTS = Limit("a row of these units would be the whole layer", scopes=("global", "layer", "erk", "custom"))
SCOPES_OF = {
    "nm": Limit("the pattern says who competes with whom", scopes=("global",)),
    "filter": WHOLE_OUTPUTS,
    "head": WHOLE_OUTPUTS,
}


def check_combination(method: Choice, granularity: str, scope: str) -> None:
    """Raises ConfigError, with what can be used instead, when the three do not go together."""
    for limit in _limits(method):
        if granularity not in limit.granularities:
            use = _choices("granularity", limit.granularities)
            raise ConfigError(f"granularity={granularity}: not with method={method.label}: {limit.why}; use {use}")
        if scope not in limit.scopes:
            use = _choices("scope", limit.scopes)
            raise ConfigError(f"scope={scope}: not with method={method.label}: {limit.why}; use {use}")
    shape = SCOPES_OF.get(granularity)
    if shape and scope not in shape.scopes:
        use = _choices("scope", shape.scopes)
        raise ConfigError(f"scope={scope}: not with granularity={granularity}: {shape.why}; use {use}")


def allowed(method: Choice, granularity: str) -> list[str]:
    """The scopes that a method and a granularity can be run with."""
    return [scope for scope in SCOPES if _goes(method, granularity, scope)]


def builtin_methods() -> list[Choice]:
    """The methods of conf/method."""
    found = []
    for label, path in choices([conf_folder()], "method").items():
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        found.append(Choice(label, options.pop("name"), options))
    return found


def table() -> str:
    """Markdown: the scopes that each method can be run with, granularity by granularity."""
    every = {name: list(SCOPES_OF[name].scopes if name in SCOPES_OF else SCOPES) for name in GRANULARITIES}
    lines = [["", *GRANULARITIES], ["---"] * (1 + len(GRANULARITIES))]
    lines.append(["*scopes*", *(f"*{', '.join(scopes)}*" for scopes in every.values())])
    for method in builtin_methods():
        cells = [allowed(method, name) for name in GRANULARITIES]
        said = [
            "all" if cell == every[name] else ", ".join(cell) or "-" for cell, name in zip(cells, every, strict=True)
        ]
        lines.append([f"`{method.label}`", *said])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goes(method: Choice, granularity: str, scope: str) -> bool:
    try:
        check_combination(method, granularity, scope)
    except ConfigError:
        return False
    return True


def _limits(method: Choice) -> list[Limit]:
    score: Any = method.options.get("score")
    name = score.get("name") if isinstance(score, Mapping) else score
    return [LIMITS[part] for part in (method.name, name) if part in LIMITS]


def _choices(key: str, names: tuple[str, ...]) -> str:
    return f"{key}={names[0]}" if len(names) == 1 else f"{key}={', '.join(names[:-1])} or {names[-1]}"


if __name__ == "__main__":
    print(table())
