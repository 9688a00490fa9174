"""The built-in datasets that live on the device as tensors; each keyword argument is a key of its YAML file.

`flip` and `crop_padding` say how training images are augmented: mirrored left to right half of the time, and
cropped at random out of the image with that many black pixels around it. Every function raises ConfigError for a
value out of range.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pruner.checks import require
from pruner.data import ImageData
from pruner.data.files import Published, read_or_download
from pruner.data.imageset import tensor_data

MOST_PIXELS = 2**32  # of made-up images, which are floats at first: 16 GiB
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
MNIST_ARCHIVES = tuple(
    f"{name}-ubyte.gz" for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
MNIST = Published("mnist", "MNIST", MNIST_ARCHIVES, "MNIST/raw", (1, 28, 28), DIGIT_NAMES)
FASHION_MNIST = Published(
    "fashion_mnist",
    "FashionMNIST",
    MNIST_ARCHIVES,
    "FashionMNIST/raw",
    (1, 28, 28),
    ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
CIFAR10 = Published(
    "cifar10",
    "CIFAR10",
    ("cifar-10-python.tar.gz",),
    "",
    (3, 32, 32),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
CIFAR100 = Published(
    "cifar100", "CIFAR100", ("cifar-100-python.tar.gz",), "", (3, 32, 32), tuple(str(label) for label in range(100))
)


def digits(*, data_dir: Path, device: torch.device, flip: bool = False, crop_padding: int = 1) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 1x8x8; every fifth is a test image. Needs no file and no network."""
    from sklearn.datasets import load_digits

    _check_padding(crop_padding)
    bunch = load_digits()
    images = (torch.from_numpy(bunch.images)[:, None] * (255 / 16)).round().to(torch.uint8)  # grey levels 0 to 16
    labels = torch.from_numpy(bunch.target).to(torch.uint8)
    test = torch.arange(len(labels)) % 5 == 0
    tensors = {
        "train_images": images[~test],
        "train_labels": labels[~test],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    return tensor_data("digits", DIGIT_NAMES, tensors, device, flip, crop_padding)


def mnist(*, data_dir: Path, device: torch.device, flip: bool = False, crop_padding: int = 0) -> ImageData:
    """MNIST: 60,000 and 10,000 handwritten digits, 1x28x28."""
    return _published(MNIST, data_dir, device, flip, crop_padding)


def fashion_mnist(*, data_dir: Path, device: torch.device, flip: bool = True, crop_padding: int = 2) -> ImageData:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes, 1x28x28."""
    return _published(FASHION_MNIST, data_dir, device, flip, crop_padding)


def cifar10(*, data_dir: Path, device: torch.device, flip: bool = True, crop_padding: int = 4) -> ImageData:
    """CIFAR-10: 50,000 and 10,000 photographs, 3x32x32."""
    return _published(CIFAR10, data_dir, device, flip, crop_padding)


def cifar100(*, data_dir: Path, device: torch.device, flip: bool = True, crop_padding: int = 4) -> ImageData:
    """CIFAR-100: 50,000 and 10,000 photographs of 100 classes, 3x32x32."""
    return _published(CIFAR100, data_dir, device, flip, crop_padding)


def synthetic(
    *,
    data_dir: Path,
    device: torch.device,
    classes: int = 4,
    image_size: int = 8,
    channels: int = 3,
    train_size: int = 128,
    test_size: int = 64,
    noise: float = 0.1,
) -> ImageData:
    """One random picture per class under `noise` (its standard deviation, pixels from 0 to 1); always the same."""
    for key, value in {"image_size": image_size, "channels": channels, "train_size": train_size}.items():
        require(value >= 1, f"dataset.{key}", value, "1 or more")
    require(2 <= classes <= 256, "dataset.classes", classes, "2 to 256")
    require(test_size >= 1, "dataset.test_size", test_size, "1 or more")
    require(noise >= 0, "dataset.noise", noise, "0 or more")
    pixels = max(classes, train_size, test_size) * channels * image_size**2
    require(pixels <= MOST_PIXELS, "dataset", "synthetic", f"{pixels} pixels are too many; at most {MOST_PIXELS}")
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(classes, channels, image_size, image_size, generator=generator)
    tensors: dict[str, Tensor] = {}
    for part, size in (("train", train_size), ("test", test_size)):
        labels = torch.arange(size) % classes
        images = patterns[labels]
        images = images + noise * torch.randn(images.shape, generator=generator)
        tensors[f"{part}_images"] = (255 * images.clamp(0, 1)).round().to(torch.uint8)
        tensors[f"{part}_labels"] = labels.to(torch.uint8)
    names = tuple(str(label) for label in range(classes))
    return tensor_data("synthetic", names, tensors, device, flip=False, crop_padding=0)


def _published(published: Published, data_dir: Path, device: torch.device, flip: bool, crop_padding: int) -> ImageData:
    _check_padding(crop_padding)
    tensors = read_or_download(published, data_dir)
    return tensor_data(published.name, published.labels, tensors, device, flip, crop_padding)


def _check_padding(crop_padding: int) -> None:
    require(crop_padding >= 0, "dataset.crop_padding", crop_padding, "0 or more")
