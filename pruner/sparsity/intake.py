"""What a network has to be before anything is done with it, found out in a few passes: refused here, or never."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from pruner.checks import ConfigError, one_line

log = logging.getLogger("pruner.models")

WEIGHTS = {nn.Linear: "weight", _ConvNd: "weight", nn.MultiheadAttention: "in_proj_weight"}
ALIKE = 1e-3  # of the largest logit: the same sums in another order
UNDO = "torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or prune.remove"


@torch.no_grad()
def accept(model: nn.Module, shape: tuple[int, ...], classes: int | None = None) -> None:
    """Lays the model out in memory as runs want it, and makes sure that it answers images [B, *shape] with logits.

    Raises ConfigError, one line that names the module, for lazy and compiled layers, for weights that are computed in
    the forward pass, for what fails with images, forward or backward, for answers that are no tensor [B, classes] (of
    any other shape [B, ...] where `classes` is None), and for layers that run again in the backward pass.
    """
    _check_weights(model)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    images = image.repeat(2, *[1] * len(shape)).to(next(model.parameters()).device)
    images = images.to(memory_format=torch.channels_last) if images.dim() == 4 else images
    training = model.training
    try:
        lay_out(model.eval(), images)
        _check_alike(_logits(answer(model, images), classes, "in evaluation"))
        _logits(answer(model, images[:1]), classes, "of one image, as squeeze() does", batch=1)
    finally:
        model.train(training)
    trained = copied(model).train()  # a copy, as batch norm counts what it sees
    with torch.enable_grad():
        _check_backward(trained, _logits(answer(trained, images), classes, "in training"))


def lay_out(model: nn.Module, images: Tensor) -> None:
    """channels_last, in which convolutions are fastest; where the model takes no such images, as it is.

    Some code has `view` after convolutions, in training perhaps alone, which channels_last does not allow: such a model
    gets contiguous images.
    """
    before = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 4:
            before[name] = tensor.data
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    try:
        _forward(model, images)
        _forward(copied(model).train(), images)
    except Exception as error:  # whatever a user's module raises
        if not isinstance(error, RuntimeError) or "view" not in str(error):
            return  # whatever it is, it is not this
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.data = before.get(name, tensor.data)
        model.register_forward_pre_hook(_contiguous)
        log.info("channels_last does not suit this model (%s): its images are contiguous", one_line(error))


def _contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in inputs)


def answer(model: nn.Module, images: Tensor) -> object:
    """What the model gives. Raises ConfigError that names the module in which it fails."""
    running: list[str] = []
    hooks = note_running(model, running)
    try:
        return _forward(model, images)
    except Exception as error:  # whatever a user's module raises
        place = f"{running[-1]}: " if running and running[-1] else ""
        size = "x".join(map(str, images.shape[1:]))
        raise ConfigError(f"model: {place}fails with images of {size} ({one_line(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()


def note_running(network: nn.Module, running: list[str]) -> list[RemovableHandle]:
    """Keeps the names of the modules that run, the innermost last, in `running`; gives the hooks that do so."""

    def leave(*_: object) -> None:
        running.pop()

    hooks: list[RemovableHandle] = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(leave))
    return hooks


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Raises ConfigError where a user's module cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a user's module raises
        raise ConfigError(f"model: cannot be copied, as by copy.deepcopy ({one_line(error)})") from error


def _forward(model: nn.Module, images: Tensor) -> object:
    """The answer in the mode that the model is in, whose random numbers are its own."""
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        return model(images)


def _logits(found: object, classes: int | None, mode: str, batch: int = 2) -> Tensor:
    """`found`. Raises ConfigError unless it is one tensor [batch, classes]; with no classes, [batch, ...]."""
    if not isinstance(found, Tensor):
        raise ConfigError(
            f"model: gives a {type(found).__name__} {mode}; expected one tensor of logits [batch, classes]"
        )
    fits = found.shape == (batch, classes) if classes is not None else found.shape[:1] == (batch,)
    if not fits:
        shape = ["batch" if size == batch and dim == 0 else size for dim, size in enumerate(found.shape)]
        said = f"[{', '.join(map(str, shape))}]"
        expected = "one answer for each" if classes is None else f"logits [batch, {classes}], one for each class"
        raise ConfigError(f"model: gives {said} {mode}; expected {expected}")
    return found


def _check_alike(found: Tensor) -> None:
    """Two copies of one image get one answer, but for rounding; what is no number is so in both."""
    most = ALIKE * float(found.nan_to_num().abs().max())
    if not torch.allclose(found[0], found[1], rtol=0, atol=most, equal_nan=True):
        raise ConfigError(
            "model: gives two answers for one image in evaluation; make what is random, such as F.dropout, "
            "depend on self.training"
        )


def _check_backward(model: nn.Module, found: Tensor) -> None:
    if not found.requires_grad:
        raise ConfigError("model: no parameter of it gets a gradient; set requires_grad where it is made")
    again: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: again.append(name))
        for name, module in model.named_modules()
    ]
    try:
        found.sum().backward()
    except Exception as error:  # as of forward passes
        raise ConfigError(f"model: fails in the backward pass ({one_line(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    if again:
        raise ConfigError(
            f"model: {again[0]} runs again in the backward pass, as by torch.utils.checkpoint, where masks do not "
            "reach it; make the model without"
        )


def _check_weights(model: nn.Module) -> None:
    if not any(True for _ in model.parameters()):
        raise ConfigError("model: has no parameters, and so nothing to prune")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:  # as torch.compile calls it
            raise ConfigError(
                f"model: {name or 'it'} is compiled already ({type(module).__name__}), so that masks do not reach its "
                "weights; give the module as it was (compile=true compiles the training)"
            )
        if any(is_lazy(own) for own in module._parameters.values() if own is not None):
            lazy = f"{name} is a {type(module).__name__}, whose size is not known yet"
            raise ConfigError(f"model: {lazy}; give its sizes, or run an image through it where it is made")
        for kind, attribute in WEIGHTS.items():
            is_own = module._parameters.get(attribute) is not None
            if isinstance(module, kind) and not is_own and isinstance(getattr(module, attribute, None), Tensor):
                raise ConfigError(
                    f"model: {name}.{attribute} is computed anew in each forward pass, as by weight_norm, a "
                    f"parametrization or torch.nn.utils.prune; make it a plain parameter first ({UNDO})"
                )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ConfigError(
                f"model: {name} is {dtype}; expected float32 (recipe.precision says what runs compute in)"
            )
