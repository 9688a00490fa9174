"""The proof that channels can be removed, shared by the tests of small and of real networks."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.sparsity.counts import count
from pruner.sparsity.surgery import cut, first, widths_of, without
from pruner.sparsity.trial import TOLERANCE
from pruner.sparsity.units.layers import count_macs
from pruner.sparsity.units.make import Units


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Values of which none is zero by luck, at a scale that neither explodes nor fades."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(layer.bias, 0, 0.1, generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.5, generator=generator)


@torch.no_grad()
def _assert_silent(model: nn.Module, shape: tuple[int, ...], units: Units, mask: Tensor) -> None:
    """Silences units where they are made; whatever is then read from them must not matter at all.

    In float64, as in the trial: sums in another order differ in a deep network by more than one could allow in float32.
    """
    generator = torch.Generator().manual_seed(0)
    _randomise(model.float().eval(), generator)  # the same values for a model that was tried before
    model.double()
    images = torch.randn(2, *shape, generator=generator).double()
    dense = model(images)
    parameters = dict(model.named_parameters())
    layers = {layer.weight: layer for layer in units.layers}
    reads_dead = {}
    for name, zero in units.zeros(mask).items():
        if name in layers:
            alive = layers[name].ordered(zero).flatten(1).amax(1).view(-1, *[1] * (zero.dim() - 1))
            alive = layers[name].native(alive)
            if not layers[name].is_conv:  # the outputs of a linear layer all stay, also when it reads nothing
                alive = torch.ones_like(alive)
            parameters[name].mul_(alive)
            reads_dead[name] = (zero == 0) & (alive > 0)
        else:
            parameters[name].mul_(zero)
    silenced = model(images)
    for name, dead in reads_dead.items():
        parameters[name][dead] = 1e3 * torch.randn(int(dead.sum()), generator=generator).double()
    noisy = model(images)
    assert sum(int(dead.sum()) for dead in reads_dead.values()) > 0
    assert bool(torch.isfinite(silenced).all()) and float(silenced.std()) > 1e-3
    assert float((silenced - dense).abs().max()) > 1e-3 * float(dense.std())  # the silenced units did speak
    assert torch.equal(silenced, noisy)
    _assert_removed(model, shape, units, mask, images, silenced)


def _assert_removed(
    model: nn.Module, shape: tuple[int, ...], units: Units, mask: Tensor, images: Tensor, masked: Tensor
) -> None:
    """Takes the channels out; the outputs stay, and other counters than ours see what was counted under the mask."""
    counts, _ = count(model, shape, units, mask)
    left = units.left(mask)
    if any(() in (part.outs, part.ins) for part in left.values()):  # the mask empties a layer of a single unit
        with pytest.raises(ConfigError, match="none of its"):
            without(model, left)
        return
    small = without(model, left)
    torch.testing.assert_close(small(images), masked, rtol=0, atol=TOLERANCE[masked.dtype] * float(masked.abs().max()))
    assert sum(parameter.numel() for parameter in small.parameters()) == counts.params_kept < counts.params_total
    assert count_macs(small, shape) == counts.macs_kept < counts.macs_total
    again = copy.deepcopy(model)  # as a loader does it: to the same shapes first, then the tensors
    cut(again, first(widths_of(model, left), again))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(images), small(images))


@pytest.fixture
def assert_silent() -> Callable[[nn.Module, tuple[int, ...], Units, Tensor], None]:
    """Fails unless the channels that a mask [n] drops have no say in the outputs; changes the model's parameters."""
    return _assert_silent
