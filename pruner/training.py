"""One training loop for every phase. It knows no method by name, and no data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pruner.config import Phase, Recipe
from pruner.data import ImageSet
from pruner.device import autocast
from pruner.methods.base import Method
from pruner.seeds import derive
from pruner.sparsity.masked import MaskedModel

Epoch = dict[str, Any]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where and why."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of correct predictions over all examples, in percent."""

    top1: float
    top5: float


def learning_rate(phase: Phase, progress: float) -> float:
    """The rate at `progress` in [0, 1) of the phase: a linear warm-up, then the phase's schedule."""
    if progress < phase.warmup:
        return phase.lr * progress / phase.warmup
    if phase.schedule == "step":
        return phase.lr * 0.1 ** sum(progress * phase.epochs >= epoch for epoch in phase.milestones)
    rest = (progress - phase.warmup) / (1 - phase.warmup)
    factors = {"constant": 1.0, "linear": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}
    return phase.lr * factors[phase.schedule]


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """The optimizer of the weights; every parameter decays alike, as in the papers' protocols."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


class Trainer:
    """One phase of a run, epoch by epoch. Its state can be saved between epochs.

    Everything random in an epoch comes from the run's seed, the phase and the epoch's number, so a phase gives the
    same result whether what came before was trained now, loaded or continued.
    """

    def __init__(
        self,
        network: MaskedModel,
        images: ImageSet,
        recipe: Recipe,
        phase: str,
        seed: int,
        method: Method | None = None,
    ):
        self.network, self.images, self.recipe, self.method = network, images, recipe, method
        self.name, self.settings, self.seed = phase, recipe.phase(phase), seed
        self.device = next(network.parameters()).device
        self.optimizers = [make_optimizer(network, recipe, self.settings.lr)]
        own = method.optimizer(self.settings.lr) if method else None
        if own is not None:
            self.optimizers.append(own)
        self.steps = images.steps(recipe.batch_size)
        self.epoch = 0  # epochs done

    def run(self, finished: Callable[[Epoch], None]) -> None:
        """Trains the epochs that are left; `finished` gets the numbers of each (EPOCH_COLUMNS) when it ends.

        Raises TrainingError when the loss is no longer finite.
        """
        while self.epoch < self.settings.epochs:
            numbers = self._train_epoch()
            self.epoch += 1
            finished(numbers)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on after this epoch, beside the network and the method themselves."""
        return {"epoch": self.epoch, "optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `state_dict` gave."""
        self.epoch = state["epoch"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _train_epoch(self) -> Epoch:
        start = time.perf_counter()
        seed = derive(self.seed, self.name, self.epoch)
        torch.manual_seed(seed)  # dropout, and whatever a method draws in a step
        self.network.train()
        totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, correct, examples
        batches = self.images.batches(self.recipe.batch_size, seed=seed, augment=True)
        for index, (x, y) in enumerate(self._bar(batches)):
            totals += self._step(self.epoch * self.steps + index, x, y)
        loss, correct, count = totals.tolist()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss / count} in phase {self.name}, epoch {self.epoch + 1}")
        return {
            "phase": self.name,
            "epoch": self.epoch + 1,
            "seconds": time.perf_counter() - start,
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "loss": loss / count,
            "train_accuracy": 100 * correct / count,
            **(mask_numbers(self.network.mask, self.method) if self.method else {}),
        }

    def _step(self, step: int, x: Tensor, y: Tensor) -> Tensor:
        lr = learning_rate(self.settings, step / (self.steps * self.settings.epochs))
        for group in self.optimizers[0].param_groups:
            group["lr"] = lr
        if self.method:
            self.network.gate(self.method.mask(step), self.method.shown())
            if self.method.forgets(step):
                self.optimizers[0].state.clear()
        with autocast(self.device, self.recipe.precision):
            logits = self.network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        total = loss + self.method.penalty() if self.method else loss
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.method:
            self.method.update(step)
        correct = (logits.detach().argmax(1) == y).sum()
        return torch.stack([loss.detach().double() * len(y), correct.double(), correct.new_tensor(len(y)).double()])

    def _bar(self, batches: Any) -> Any:
        """A progress bar, on a terminal only."""
        title = f"{self.name} {self.epoch + 1}/{self.settings.epochs}"
        return tqdm(batches, total=self.steps, desc=title, leave=False, disable=None)


def mask_numbers(mask: Tensor, method: Method) -> dict[str, float]:
    """The share of cost that a mask [n] removes, and the share of units between 0.05 and 0.95."""
    undecided = ((mask > 0.05) & (mask < 0.95)).double().mean()
    return {
        "sparsity": 1 - method.allocation.cost_of(mask) / method.allocation.total,
        "undecided": float(undecided),
    }


def evaluate(network: nn.Module, images: ImageSet, batch_size: int, precision: str) -> Accuracy:
    """Accuracy over all the images, each counted once."""
    return accuracy_over(network, images.batches(batch_size), precision)


@torch.no_grad()
def accuracy_over(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str) -> Accuracy:
    """Accuracy over the images of some batches; leaves the network in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    counts = torch.zeros(3, dtype=torch.float64, device=device)  # right, right among the best five, all
    for x, y in batches:
        with autocast(device, precision):
            logits = network(x)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
        counts += torch.stack([best[:, 0].sum(), best.sum(), best.new_tensor(len(y), dtype=torch.long)])
    top1, top5 = (100 * counts[:2] / counts[2]).tolist()
    return Accuracy(top1, top5)
