"""The training loop, which knows no method and no task by name, and what it needs."""
