"""Tensors and plain values as files: safetensors and JSON, never pickles; written whole or not at all. JSON is read
where all plain values are (`reading`).

torch is imported only where tensors are written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checks import ConfigError
from pruner.results.reading import check_regular
from pruner.results.row import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values as JSON, atomically."""
    write_atomically(path, (json.dumps(dict(values), indent=2) + "\n").encode())


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes a state dict as safetensors, atomically; tensors that share memory or are strided as they look."""
    import torch
    from safetensors.torch import save

    # A clone each: tensors that share memory are refused by the format.
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    write_atomically(path, save(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises ConfigError, one line that names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        check_regular(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error


def check_fit(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raises ConfigError on the first tensor that is missing, of another shape or type, or belongs to nothing."""
    for name, expected in state.items():
        if name not in tensors:
            raise ConfigError(f"{name}: missing")
        found = tensors[name]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            kinds = [f"{list(one.shape)} of {one.dtype}" for one in (found, expected)]
            raise ConfigError(f"{name}: has {kinds[0]}, expected {kinds[1]}")
    for name in tensors.keys() - state.keys():
        raise ConfigError(f"{name}: belongs to nothing in the network")
