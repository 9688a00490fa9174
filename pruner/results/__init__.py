"""What runs leave behind: the row, the store, the table that ends a run, and tables over many runs.

Nothing here is imported with the package: `row`, `console` and `compare` do without torch, and `store` imports
it only where tensors are written or read.
"""
