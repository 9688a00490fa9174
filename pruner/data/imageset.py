"""Image sets that live on the device as uint8 tensors and are augmented there, a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pruner.checks import require
from pruner.data import ImageData


def seed_of(*key: int) -> int:
    """One 32-bit seed for all of `key`; torch's own CPU generator would ignore a seed's higher bits."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def visiting_order(count: int, batch_size: int, generator: torch.Generator | None) -> Tensor:
    """Indices int64 [n] of one pass: all in order, or shuffled, and then only as many as fill whole batches."""
    if generator is None:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[: count // batch_size * batch_size or count]


def steps_per_pass(count: int, batch_size: int) -> int:
    """The number of batches in a shuffled pass over `count` images."""
    return max(1, count // batch_size)


def parts_of_pass(count: int, batch_size: int, start: int, part: tuple[int, int]) -> Iterator[slice]:
    """Places in a pass over `count` images: of every batch from number `start` on the part (number, parts), if any.

    Parts differ by at most one image; the longer ones come first.
    """
    number, parts = part
    for first in range(start * batch_size, count, batch_size):
        size, longer = divmod(min(batch_size, count - first), parts)
        begin = first + number * size + min(number, longer)
        end = begin + size + (number < longer)
        if begin < end:
            yield slice(begin, end)


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (rest, held out) into `labels`, both ascending; every class gives in proportion.

    Raises ValueError when one of the two would be empty.
    """
    labels, count = labels.cpu(), len(labels)
    held = round(share * count)
    if not 0 < held < count:
        raise ValueError(f"a share of {share} of {count} images leaves nothing on one side")
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed)))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    # Evenly spaced places in the list sorted by class fall on each class in proportion to its length.
    places = (2 * torch.arange(held) + 1) * count // (2 * held)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[by_class[places]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def crop_and_flip(images: Tensor, padding: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Each image cropped out of its zero-padded self, then mirrored left to right: one gather for the batch.

    images uint8 [B, H, W, C]; offsets int64 [B, 2], the crop's first row and column, 0 to 2 * padding; mirrored
    bool [B]. The padding is black (torchvision's convention: crop first, normalise after).
    """
    count, height, width, channels = images.shape
    tall, wide = height + 2 * padding, width + 2 * padding
    arange = torch.arange(max(count, height, width), device=images.device)
    columns = arange[:width].expand(count, width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns) + offsets[:, 1:]
    rows = arange[:height] + offsets[:, :1] + arange[:count, None] * tall
    pixels = rows[:, :, None] * wide + columns[:, None, :]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding)).reshape(-1, channels)
    return padded.index_select(0, pixels.flatten()).view(images.shape)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, C, H, W] to float32 channels_last, less `mean` and over `std`, both [C, 1, 1] in 0 to 255."""
    return images.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std)


def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A statistic of pixels from 0 to 1 as `normalise` takes it."""
    return torch.tensor([255 * value for value in values], dtype=torch.float32, device=device).view(-1, 1, 1)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, C, H, W], as of pixels from 0 to 1.

    Computed in float64 from each channel's histogram, which is exact and needs no float copy of the images.
    A channel that never changes gets the standard deviation 1, so that dividing by it is harmless.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(float(mean))
        stds.append(float((share * (levels - mean) ** 2).sum().sqrt()) or 1.0)
    return tuple(means), tuple(stds)


@dataclass(frozen=True, eq=False)
class TensorSet:
    """An ImageSet of tensors on one device: images uint8 [N, H, W, C], labels int64 [N].

    `mean` and `std` as in `normalise`; `flip` and `crop_padding` say what augmenting does. `chosen`: which of the
    images belong to the set, int64 [n], None for all; so that sets split from another share its memory.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    flip: bool
    crop_padding: int
    chosen: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels if self.chosen is None else self.chosen)

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
        generator = None if seed is None else torch.Generator().manual_seed(seed_of(seed))
        device = self.labels.device
        order = visiting_order(len(self), batch_size, generator).to(device)
        if self.chosen is not None:
            order = self.chosen[order]
        if augment:
            # Drawn on the CPU for the whole pass: the same on every device, one transfer instead of one a batch.
            offsets = torch.randint(2 * self.crop_padding + 1, (len(order), 2), generator=generator).to(device)
            mirrored = torch.randint(1 + self.flip, (len(order),), generator=generator).bool().to(device)
        for batch in parts_of_pass(len(order), batch_size, start, part):
            images = self.images.index_select(0, order[batch])
            if augment:
                images = crop_and_flip(images, self.crop_padding, offsets[batch], mirrored[batch])
            yield normalise(images.permute(0, 3, 1, 2), self.mean, self.std), self.labels[order[batch]]

    def split(self, share: float, seed: int) -> tuple[TensorSet, TensorSet]:
        chosen = torch.arange(len(self)) if self.chosen is None else self.chosen.cpu()
        parts = stratified_split(self.labels.cpu()[chosen], share, seed)
        rest, held_out = (chosen[part].to(self.labels.device) for part in parts)
        return replace(self, chosen=rest), replace(self, chosen=held_out)

    def normalised(self, mean: tuple[float, ...], std: tuple[float, ...]) -> TensorSet:
        device = self.labels.device
        return replace(self, mean=per_channel(mean, device), std=per_channel(std, device))


def tensor_data(
    name: str,
    labels: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    flip: bool,
    crop_padding: int,
) -> ImageData:
    """A dataset from uint8 tensors: `train_images` [N, C, H, W], `train_labels` [N], and the same for `test`.

    Mean and standard deviation are those of all the training images, whatever is split off later. Raises ConfigError
    for a `crop_padding` that could leave nothing of an image.
    """
    side = min(tensors["train_images"].shape[2:])
    require(
        0 <= crop_padding < side, "dataset.crop_padding", crop_padding, f"from 0 to {side - 1}, below the image's side"
    )
    mean, std = pixel_statistics(tensors["train_images"])
    train, test = (
        TensorSet(
            images=tensors[f"{part}_images"].permute(0, 2, 3, 1).contiguous().to(device),
            labels=tensors[f"{part}_labels"].long().to(device),
            mean=per_channel(mean, device),
            std=per_channel(std, device),
            flip=flip,
            crop_padding=crop_padding,
        )
        for part in ("train", "test")
    )
    return ImageData(name, len(labels), labels, mean, std, train, test)
