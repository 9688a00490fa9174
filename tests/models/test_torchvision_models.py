"""torchvision's models: their names, that each can be built, and where their weights come from."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import nn
from torchvision.models import regnet

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.models import build, check_arch, torchvision_names
from tests import zoo

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


def pretrained(arch: str, weights: str | None = None) -> Choice:
    return Choice("mine", "torchvision", {"arch": arch, "weights": weights})


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors take no memory, but for the few with which RegNet computes its widths."""
    widths = regnet.BlockParams.from_init_params

    def on_cpu(**options: Any) -> Any:
        with torch.device("cpu"):
            return widths(**options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)
    with torch.device("meta"):
        yield


def test_names_are_those_of_torchvision() -> None:
    assert torchvision_names() == torchvision.models.list_models(module=torchvision.models)


# One of each family; and those of whose published numbers something is taken.
FAMILIES = zoo.QUICK | {
    "alexnet",
    "inception_v3",
    "maxvit_t",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
    "vit_h_14",
}


@pytest.mark.parametrize(
    "arch", [pytest.param(name, marks=[] if name in FAMILIES else pytest.mark.long) for name in torchvision_names()]
)
def test_every_torchvision_model_builds_with_its_published_size(arch: str, meta: None) -> None:
    model = build(pretrained(arch), IMAGENET, 1000)
    published = torchvision.models.get_model_weights(arch).DEFAULT.meta["num_params"]
    if arch == "inception_v3":
        published -= 3_326_696  # its auxiliary classifier, left out here: 1x1 768-128, 5x5 128-768, 768-1000
    if arch == "vit_h_14":
        published -= (37**2 - 16**2) * 1280  # position embeddings: published for 518x518 images, here 224x224
    assert sum(p.numel() for p in model.parameters()) == published
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    assert len(head.weight) == 1000  # what loading weights takes for the final classifier
    assert model.training


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_classifiers_answer_with_a_tensor_in_training(arch: str, meta: None) -> None:
    model = build(pretrained(arch), (3, 96, 96), 10)
    assert model.train()(torch.empty(2, 3, 96, 96)).shape == (2, 10)


SMALL = pretrained("squeezenet1_1")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(3)
    return build(SMALL, CIFAR, 10)


def save(tensors: dict[str, torch.Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_come_back(arch: str, suffix: str, tmp_path: Path) -> None:
    first = build(pretrained(arch), CIFAR, 10)
    path = save(first.state_dict(), tmp_path / f"weights{suffix}")
    second = build(pretrained(arch, path), CIFAR, 10)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_weights_for_other_classes_leave_only_the_classifier_fresh(trained: nn.Module, tmp_path: Path) -> None:
    path = save(trained.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(4)
    model = build(pretrained("squeezenet1_1", path), CIFAR, 3)
    torch.manual_seed(4)
    fresh = build(SMALL, CIFAR, 3)
    for name, tensor in model.state_dict().items():
        source = fresh if name.startswith("classifier.1.") else trained
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_files_of_older_densenets_load(tmp_path: Path) -> None:
    densenet = build(pretrained("densenet121"), CIFAR, 10).state_dict()
    old = {name: tensor for name, tensor in densenet.items() if "num_batches_tracked" not in name}
    for part in ("norm", "conv"):
        for number in "12":
            old = {name.replace(f".{part}{number}.", f".{part}.{number}."): tensor for name, tensor in old.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    path = save(old, tmp_path / "densenet.pth")
    loaded = build(pretrained("densenet121", path), CIFAR, 10).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in densenet.items())


def test_default_weights_are_torchvisions_best(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchvision.models.squeezenet1_1(num_classes=1000).state_dict()
    enum = torchvision.models.SqueezeNet1_1_Weights
    asked = []

    def download(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(self)
        return theirs

    monkeypatch.setattr(enum, "get_state_dict", download)
    model = build(pretrained("squeezenet1_1", "default"), CIFAR, 10).state_dict()
    assert asked == [enum.DEFAULT]
    assert torch.equal(model["features.0.weight"], theirs["features.0.weight"])
    assert len(model["classifier.1.weight"]) == 10


def test_no_network_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", download)
    with pytest.raises(ConfigError, match=r"^model.weights=default: no download \(.*no route.*squeezenet1_1.*pth"):
        build(pretrained("squeezenet1_1", "default"), CIFAR, 10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_another_network_give_one_line(suffix: str, trained: nn.Module, tmp_path: Path) -> None:
    tensors = trained.state_dict()
    first = "features.0.weight"
    wrong = {
        "lacks 1 tensors of squeezenet1_1: features.0.weight": {k: v for k, v in tensors.items() if k != first},
        "has 1 tensors unknown to squeezenet1_1: more": tensors | {"more": torch.zeros(1)},
        r"features.0.weight has the shape \[2, 3, 3, 3\]": tensors | {first: torch.zeros(2, 3, 3, 3)},
        r"classifier.1.weight has the shape \[10, 4, 1, 1\]": tensors
        | {"classifier.1.weight": torch.zeros(10, 4, 1, 1)},
    }
    for words, changed in wrong.items():
        path = save(changed, tmp_path / f"weights{suffix}")
        with pytest.raises(ConfigError, match=words):
            build(pretrained("squeezenet1_1", path), CIFAR, 10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00", b"PK\x03\x04 cut off", bytes(range(256)) * 9])
def test_unreadable_weights_give_one_line(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.weights=.*: cannot be read as") as error:
        build(pretrained("squeezenet1_1", str(path)), CIFAR, 10)
    assert "\n" not in str(error.value)


def test_files_that_hold_more_than_tensors_are_refused(trained: nn.Module, tmp_path: Path) -> None:
    for number, content in enumerate([trained, {"state_dict": trained.state_dict()}, [1, 2]]):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        with pytest.raises(ConfigError, match=r"cannot be read as pth|expected a file of tensors by name"):
            build(pretrained("squeezenet1_1", str(path)), CIFAR, 10)


def test_names_are_known_without_torch_and_at_once() -> None:
    code = (
        "import sys, pruner.models as m; names = m.torchvision_names(); m.check_arch('resnet18');"
        "print(len(names), [name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == f"{len(torchvision_names())} []"
    torchvision_names.cache_clear()
    start = time.perf_counter()
    torchvision_names()
    assert time.perf_counter() - start < 0.5
    with pytest.raises(ConfigError, match=r"model.arch=zzz: .* such as"):
        check_arch("zzz")
