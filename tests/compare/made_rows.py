"""Rows of runs that never were, for tests of what is made from rows."""

from pruner.store.row import COLUMNS, Row


def run(method: str = "dtp", sparsity: float = 0.9, seed: int = 0, accuracy: float = 80.0, **more: object) -> Row:
    """A finished run's row."""
    fixed: Row = {"status": "done", "dataset": "digits", "model": "resnet20", "granularity": "weight"}
    fixed |= {"scope": "global", "budget": "params", "precision": "float32"}
    fixed |= {"dense_epochs": 10, "prune_epochs": 5, "finetune_epochs": 2}
    values = {"method": method, "sparsity": sparsity, "seed": seed, "accuracy": accuracy}
    return dict.fromkeys(COLUMNS) | fixed | values | {"run_id": f"digits-resnet20/{method}-{sparsity}-s{seed}"} | more
