"""Any classification model of torchvision by name, with random weights, torchvision's own, or those of a file."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from safetensors.torch import load_file
from torch import Tensor, nn

from pruner.checks import ConfigError, require
from pruner.config import expand
from pruner.models.names import check_arch

log = logging.getLogger(__name__)

# googlenet and inception_v3 answer with a tuple in training if they have these; here they are built without.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def torchvision_model(shape: tuple[int, int, int], classes: int, arch: str, weights: str | None = None) -> nn.Module:
    """torchvision's `arch`: images [batch, 3, height, width] -> logits [batch, classes].

    `weights` is None (random), `default` (torchvision downloads its best ones) or the path of a .safetensors or
    .pth file with all tensors by name. Where the weights are for another number of classes, the final classifier
    starts fresh and all else is loaded.

    Raises ConfigError for an unknown `arch`, images that it cannot take, and weights that cannot be had, cannot
    be read, or are those of another network.
    """
    model = untrained_model(shape, classes, arch, weights)
    with _sizes_said(shape, arch):
        _try_one_image(model, shape)
    if weights is not None:
        tensors = _download(arch) if weights == "default" else _read(weights)
        _load(model, tensors, weights, arch)
    return model


def untrained_model(shape: tuple[int, int, int], classes: int, arch: str, weights: str | None = None) -> nn.Module:
    """`torchvision_model` as it is before it gets its `weights`, which are neither downloaded nor read."""
    check_arch(arch)
    size = "x".join(map(str, shape))
    require(shape[0] == 3, "model", "torchvision", f"torchvision's models take 3 channels; these images are {size}")
    text = weights is None or isinstance(weights, str)
    require(text, "model.weights", weights, "expected null, default, or a .safetensors or .pth file")
    with _sizes_said(shape, arch):
        extras = _extras(arch, shape, weights)
        network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **extras)
        return network


@contextmanager
def _sizes_said(shape: tuple[int, int, int], arch: str) -> Iterator[None]:
    """Raises ConfigError where torchvision raises for a wrong size."""
    try:
        yield
    except (RuntimeError, ValueError, AssertionError) as error:  # all three are in use there
        size = "x".join(map(str, shape))
        smallest = _best_weights(arch).meta["min_size"]
        known = f"torchvision knows it to work from {smallest[0]}x{smallest[1]}"
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model.arch={arch}: does not take images of {size}; {known} ({reason})") from error


def _extras(arch: str, shape: tuple[int, int, int], weights: str | None) -> dict[str, Any]:
    """What some architectures need to be told."""
    if arch in ("googlenet", "inception_v3"):
        # torchvision's weights for these two were trained on inputs scaled in another way
        return {"aux_logits": False, "init_weights": True, "transform_input": weights is not None}
    if arch.startswith("vit_"):
        return {"image_size": shape[1]}
    return {}


def _try_one_image(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Raises what the model raises for an image that is too small for it."""
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    model.train()


def _best_weights(arch: str) -> Any:
    """torchvision's own entry for the best weights of `arch`: url and meta data."""
    return torchvision.models.get_model_weights(arch).DEFAULT


def _download(arch: str) -> Mapping[str, Tensor]:
    """torchvision's best weights, from its cache or the network. What is downloaded has the hash that its name says."""
    best = _best_weights(arch)
    try:
        tensors: Mapping[str, Tensor] = best.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return tensors
    except OSError as error:  # urllib's errors are among these
        raise ConfigError(
            f"model.weights=default: no download ({error}); get {best.url} and give model.weights=FILE"
        ) from error
    except Exception as error:  # damaged files raise nearly anything
        file = Path(torch.hub.get_dir()) / "checkpoints" / best.url.rpartition("/")[2]
        raise ConfigError(
            f"model.weights=default: {file}: cannot be read ({_first_line(error)}); delete it to download it again"
        ) from error


def _read(weights: str) -> Mapping[str, Tensor]:
    """The tensors in a file, by name."""
    path = Path(expand(weights))
    suffix = path.suffix in (".safetensors", ".pth", ".pt")
    require(suffix, "model.weights", weights, "expected null, default, or a .safetensors or .pth file")
    require(path.is_file(), "model.weights", weights, "there is no such file")
    try:
        path.open("rb").close()  # of a file that it may not open, safetensors says that it is not there
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything: nine types were seen
        kind = path.suffix[1:]
        raise ConfigError(f"model.weights={weights}: cannot be read as {kind} ({_first_line(error)})") from error
    by_name = isinstance(found, Mapping) and all(isinstance(tensor, Tensor) for tensor in found.values())
    require(by_name, "model.weights", weights, "expected a file of tensors by name (a state dict) and nothing else")
    tensors: Mapping[str, Tensor] = found
    return tensors


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _load(model: nn.Module, tensors: Mapping[str, Tensor], weights: str, arch: str) -> None:
    """Puts `tensors` into `model`; only the final classifier may be of another size, and then it stays fresh.

    The final classifier is the last linear layer or convolution. It alone depends on the number of classes.
    """
    mine = model.state_dict()
    found = OrderedDict((_modern(name), tensor) for name, tensor in tensors.items() if not name.startswith(AUXILIARY))
    # Layers upgrade tensors of older versions by this record, which safetensors files lack: those are of today.
    vars(found)["_metadata"] = getattr(tensors, "_metadata", None) or vars(mine)["_metadata"]
    head = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    theirs, ours = found.get(f"{head}.weight"), mine[f"{head}.weight"]
    if theirs is not None and theirs.shape[1:] == ours.shape[1:] and len(theirs) != len(ours):
        log.info("%s is for %d classes in model.weights=%s; here it starts fresh", head, len(theirs), weights)
        found.update((name, tensor) for name, tensor in mine.items() if name.startswith(f"{head}."))
    for name, tensor in found.items():
        fits = name not in mine or tensor.shape == mine[name].shape
        require(fits, "model.weights", weights, f"{name} has the shape {list(tensor.shape)}, unlike in {arch}")
    result = model.load_state_dict(found, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    extra = result.unexpected_keys
    require(not missing, "model.weights", weights, f"lacks {len(missing)} tensors of {arch}: {', '.join(missing[:3])}")
    require(not extra, "model.weights", weights, f"has {len(extra)} tensors unknown to {arch}: {', '.join(extra[:3])}")


def _modern(name: str) -> str:
    """Tensor names in torchvision's files of densenets are older than its densenets: `norm.1` is now `norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
