"""l1, fpgm, snip, grasp and synflow against numbers worked out by hand, explicit Hessians and conservation laws."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruner.checks import ConfigError
from pruner.config import Choice, Config
from pruner.data.imageset import TensorSet
from pruner.methods import scores
from pruner.methods.base import Setup
from pruner.methods.scores.fpgm import distances
from pruner.methods.scores.grasp import gradient_flow
from pruner.methods.scores.probing import balanced_sample
from pruner.methods.scores.synflow import absolute, flow
from pruner.models import build
from pruner.run.experiment import prepare
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units
from pruner.store.folders import RunFolder

NAMES = ["fpgm", "grasp", "l1", "snip", "synflow"]
REFUSED = ("fpgm", "weight")


def image_set(images: Tensor, labels: list[int]) -> TensorSet:
    """Images [N, C, H, W] of whole numbers, which reach the network as they are."""
    one = torch.ones(1, 1, 1)
    return TensorSet(images.to(torch.uint8).permute(0, 2, 3, 1), torch.tensor(labels), 0 * one, one, False, 0)


def setup_of(
    model: nn.Module,
    images: TensorSet,
    granularity: str = "weight",
    sparsity: float = 0.5,
    budget: str = "params",
    scope: str = "global",
    min_units: int = 1,
    seed: int = 0,
) -> Setup:
    units = make_units(model, images.shape, granularity)
    allocation = Allocation(units, budget, scope, sparsity, min_units)
    return Setup(model, allocation, 10, generator(seed, "method"), examples=images, shape=images.shape)


def linear(*rows: list[float]) -> nn.Linear:
    """A linear layer without biases of the given weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def score(setup: Setup, name: str, **options: Any) -> Tensor:
    return scores.create({"name": name, **options}, setup)()


@pytest.fixture
def two_pixels() -> Setup:
    """Images (1, 2) of class 0 and (0, 0) of class 1, and four weights for which both logits are 4 and 0."""
    images = image_set(torch.tensor([[[[1, 2]]], [[[0, 0]]]]), [0, 1])
    return setup_of(nn.Sequential(nn.Flatten(), linear([2, 1], [0, 2])), images)


@pytest.fixture
def resnet() -> tuple[nn.Module, TensorSet]:
    """A narrow ResNet-20 as if it were trained: no batch norm is at its start."""
    torch.manual_seed(3)
    model = build(Choice("resnet20", "resnet20", {"width": 4}), (3, 8, 8), 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model, image_set(torch.randint(0, 9, (60, 3, 8, 8)), [i % 5 for i in range(60)])


# l1


def test_l1_of_filters() -> None:
    """Filters of (7, 3) and (2) in layers whose |w| is 10/8 and 2/2 on average; the second one's out goes nowhere."""
    first, second = nn.Conv2d(1, 2, 2), nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[[[3.0, -4.0], [0.0, 0.0]]], [[[1.0, -1.0], [1.0, 0.0]]]]))
        second.weight.copy_(torch.tensor([[[[1.0]], [[-1.0]]]]))
    model = nn.Sequential(first, second, nn.Flatten(), nn.Linear(1, 2))
    setup = setup_of(model, image_set(torch.zeros(1, 1, 2, 2), [0]), "filter", sparsity=0.2)
    assert score(setup, "l1").tolist() == pytest.approx([7 / 4 / (10 / 8), 3 / 4 / (10 / 8), 1.0])


def test_l1_of_weights_is_their_magnitude(two_pixels: Setup) -> None:
    assert score(two_pixels, "l1").tolist() == pytest.approx([2, 1, 0, 2])


# fpgm


def test_fpgm_distances() -> None:
    """The points (0, 0), (3, 4), (0, 8): 5 + 8, 5 + 5 and 8 + 5 apart, 12 on average."""
    weight = torch.tensor([[0.0, 0], [3, 4], [0, 8]]).view(3, 2, 1, 1)
    assert distances(weight).tolist() == pytest.approx([13 / 12, 10 / 12, 13 / 12])
    assert distances(torch.ones(3, 2, 1, 1)).tolist() == [0, 0, 0]


def test_fpgm_tells_close_filters_apart() -> None:
    """Far from the origin, products of filters have no digits left for a distance of 0.001."""
    weight = torch.full((30, 8, 1, 1), 5.0)
    weight[0, 0] += 2**-10
    assert distances(weight).tolist() == pytest.approx([29 / (58 / 30), *[1 / (58 / 30)] * 29])


