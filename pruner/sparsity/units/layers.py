"""The prunable layers of a network: convolutions and linear layers, in the order in which they run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from pruner.checks import ConfigError, one_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# What is a layer: the functions that run.
CONVOLVING = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSING = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer: a weight [out, in / groups, *kernel] of the model and what it is used for.

    `weight` and `bias` are names of the model's parameters; `name` is that of the weight without its last word. A
    transposed convolution keeps its weight as [in, out / groups, *kernel]: `shape` and all that units say of a layer
    are in the order above, and `ordered` and `native` go from one to the other.
    `positions` counts at batch 1 the outputs of each output channel, and of a transposed convolution, whose weights
    meet every input once, the inputs of each input channel. `pairs` counts the (query, key) pairs for
    which the packed input projection of a self-attention is made, as often as it runs, and is 0 for all else.
    """

    name: str
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    positions: int
    is_conv: bool = False
    groups: int = 1
    transposed: bool = False
    prunable: bool = True
    pairs: int = 0

    @property
    def size(self) -> int:
        """The number of weights; each costs `positions` multiply-adds."""
        return int(torch.Size(self.shape).numel())

    def ordered(self, weight: Tensor) -> Tensor:
        """The layer's weight, or values of its shape, in the order of `shape`."""
        return swapped(weight, self.groups) if self.transposed else weight

    def native(self, values: Tensor) -> Tensor:
        """Values that broadcast to `shape` in the order of the weight, to whose shape they broadcast then."""
        return swapped(values.expand(self.shape), self.groups) if self.transposed else values


def swapped(weight: Tensor, groups: int) -> Tensor:
    """A transposed convolution's weight [in, out / groups, *kernel] as [out, in / groups, *kernel]; or back."""
    grouped: Tensor = weight.unflatten(0, (groups, len(weight) // groups))
    return grouped.transpose(1, 2).flatten(0, 1)


def find_layers(model: nn.Module, shape: tuple[int, ...], exclude: tuple[str, ...] = ()) -> list[Layer]:
    """The layers that one image [1, *shape] runs through, in order; a weight that is used twice is one layer.

    They are found by the functions that run, not by the types of modules: attention hands its weights to functions,
    and its modules for them never run. Layers named in `exclude` (`first` and `last` stand for those) are marked as
    not prunable. Raises ConfigError when an excluded layer is not there or nothing is left to prune.
    """
    watch = _Watch(model)
    _forward_one(model, shape, watch)
    names = [layer.name for layer in watch.layers.values()]
    if not names:
        raise ConfigError("model: runs no convolution and no linear layer with weights of its own: nothing to prune")
    ends = {"first": names[:1], "last": names[-1:]}
    for name in exclude:
        one_of("budget.exclude", name, [*ends, *names])
    excluded = {layer for name in exclude for layer in ends.get(name, [name])}
    if excluded >= set(names):
        raise ConfigError(f"budget.exclude={list(exclude)}: leaves no convolution or linear layer to prune")
    return [replace(layer, prunable=layer.name not in excluded) for layer in watch.layers.values()]


def left_out(model: nn.Module, layers: list[Layer]) -> dict[str, int]:
    """How many numbers are in weights that no layer has, by the module that they are in, with its kind.

    Such as recurrent layers, embeddings, and what products of matrices are made with; biases and norms do not count.
    """
    weights = {layer.weight for layer in layers}
    modules = dict(model.named_modules())
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name not in weights and parameter.dim() > 1:
            module = name.rpartition(".")[0]
            place = f"{module or 'the network itself'} ({type(modules[module]).__name__})"
            found[place] = found.get(place, 0) + parameter.numel()
    return found


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the whole model for one image [1, *shape], by torch's flop counter (which counts two each).

    The two products of attention, of queries with keys and of their weights with values, are among them.
    """
    counter = FlopCounterMode(display=False)
    _forward_one(model, shape, counter)
    return counter.get_total_flops() // 2


class _Watch(TorchFunctionMode):
    """Sees every function that a model calls, and notes those that a parameter of the model is the weight of."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.layers: dict[str, Layer] = {}  # by the name of the weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.linear or func in CONVOLVING:
            image, weight, bias = _operands(*args, **kwargs)
            groups = image.shape[1 - weight.dim()] // weight.shape[1]
            self._note(weight, bias, output.numel() // len(weight), is_conv=func in CONVOLVING, groups=groups)
        elif func in TRANSPOSING:
            image, weight, bias = _operands(*args, **kwargs)
            groups = output.shape[1 - weight.dim()] // weight.shape[1]
            self._note(weight, bias, image.numel() // len(weight), is_conv=True, groups=groups, transposed=True)
        elif func is F.multi_head_attention_forward:
            self._attention(inspect.signature(func).bind(*args, **kwargs).arguments)
        return output

    def _attention(self, given: dict[str, Any]) -> None:
        """Notes the projections of an attention; a mode sees it as one call, and nothing of what it calls."""
        inputs = [given[name] for name in ("query", "key", "value")]
        tokens = [tensor.numel() // tensor.shape[-1] for tensor in inputs]
        if given.get("use_separate_proj_weight"):
            for name, count in zip("qkv", tokens, strict=True):
                self._note(given[f"{name}_proj_weight"], None, count)
        else:  # each third of the rows has an input of its own
            query, extra = inputs[0], given["bias_k"] is not None or given["add_zero_attn"]
            of_itself = all(tensor is query for tensor in inputs) and not extra
            pairs = len(query) * tokens[0] if of_itself else 0  # a query is [length, batch, channels] here
            self._note(given["in_proj_weight"], given["in_proj_bias"], sum(tokens) // 3, pairs=pairs)
        self._note(given["out_proj_weight"], given["out_proj_bias"], tokens[0])

    def _note(self, weight: Tensor, bias: Tensor | None, positions: int, pairs: int = 0, **kind: Any) -> None:
        name = self.names.get(id(weight))
        if name is None:  # not a parameter as it is, such as a weight that is computed
            return
        if name not in self.layers:
            short = re.sub(r"[._]weight$", "", name)
            bias_name = None if bias is None else self.names.get(id(bias))
            shape = tuple(swapped(weight, kind["groups"]).shape) if "transposed" in kind else tuple(weight.shape)
            self.layers[name] = Layer(short, name, bias_name, shape, 0, **kind)
        layer = self.layers[name]
        self.layers[name] = replace(layer, positions=layer.positions + positions, pairs=layer.pairs + pairs)


def _operands(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object, **__: object
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors that convolutions and linear maps are called with, in order or by name."""
    return input, weight, bias


def _forward_one(model: nn.Module, shape: tuple[int, ...], observer: AbstractContextManager[object]) -> None:
    """One image of zeros through the model in evaluation mode, which is left as it was, under `observer`."""
    like = next(model.parameters())
    image = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _plain_attention(), observer:
            model(image)
    finally:
        model.train(training)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as the products that it is made of: fused kernels hide their weights and their multiply-adds."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
