"""From a choice to a dataset: names, options, validation splits, users' own classes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.data import BUILTIN, ImageData, load

FOR_EACH = "expected a number for each of 1 channels, for pixels from 0 to 1"
OWN = """
from __future__ import annotations
from pathlib import Path
import torch
from pruner.data import ImageData
from pruner.data.imageset import tensor_data


def blobs(data_dir, device, size: int = 4, **rest):
    images = torch.arange(10 * size * size).view(10, 1, size, size).to(torch.uint8)
    labels = (torch.arange(10) % 2).to(torch.uint8)
    tensors = dict(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return tensor_data(rest.get("title", "blobs"), ("even", "odd"), tensors, device, False, 0)


class Blobs(ImageData):
    def __init__(self, *, data_dir: Path, device: torch.device, size: int) -> None:
        super().__init__(**vars(blobs(data_dir, device, size)))


def prepared(data_dir, device, mean: float = 0.5):
    return blobs(data_dir, device, title=f"less {mean}")


class Counted:
    # An ImageSet of the user's own, as such were before they could be normalised in another way.
    shape = (1, 4, 4)

    def __len__(self):
        return 2


def counted(data_dir, device):
    return ImageData("counted", 2, ("even", "odd"), (0.5,), (1.0,), Counted(), Counted())


def homeless(device):
    raise AssertionError


def nothing(data_dir, device):
    return None
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_blobs.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_blobs", raising=False)
    return "own_blobs"


def get(name: str, tmp_path: Path, **options: Any) -> ImageData:
    return load(Choice("label", name, options), str(tmp_path), "cpu")


def message(name: str, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        get(name, tmp_path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_doors_are_free_of_torch() -> None:
    code = "import pruner.data, pruner.data.paths, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_every_builtin_is_there() -> None:
    import importlib

    for target in BUILTIN.values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_a_builtin_with_options(tmp_path: Path) -> None:
    data = get("synthetic", tmp_path, classes=3, channels=1, train_size=30, noise=0)
    assert (data.name, data.classes, data.shape, len(data.train)) == ("synthetic", 3, (1, 8, 8), 30)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("digitss", {}, "dataset=digitss: choose one of"),
        (
            "digits",
            {"flipp": True},
            "dataset.flipp=True: no such key; label takes flip, crop_padding (did you mean dataset.flip?)",
        ),
        ("digits", {"device": "cpu"}, "dataset.device=cpu: no such key"),
        ("digits", {"flip": "perhaps"}, "dataset.flip=perhaps: expected true or false"),
        ("digits", {"crop_padding": 1.5}, "dataset.crop_padding=1.5: expected a whole number"),
        ("digits", {"crop_padding": -1}, "dataset.crop_padding=-1: 0 or more"),
        ("digits", {"validation": "some"}, "dataset.validation=some: expected a number"),
        ("digits", {"validation": 1.0}, "dataset.validation=1.0: at least 0 and below 1"),
        ("digits", {"validation": 1e-6}, "dataset.validation=1e-06: a share of 1e-06 of 1437 images"),
        ("digits", {"mean": [0.5, 0.5]}, f"dataset.mean=[0.5, 0.5]: {FOR_EACH}"),
        ("digits", {"mean": 0.5}, "dataset.mean=0.5: expected a list, such as [1,2]"),
        ("digits", {"mean": [33.3]}, f"dataset.mean=[33.3]: {FOR_EACH}"),
        ("digits", {"std": [0]}, f"dataset.std=[0]: {FOR_EACH}"),
        ("digits", {"std": ["wide"]}, "dataset.std=wide: expected a number"),
        ("digits", {"crop_scale": [0.5, 1]}, "dataset.crop_scale=[0.5, 1]: no such key"),
        ("synthetic", {"classes": 1}, "dataset.classes=1: 2 to 256"),
        ("synthetic", {"test_size": 0}, "dataset.test_size=0: 1 or more"),
        ("synthetic", {"image_size": 0}, "dataset.image_size=0: 1 or more"),
        ("synthetic", {"noise": -0.1}, "dataset.noise=-0.1: 0 or more"),
        ("imagefolder", {}, "dataset.root: missing"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, name: str, options: dict[str, Any], expected: str) -> None:
    assert message(name, tmp_path, **options).startswith(expected)


def test_validation_stands_in_for_the_test_images(tmp_path: Path) -> None:
    whole, tuning = get("digits", tmp_path), get("digits", tmp_path, validation=0.2)
    assert (len(whole.train), len(tuning.train), len(tuning.test)) == (1437, 1150, 287)
    assert (whole.mean, whole.std) == (tuning.mean, tuning.std)

    def pictures(part: Any) -> list[bytes]:
        return [image.numpy().tobytes() for images, _ in part.batches(500) for image in images]

    assert sorted(pictures(tuning.train) + pictures(tuning.test)) == sorted(pictures(whole.train))
    again = get("digits", tmp_path, validation=0.2)
    assert pictures(again.test) == pictures(tuning.test)


def test_images_are_fed_as_weights_were_trained(tmp_path: Path) -> None:
    """Pixels less dataset.mean, over dataset.std, in all parts of a set, whatever is held out of it."""
    own = get("digits", tmp_path)
    data = get("digits", tmp_path, mean=[0.25], std=[0.5], validation=0.2)
    assert (data.mean, data.std) == ((0.25,), (0.5,))
    pixels = torch.cat([images for images, _ in own.train.batches(500)]) * own.std[0] + own.mean[0]
    expected = ((255 * pixels).round() - 255 * 0.25) / (255 * 0.5)
    found = torch.cat([images for part in (data.train, data.test) for images, _ in part.batches(500)])
    assert torch.equal(found.flatten(1).sort(0)[0], expected.flatten(1).sort(0)[0])
    assert get("digits", tmp_path, std=[1.0]).mean == own.mean  # each of the two by itself


def test_a_users_set_is_normalised_too(tmp_path: Path, own_module: str) -> None:
    assert get(f"{own_module}:blobs", tmp_path, mean=[0.0], std=[1]).std == (1.0,)
    assert get(f"{own_module}:Blobs", tmp_path, size=3, mean=[0.5]).mean == (0.5,)
    assert get(f"{own_module}:prepared", tmp_path, mean=0.1).name == "less 0.1"  # a key of its own goes first
    expected = "dataset.mean, dataset.std: Counted has no method normalised(mean, std)"
    assert message(f"{own_module}:counted", tmp_path, mean=[0.5]) == expected


def test_a_users_function_and_class(tmp_path: Path, own_module: str) -> None:
    data = get(f"{own_module}:blobs", tmp_path, size=5, title="mine", validation=0.5)
    assert (data.name, data.shape, data.labels) == ("mine", (1, 5, 5), ("even", "odd"))
    assert (len(data.train), len(data.test)) == (5, 5)
    data = get(f"{own_module}:Blobs", tmp_path, size=3, validation=0.3)
    assert (data.shape, len(data.train), len(data.test)) == ((1, 3, 3), 7, 3)
    images, _ = next(data.test.batches(4))
    assert images.device == torch.device("cpu")


def test_a_users_mistakes_are_one_line(tmp_path: Path, own_module: str) -> None:
    assert message(f"{own_module}:Blobs", tmp_path) == "dataset.size: missing; give it a value"
    assert message(f"{own_module}:Blobs", tmp_path, size="big") == "dataset.size=big: expected a whole number"
    assert message(f"{own_module}:Blobs", tmp_path, sizes=3).endswith("(did you mean dataset.size?)")
    assert "must take the argument data_dir" in message(f"{own_module}:homeless", tmp_path)
    assert "gives NoneType, expected ImageData" in message(f"{own_module}:nothing", tmp_path)
    assert "expected a class or a function" in message(f"{own_module}:__name__", tmp_path)
    assert "own_blobs has no Absent" in message(f"{own_module}:Absent", tmp_path)


def test_classes_and_labels_must_agree(tmp_path: Path) -> None:
    data = get("synthetic", tmp_path)
    with pytest.raises(ValueError, match="3 classes, but 4 labels"):
        ImageData("x", 3, data.labels, data.mean, data.std, data.train, data.test)
