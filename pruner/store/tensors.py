"""Tensors and plain values as files: safetensors and JSON, never pickles; written whole or not at all. JSON is read
where all plain values are (`reading`).

A network is two files, tensors and the JSON beside them. The JSON is written last and sealed: it has the SHA-256
digests of both. So a bit that flipped is noticed, and so are two files that do not belong together, as a writer leaves
them that was killed in between. Files without digests, of before there were any, are read with a warning.

torch is imported only where tensors are written or read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.checks import ConfigError
from pruner.store.reading import check_regular, read_json
from pruner.store.row import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Digests = dict[str, str]  # by the names of files
DIGESTS = "sha256"  # the key of a JSON object under which its seal stands


def digest(data: bytes) -> str:
    """The SHA-256 digest of a file's bytes, as `sha256sum` gives it."""
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values as JSON, atomically."""
    write_atomically(path, (json.dumps(dict(values), indent=2) + "\n").encode())


def write_sealed(path: Path, values: Mapping[str, Any], digests: Digests) -> None:
    """Writes plain values as JSON with the `digests` of the files that belong to them, and one of their own."""
    write_json(path, {**values, DIGESTS: {**digests, path.name: _digest_of(values)}})


def read_sealed(path: Path) -> tuple[dict[str, Any], Digests | None]:
    """The values and the digests of a file of `write_sealed`; None for one without a seal.

    Raises ConfigError, one line that names the file, when it cannot be read or is not as it was written.
    """
    values = read_json(path)
    if DIGESTS not in values:
        return values, None
    digests = values.pop(DIGESTS)
    if not isinstance(digests, dict) or digests.get(path.name) != _digest_of(values):
        raise ConfigError(f"{path}: not as it was written (its own SHA-256 digest is another)")
    return values, digests


def _digest_of(values: Mapping[str, Any]) -> str:
    return digest(json.dumps(dict(values)).encode())


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> Digests:
    """Writes a state dict as safetensors, atomically; tensors that share memory or are strided as they look.

    Gives the file's digest, for `write_sealed`.
    """
    import torch
    from safetensors.torch import save

    # A clone each: tensors that share memory are refused by the format.
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    data = save(tensors)
    write_atomically(path, data)
    return {path.name: digest(data)}


def read_tensors(path: Path, digests: Digests | None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; `digests` are of the JSON beside it, as `read_sealed` gives them.

    Raises ConfigError, one line that names the file, when it cannot be read or has another digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        check_regular(path)
        data = path.read_bytes()
        tensors = load(data)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if digests is None:
        log.warning("%s: has no SHA-256 digest beside it, as older versions left it: damage goes unnoticed", path)
    elif digests.get(path.name) != digest(data):
        raise ConfigError(f"{path}: not the file that the JSON beside it was written for (another SHA-256 digest)")
    return tensors


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
