"""The command `pruner` and its help."""