class Residual(nn.Module):
    """Two convolutions whose channels are tied by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_fpgm_adds_up_over_tied_layers() -> None:
    model = Residual()
    with torch.no_grad():
        model.stem.weight.copy_(torch.tensor([0.0, 1, 4]).view(3, 1, 1, 1))  # 5, 4 and 7 apart: 16/3 on average
        model.branch.weight.copy_(torch.tensor([[0.0, 0, 0], [3, 4, 0], [0, 8, 0]]).view(3, 3, 1, 1))
    setup = setup_of(model, image_set(torch.zeros(1, 1, 2, 2), [0]), "filter")
    expected = [5 / (16 / 3) + 13 / 12, 4 / (16 / 3) + 10 / 12, 7 / (16 / 3) + 13 / 12]
    assert score(setup, "fpgm").tolist() == pytest.approx(expected)


def test_fpgm_needs_filters(two_pixels: Setup) -> None:
    with pytest.raises(ConfigError, match=r"method\.score\.name=fpgm: compares filters; use granularity=filter"):
        score(two_pixels, "fpgm")


# The sample of images


def test_a_balanced_sample(resnet: tuple[nn.Module, TensorSet], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty images of five classes, one of which has three: four of each, but of that all three."""
    monkeypatch.setattr("pruner.methods.scores.probing._BATCH", 6)
    model, _ = resnet
    labels = [4] * 3 + [i % 4 for i in range(58)]  # 61 in all, a prime: nothing is left over in batches of one
    images = image_set(torch.arange(61).view(61, 1, 1, 1).expand(61, 3, 8, 8), labels)
    samples = []
    for seed in (0, 0, 1):
        batches = balanced_sample(setup_of(model, images, seed=seed), 4)
        assert [len(x) for x, _ in batches] == [len(y) for _, y in batches] == [5, 5, 5, 4]
        taken, found = torch.cat([x for x, _ in batches])[:, 0, 0, 0].long(), torch.cat([y for _, y in batches])
        assert found.tolist() == [labels[index] for index in taken.tolist()]
        assert torch.bincount(found).tolist() == [4, 4, 4, 4, 3]
        assert len(taken.unique()) == 19
        samples.append(taken.tolist())
    assert samples[0] == samples[1]
    assert sorted(samples[0]) != sorted(samples[2])


def test_scores_that_probe_need_images(two_pixels: Setup) -> None:
    setup = Setup(two_pixels.model, two_pixels.allocation, 1, generator(0))
    for name in ("snip", "grasp", "synflow"):
        with pytest.raises(ValueError, match=r"examples|shape"):
            score(setup, name)


def test_answers_are_computed_as_the_run_computes(two_pixels: Setup) -> None:
    """With one bit all weights that are left are their mean: 5/3 of 2, 1 and 2; their sign counts 0 as positive."""
    image = torch.tensor([[[[1.0, 2.0]]]])
    found = replace(two_pixels, bits=1).logits(torch.tensor([1.0, 1, 0, 1]), image)
    assert found.flatten().tolist() == pytest.approx([5, 10 / 3])
    coarse = replace(two_pixels, precision="bfloat16").logits(torch.ones(4), image * 1.001)  # which is 1 and 2 there
    assert (coarse.tolist(), coarse.dtype) == ([[4, 4]], torch.float32)


# snip


def test_snip_by_hand(two_pixels: Setup) -> None:
    """Equal logits: p = 1/2, dL/dz = (-1/2, 1/2) for the image (1, 2), and nothing from the other of the two."""
    assert score(two_pixels, "snip", per_class=1).tolist() == pytest.approx([0.5, 0.5, 0, 1])


