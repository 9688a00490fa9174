"""Which channels of a network belong together: found by tracing, not by names.

Every channel of an activation carries a label. The labels are a tensor of the activation's own shape, and travel
through the network beside it: a reshape, a concat or a slice of the activation is the same reshape, concat or
slice of its labels. A convolution makes new labels; where an operation needs two channels to live or die together
(a residual add, a depthwise convolution) their labels are joined.

What cannot be followed is never pruned, nor is what could be silenced but not taken out: channels that an operation
tells apart by their numbers (halves, shuffles, zero channels of a fixed count), or that meet constants of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pruner.sparsity.labels import FIXED, NOTHING, Labels
from pruner.sparsity.layers import CONVOLUTIONS, Layer

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
# Spatial: each channel is reduced on its own (dimensions 0 and 1 stay).
_POOL = {
    _aten.max_pool2d_with_indices, _aten.avg_pool2d, _aten._adaptive_avg_pool2d, _aten.adaptive_avg_pool2d,
    _aten.adaptive_max_pool2d, _aten.upsample_nearest2d, _aten.upsample_bilinear2d,
}  # fmt: skip


class _Tracer(TorchDispatchMode):
    """Carries labels from tensor to tensor while a model runs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.labels = Labels()
        # Tensors are kept with their labels, so that no id is used twice. `leaks`: dead channels are not zero.
        self.known: dict[int, tuple[Tensor, Tensor, bool]] = {}
        self.inside = False  # a convolution, linear layer or batch norm is running: its hook does the labelling
        self.ins: dict[str, Tensor] = {}
        self.outs: dict[str, Tensor] = {}
        self.norms: dict[str, Tensor] = {}
        names: dict[int, str] = {}  # modules that share a weight go by the name of the first, as parameters do
        self.hooks = [
            hook
            for own_name, module in model.named_modules()
            for name in [names.setdefault(id(getattr(module, "weight", module)), own_name)]
            if (rule := self._rule(module)) is not None
            for hook in (
                module.register_forward_pre_hook(self._enter),
                module.register_forward_hook(
                    lambda module, inputs, output, name=name, rule=rule: self._leave(
                        rule, name, module, inputs[0], output
                    )
                ),
            )
        ]

    def _rule(self, module: nn.Module) -> Callable[[str, Any, Tensor, Tensor], Tensor] | None:
        rules = {CONVOLUTIONS: self._convolution, (nn.Linear,): self._linear, (_BatchNorm,): self._norm}
        return next((rule for kinds, rule in rules.items() if isinstance(module, kinds)), None)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.inside = True

    def _leave(self, rule: Callable[..., Tensor], name: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        self.inside = True  # the label arithmetic below must not trace itself
        labels, leaks = self.get(x)
        if leaks and not isinstance(module, _BatchNorm):  # a batch norm's own gate silences the constant
            self.labels.fix(labels)
        self.set(output, rule(name, module, labels, output))
        self.inside = False

    def get(self, tensor: Tensor) -> tuple[Tensor, bool]:
        """(labels, leaks) of a tensor; one that was never labelled is an input or a constant."""
        if id(tensor) in self.known:
            return self.known[id(tensor)][1:]
        return torch.full(tensor.shape, FIXED), False

    def set(self, tensor: Tensor, labels: Tensor, leaks: bool = False) -> None:
        """Labels a tensor; `labels` may broadcast to its shape."""
        self.known[id(tensor)] = (tensor, labels.expand(tensor.shape), leaks)

    def _convolution(self, name: str, conv: Any, labels: Tensor, output: Tensor) -> Tensor:
        ins = self.labels.channels(labels)
        count, groups = conv.out_channels, conv.groups
        if 1 < groups == conv.in_channels:  # depthwise: a channel goes in and comes out as one
            outs = _something(ins).repeat_interleave(count // groups)
        else:
            outs = self.labels.new(count)
            if groups > 1:  # what is left must still be groups of one size
                for channels in (ins.view(groups, -1), outs.view(groups, -1)):
                    self.labels.join(channels, channels[:1])
        self.ins[name], self.outs[name] = self._same(name, self.ins, ins), self._same(name, self.outs, outs)
        return outs.view(1, -1, *[1] * (output.dim() - 2))

    def _linear(self, name: str, linear: Any, labels: Tensor, output: Tensor) -> Tensor:
        self.ins[name] = self._same(name, self.ins, self.labels.collapse(labels, range(labels.dim() - 1)).flatten())
        self.outs[name] = torch.full((linear.out_features,), FIXED)
        return self.outs[name]

    def _norm(self, name: str, norm: Any, labels: Tensor, output: Tensor) -> Tensor:
        channels = self.labels.channels(labels)
        if not norm.affine:  # nothing to gate: a dead channel would come out as -mean / std
            self.labels.fix(channels)
        else:
            self.norms[name] = self._same(name, self.norms, channels)
        return _something(labels)

    def _same(self, name: str, seen: dict[str, Tensor], labels: Tensor) -> Tensor:
        """A module that runs twice has the same channels both times."""
        if name in seen:
            self.labels.join(seen[name], labels)
        return labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self.inside:
            self._follow(func.overloadpacket, func, args, kwargs, output)
        return output

    def _follow(self, op: Any, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        traced = [tensor for tensor in inputs if id(tensor) in self.known]
        if not traced:
            return  # constants and parameters only
        outputs = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        if self._tells_apart(op, func, args, kwargs, outputs[0]) or self._weighs(op, inputs):
            for tensor in traced:
                self.labels.fix(self.get(tensor)[0])
        leaks = any(self.get(tensor)[1] for tensor in traced)
        if op in _SHAPE:
            swap = tree_map(
                lambda leaf: self.get(leaf)[0].contiguous() if isinstance(leaf, Tensor) else leaf, (args, kwargs)
            )
            for tensor, labels in zip(outputs, tree_flatten(func(*swap[0], **swap[1]))[0], strict=True):
                self.set(tensor, labels, leaks)
        elif op is _aten.new_zeros:  # such as the channels that one tensor lacks beside another
            self.set(output, torch.tensor(NOTHING))
        elif op is _aten.constant_pad_nd and not (args[2] if len(args) > 2 else kwargs.get("value", 0)):
            self.set(output, func(self.get(args[0])[0], args[1], NOTHING), leaks)
        elif op in _POOL or (op is _aten.mean and self._is_spatial(args[0], output)):
            labels = self.labels.collapse(self.get(args[0])[0], range(2, args[0].dim()))
            self.set(outputs[0], labels if outputs[0].dim() > 2 else labels.flatten(1), leaks)
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

    def _tells_apart(self, op: Any, func: Any, args: Any, kwargs: Any, output: Tensor) -> bool:
        """Whether channels are told apart by their numbers, which change when some are taken out."""
        if op not in _NUMBERED:
            return False
        labels = self.get(args[0])[0]
        before, after = args[0].shape, output.shape
        varies = [dim for dim in range(len(before)) if bool((labels != labels.narrow(dim, 0, 1)).any())]
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
        return x.dim() == 4 and tuple(output.shape) in {tuple(x.shape[:2]), (*x.shape[:2], 1, 1)}


def _something(labels: Tensor) -> Tensor:
    """The labels after a bias or a normalisation, which make of a constant zero another constant."""
    return labels.clamp(min=FIXED)


class Channels:
    """The channels of a model that can be removed, as units 0..n-1, and where each is felt.

    `ins` and `outs` [channels] give the unit of each input and output channel of a layer, `norms` that of each
    channel of a batch norm; -1 stands for a channel that stays. Units are ordered by the layer that makes them.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], keep: Iterable[str] = ()):
        """Runs one image [1, *shape]. Output channels of the layers in `keep` are not units."""
        training = model.training
        tracer = _Tracer(model.eval())
        image = torch.zeros(1, *shape, device=next(model.parameters()).device)
        tracer.set(image, torch.full(image.shape, FIXED))
        try:
            with torch.no_grad(), tracer:
                output = model(image)
        finally:
            for hook in tracer.hooks:
                hook.remove()
            model.train(training)
        for tensor in tree_flatten(output)[0]:
            tracer.labels.fix(tracer.get(tensor)[0])
        for name in keep:
            if name in tracer.outs:
                tracer.labels.fix(tracer.outs[name])

        self._units: dict[int, int] = {}
        find = tracer.labels.find
        self.outs = {name: self._to_units(labels, find) for name, labels in tracer.outs.items()}
        self.ins = {name: self._to_units(labels, find) for name, labels in tracer.ins.items()}
        self.norms = {name: self._to_units(labels, find) for name, labels in tracer.norms.items()}
        self.count = len(self._units)

    def out_of(self, layer: Layer) -> Tensor:
        """The units of a layer's output channels; -1 throughout where its weight is used outside of its module."""
        return self.outs.get(layer.name, torch.full((layer.shape[0],), -1))

    def into(self, layer: Layer) -> Tensor:
        """The units of a layer's input channels, likewise."""
        return self.ins.get(layer.name, torch.full((layer.shape[1] * layer.groups,), -1))

    def _to_units(self, labels: Tensor, find: Callable[[int], int]) -> Tensor:
        units = []
        for label in labels.tolist():
            root = FIXED if label == NOTHING else find(label)
            units.append(-1 if root == FIXED else self._units.setdefault(root, len(self._units)))
        return torch.tensor(units)
