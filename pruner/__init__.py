"""pruner: compare differentiable pruning methods fairly, one command and one row at a time.

    Pruning      a model that is being pruned, in a training loop of your own
    soft_mask    scores onto a budget, differentiably        hard_mask    the best of them that the budget allows
    load_model   a run's or an exported network

They are loaded when they are asked for: importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruner.export.networks import load_model
    from pruner.pruning import Pruning
    from pruner.sparsity.budget import hard_mask, soft_mask

__all__ = ["Pruning", "__version__", "hard_mask", "load_model", "soft_mask"]
__version__ = "0.1.0"

_LAZY = {
    "Pruning": "pruner.pruning",
    "hard_mask": "pruner.sparsity.budget",
    "load_model": "pruner.export.networks",
    "soft_mask": "pruner.sparsity.budget",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
