"""Which channels of a network belong together: found by tracing, not by names (see `tracer`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from pruner.sparsity.units.layer_functions import LayerFunctions
from pruner.sparsity.units.layers import Layer
from pruner.sparsity.units.tracer import Tracer
from pruner.sparsity.units.union_find import FIXED, NOTHING


class Channels:
    """The channels of a model that can be removed, as units 0..n-1, and where each is felt.

    `ins` and `outs` [channels] give the unit of each input and output channel of a layer, `norms` that of each
    channel of a batch norm; -1 stands for a channel that stays. Units are ordered by the layer that makes them.
    `left_alone`: by (layer, reason) how many output channels of convolutions stay. `sized`: see `Tracer`.
    """

    def __init__(
        self, model: nn.Module, shape: tuple[int, ...], keep: Iterable[str] = (), constant: Container[int] = ()
    ):
        """Runs one image [1, *shape]. Output channels of the layers in `keep` are not units.

        `constant`: see `Tracer`.
        """
        tracer = Tracer(model, constant)
        output = _run(model, shape, tracer)
        tracer.labels.why = "the output"
        for tensor in tree_flatten(output)[0]:
            tracer.labels.fix(tracer.get(tensor)[0])
        tracer.labels.why = "budget.exclude"
        for name in keep:
            if name in tracer.outs:
                tracer.labels.fix(tracer.outs[name])

        self._units: dict[int, int] = {}
        find = tracer.labels.find
        self.outs = {name: self._to_units(labels, find) for name, labels in tracer.outs.items()}
        self.ins = {name: self._to_units(labels, find) for name, labels in tracer.ins.items()}
        self.norms = {name: self._to_units(labels, find) for name, labels in tracer.norms.items()}
        self.count = len(self._units)
        self.sized = tracer.sized
        self.left_alone = Counter(
            (name, reason)
            for name, labels in tracer.outs.items()
            for label in labels.tolist()
            if label > FIXED and (reason := tracer.labels.reason(label)) is not None
        )

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


def _run(model: nn.Module, shape: tuple[int, ...], tracer: Tracer) -> object:
    """The model's output for one image in evaluation mode, traced; leaves the model as it was."""
    training = model.training
    like = next(model.parameters())
    image = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    tracer.set(image, torch.full(image.shape, FIXED))

    def leave(*_: object) -> None:
        tracer.modules.pop()

    with ExitStack() as stack:
        stack.callback(model.train, training)
        model.eval()
        for name, module in model.named_modules():
            for hook in (
                module.register_forward_pre_hook(lambda *_, name=name: tracer.modules.append(name)),
                module.register_forward_hook(leave),
            ):
                stack.callback(hook.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(LayerFunctions(tracer))
        stack.enter_context(tracer)
        return model(image)
