"""What units cost against networks that are really smaller, their magnitudes by hand, and gates that are felt."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pruner.checks import ConfigError
from pruner.config import Block
from pruner.sparsity.budget import total_cost
from pruner.sparsity.counts import count
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.layers import find_layers
from pruner.sparsity.units.make import Units, make_units

SHAPE = (3, 8, 8)
GROUPS = ("stem", "up", "mid", "grouped")  # layers that make units; `mid` and `grouped` make two channels for each


class Mixed(nn.Module):
    """Everything that ties channels, at any width: depthwise, residual, grouped, flattened; with and without norms."""

    def __init__(self, stream: int, inner: int, left: int, right: int):
        super().__init__()
        self.stem = nn.Conv2d(3, stream, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(stream)
        self.depthwise = nn.Conv2d(stream, stream, 3, padding=1, groups=stream, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(stream)
        self.up = nn.Conv2d(stream, inner, 1)
        self.down = nn.Conv2d(inner, stream, 3, padding=1)
        self.mid = nn.Conv2d(stream, 2 * left, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(2 * left, 2 * right, 3, padding=1, groups=2)
        self.fc = nn.Linear(2 * right * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem_norm(self.stem(images)).relu()
        hidden = self.depthwise_norm(self.depthwise(hidden)).relu()
        hidden = hidden + self.down(self.up(hidden).relu())
        return self.fc(self.grouped(self.mid(hidden).relu()).relu().flatten(1))


FULL = (6, 5, 4, 3)
SMALLER = [FULL, (3, 5, 4, 3), (6, 2, 4, 3), (6, 5, 2, 3), (6, 5, 4, 1), (4, 3, 3, 2), (2, 2, 2, 2)]


def keeping(units: Units, widths: tuple[int, ...]) -> Tensor:
    """A mask that keeps so many units of every group, which ones by chance."""
    mask = torch.zeros(units.n)
    keep = dict(zip(GROUPS, widths, strict=True))
    for group in units.groups:
        mask[group.start + torch.randperm(group.size)[: keep[group.name]]] = 1
    return mask


def macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *SHAPE))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("widths", SMALLER)
def test_costs_and_counts_are_those_of_a_smaller_network(widths: tuple[int, ...]) -> None:
    model, smaller = Mixed(*FULL), Mixed(*widths)
    units = make_units(model, SHAPE, "filter")
    assert {group.name: group.size for group in units.groups} == dict(zip(GROUPS, FULL, strict=True))
    mask = keeping(units, widths)
    weights = sum(p.numel() for name, p in smaller.named_parameters() if name.endswith("weight") and p.dim() > 1)
    for budget, expected in (("params", weights), ("macs", macs(smaller))):
        cost = units.cost(budget)
        assert callable(cost) and float(cost(mask.double())) == expected
    counts, rows = count(model, SHAPE, units, mask)
    assert counts.params_total == sum(p.numel() for p in model.parameters())
    assert counts.params_kept == sum(p.numel() for p in smaller.parameters())
    assert (counts.macs_total, counts.macs_kept) == (macs(model), macs(smaller))
    assert (counts.prunable_params_kept, counts.prunable_macs_kept) == (weights, macs(smaller))
    layers = dict(smaller.named_modules())
    assert {row["layer"]: row["params_kept"] for row in rows} == {
        name: layers[name].weight.numel() for name in ("stem", "depthwise", "up", "down", "mid", "grouped", "fc")
    }


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_the_gradient_of_the_cost_is_that_of_finite_differences(budget: str) -> None:
    cost = make_units(Mixed(*FULL), SHAPE, "filter").cost(budget)
    assert callable(cost)
    mask = torch.rand(18, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: cost(at) / 1000, mask)


def test_batch_norms_have_the_units_of_their_channels() -> None:
    units = make_units(Mixed(*FULL), SHAPE, "filter")
    stem = next(group for group in units.groups if group.name == "stem")
    norms = {name: found.tolist() for name, found in units.norms().items()}
    channels = list(range(stem.start, stem.stop))
    assert norms == {"stem_norm": channels, "depthwise_norm": channels}
    units = make_units(Mixed(*FULL), SHAPE, "filter", exclude=("stem",))
    assert {unit for found in units.norms().values() for unit in found.tolist()} == {units.n}  # all stay
    assert make_units(Mixed(*FULL), SHAPE, "weight").norms() == {}


@pytest.mark.parametrize(
    ("granularity", "shapes"),
    [
        ("filter", []),  # tensors are smaller, and no index is stored
        ("weight", [(8, 54)]),
        ("kernel", [(8, 6)]),
        ("block", [(2, 18)]),  # of 4 x 4, the last ones cut off
        ("nm", [(72, 4), (72, 2)]),  # fours of neighbouring input channels, and the rest
    ],
)
def test_the_rows_that_an_index_stores(granularity: str, shapes: list[tuple[int, ...]]) -> None:
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 1, 1))
    units = make_units(model, (6, 8, 8), granularity, block=Block((4, 4)))
    layer = units.layers[0]
    values = torch.arange(units.n).float()
    rows = units.index_rows(layer, values)
    assert [tuple(part.shape) for part in rows] == shapes
    if rows:  # each unit of the layer once
        found = torch.cat([part.flatten() for part in rows])
        assert torch.equal(found.sort().values, units.layer_mask(layer, values).sort().values)


def test_cost_of_weights() -> None:
    model = Mixed(*FULL)
    units = make_units(model, SHAPE, "weight")
    assert units.n == total_cost(units.cost("params"), torch.zeros(units.n))
    assert units.n == sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1)
    cost = units.cost("macs")
    assert isinstance(cost, Tensor) and total_cost(cost, cost) == macs(model)
    positions = {group.name: set(cost[group.start : group.stop].tolist()) for group in units.groups}
    assert positions["stem"] == positions["depthwise"] == {64.0}  # 8 x 8 outputs
    assert positions["mid"] == positions["grouped"] == {16.0} and positions["fc"] == {1.0}


def test_a_layer_that_runs_twice_counts_its_multiply_adds_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(self.conv(images))

    model = Twice()
    (layer,) = find_layers(model, SHAPE)
    assert layer.positions == 128 and layer.size * layer.positions == macs(model)


def tied_pair() -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 2, 1, bias=False)
            self.b = nn.Conv2d(2, 2, 1)
            self.fc = nn.Linear(2, 2)
            with torch.no_grad():
                self.a.weight.copy_(torch.tensor([3.0, 1.0]).view(2, 1, 1, 1))
                self.b.weight.copy_(torch.tensor([[4.0, 0.0], [-2.0, 2.0]]).view(2, 2, 1, 1))
                self.fc.weight.copy_(torch.tensor([[9.0, -8.0], [7.0, 6.0]]))

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.a(images)
            return self.fc((hidden + self.b(hidden.relu())).mean((2, 3)))

    return Pair()


def test_magnitudes_by_hand() -> None:
    model = tied_pair()
    parameters = dict(model.named_parameters())
    filters = make_units(model, (1, 2, 2), "filter").magnitudes(parameters)
    assert filters.tolist() == pytest.approx([((9 / 5 + 16 / 6) / 3) ** 0.5, ((1 / 5 + 8 / 6) / 3) ** 0.5])
    weights = make_units(model, (1, 2, 2), "weight")
    assert weights.magnitudes(parameters).tolist() == [3, 1, 4, 0, 2, 2, 9, 8, 7, 6]
    assert weights.magnitudes(parameters).requires_grad and filters.requires_grad  # some methods learn through them
    assert make_units(model, (1, 2, 2), "weight", ("first", "fc")).magnitudes(parameters).tolist() == [4, 0, 2, 2]


@pytest.mark.parametrize("granularity", ["weight", "kernel", "filter"])
def test_a_unit_of_zeros_has_the_gradient_zero(granularity: str) -> None:
    """And not that of a root at 0, which is infinite; a layer of zeros likewise."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Conv2d(2, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([0.0, 2]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
        model.get_parameter("1.weight").zero_()
    magnitudes = make_units(model, (1, 2, 2), granularity).magnitudes(dict(model.named_parameters()))
    magnitudes.sum().backward()
    for name in ("0.weight", "1.weight"):
        parameter = model.get_parameter(name)
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all())
        assert bool((parameter.grad[parameter == 0] == 0).all())


