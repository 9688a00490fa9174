"""Any tree of class folders, such as ImageNet: decoded by worker processes, normalised on the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import transforms

from pruner.checks import ConfigError, convert, require
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
from pruner.data.paths import check_folder, pictures
from pruner.data.pictures import UnreadablePicture, check, decode
from pruner.options import shorter_side
from pruner.runtime.distributed import leads

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CHECKED_AT_ONCE = 256  # files; fewer are not worth a worker process

_ENDINGS = (signal.SIGINT, signal.SIGTERM)

Sample = tuple[str, int]
Transform = Callable[[Image.Image], Tensor]


class _Decoded(Dataset[tuple[Tensor, int] | UnreadablePicture]):
    """Samples decoded to uint8 [3, H, W] on the CPU; lives in the worker processes, so it holds no device tensor.

    What cannot be read is given, not raised: raised, it would come out of a worker as a traceback of many lines.
    """

    def __init__(self, samples: tuple[Sample, ...], transform: Transform, seed: int | None) -> None:
        self.samples, self.transform, self.seed = samples, transform, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int] | UnreadablePicture:
        path, label = self.samples[index]
        try:
            image = decode(path)
        except UnreadablePicture as error:
            return error
        if self.seed is None:
            return self.transform(image), label
        # torchvision's transforms draw from the global generator. Seeding it for each image makes the result
        # the same for any number of workers; the fork puts it back for whoever else uses it in this process.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, index))
            return self.transform(image), label


def _together(decoded: list[tuple[Tensor, int] | UnreadablePicture]) -> list[Tensor] | UnreadablePicture:
    """A batch of images and labels, or the first that could not be read."""
    wrong = next((one for one in decoded if isinstance(one, UnreadablePicture)), None)
    return default_collate(decoded) if wrong is None else wrong


class _Checked(Dataset[UnreadablePicture | None]):
    """What is wrong with each of the files, None where nothing is; those that come with True are decoded if need be."""

    def __init__(self, files: list[tuple[str, int]], resize: int) -> None:
        self.files, self.resize = files, resize

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UnreadablePicture | None:
        path, whole = self.files[index]
        try:
            check(path, self.resize, bool(whole))
        except UnreadablePicture as error:
            return error
        return None


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
    """An ImageSet of files, each with its label. `augmented` and `plain` decode to uint8 [3, size, size].

    `mean` and `std` are per channel, for pixels from 0 to 1.
    """

    samples: tuple[Sample, ...]
    image_size: int
    augmented: Transform
    plain: Transform
    workers: int
    device: torch.device
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

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
            num_workers=_workers(self.workers),
            collate_fn=_together,
            pin_memory=self.device.type == "cuda",
            generator=generator,
            worker_init_fn=_until_told,
        )
        mean, std = (per_channel(values, self.device) for values in (self.mean, self.std))
        with _held_back():
            loaded = iter(loader)  # which starts the workers
        try:
            for batch in loaded:
                if isinstance(batch, UnreadablePicture):
                    raise batch
                images, labels = batch
                images = images.to(self.device, non_blocking=True)
                yield normalise(images, mean, std), labels.to(self.device, non_blocking=True)
        finally:
            del loaded  # which ends them: an error would keep it to the program's end, which would wait for them

    def split(self, share: float, seed: int) -> tuple[FolderSet, FolderSet]:
        labels = torch.tensor([label for _, label in self.samples])
        rest, held_out = stratified_split(labels, share, seed)
        return self._only(rest), self._only(held_out)

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> FolderSet:
        return replace(self, mean=mean, std=std)

    def _only(self, chosen: Tensor) -> FolderSet:
        return replace(self, samples=tuple(self.samples[index] for index in chosen.tolist()))


def imagefolder(
    *,
    data_dir: Path,
    device: torch.device,
    root: str,
    image_size: int = 224,
    resize: int | None = None,
    workers: int = 4,
    flip: bool = True,
    crop_scale: Sequence[float] | None = None,
) -> ImageData:
    """The images in `root`/train/<class>/ and `root`/val/<class>/, in ImageNet's usual preparation.

    Training: a random crop of a share of the area within `crop_scale` (None: 8% to 100%), scaled to `image_size`,
    mirrored half of the time if `flip`. Testing: the shorter side scaled to `resize` (None: 256/224 of `image_size`),
    the middle `image_size` cut out. `workers` processes decode; the images do not depend on their number. How files
    become pixels is in `pictures`. Raises ConfigError when the tree is not as described, and for a file that cannot
    be read, as far as that can be told in little time.
    """
    require(image_size >= 1, "dataset.image_size", image_size, "1 or more")
    resize = shorter_side(image_size) if resize is None else resize
    require(resize >= image_size, "dataset.resize", resize, f"image_size ({image_size}) or more")
    require(workers >= 0, "dataset.workers", workers, "0 or more")
    scale = (0.08, 1.0) if crop_scale is None else convert(crop_scale, tuple[float, ...], "dataset.crop_scale")
    shares = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
    require(shares, "dataset.crop_scale", crop_scale, "the least and the largest share of the area, as in [0.08,1]")
    labels = check_folder(root)
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    crop = transforms.RandomResizedCrop(image_size, scale=scale)
    augmented = transforms.Compose([crop, *mirror, transforms.PILToTensor()])
    plain = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(image_size), transforms.PILToTensor()])
    files = tuple(pictures(root, part, labels) for part in ("train", "val"))
    if leads():  # of several processes one is enough
        _check_files(root, files, resize, workers)
    train, test = (FolderSet(samples, image_size, augmented, plain, workers, device) for samples in files)
    return ImageData("imagefolder", len(labels), labels, IMAGENET_MEAN, IMAGENET_STD, train, test)


def _check_files(root: str, parts: tuple[tuple[Sample, ...], ...], resize: int, workers: int) -> None:
    """Raises ConfigError that names the first file which cannot be read, of the parts train and val.

    Training images are all decoded in the first epoch, test images perhaps not before the last: of these more is
    decoded here.
    """
    files = [(path, whole) for whole, samples in enumerate(parts) for path, _ in samples]
    loader = DataLoader(
        _Checked(files, resize),
        batch_size=CHECKED_AT_ONCE,
        num_workers=min(_workers(workers), len(files) // CHECKED_AT_ONCE),
        collate_fn=list,
        generator=torch.Generator(),  # not the global one, from which the run's numbers come
        worker_init_fn=_until_told,
    )
    if wrong := _first_wrong(loader):
        raise ConfigError(f"dataset.root={root}: {wrong}") from wrong


def _first_wrong(loader: DataLoader[UnreadablePicture | None]) -> UnreadablePicture | None:
    with _held_back():
        checked = iter(loader)
    return next((wrong for wrong in chain.from_iterable(checked) if wrong is not None), None)


def _workers(asked: int) -> int:
    return min(asked, os.cpu_count() or 1)
