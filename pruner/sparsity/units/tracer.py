"""Labels of channels, carried through a network while it runs.

Every channel of an activation carries a label. The labels are a tensor of the activation's own shape, and travel
through the network beside it: a reshape, a concat or a slice of the activation is the same reshape, concat or
slice of its labels. A convolution makes new labels; where an operation needs two channels to live or die together
(a residual add, a depthwise convolution) their labels are joined.

What cannot be followed is never pruned, nor is what could be silenced but not taken out: channels that an operation
tells apart by their numbers (halves, shuffles, zero channels of a fixed count), or that meet constants of their own.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pruner.sparsity.units.layers import CONVOLUTIONS, TRANSPOSED
from pruner.sparsity.units.union_find import FIXED, NOTHING, Labels

_aten = torch.ops.aten
_VIEW = {_aten.view, _aten._unsafe_view, _aten.reshape}
# The output is the input's channels in another order or shape: the same operation is applied to the labels.
_SHAPE = _VIEW | {
    _aten.permute, _aten.transpose, _aten.t, _aten.squeeze,
    _aten.unsqueeze, _aten.expand, _aten.slice, _aten.select, _aten.split, _aten.split_with_sizes, _aten.cat,
    _aten.stack, _aten.flip, _aten.roll, _aten.repeat, _aten.alias, _aten.detach,
}  # fmt: skip
# Operations that may tell channels apart by their numbers.
_NUMBERED = _VIEW | {
    _aten.slice, _aten.select, _aten.split, _aten.split_with_sizes, _aten.roll, _aten.constant_pad_nd,
}  # fmt: skip
# They are told sizes, which were computed from those of an activation, or are numbers in the code that stay.
_SIZED = _VIEW | {_aten.expand, _aten.repeat, _aten.constant_pad_nd, _aten.new_zeros}
# Element by element, and zero stays zero (a product is zero when either factor is).
_ZERO_STAYS = {
    _aten.relu, _aten.relu_, _aten.hardtanh, _aten.hardtanh_, _aten.silu, _aten.silu_, _aten.gelu, _aten.hardswish,
    _aten.hardswish_, _aten.leaky_relu, _aten.leaky_relu_, _aten.elu, _aten.elu_, _aten.tanh, _aten.tanh_,
    _aten.mish, _aten.mish_, _aten.clone, _aten._to_copy, _aten.abs, _aten.neg, _aten.mul, _aten.mul_,
    _aten.contiguous, _aten.native_dropout,
}  # fmt: skip
# Element by element, but a dead channel comes out as a constant: harmless only if it is then multiplied by zero.
_ZERO_LEAVES = {_aten.sigmoid, _aten.sigmoid_, _aten.hardsigmoid, _aten.hardsigmoid_}
_ADD = {_aten.add, _aten.add_, _aten.sub, _aten.sub_}
_MULTIPLY = {_aten.mul, _aten.mul_}
# Spatial: each channel is taken on its own (dimensions 0 and 1 stay).
_POOL = {
    _aten.max_pool2d_with_indices, _aten.max_pool3d_with_indices, _aten.avg_pool2d, _aten.avg_pool3d,
    _aten._adaptive_avg_pool2d, _aten._adaptive_avg_pool3d, _aten.adaptive_avg_pool2d, _aten.adaptive_max_pool2d,
    _aten.adaptive_max_pool3d, _aten.upsample_nearest1d, _aten.upsample_nearest2d, _aten.upsample_nearest3d,
    _aten.upsample_linear1d, _aten.upsample_bilinear2d, _aten.upsample_bicubic2d, _aten.upsample_trilinear3d,
    _aten.reflection_pad1d, _aten.reflection_pad2d, _aten.reflection_pad3d, _aten.replication_pad1d,
    _aten.replication_pad2d, _aten.replication_pad3d,
}  # fmt: skip
_REDUCE = {_aten.mean, _aten.sum, _aten.amax, _aten.amin}  # likewise, where they are over all of space
_RESTRIDE = {_aten.as_strided, _aten.as_strided_}

Ports = dict[str, Tensor]


class Tracer(TorchDispatchMode):
    """Carries labels from tensor to tensor while a model runs, inside `with tracer.running(model)`.

    `ins`, `outs` and `norms` have the labels of the channels of layers and batch norms, by name: that of the first
    module with their weight, as parameters go by it. Sizes that operations are told are taken to be computed from those
    of activations, but for the operations in `constant`, whose numbers are in the code: these keep the channels that
    they meet. All such operations are numbered as they come; `sized` has those that met channels that could go.
    """

    def __init__(self, model: nn.Module, constant: Container[int] = ()):
        TorchDispatchMode.__init__(self)
        self.labels = Labels()
        self.constant, self.operations = constant, 0
        self.sized: list[int] = []
        # Tensors are kept with their labels, so that no id is used twice. `leaks`: dead channels are not zero.
        self.known: dict[int, tuple[Tensor, Tensor, bool]] = {}
        self.inside = False  # a function of `LayerFunctions` is running, which does the labelling
        self.ins: Ports = {}
        self.outs: Ports = {}
        self.norms: Ports = {}
        self.modules: list[str] = []  # that run now, the innermost last
        self.names: dict[int, tuple[str, nn.Module]] = {}  # by the id of a weight
        for name, module in model.named_modules():
            kinds = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, _BatchNorm)
            if isinstance(module, kinds) and isinstance(module.weight, nn.Parameter):
                self.names.setdefault(id(module.weight), (name, module))

    def name_of(self, weight: Tensor | None, kinds: tuple[type[nn.Module], ...]) -> str | None:
        """The module of one of these kinds whose own weight this is."""
        name, module = self.names.get(id(weight), ("", None))
        return name if isinstance(module, kinds) else None

    def where(self, operation: str) -> str:
        """What runs now, for people."""
        return f"{operation} in {(self.modules and self.modules[-1]) or 'the network itself'}"

    def get(self, tensor: Tensor) -> tuple[Tensor, bool]:
        """(labels, leaks) of a tensor; one that was never labelled is an input or a constant."""
        if id(tensor) in self.known:
            return self.known[id(tensor)][1:]
        return torch.full(tensor.shape, FIXED), False

    def set(self, tensor: Tensor, labels: Tensor, leaks: bool = False) -> None:
        """Labels a tensor; `labels` may broadcast to its shape."""
        self.known[id(tensor)] = (tensor, labels.expand(tensor.shape), leaks)

    def convolution(self, name: str, groups: int, labels: Tensor, output: Tensor) -> Tensor:
        """The labels of the output of a convolution, transposed or not."""
        ins = self.labels.channels(labels)
        count = output.shape[1]
        if 1 < groups == len(ins):  # depthwise: a channel goes in and comes out as one
            outs = _something(ins).repeat_interleave(count // groups)
        else:
            outs = self.labels.new(count)
            if groups > 1:  # what is left must still be groups of one size
                for channels in (ins.view(groups, -1), outs.view(groups, -1)):
                    self.labels.join(channels, channels[:1])
        self.ins[name], self.outs[name] = self._same(name, self.ins, ins), self._same(name, self.outs, outs)
        return outs.view(1, -1, *[1] * (output.dim() - 2))

    def linear(self, name: str, labels: Tensor, output: Tensor) -> Tensor:
        """The labels of a linear layer's output, which all stay."""
        self.ins[name] = self._same(name, self.ins, self.labels.collapse(labels, range(labels.dim() - 1)).flatten())
        self.outs[name] = torch.full((output.shape[-1],), FIXED)
        return self.outs[name]

    def norm(self, name: str | None, labels: Tensor) -> Tensor:
        """The labels of a batch norm's output; without a name it has no gamma and beta of its own to gate."""
        channels = self.labels.channels(labels)
        if name is None:  # a dead channel would come out as -mean / std
            self.labels.fix(channels)
        else:
            self.norms[name] = self._same(name, self.norms, channels)
        return _something(labels)

    def _same(self, name: str, seen: Ports, labels: Tensor) -> Tensor:
        """A module that runs twice has the same channels both times."""
        if name in seen:
            self.labels.join(seen[name], labels)
        return labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self.inside:
            self.labels.why = self.where(func.overloadpacket.__name__)
            self._follow(func.overloadpacket, func, args, kwargs, output)
        return output

    def _follow(self, op: Any, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        traced = [tensor for tensor in inputs if id(tensor) in self.known]
        if not traced:
            return  # constants and parameters only
        outputs = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        constant = self._constant(op, args)
        if constant or self._tells_apart(op, func, args, kwargs, outputs[0]) or self._weighs(op, inputs):
            for tensor in traced:
                self.labels.fix(self.get(tensor)[0])
        leaks = any(self.get(tensor)[1] for tensor in traced)
        nothing = FIXED if constant else NOTHING  # of channels that are added, as many as are lacking
        if op in _SHAPE:
            swap = tree_map(
                lambda leaf: self.get(leaf)[0].contiguous() if isinstance(leaf, Tensor) else leaf, (args, kwargs)
            )
            for tensor, labels in zip(outputs, tree_flatten(func(*swap[0], **swap[1]))[0], strict=True):
                self.set(tensor, labels, leaks)
        elif op in _RESTRIDE and output.shape == args[0].shape:  # as a pool to one pixel writes channels_last
            self.set(output, self.get(args[0])[0], leaks)
        elif op is _aten.new_zeros:  # such as the channels that one tensor lacks beside another
            self.set(output, torch.tensor(nothing))
        elif op is _aten.constant_pad_nd and not (args[2] if len(args) > 2 else kwargs.get("value", 0)):
            self.set(output, func(self.get(args[0])[0], args[1], nothing), leaks)
        elif op in _POOL or (op in _REDUCE and self._is_spatial(args[0], output)):
            self.set(outputs[0], self.pooled(args[0], outputs[0]), leaks)
        elif op in _ZERO_LEAVES:
            self.set(output, self.get(args[0])[0], True)
        elif op in _MULTIPLY or op in _ZERO_STAYS:
            silent = op in _MULTIPLY and any(not self.get(tensor)[1] for tensor in traced)
            self.set(outputs[0], self._joined(traced), leaks and not silent)
        elif op in _ADD and len(traced) == len(args[:2]):
            self.set(output, self._joined(traced), leaks)
        else:  # not known to keep channels apart, or a constant is added: leave them all alone
            for tensor in traced:
                self.labels.fix(self.get(tensor)[0])
            for tensor in outputs:
                self.set(tensor, torch.full(tensor.shape, FIXED))

    def pooled(self, x: Tensor, output: Tensor) -> Tensor:
        """The labels of `output`, each channel of which comes from the same channel of x."""
        labels = self.labels.collapse(self.get(x)[0], range(2, x.dim()))
        return labels if output.dim() > 2 else labels.flatten(1)

    def _constant(self, op: Any, args: Any) -> bool:
        """Whether this operation is told sizes of channels, which are to be taken for numbers in the code."""
        if op not in _SIZED:
            return False
        self.operations += 1
        if op is not _aten.new_zeros and not self._varies(args[0]):
            return False
        self.sized.append(self.operations)
        return self.operations in self.constant

    def _varies(self, x: Tensor) -> list[int]:
        """The dimensions along which a tensor has several labels."""
        labels = self.get(x)[0]
        return [dim for dim in range(x.dim()) if bool((labels != labels.narrow(dim, 0, 1)).any())]

    def _tells_apart(self, op: Any, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
        """Whether channels are told apart by their numbers, which change when some are taken out."""
        if op not in _NUMBERED:
            return False
        before, after, varies = args[0].shape, output.shape, self._varies(args[0])
        if op in _VIEW:  # a dimension may be merged with others, not cut
            spans = [(math.prod(before[:dim]), math.prod(before[: dim + 1])) for dim in varies]
            cuts = [math.prod(after[:dim]) for dim in range(1, len(after))]
            return any(start < cut < stop for start, stop in spans for cut in cuts)
        if op in (_aten.roll, _aten.select):
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
            dims = given["dims"] if op is _aten.roll else [given["dim"]]
            return any(dim % len(before) in varies for dim in dims)
        return any(before[dim] != after[dim] for dim in varies)  # a part of them, or more

    def _weighs(self, op: Any, inputs: list[Tensor]) -> bool:
        """Whether channels meet constants of their own, which would stay behind when the channels go."""
        return op in _MULTIPLY and any(tensor.numel() > 1 for tensor in inputs if id(tensor) not in self.known)

    def _joined(self, traced: list[Tensor]) -> Tensor:
        labels = [self.get(tensor)[0] for tensor in traced]
        for other in labels[1:]:
            self.labels.join(labels[0], other)
        shape = torch.broadcast_shapes(*(one.shape for one in labels))
        merged = labels[0].expand(shape)
        for other in labels[1:]:
            merged = torch.where(merged == NOTHING, other.expand(shape), merged)
        return merged

    @staticmethod
    def _is_spatial(x: Tensor, output: Any) -> bool:
        space = x.dim() - 2
        return 1 <= space <= 3 and tuple(output.shape) in {tuple(x.shape[:2]), (*x.shape[:2], *[1] * space)}


def _something(labels: Tensor) -> Tensor:
    """The labels after a bias or a normalisation, which make of a constant zero another constant."""
    return labels.clamp(min=FIXED)