def test_snip_adds_up_gradients_before_their_size_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal logits again, now 4 for (1, 2) and 8 for (2, 4), one batch each, which pull in opposite ways.

    dL/dw = (-1/2, 1/2) (1, 2) / 2 + (1/2, -1/2) (2, 4) / 2 = (1/4, -1/4) (1, 2).
    """
    monkeypatch.setattr("pruner.methods.scores.probing._BATCH", 1)
    images = image_set(torch.tensor([[[[1, 2]]], [[[2, 4]]]]), [0, 1])
    setup = setup_of(nn.Sequential(nn.Flatten(), linear([2, 1], [0, 2])), images)
    assert score(setup, "snip", per_class=1).tolist() == pytest.approx([1 / 2, 1 / 2, 0, 1])


def test_snip_is_weight_times_gradient(resnet: tuple[nn.Module, TensorSet]) -> None:
    """On all the images, and the sum of both products at a batch norm for a filter."""
    model, images = resnet
    x, y = next(images.batches(60))
    model.eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(F.cross_entropy(model(x), y), parameters), strict=True))
    products = {name: parameter.detach() * grads[name] for name, parameter in model.named_parameters()}

    setup = setup_of(model, images)
    torch.testing.assert_close(score(setup, "snip", per_class=12), setup.units.sum_over(products).abs())

    setup = setup_of(model, images, "filter")
    inner = next(group for group in setup.units.groups if group.name == "layer2.1.conv1")
    expected = (products["layer2.1.bn1.weight"] + products["layer2.1.bn1.bias"]).abs()
    torch.testing.assert_close(score(setup, "snip", per_class=12)[inner.start : inner.stop], expected)


# grasp


def test_grasp_by_hand(two_pixels: Setup) -> None:
    """With A = diag(p) - p p' of entries +-1/4, a mean over two images of which one is zero, and T = 2:

    g = (-1/2, 1/2) x / T / 2; H g = (A (-1/2, 1/2)) x |x|^2 / T^3 / 4 = (-1/4, 1/4) (1, 2) 5 / 32.
    """
    expected = [2 * -5 / 128, 1 * -10 / 128, 0, 2 * 10 / 128]
    assert score(two_pixels, "grasp", per_class=1, temperature=2.0).tolist() == pytest.approx(expected)


def explicit(model: nn.Module, x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """w * (H g) over all parameters [parameters], by way of the whole Hessian."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, named, (x,)) / temperature, y)

    hessian: Any = torch.autograd.functional.hessian(loss, flat)
    return flat * (hessian @ torch.func.grad(loss)(flat))


def test_grasp_against_the_whole_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3, bias=False)
    ).double()  # fmt: skip
    x, y = torch.randn(7, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    units = make_units(model.float(), (1, 3, 3), "weight")
    found = gradient_flow(model.double(), units, [(x[:4], y[:4]), (x[4:], y[4:])], 3.0)
    torch.testing.assert_close(found, explicit(model, x, y, 3.0), rtol=1e-10, atol=1e-16)
    assert float(found.abs().max()) > 1e-6


def test_grasp_of_filters_is_the_slope_of_the_gradient_flow() -> None:
    """Half the squared gradient of the prunable weights, as the gate at the batch norm moves."""
    torch.manual_seed(1)
    norm, bare = nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)
    nn.init.uniform_(norm.bias, 0.2, 0.5)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), norm, nn.Tanh(), bare, nn.Tanh(), nn.Flatten(), nn.Linear(2, 2)).eval()
    units = make_units(model, (1, 3, 3), "filter")
    model.double()
    x, y = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    weights = [model.get_parameter(f"{index}.weight") for index in (0, 3, 6)]

    def half_square(unit: int, gate: float) -> float:
        module: nn.Module = norm if unit < 3 else bare
        places = [module.get_parameter(name) for name in ("weight", "bias")]
        kept = [place.detach().clone() for place in places]
        with torch.no_grad():
            for place in places:
                place[unit % 3] *= gate
        grads = torch.autograd.grad(F.cross_entropy(model(x) / 5, y), weights)
        with torch.no_grad():
            for place, value in zip(places, kept, strict=True):
                place.copy_(value)
        return sum(float(grad.square().sum()) for grad in grads) / 2

    step = 1e-5
    slopes = [(half_square(unit, 1 + step) - half_square(unit, 1 - step)) / (2 * step) for unit in range(5)]
    assert gradient_flow(model, units, [(x, y)], 5.0).tolist() == pytest.approx(slopes, rel=1e-7)


def test_grasp_normalises_by_the_batch(resnet: tuple[nn.Module, TensorSet]) -> None:
    """Running statistics make no difference to it; to snip they do."""
    model, images = resnet
    before = {name: score(setup_of(model, images), name) for name in ("grasp", "snip")}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean += 0.5
    after = {name: score(setup_of(model, images), name) for name in before}
    assert torch.equal(before["grasp"], after["grasp"])
    assert not torch.allclose(before["snip"], after["snip"])


