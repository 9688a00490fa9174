"""What runs leave behind: rows, run folders and dense folders, and who may read and write them.

Only `tensors` and what uses it import torch.
"""
