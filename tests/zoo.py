"""torchvision's families of classification networks, and what can be pruned of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from pruner.config import Choice


@dataclass(frozen=True)
class Known:
    """For 10 classes: the smallest side of an image; how many filters can go, or what keeps them; prunable weights."""

    side: int
    filters: int | str
    weights: int


# Single numbers of filters were found by tracing, and those of one network of each kind added up as the comment says.
NETWORKS: dict[str, Known] = {
    "alexnet": Known(63, 64 + 192 + 384 + 256 + 256, 57_035_456),
    "convnext_tiny": Known(32, "native_layer_norm", 27_763_680),
    "densenet121": Known(29, 64 + 58 * (128 + 32) + 128 + 256 + 512, 6_880_448),  # stem, layers of two, transitions
    "densenet169": Known(29, 64 + 82 * (128 + 32) + 128 + 256 + 640, 12_342_720),
    # Stem, head, streams, expansions (tied by depthwise), squeezes (fc1); what makes a product or a sum is tied to it.
    "efficientnet_b0": Known(1, 11_404, 3_968_992),
    "efficientnet_b1": Known(1, 16_208, 6_449_776),
    "efficientnet_v2_s": Known(1, 38_784, 20_001_224),
    "googlenet": Known(15, 7_280, 5_595_584),  # all convolutions: nothing is tied
    "inception_v3": Known(75, 17_216, 21_771_616),  # likewise
    "maxvit_t": Known(224, 11_552, 30_250_176),  # insides of the convolutional blocks; streams meet layer norms
    "mnasnet0_5": Known(1, 5_744, 929_688),
    "mnasnet0_75": Known(1, 8_016, 1_872_200),
    "mnasnet1_0": Known(1, 10_024, 3_077_192),
    "mnasnet1_3": Known(1, 12_720, 4_965_240),
    "mobilenet_v2": Known(1, 32 + 712 + 7104 + 1280, 2_202_560),  # stem, streams, expansions, head
    "mobilenet_v3_large": Known(1, 7_416, 4_184_072),
    "mobilenet_v3_small": Known(1, 3_848, 1_512_072),
    # Stem, streams, and twice a group's width in each block; with squeezes in y.
    "regnet_x_400mf": Known(1, 1_392, 5_061_120),
    "regnet_x_800mf": Known(1, 1_696, 6_556_064),
    "regnet_x_1_6gf": Known(1, 2_456, 8_242_752),
    "regnet_y_400mf": Known(1, 2_048, 3_875_184),
    "regnet_y_800mf": Known(1, 2_760, 5_619_328),
    "regnet_y_1_6gf": Known(1, 4_582, 10_259_472),
    "resnet18": Known(1, 3 * (64 + 128 + 256 + 512), 11_172_032),  # a stream and two inner layers a stage; see below
    "resnet34": Known(1, (3 + 1) * 64 + (4 + 1) * 128 + (6 + 1) * 256 + (3 + 1) * 512, 21_272_768),
    # Stem, streams, and twice the inner width of each bottleneck.
    "resnet50": Known(1, 64 + 3840 + 2 * (3 * 64 + 4 * 128 + 6 * 256 + 3 * 512), 23_475_392),
    "resnet101": Known(1, 64 + 3840 + 2 * (3 * 64 + 4 * 128 + 23 * 256 + 3 * 512), 42_415_296),
    # A bottleneck's 32 groups, of 4 to 32 channels, are tied to each other.
    "resnext50_32x4d": Known(1, 64 + 3840 + 2 * (3 * 4 + 4 * 8 + 6 * 16 + 3 * 32), 22_932_160),
    "wide_resnet50_2": Known(1, 64 + 3840 + 2 * (3 * 128 + 4 * 256 + 6 * 512 + 3 * 1024), 66_786_496),
    # Stem, inside of each branch, and the last: the streams are halved and shuffled.
    "shufflenet_v2_x0_5": Known(1, 24 + 4 * 24 + 8 * 48 + 4 * 96 + 1024, 344_080),
    "shufflenet_v2_x1_0": Known(1, 24 + 4 * 58 + 8 * 116 + 4 * 232 + 1024, 1_247_664),
    "shufflenet_v2_x1_5": Known(1, 24 + 4 * 88 + 8 * 176 + 4 * 352 + 1024, 2_465_424),
    "shufflenet_v2_x2_0": Known(1, 24 + 4 * 122 + 8 * 244 + 4 * 488 + 2048, 5_331_760),
    "squeezenet1_0": Known(21, 96 + 320 + 2560, 737_568),  # the last convolution makes the logits
    "squeezenet1_1": Known(17, 64 + 320 + 2560, 724_672),
    "swin_t": Known(4, "native_layer_norm", 27_439_104),
    "swin_v2_t": Known(4, "native_layer_norm", 27_522_048),
    "vgg11": Known(32, 64 + 128 + 2 * 256 + 4 * 512, 128_796_352),
    "vgg11_bn": Known(32, 64 + 128 + 2 * 256 + 4 * 512, 128_796_352),
    "vgg13": Known(32, 2 * (64 + 128 + 256 + 2 * 512), 128_980_672),
    "vgg13_bn": Known(32, 2 * (64 + 128 + 256 + 2 * 512), 128_980_672),
    "vgg16": Known(32, 2 * (64 + 128) + 3 * (256 + 2 * 512), 134_289_088),
    "vgg19_bn": Known(32, 2 * (64 + 128) + 4 * (256 + 2 * 512), 139_597_504),
    "vit_b_16": Known(16, "add in encoder", 85_532_160),
    "vit_b_32": Known(32, "add in encoder", 87_301_632),
}

# Small ones, one of each family that has such: the rest is for `make zoo`.
QUICK = {
    "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
}  # fmt: skip


def choice(arch: str) -> Choice:
    return Choice(arch, "torchvision", {"arch": arch})


def marked(names: Iterable[str], quick: Iterable[str]) -> list[object]:
    """Names as pytest takes them, of which those that are not quick are for `make zoo`."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.zoo]) for name in names]
