"""pruner: compare differentiable pruning methods fairly, one command and one row at a time."""

__version__ = "0.1.0"