class Attention(nn.Module):
    """One head over four tokens of four pixels, by torch's own attention or spelled out."""

    def __init__(self, spelled_out: bool):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.spelled_out = spelled_out

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.spelled_out:
            mixed = torch.softmax(q @ k.mT / 2, dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.head(mixed.mean(1))


def test_grasp_differentiates_attention_twice() -> None:
    torch.manual_seed(2)
    fused, spelled_out = Attention(False), Attention(True)
    spelled_out.load_state_dict(fused.state_dict())
    images = image_set(torch.randint(0, 3, (8, 1, 4, 4)), [0, 1, 2, 3] * 2)
    found, expected = (score(setup_of(model, images), "grasp", temperature=5.0) for model in (fused, spelled_out))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert float(expected[:16].abs().max()) > 1e-5  # of the queries


# synflow


@pytest.fixture
def product() -> Setup:
    """Two layers without biases: |W1| (1, 1) = (3, 3), and R = 2 * 3 + 1 * 3 = 9."""
    model = nn.Sequential(nn.Flatten(), linear([1, -2], [3, 0]), nn.ReLU(), linear([2, -1]))
    return setup_of(model, image_set(torch.zeros(1, 1, 1, 2), [0]))


def flow_of(setup: Setup, mask: Tensor) -> Tensor:
    image = torch.ones(1, *setup.shape, dtype=torch.float64)
    return flow(setup.model, absolute(setup.model), setup.units, image, mask)


def test_flow_by_hand(product: Setup) -> None:
    assert flow_of(product, torch.ones(6)).tolist() == [1 * 2, 2 * 2, 3 * 1, 0, 2 * 3, 1 * 3]
    assert flow_of(product, torch.tensor([1.0, 0, 1, 1, 1, 1])).tolist() == [2, 0, 3, 0, 2, 3]
    assert flow_of(product, torch.tensor([1.0, 1, 1, 1, 0, 1])).tolist() == [0, 0, 3, 0, 0, 3]


def test_synflow_by_hand(product: Setup) -> None:
    """Keep 3 of 6 in two rounds, of 6 and then of floor(6 sqrt(1/2)) = 4: [2, 4, 3, 0, 6, 3] loses the 0 and the 2.

    What is left flows [-, 4, 3, -, 4, 3] (the second layer's first weight gets 2 now), of which three stay; the third
    and the sixth tie, and the first of them goes on.
    """
    found = score(product, "synflow", rounds=2)
    assert product.allocation.hard(found).tolist() == [0, 1, 1, 0, 1, 0]
    assert found.floor().tolist() == [0, 2, 2, 0, 2, 1]
    assert found.argsort(descending=True).tolist() == [1, 4, 2, 5, 0, 3]


def test_flow_is_conserved() -> None:
    """Without biases every layer's scores sum to R, whatever the mask; a trained batch norm's do not count."""
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(4), nn.BatchNorm2d(5)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), norms[0], nn.ReLU(), nn.Conv2d(4, 5, 3), norms[1], nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.uniform_(norm.bias, -1, 1)
        norm.running_mean.uniform_(5, 9)
        norm.running_var.uniform_(0.5, 2)
    model.eval()
    images = image_set(torch.zeros(1, 2, 6, 6), [0])
    for granularity, layers in (("weight", 4), ("filter", 2)):
        setup = setup_of(model, images, granularity)
        for mask in (torch.ones(setup.units.n), (torch.arange(setup.units.n) % 3 > 0).float()):
            found = flow_of(setup, mask)
            sums = [float(found[group.start : group.stop].sum()) for group in setup.units.groups]
            assert len(sums) == layers
            assert sums == pytest.approx([sums[0]] * layers, rel=1e-12)
            assert sums[0] > 0


def chain() -> tuple[nn.Module, TensorSet]:
    """A wide network with a waist of 3, and biases that drown what comes from the layers before."""
    torch.manual_seed(0)
    widths = [16, 64, 3, 64, 64, 4]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *layers)
    for layer in layers[::2]:
        nn.init.constant_(layer.get_parameter("bias"), 3.0)
    return model, image_set(torch.zeros(1, 1, 4, 4), [0])


@pytest.mark.parametrize("sparsity", [0.9, 0.99, 0.999])
def test_synflow_empties_no_layer(sparsity: float) -> None:
    """Down to 5 weights for 5 layers, with nothing that protects them: a path is left through all. One round fails."""
    setup = setup_of(*chain(), sparsity=sparsity, min_units=0)

    def kept(rounds: int) -> tuple[Tensor, list[int]]:
        mask = setup.allocation.hard(score(setup, "synflow", rounds=rounds))
        return mask, [int(mask[group.start : group.stop].sum()) for group in setup.units.groups]

    mask, counts = kept(100)
    assert min(counts) >= 1
    assert float(flow_of(setup, mask).sum()) > 0
    if sparsity >= 0.99:
        assert min(kept(1)[1]) == 0


