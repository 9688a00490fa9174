"""A model that is being pruned: the one object that the runner and any training loop of yours use."""
