"""Plain values as a tensor of bytes, which any file of tensors can hold; reading it executes nothing."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import Tensor


def pack(values: Any) -> Tensor:
    """Numbers, text, tensors, and lists and dicts of them, as uint8 [bytes]."""
    stream = io.BytesIO()
    torch.save(values, stream)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def unpack(packed: Tensor, device: torch.device) -> Any:
    """What `pack` was given, its tensors on the device. Raises ValueError for anything else."""
    try:
        stream = io.BytesIO(packed.cpu().numpy().tobytes())
        return torch.load(stream, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"cannot be read ({str(error).partition(chr(10))[0]})") from error
