"""2:4 sparsity where hardware has it: the tensor cores of NVIDIA GPUs since Ampere.

Elsewhere, on every CPU among others, zeros alone give no speed: they are multiplied like other numbers.
No GPU has run this yet; what is checked before torch is called is tested on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from pruner.checks import ConfigError

CAPABILITY = (8, 0)
ROWS, COLUMNS = 32, 64  # what both of torch's kernels ask for: whole multiples, in 16-bit floats
DTYPES = (torch.float16, torch.bfloat16)


def semi_structured(model: nn.Module, dtype: torch.dtype = torch.float16) -> list[str]:
    """Turns a model on a GPU into 16-bit floats, and its 2:4 linear layers into sparse tensors, in place; their names.

    Linear layers of which every four neighbouring inputs have two weights at the most, and of whole multiples of 32
    outputs and 64 inputs, are turned; convolutions, attention's projections and all other layers stay dense (torch has
    no kernel for them, or calls it by another way). The model then takes images of `dtype` and is for prediction only.

    Raises ConfigError, and leaves the model as it was, for a dtype that is not float16 or bfloat16, a device without
    such kernels, and a model without such a layer.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype}: choose one of {', '.join(map(str, DTYPES))}")
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ConfigError(f"2:4 sparsity gives no speed on {device.type}: it needs an NVIDIA GPU, Ampere or later")
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ConfigError(
            f"2:4 sparsity needs an NVIDIA GPU, Ampere or later, not {torch.cuda.get_device_name(device)}"
        )
    found = sparse_layers(model)
    if not found:
        raise ConfigError("no linear layer of this model is 2:4 and of whole multiples of 32 outputs and 64 inputs")
    model.to(dtype)
    for layer in found.values():
        layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach().contiguous()), requires_grad=False)
    return list(found)


def sparse_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model that `semi_structured` turns, by name."""
    inside = {id(part) for module in model.modules() if isinstance(module, nn.MultiheadAttention)
              for part in module.modules()}  # fmt: skip
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside and fits(module.weight)
    }


def fits(weight: Tensor) -> bool:
    """Whether a weight [outputs, inputs] is 2:4 along its inputs, and of a size that the kernels take."""
    rows, columns = weight.shape
    if rows % ROWS or columns % COLUMNS:
        return False
    return bool(((weight != 0).view(rows, -1, 4).sum(2) <= 2).all())
