"""Published sizes, smallest images and options of the networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import BUILTIN, WITHOUT_FILTERS, build

DIGITS, MNIST, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)


def choice(name: str, **options: Any) -> Choice:
    return Choice(name, name, options)


def size(name: str, shape: tuple[int, int, int], classes: int, **options: Any) -> tuple[int, int]:
    """(parameters, multiply-adds of one image), by counters that pruner does not use."""
    with torch.device("meta"):
        model = build(choice(name, **options), shape, classes).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def cifar_resnet(blocks: int, shortcut: str) -> tuple[int, int]:
    """Parameters and multiply-adds of a CIFAR ResNet for 10 classes, by hand."""
    weights = [(27 * 16, 32)]  # (weights of a convolution, side of its output)
    for stage, (channels, side) in enumerate([(16, 32), (32, 16), (64, 8)]):
        before = channels if stage == 0 else channels // 2
        weights += [(9 * before * channels, side)] + [(9 * channels * channels, side)] * (2 * blocks - 1)
        if stage and shortcut == "conv":
            weights.append((before * channels, side))
    norms = 2 * (16 + 2 * blocks * (16 + 32 + 64) + (96 if shortcut == "conv" else 0))
    parameters = sum(count for count, _ in weights) + norms + 64 * 10 + 10
    return parameters, sum(count * side * side for count, side in weights) + 64 * 10


def cifar_resnet18() -> tuple[int, int]:
    """Parameters and multiply-adds of ResNet-18 for 10 classes of 32x32 images, by hand."""
    parameters, macs = 27 * 64 + 2 * 64, 27 * 64 * 32**2
    for channels, side in [(64, 32), (128, 16), (256, 8), (512, 4)]:
        before = max(64, channels // 2)
        weights = 9 * channels * (before + 3 * channels) + (before * channels if channels > 64 else 0)
        parameters += weights + 2 * channels * (4 if channels == 64 else 5)
        macs += weights * side**2
    return parameters + 513 * 10, macs + 512 * 10


def imagenet_resnet18() -> tuple[int, int]:
    """Parameters and multiply-adds of ResNet-18 for 1000 classes, by hand."""
    parameters, macs = 49 * 3 * 64 + 2 * 64, 49 * 3 * 64 * 112**2
    for channels, side in [(64, 56), (128, 28), (256, 14), (512, 7)]:
        before = max(64, channels // 2)
        weights = 9 * channels * (before + 3 * channels) + (before * channels if channels > 64 else 0)
        parameters += weights + 2 * channels * (4 if channels == 64 else 5)
        macs += weights * side**2
    return parameters + 513 * 1000, macs + 512 * 1000


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet32", 5), ("resnet56", 9), ("resnet110", 18)])
def test_cifar_resnets_have_the_size_derived_by_hand(name: str, blocks: int, shortcut: str) -> None:
    assert size(name, CIFAR, 10, shortcut=shortcut) == cifar_resnet(blocks, shortcut)


def test_published_sizes_of_cifar_resnets() -> None:
    assert cifar_resnet(3, "conv") == (272_474, 40_813_184)
    assert cifar_resnet(3, "pad") == (269_722, 40_551_040)
    # He et al. count the shortcuts without parameters; 125.7M is with 1x1 convolutions
    published = {3: "0.27", 5: "0.46", 9: "0.85", 18: "1.73"}
    assert {blocks: f"{cifar_resnet(blocks, 'pad')[0] / 1e6:.2f}" for blocks in published} == published
    assert cifar_resnet(5, "conv") == (466_906, 69_124_736)
    assert cifar_resnet(9, "conv") == (855_770, 125_747_840)
    assert cifar_resnet(18, "conv") == (1_730_714, 253_149_824)


def test_published_size_of_resnet18_for_cifar() -> None:
    assert size("resnet18_cifar", CIFAR, 10) == cifar_resnet18() == (11_173_962, 555_422_720)


def test_sizes_of_lenets() -> None:
    assert size("lenet_300_100", MNIST, 10) == (266_610, 784 * 300 + 300 * 100 + 100 * 10)
    convolutions = 25 * 20 * 24**2 + 25 * 20 * 50 * 8**2
    assert size("lenet5", MNIST, 10) == (431_080, convolutions + 800 * 500 + 500 * 10)


@pytest.mark.parametrize(
    ("name", "per_stage", "published"),
    [("vgg16", (2, 2, 3, 3, 3), (14.7, 313.2)), ("vgg19", (2, 2, 4, 4, 4), (20.0, 398.1))],
)
def test_sizes_of_vggs(name: str, per_stage: tuple[int, ...], published: tuple[float, float]) -> None:
    before, parameters, macs = 3, 512 * 10 + 10, 512 * 10
    for stage, (channels, convolutions) in enumerate(zip((64, 128, 256, 512, 512), per_stage, strict=True)):
        weights = 9 * channels * (before + (convolutions - 1) * channels)
        parameters += weights + 2 * channels * convolutions
        macs += weights * (32 >> stage) ** 2
        before = channels
    assert size(name, CIFAR, 10) == (parameters, macs)
    assert (round(parameters / 1e6, 1), round(macs / 1e6, 1)) == published


def test_published_sizes_of_torchvision_models() -> None:
    assert size("torchvision", IMAGENET, 1000, arch="resnet18") == imagenet_resnet18() == (11_689_512, 1_814_073_344)
    assert size("torchvision", IMAGENET, 1000, arch="resnet50") == (25_557_032, 4_089_184_256)
    assert size("torchvision", IMAGENET, 1000, arch="mobilenet_v2") == (3_504_872, 300_774_272)


SMALLEST: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "lenet_300_100": ((1, 1, 1), {}),
    "lenet5": ((1, 16, 16), {}),
    "resnet18_cifar": ((1, 5, 4), {"width": 2}),
    "resnet20": ((2, 4, 5), {"shortcut": "pad", "width": 3}),
    "resnet32": (DIGITS, {"width": 2}),
    "resnet56": (DIGITS, {"width": 2}),
    "resnet110": (DIGITS, {"width": 2, "shortcut": "pad"}),
    "vgg16": (CIFAR, {"width": 0.05}),
    "vgg19": ((1, 32, 33), {"width": 0.05}),
    "torchvision": (CIFAR, {"arch": "mobilenet_v2"}),
    "vit": ((2, 8, 8), {"patch": 4, "dim": 8, "depth": 2, "heads": 2, "mlp": 12}),
}


@pytest.mark.parametrize("name", BUILTIN)
def test_forward_and_backward_on_the_smallest_image(name: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape, options = SMALLEST[name]
    model = build(choice(name, **options), shape, classes=7)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(isinstance(layer, nn.Conv2d) for layer in model.modules()) == (name not in WITHOUT_FILTERS)


def test_the_same_seed_gives_the_same_network() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(choice("resnet20", width=2), DIGITS, 10).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_pad_shortcut_subsamples_and_appends_zero_channels() -> None:
    block = build(choice("resnet20", shortcut="pad", width=2), CIFAR, 10).get_submodule("layer2.0.shortcut")
    images = torch.randn(1, 2, 5, 7)
    shortcut = block(images, torch.zeros(1, 4, 3, 4))
    assert shortcut.shape == (1, 4, 3, 4)
    assert torch.equal(shortcut[:, :2], images[:, :, ::2, ::2])
    assert not shortcut[:, 2:].any()


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("resnet18", CIFAR, {}, "model=resnet18: choose one of"),
        ("vgg16", DIGITS, {}, "model=vgg16: takes images of 32x32 or larger; these are 8x8"),
        ("lenet5", (1, 16, 15), {}, "model=lenet5: takes images of 16x16 or larger; these are 16x15"),
        ("lenet5", MNIST, {"width": 3}, "model.width=3: no such key; lenet5 takes no options"),
        ("resnet20", CIFAR, {"widht": 3}, "model.widht=3: no such key; resnet20 takes shortcut, width .*model.width"),
        ("resnet20", CIFAR, {"classes": 3}, "model.classes=3: no such key"),
        ("resnet20", CIFAR, {"shortcut": "cnv"}, "model.shortcut=cnv: choose one of conv, pad .*conv"),
        ("resnet20", CIFAR, {"shortcut": 1}, "model.shortcut=1: expected a word"),
        ("resnet20", CIFAR, {"width": "wide"}, "model.width=wide: expected a whole number"),
        ("resnet20", CIFAR, {"width": 0}, "model.width=0: a whole number, 1 or more"),
        ("vgg19", CIFAR, {"width": 0}, "model.width=0.0: a number above 0"),
        ("vgg19", CIFAR, {"width": "wide"}, "model.width=wide: expected a number"),
        ("torchvision", CIFAR, {}, "model.arch: missing"),
        ("torchvision", CIFAR, {"arch": "resnt18"}, "model.arch=resnt18: not a classification model.*resnet18"),
        ("torchvision", CIFAR, {"arch": ["resnet18"]}, "model.arch=.*: expected a word"),
        ("torchvision", MNIST, {"arch": "resnet18"}, "take 3 channels; these images are 1x28x28"),
        ("torchvision", CIFAR, {"arch": "alexnet"}, "model.arch=alexnet: .*3x32x32.* from 63x63"),
        ("torchvision", (3, 40, 40), {"arch": "vit_b_16"}, "model.arch=vit_b_16: does not take images of 3x40x40"),
        ("torchvision", CIFAR, {"arch": "resnet18", "weights": 3}, "model.weights=3: expected a word"),
        ("torchvision", CIFAR, {"arch": "resnet18", "weights": "no.pth"}, "model.weights=no.pth: there is no such"),
        ("torchvision", CIFAR, {"arch": "resnet18", "weights": "IMAGENET1K"}, "model.weights=IMAGENET1K: expected"),
        ("unittest.mock:Mock", CIFAR, {}, "model=unittest.mock:Mock: gives a Mock, not an nn.Module"),
    ],
)
def test_wrong_input_gives_one_line(name: str, shape: Any, options: dict[str, Any], words: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=words) as error:
        build(choice(name, **options), shape, 10)
    assert "\n" not in str(error.value)
