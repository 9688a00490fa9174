"""Any tree of class folders, such as ImageNet: decoded by worker processes, normalised on the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from pruner.checks import ConfigError, require
from pruner.config import expand
from pruner.data import ImageData
from pruner.data.imageset import (
    normalise,
    parts_of_pass,
    per_channel,
    seed_of,
    steps_per_pass,
    stratified_split,
    visiting_order,
)
from pruner.data.paths import EXPECTED, check_folder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_ENDINGS = (signal.SIGINT, signal.SIGTERM)

Sample = tuple[str, int]
Transform = Callable[[Image.Image], Tensor]


class _Decoded(Dataset[tuple[Tensor, int]]):
    """Samples decoded to uint8 [3, H, W] on the CPU; lives in the worker processes, so it holds no device tensor."""

    def __init__(self, samples: tuple[Sample, ...], transform: Transform, seed: int | None) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        image = default_loader(path)
        if self.seed is None:
            return self.transform(image), label
        # torchvision's transforms draw from the global generator. Seeding it for each image makes the result
        # the same for any number of workers; the fork puts it back for whoever else uses it in this process.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, index))
            return self.transform(image), label


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals wait meanwhile; in a worker that is started within it, until `_until_told`, before which it would end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _until_told(worker: int) -> None:
    """Workers serve to the end of the step that a signal lets be made, also where they get the signal themselves.

    As from a terminal's Ctrl-C, and from torchrun, which sends SIGTERM to all of a process's group. They end when the
    process that they work for tells them, or is gone.
    """
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # which drops those that have waited
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)


@dataclass(frozen=True, eq=False)
class FolderSet:
    """An ImageSet of files, each with its label. `augmented` and `plain` decode to uint8 [3, size, size]."""

    samples: tuple[Sample, ...]
    image_size: int
    augmented: Transform
    plain: Transform
    workers: int
    device: torch.device

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def __len__(self) -> int:
        return len(self.samples)

    def steps(self, batch_size: int) -> int:
        return steps_per_pass(len(self), batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: bool = False,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if augment and seed is None:
            raise ValueError("augmentation needs a seed")
        # Also without a seed, so that the loader does not draw its own from the global generator.
        generator = torch.Generator().manual_seed(seed_of(seed or 0))
        order = visiting_order(len(self), batch_size, None if seed is None else generator)
        loader = DataLoader(
            _Decoded(self.samples, self.augmented if augment else self.plain, seed),
            batch_sampler=[order[places].tolist() for places in parts_of_pass(len(order), batch_size, start, part)],
            num_workers=min(self.workers, os.cpu_count() or 1),
            pin_memory=self.device.type == "cuda",
            generator=generator,
            worker_init_fn=_until_told,
        )
        mean, std = (per_channel(values, self.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
        with _held_back():
            loaded = iter(loader)  # which starts the workers
        for images, labels in loaded:
            images = images.to(self.device, non_blocking=True)
            yield normalise(images, mean, std), labels.to(self.device, non_blocking=True)

    def split(self, share: float, seed: int) -> tuple[FolderSet, FolderSet]:
        labels = torch.tensor([label for _, label in self.samples])
        rest, held_out = stratified_split(labels, share, seed)
        return self._only(rest), self._only(held_out)

    def _only(self, chosen: Tensor) -> FolderSet:
        return replace(self, samples=tuple(self.samples[index] for index in chosen.tolist()))


def imagefolder(
    *,
    data_dir: Path,
    device: torch.device,
    root: str,
    image_size: int = 224,
    resize: int = 256,
    workers: int = 4,
    flip: bool = True,
) -> ImageData:
    """The images in `root`/train/<class>/ and `root`/val/<class>/, in ImageNet's usual preparation.

    Training: a random crop of 8% to 100% of the area, scaled to `image_size`, mirrored half of the time if `flip`.
    Testing: the shorter side scaled to `resize`, the middle `image_size` cut out. `workers` processes decode; the
    images do not depend on their number. Raises ConfigError when the tree is not as described.
    """
    require(image_size >= 1, "dataset.image_size", image_size, "1 or more")
    require(resize >= image_size, "dataset.resize", resize, f"image_size ({image_size}) or more")
    require(workers >= 0, "dataset.workers", workers, "0 or more")
    labels = check_folder(root)
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    augmented = transforms.Compose([transforms.RandomResizedCrop(image_size), *mirror, transforms.PILToTensor()])
    plain = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(image_size), transforms.PILToTensor()])
    train, test = (
        FolderSet(_samples(root, part), image_size, augmented, plain, workers, device) for part in ("train", "val")
    )
    return ImageData("imagefolder", len(labels), labels, IMAGENET_MEAN, IMAGENET_STD, train, test)


def _samples(root: str, part: str) -> tuple[Sample, ...]:
    try:
        return tuple(ImageFolder(str(Path(expand(root)) / part)).samples)
    except FileNotFoundError as error:  # a class folder without an image
        raise ConfigError(f"dataset.root={root}: {' '.join(str(error).split())}; {EXPECTED}") from error
