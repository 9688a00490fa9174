"""A network as two files, model.safetensors and model.json, and back: no pickle is written or read.

A run writes its network whole, with zeros where it was pruned. `pruner-export` writes what ships: without dead
channels (`widths` in model.json says how many are left of each module) and without zeros (`packing` says how the
weights are stored). A tensor that has several names in the network is stored once (`ties` has the others).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pruner.checks import ConfigError, one_line, require
from pruner.config import Choice
from pruner.export.packing import unpack
from pruner.models import build
from pruner.models.ties import check_ties
from pruner.models.versions import load
from pruner.sparsity.surgery import cut, first
from pruner.store.fingerprint import make_importable
from pruner.store.tensors import check_fit, read_sealed, read_tensors, write_sealed, write_tensors

NEEDED = ("label", "name", "options", "shape", "classes")
# A file of another's may be small and describe a network for which there is no memory.
LARGEST_IMAGE = 2**25  # numbers
MOST_PARAMETERS = 20_000
MOST_FREE = 2**28  # numbers of a whole network, whatever of it is in the file
MOST_FOR_A_BYTE = 256  # of a file in which only a thousandth of the network is left


def save_model(folder: str | Path, tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> None:
    """Writes a network as model.safetensors and model.json, for `load_model` in any later process.

    `architecture` holds plain values. `load_model` needs label, name, options (of the model's Choice),
    shape [channels, height, width] and classes, and understands widths (of `removal.widths_of`), packing (what
    `packing.pack` gave beside the tensors), versions (of `versions_of`) and ties (of `ties_of`), whose names are left
    out of the tensors; other keys are kept as they are.
    """
    ties = architecture.get("ties", {})
    stored = {name: tensor for name, tensor in tensors.items() if name not in ties}
    digests = write_tensors(Path(folder) / "model.safetensors", stored)
    write_sealed(Path(folder) / "model.json", architecture, digests)


def load_model(folder: str | Path, own_code: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """A run's or an exported network in eval mode on the CPU, and its model.json as a dictionary. Reads no pickle.

    The network takes [n, channels, height, width] float images and gives [n, classes] logits. A model.json may name a
    class outside of pruner, which is imported, if need be from where the run found it, and run: with `own_code` you say
    that you trust it.

    Raises ConfigError, one line that names the file, when one is missing, damaged, or does not belong to the other.
    """
    description, path = Path(folder) / "model.json", Path(folder) / "model.safetensors"
    architecture, digests = read_sealed(description)
    tensors = read_tensors(path, digests)
    size = sum(tensor.nbytes for tensor in tensors.values())
    try:
        with _at_most(max(MOST_FREE, MOST_FOR_A_BYTE * size)):
            model = _build(architecture, own_code, Path(folder))
    except ConfigError as error:
        raise ConfigError(f"{description}: {error}") from error
    try:
        ties = check_ties(architecture.get("ties", {}), model)
        stored = {name: tensor for name, tensor in model.state_dict().items() if name not in ties}
        if architecture.get("packing") is not None:
            tensors = unpack(tensors, architecture["packing"], stored)
        check_fit(tensors, stored)
    except ConfigError as error:
        raise ConfigError(f"{path}: does not fit model.json ({error})") from error
    tied = {name: tensors[first] for name, first in ties.items()}
    load(model, {**tensors, **tied}, architecture.get("versions"))
    return model.eval(), architecture


@contextmanager
def _at_most(numbers: int) -> Iterator[None]:
    """Raises MemoryError where a network that is being built has more than MOST_PARAMETERS parameters, or more than so
    many numbers in them: before these are filled, which is when they take memory.
    """
    parameters = total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal parameters, total
        parameters, total = parameters + 1, total + parameter.numel()
        if parameters > MOST_PARAMETERS or total > numbers:
            raise MemoryError(f"{total:,} numbers in {parameters:,} parameters, for so small a model.safetensors")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _build(architecture: dict[str, Any], own_code: bool, folder: Path) -> nn.Module:
    """The network that the model.json of `folder` describes, with fresh parameters; its tensors are all in the other
    file, so that no trained weights are looked for. Raises ConfigError.
    """
    missing = [key for key in NEEDED if key not in architecture]
    if missing:
        raise ConfigError(f"lacks {', '.join(missing)}")
    label, name, options, shape, classes = (architecture[key] for key in NEEDED)
    sizes = [*shape, classes] if isinstance(shape, list) else []
    whole = len(sizes) == 4 and all(type(size) is int and 1 <= size < 2**63 for size in sizes)
    if not whole or not isinstance(options, dict):
        raise ConfigError("options, shape and classes are not {...}, [channels, height, width] and a number")
    if math.prod(sizes[:3]) > LARGEST_IMAGE:
        raise ConfigError(f"shape={shape}: images of more than {LARGEST_IMAGE:,} numbers")
    if ":" in str(name):
        trust = "say --own-code (in Python own_code=True) if you trust it"
        require(own_code, "name", name, f"a class outside of pruner, which would be run; {trust}")
        make_importable(folder, "model.name", str(name))
    choice = Choice(label=str(label), name=str(name), options=options)
    try:
        model = build(choice, (sizes[0], sizes[1], sizes[2]), classes, trained=False)
    except (RuntimeError, MemoryError) as error:  # torch's, for sizes beyond all memory
        raise ConfigError(one_line(f"cannot be built ({error})")) from error
    widths = architecture.get("widths", {})
    if not isinstance(widths, dict):
        raise ConfigError(f"widths={widths}: expected the widths of modules by name")
    cut(model, first(widths, model))
    return model
