"""Which methods, granularities and scopes go together; whatever is not ruled out here works, with either budget.

Nothing here imports torch. `python -m pruner.compose.combinations` prints the table of docs/guides/runs.md.
"""

from __future__ import annotations

import yaml

from pruner.checks import ConfigError
from pruner.compose.choices import choices, conf_folder
from pruner.config import GRANULARITIES, SCOPES, Choice
from pruner.methods import check_combination
from pruner.methods.limits import SCOPES_OF


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


if __name__ == "__main__":
    print(table())
