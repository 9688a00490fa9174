"""A trial before any work: units that a mask takes out of a network have to leave one that runs and answers the same.

Tracing cannot see numbers in a model's code: `view(-1, 64)` and `flatten(1)` are the same operation. So the units are
found as if all sizes followed the channels, and every other one is cut from a copy. Where that fails they are found
again, with the channels left alone that meet such a number. What still fails is refused, before anything is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruner.checks import ConfigError, one_line
from pruner.config import Block, Pattern
from pruner.sparsity import intake
from pruner.sparsity.counts import count
from pruner.sparsity.surgery import without
from pruner.sparsity.units.base import Units
from pruner.sparsity.units.calling import call_with
from pruner.sparsity.units.layers import count_macs, left_out
from pruner.sparsity.units.make import make_units

log = logging.getLogger("pruner.sparsity.trial")

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the largest output: the same sums in another order
MOST_LINES = 4  # of reasons why filters stay
MOST_SIZED = 32  # operations of which it is found out one by one
MOST_GROUPS = 64  # tried one by one, to name the one that fails
REMEDY = "use granularity=weight, or leave the layer out with budget.exclude"


class CutFails(Exception):
    """What is wrong with a network from which channels were cut, on one line."""


def find_units(
    model: nn.Module,
    shape: tuple[int, ...],
    granularity: str,
    exclude: tuple[str, ...] = (),
    block: Block | None = None,
    nm: Pattern | None = None,
) -> Units:
    """The units of a model for examples [1, *shape], of which any can be cut. Raises ConfigError as below."""

    def make(constant: Container[int]) -> Units:
        return make_units(model, shape, granularity, exclude, block, nm, constant)

    return units_that_can_go(make, model, shape)


def units_that_can_go(make: Callable[[Container[int]], Units], model: nn.Module, shape: tuple[int, ...]) -> Units:
    """The units of a model for images [1, *shape], of which any can be cut.

    `make` gives them, told which operations have sizes that do not follow the channels (see `Tracer`). Raises
    ConfigError, which names a layer and the operation, where there are none such.
    """
    units = make(())
    if not units.left(torch.zeros(units.n, device=units.device)):
        return units  # masks over these make zeros inside of weights, and cut nothing
    whole = _scattered_copy(model, shape)
    try:
        try_cut(whole, units, shape)
    except CutFails as first:
        log.debug("as if all sizes followed the channels: %s", first)
        units = _with_constants(make, whole, shape, units.sized, first)
    return units


def _with_constants(
    make: Callable[[Container[int]], Units],
    whole: nn.Module,
    shape: tuple[int, ...],
    sized: Sequence[int],
    first: CutFails,
) -> Units:
    """The units where as few as can be of the `sized` operations are taken to have numbers in the code.

    At first all of them are, and then each in turn is taken out of these if the cut works all the same.
    """
    constant, units = set(sized), None
    for number in [None, *sized[:MOST_SIZED]]:
        fewer = constant - {number}
        try:
            found = make(fewer)
            try_cut(whole, found, shape)
        except ConfigError:  # so many keep channels that there are no units, of which none can fail
            constant = fewer
            continue
        except CutFails as error:
            if number is None:
                first = error
                break
            continue
        constant, units = fewer, found
    if units is None:
        raise ConfigError(f"model: {first}; {REMEDY}")
    return units


def say_what_stays(model: nn.Module, units: Units) -> None:
    """Logs which weights cannot be pruned, with their share, and which filters are no units, and why.

    A warning where most parameters are in such weights.
    """
    for line in stays(units):
        log.info("%s", line)
    found = left_out(model, units.layers)
    if found:
        total = sum(parameter.numel() for parameter in model.parameters())
        most = sorted(found.items(), key=lambda item: -item[1])
        share = sum(found.values()) / total
        named = _some([f"{place} {number}" for place, number in most])
        level = logging.WARNING if share > 0.5 else logging.INFO
        log.log(level, "%.1f%% of the parameters are in no layer that can be pruned: %s", 100 * share, named)


def stays(units: Units) -> list[str]:
    """Which filters are no units: a line for each operation that keeps them, with how many and where; most first."""
    layers: dict[str, dict[str, int]] = {}
    for (layer, reason), number in units.left_alone.items():
        layers.setdefault(reason, {})[layer] = number
    most = sorted(layers.items(), key=lambda item: -sum(item[1].values()))
    lines = [f"{sum(of.values())} filters stay, of {_some(list(of))}: {reason}" for reason, of in most[:MOST_LINES]]
    if rest := [sum(of.values()) for _, of in most[MOST_LINES:]]:
        lines.append(f"{sum(rest)} filters stay because of {len(rest)} operations more")
    return lines


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def try_cut(whole: nn.Module, units: Units, shape: tuple[int, ...]) -> None:
    """Raises CutFails unless `whole` without every other unit of each group answers as under that mask."""
    mask = torch.cat([torch.arange(group.size) % 2 for group in units.groups]).to(units.device, torch.float32)
    for group in units.groups:
        if group.size == 1:
            mask[group.start] = 1
    try:
        _compare(whole, units, mask, shape)
    except CutFails as error:
        raise CutFails(f"filters of {_culprit(whole, units, mask, shape)} cannot be taken out: {error}") from error


def _culprit(whole: nn.Module, units: Units, mask: Tensor, shape: tuple[int, ...]) -> str:
    """The name of the first group that cannot be cut alone."""
    for group in units.groups[:MOST_GROUPS]:
        alone = torch.ones_like(mask)
        alone[group.start : group.stop] = mask[group.start : group.stop]
        if bool((alone == 0).any()):
            try:
                _compare(whole, units, alone, shape)
            except CutFails:
                return group.name
    return "several layers"


@torch.no_grad()
def _compare(whole: nn.Module, units: Units, mask: Tensor, shape: tuple[int, ...]) -> None:
    parameters, images = dict(whole.named_parameters()), _images(whole, shape)
    masked = {name: parameters[name] * zero.cpu() for name, zero in units.zeros(mask).items()}
    expected = call_with(whole, masked, (images.clone(),))  # some networks change the images that they are given
    running: list[str] = []
    try:
        small = without(whole, units.left(mask))
        counted = sum(parameter.numel() for parameter in small.parameters()), count_macs(small, shape)
        intake.note_running(small, running)
        found = small(images)
    except (ConfigError, RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        place = f" in {running[-1]}" if running and running[-1] else ""
        raise CutFails(f"{one_line(str(error).partition(chr(10))[0])}{place}") from error
    most = TOLERANCE[images.dtype] * float(expected.abs().max().clamp(min=1e-30))
    if found.shape != expected.shape or not float((found - expected).abs().max()) <= most:
        raise CutFails("the network without them differs from the one in which they are masked")
    counts, _ = count(whole, shape, units, mask)
    if counted != (counts.params_kept, counts.macs_kept):
        expectation = f"{counts.params_kept} and {counts.macs_kept} expected"
        raise CutFails(f"{counted[0]} parameters and {counted[1]} multiply-adds are left, {expectation}")


def _images(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Two images of noise, of the model's type."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()).dtype)


@torch.no_grad()
def _scattered_copy(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy on the CPU in evaluation mode, in float64 where it can compute in that.

    Its biases and norms are spread around the model's own: no zero may hide a channel that is still heard.
    """
    copied = intake.copied(model).to("cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in copied.parameters():
        if parameter.dim() < 2 or not bool(parameter.any()):  # biases and norms, and what starts at zero
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    for module in copied.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    copied.double()
    try:
        copied(_images(copied, shape))
    except RuntimeError:  # it makes tensors of another type of its own
        copied.float()
    return copied