@pytest.mark.parametrize("granularity", ["kernel", "block", "filter"])
def test_no_layer_gains_by_growing_as_a_whole(granularity: str) -> None:
    """Magnitudes are free of their layer's scale, and so is their gradient: none along a layer's own weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(5, 2)).double()
    parameters = dict(model.named_parameters())
    units = make_units(model.float(), (3, 5, 5), granularity, block=Block((2, 3)))
    model.double()
    magnitudes = units.magnitudes(parameters)
    weights = [parameter for name, parameter in parameters.items() if name.endswith("weight")]
    grads = torch.autograd.grad(magnitudes, weights, torch.randn_like(magnitudes))
    assert sum(bool(grad.any()) for grad in grads) >= 2  # the classifier has no filters
    for weight, grad in zip(weights, grads, strict=True):
        assert float((weight.detach() * grad).sum()) == pytest.approx(0, abs=1e-12)


def test_gates_and_zeros_by_hand() -> None:
    model = tied_pair()
    mask = torch.tensor([1.0, 0.25])
    units = make_units(model, (1, 2, 2), "filter")
    # No batch norm: filters and bias are gated; hard masks also take what reads a dead channel.
    gates = {name: gate.flatten().tolist() for name, gate in units.gates(mask).items()}
    assert gates == {"a.weight": [1, 0.25], "b.weight": [1, 0.25], "b.bias": [1, 0.25]}
    zeros = {name: zero.squeeze().tolist() for name, zero in units.zeros(torch.tensor([0.0, 1.0])).items()}
    dead = [[0, 0], [0, 1]]
    assert zeros == {"a.weight": [0, 1], "b.weight": dead, "b.bias": [0, 1], "fc.weight": [[0, 1], [0, 1]],
                     "fc.bias": [1, 1]}  # fmt: skip
    weights = make_units(model, (1, 2, 2), "weight")
    numbers = torch.arange(10.0)
    assert {name: gate.flatten().tolist() for name, gate in weights.gates(numbers).items()} == {
        "a.weight": [0, 1], "b.weight": [2, 3, 4, 5], "fc.weight": [6, 7, 8, 9]
    }  # fmt: skip
    by_layer = [weights.layer_mask(layer, numbers).tolist() for layer in weights.layers]
    assert by_layer == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]


def test_excluded_layers() -> None:
    model = Mixed(*FULL)
    names = ["stem", "depthwise", "up", "down", "mid", "grouped", "fc"]
    assert [layer.name for layer in find_layers(model, SHAPE)] == names
    prunable = [layer.name for layer in find_layers(model, SHAPE, ("first", "last", "up")) if layer.prunable]
    assert prunable == ["depthwise", "down", "mid", "grouped"]
    with pytest.raises(ConfigError, match=r"budget\.exclude=stemm: .*did you mean stem\?"):
        find_layers(model, SHAPE, ("stemm",))
    with pytest.raises(ConfigError, match="leaves no convolution or linear layer"):
        find_layers(model, SHAPE, tuple(names))


def test_a_filter_gate_is_felt_behind_batch_norm_and_would_not_be_on_the_filter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip
    images, labels = torch.randn(16, *SHAPE), torch.randint(5, (16,))
    units = make_units(model, SHAPE, "filter")
    assert sorted(units.gates(torch.ones(8))) == ["1.bias", "1.weight"]

    mask = torch.full((8,), 0.5).requires_grad_()
    masked = MaskedModel(model.train(), units)
    masked.gate(mask)
    (felt,) = torch.autograd.grad(F.cross_entropy(masked(images), labels), mask)

    on_filter = torch.full((8,), 0.5).requires_grad_()
    weight, bias = model.get_parameter("0.weight"), model.get_parameter("0.bias")
    gated = {"0.weight": weight * on_filter.view(-1, 1, 1, 1), "0.bias": bias * on_filter}
    (unfelt,) = torch.autograd.grad(F.cross_entropy(functional_call(model, gated, images), labels), on_filter)
    assert bool((felt != 0).all())
    assert float(felt.norm()) > 30 * float(unfelt.norm())
