"""Which methods, granularities and scopes go together; whatever is not ruled out here works, with either budget.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruner.checks import ConfigError
from pruner.config import GRANULARITIES, SCOPES


@dataclass(frozen=True)
class Limits:
    """What a method, a score or a granularity is restricted to, and why."""

    why: str = ""
    granularities: tuple[str, ...] = GRANULARITIES
    scopes: tuple[str, ...] = SCOPES

    def check(self, owner: str, granularity: str, scope: str) -> None:
        """Raises ConfigError, with what can be used instead, where `owner` (a key and its value) has these limits."""
        for key, value, allowed in (("granularity", granularity, self.granularities), ("scope", scope, self.scopes)):
            if value not in allowed:
                raise ConfigError(f"{key}={value}: not with {owner}: {self.why}; use {_choices(key, allowed)}")


NONE = Limits()
_WHOLE_OUTPUTS = Limits("a row of these units would be the whole layer", scopes=("global", "layer", "erk", "custom"))
SCOPES_OF = {
    "nm": Limits("the pattern says which units compete", scopes=("global",)),
    "filter": _WHOLE_OUTPUTS,
    "head": _WHOLE_OUTPUTS,
}


def check_scope(granularity: str, scope: str) -> None:
    """Raises ConfigError, with what can be used instead, when no method can have the two together."""
    SCOPES_OF.get(granularity, NONE).check(f"granularity={granularity}", granularity, scope)


def _choices(key: str, names: tuple[str, ...]) -> str:
    return f"{key}={names[0]}" if len(names) == 1 else f"{key}={', '.join(names[:-1])} or {names[-1]}"