@pytest.mark.parametrize(
    ("granularity", "budget", "scope"),
    [("weight", "params", "global"), ("weight", "macs", "layer"), ("filter", "macs", "global")],
)
def test_synflow_never_looks_back(
    granularity: str,
    budget: str,
    scope: str,
    resnet: tuple[nn.Module, TensorSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Round e keeps rho^(e/n); what is dropped stays so; and the scores give the last of the masks."""
    setup = setup_of(*resnet, granularity, 0.8, budget, scope)
    rounds: list[tuple[float | None, Tensor]] = []
    hard = Allocation.hard

    def watched(self: Allocation, scores: Tensor, sparsity: float | None = None) -> Tensor:
        mask = hard(self, scores, sparsity)
        rounds.append((sparsity, mask))
        return mask

    monkeypatch.setattr(Allocation, "hard", watched)
    found = score(setup, "synflow", rounds=8)
    monkeypatch.undo()
    assert [sparsity for sparsity, _ in rounds[:-1]] == pytest.approx([1 - 0.2 ** (e / 8) for e in range(1, 8)])
    assert rounds[-1][0] is None
    masks = [mask.bool() for _, mask in rounds]
    for before, after in itertools.pairwise(masks):
        assert not bool((after & ~before).any())
    assert torch.equal(setup.allocation.hard(found).bool(), masks[-1])
    assert torch.equal(found.floor(), torch.stack(masks).sum(0).float())


# All of them


@pytest.mark.parametrize(
    ("name", "granularity"),
    [(name, granularity) for name in NAMES for granularity in ("weight", "filter") if (name, granularity) != REFUSED],
)
def test_the_model_is_left_alone(name: str, granularity: str, resnet: tuple[nn.Module, TensorSet]) -> None:
    model, images = resnet
    setups = [setup_of(model, images, granularity) for _ in range(2)]
    model.train()
    model.get_submodule("layer2").eval()  # as somebody might who freezes its statistics
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options: Mapping[str, Any] = {"synflow": {"rounds": 3}}.get(name, {})

    found, again = (score(setup, name, **options) for setup in setups)
    assert found.shape == (setups[0].units.n,)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert bool(found.isfinite().all())
    assert len(found.unique()) > 10
    assert torch.equal(found, again)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.track_running_stats for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("snip", {"per_class": 0}, r"method\.score\.per_class=0: 1 or more"),
        ("grasp", {"per_class": 0}, r"method\.score\.per_class=0: 1 or more"),
        ("grasp", {"temperature": 0.0}, r"method\.score\.temperature=0\.0: above 0"),
        ("synflow", {"rounds": 0}, r"method\.score\.rounds=0: 1 or more"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str, two_pixels: Setup) -> None:
    """When the score is made, before it is asked for anything."""
    with pytest.raises(ConfigError, match=rf"^{message}$"):
        scores.create({"name": name, **options}, two_pixels)


def test_wrong_options_are_refused_before_any_work(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config("synflow", options={"score": {"name": "synflow", "rounds": 0}})
    with pytest.raises(ConfigError, match=r"^method\.score\.rounds=0: 1 or more$"):
        prepare(config)
    assert not Path(config.output_dir).exists()


class Scaled:
    """A user's own score: multiples of the weights, which it does not detach."""

    def __init__(self, by: float):
        self.by = by

    def __call__(self, setup: Setup) -> Tensor:
        return self.by * setup.magnitudes()


def scaled(setup: Setup) -> Tensor:
    return setup.magnitudes()


class Silent:
    """No score, for it cannot be called."""


def test_a_users_own_score(two_pixels: Setup) -> None:
    found = score(two_pixels, f"{__name__}:Scaled", by=3)
    assert (found.tolist(), found.requires_grad) == ([6, 3, 0, 6], False)
    with pytest.raises(ConfigError, match=r"^method\.score\.by: missing; give it a value$"):
        scores.create(f"{__name__}:Scaled", two_pixels)


@pytest.mark.parametrize("name", ["scaled", "Silent"])
def test_what_is_no_score(name: str, two_pixels: Setup) -> None:
    said = rf"^method\.score\.name=\S+:{name}: expected a class with __call__\(self, setup\) -> Tensor \[n\]$"
    with pytest.raises(ConfigError, match=said):
        scores.create(f"{__name__}:{name}", two_pixels)


@pytest.mark.parametrize("name", NAMES)
def test_its_yaml_runs(name: str, tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder]) -> None:
    row = finish(tiny_config(name, granularity="filter" if name in ("fpgm", "l1") else "weight")).finished()
    assert row is not None
    assert (row["status"], row["method"]) == ("done", name)
    assert 0.5 <= row["achieved_sparsity"] < 0.52
