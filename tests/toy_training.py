"""The smallest network, and the smallest set of images, that a Trainer can train: two steps an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from pruner.config import Recipe
from pruner.methods.base import Method
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.units.make import make_units
from pruner.training.trainer import Trainer

M = TypeVar("M", bound=Method)


class Constant(nn.Module):
    """Says class 0 for every image, as sure as `logit`."""

    def __init__(self, classes: int, logit: float = 1.0) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logit] + [0.0] * (classes - 1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


class Uneven:
    """An ImageSet of a batch of three images of class 0 and a batch of one of class 1."""

    shape = (1, 1, 1)

    def __len__(self) -> int:
        return 4

    def steps(self, batch_size: int) -> int:
        return 2

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: bool = False,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for count, label in ((3, 0), (1, 1))[start:]:
            yield torch.zeros(count, 1, 1, 1), torch.full((count,), label)

    def split(self, share: float, seed: int) -> tuple[Uneven, Uneven]:
        raise NotImplementedError


def trainer_of(model: nn.Module, recipe: Recipe, method: Method | None = None) -> Trainer:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    return Trainer(MaskedModel(model, make_units(layers, (1, 1, 1), "weight")), Uneven(), recipe, "dense", 0, method)


def begun(method: M) -> M:
    """The method, which has read the weights."""
    method.begin()
    return method
