"""Image sets by name: `load` gives the training and the test images of one dataset.

Importing this package imports no torch, so that the command line answers at once; `load` does.

A user's own dataset is `package.module:Name`, a function that gives an ImageData or a class that is one:

    class Blobs(ImageData):
        def __init__(self, *, data_dir: Path, device: torch.device, size: int = 8) -> None:
            super().__init__(name="blobs", classes=2, ...)

The keyword arguments other than `data_dir` and `device` are the keys that its YAML file may set. To have changed data
told from those that a run is done with, let one of them be the path of their file (see `pruner.store.fingerprint`);
the path of a folder should be absolute, and its content is not compared, nor what is read from `data_dir`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pruner.checks import ConfigError, convert, require
from pruner.config import Choice, expand
from pruner.options import bind, resolve, takes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BUILTIN = {
    "digits": "pruner.data.sources:digits",
    "mnist": "pruner.data.sources:mnist",
    "fashion_mnist": "pruner.data.sources:fashion_mnist",
    "cifar10": "pruner.data.sources:cifar10",
    "cifar100": "pruner.data.sources:cifar100",
    "synthetic": "pruner.data.sources:synthetic",
    "imagefolder": "pruner.data.folder:imagefolder",
}


class ImageSet(Protocol):
    """Labelled images that come in batches, ready for the network."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: bool = False,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the set: images float32 [B, C, H, W], normalised, channels_last; labels int64 [B].

        The first `start` batches are left out; the others are as if they had not been. With part=(number, parts) each
        batch is cut into so many parts, as nearly equal as can be, of which this number comes, as in the whole batch;
        an empty part is left out.

        Without a seed (evaluation): in order, and the last batch may be smaller. With a seed (training):
        shuffled and augmented by that seed alone, the same on every device, and what does not fill a batch is
        left out, for batch norm must not see a batch of one; a set smaller than a batch comes whole.
        Raises ValueError for `augment` without a seed.
        """
        ...

    def steps(self, batch_size: int) -> int:
        """How many batches one shuffled pass has."""
        ...

    def split(self, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """(the rest, the held-out `share`): disjoint, complete, each class in proportion, the same for a seed.

        Raises ValueError when one of the two would be empty.
        """
        ...


@runtime_checkable
class Normalisable(Protocol):
    """What an ImageSet can do beside for `dataset.mean` and `dataset.std`."""

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSet:
        """The same images with another mean and deviation per channel, for pixels from 0 to 1."""
        ...


@dataclass(frozen=True)
class ImageData:
    """A dataset. `mean` and `std` are per channel, for pixels from 0 to 1; `labels` are the class names."""

    name: str
    classes: int
    labels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        if len(self.labels) != self.classes:
            raise ValueError(f"{self.name}: {self.classes} classes, but {len(self.labels)} labels")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.train.shape


def load(choice: Choice, data_dir: str, device: torch.device | str) -> ImageData:
    """The dataset that `choice` names, on `device`; files are looked for, and kept, in `data_dir`.

    Every dataset takes the options `mean` and `std`, for networks that were trained on images normalised in another
    way than the set's own; and `validation`: above 0, that share of the training images is held out and stands in for
    the test images, so that settings can be tuned without a look at the test set.
    Raises ConfigError for an unknown name, a wrong option, and files that are missing or wrong.
    """
    import torch

    factory = resolve("dataset", choice.name, BUILTIN)
    options = dict(choice.options)
    validation = convert(options.pop("validation", 0.0), float, "dataset.validation")
    require(0 <= validation < 1, "dataset.validation", validation, "at least 0 and below 1")
    given = {key: options.pop(key, None) for key in ("mean", "std") if not takes(factory, key)}
    options = bind("dataset", choice.label, factory, options, ("data_dir", "device"))
    data = factory(data_dir=Path(expand(data_dir)), device=torch.device(device), **options)
    require(isinstance(data, ImageData), "dataset", choice.name, f"gives {type(data).__name__}, expected ImageData")
    if any(values is not None for values in given.values()):
        data = _normalised(data, given)
    return _hold_out(data, validation) if validation else data


def _normalised(data: ImageData, given: Mapping[str, Any]) -> ImageData:
    """`data` with the `mean` and `std` that are given, each None for its own."""
    used = {"mean": data.mean, "std": data.std}
    for key, values in given.items():
        if values is None:
            continue
        numbers = convert(values, tuple[float, ...], f"dataset.{key}")
        for_each = f"expected a number for each of {len(used[key])} channels, for pixels from 0 to 1"
        inside = all(0 <= number <= 1 and (number > 0 or key == "mean") for number in numbers)
        require(len(numbers) == len(used[key]) and inside, f"dataset.{key}", values, for_each)
        used[key] = numbers
    train, test = (_fed(part, used["mean"], used["std"]) for part in (data.train, data.test))
    return ImageData(data.name, data.classes, data.labels, used["mean"], used["std"], train, test)


def _fed(images: ImageSet, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSet:
    if not isinstance(images, Normalisable):
        raise ConfigError(f"dataset.mean, dataset.std: {type(images).__name__} has no method normalised(mean, std)")
    return images.normalised(mean, std)


def _hold_out(data: ImageData, share: float) -> ImageData:
    """`data` with a fixed `share` of its training images in the place of the test images."""
    try:
        train, test = data.train.split(share, seed=0)
    except ValueError as error:
        raise ConfigError(f"dataset.validation={share}: {error}") from error
    return ImageData(data.name, data.classes, data.labels, data.mean, data.std, train, test)
