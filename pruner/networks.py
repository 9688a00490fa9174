"""A network as two files, model.safetensors and model.json, and back: no pickle is written or read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build
from pruner.results.row import one_line
from pruner.results.tensors import read_json, read_tensors, write_json, write_tensors


def save_model(folder: str | Path, state: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> None:
    """Writes a network as model.safetensors and model.json, for `load_model` in any later process.

    `architecture` holds plain values. `load_model` needs label, name, options (of the model's Choice),
    shape [channels, height, width] and classes; other keys are kept as they are.
    """
    write_tensors(Path(folder) / "model.safetensors", state)
    write_json(Path(folder) / "model.json", architecture)


def load_model(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A run's network in eval mode on the CPU, and its model.json as a dictionary. Reads no pickle.

    The network takes [n, channels, height, width] float images and gives [n, classes] logits. Raises ConfigError,
    one line that names the file, when one is missing, damaged, or does not fit the other.
    """
    description, tensors = Path(folder) / "model.json", Path(folder) / "model.safetensors"
    architecture = read_json(description)
    needed = ("label", "name", "options", "shape", "classes")
    missing = [key for key in needed if key not in architecture]
    if missing:
        raise ConfigError(f"{description}: lacks {', '.join(missing)}")
    label, name, options, shape, classes = (architecture[key] for key in needed)
    model = build(Choice(label=label, name=name, options=options), tuple(shape), classes)
    try:
        model.load_state_dict(read_tensors(tensors), strict=True)
    except RuntimeError as error:
        raise ConfigError(one_line(f"{tensors}: does not fit model.json ({error})")) from error
    return model.eval(), architecture
