"""One training loop for every phase. It knows no method by name, and no data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pruner.config import Recipe
from pruner.data import ImageSet
from pruner.methods.base import Method
from pruner.runtime import distributed
from pruner.runtime.device import autocast
from pruner.runtime.seeds import derive
from pruner.runtime.signals import Signals
from pruner.sparsity.masked import MaskedModel
from pruner.training import sync_batchnorm
from pruner.training.checkpoint import Saver
from pruner.training.optimizer import learning_rate, make_optimizer

# On a GPU the loss is looked at after so many steps, since each look waits for the device; on a CPU after each.
STEPS_UNSEEN = 50
Epoch = dict[str, Any]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where and why."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of correct predictions over all examples, in percent."""

    top1: float
    top5: float


class Trainer:
    """One phase of a run, step by step. Its state can be saved between any two steps.

    Everything random in an epoch comes from the run's seed, the phase and the epoch's number, so a phase gives the
    same result whether what came before was trained now, loaded or continued. Several processes have a share of every
    batch each, and make the same steps of the same network and masks (see `pruner.runtime.distributed`).
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
        # Of the epoch under way: steps done; loss, correct and examples summed over them, and how many of them, from
        # the first on, had a finite loss; the seconds that they took; and the generators, where a state was loaded.
        self.step, self.seconds = 0, 0.0
        self.totals = torch.zeros(4, dtype=torch.float64, device=self.device)
        self._generators: list[Tensor] = []

    def run(self, finished: Callable[[Epoch], None], saver: Saver | None = None) -> None:
        """Trains what is left of the phase; `finished` gets the numbers of each epoch (EPOCH_COLUMNS) when it ends.

        `saver` saves the state when it is due, and when a signal came that asks to stop, which is then let through.
        Raises TrainingError when the loss or a weight is no longer finite, or when processes have come apart; such a
        state is not saved.
        """
        with Signals() as signals:
            while self.epoch < self.settings.epochs:
                self._train_epoch(lambda: self._pause(saver, signals, within=True))
                self._check_agreement()
                numbers = self._numbers()
                self.epoch += 1
                self.step, self.seconds = 0, 0.0
                self.totals.zero_()
                finished(numbers)
                self._pause(saver, signals, within=False)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on after this step, beside the network and the method themselves."""
        generators = [torch.get_rng_state()]
        if self.device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(self.device))
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "totals": self.totals,
            "generators": generators,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state that `state_dict` gave."""
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.totals.copy_(state["totals"])
        self._generators = state["generators"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _train_epoch(self, between: Callable[[], None]) -> None:
        """Trains the steps that are left of this epoch; calls `between` between two steps."""
        start = time.perf_counter() - self.seconds
        seed = derive(self.seed, self.name, self.epoch)
        torch.manual_seed(seed)  # dropout, and whatever a method draws in a step
        self.network.train()
        part = distributed.part()
        batches = self.images.batches(self.recipe.batch_size, seed=seed, augment=True, start=self.step, part=part)
        if self.step:
            self._restore_generators()
        every = 1 if self.device.type == "cpu" else STEPS_UNSEEN
        for x, y in self._bar(batches):
            totals = distributed.total(self._step(self.epoch * self.steps + self.step, x, y))
            unbroken = totals[:1].isfinite() & (self.totals[3:] == self.step)
            self.totals += torch.cat([totals, unbroken.double()])
            self.step += 1
            if self.step % every == 0:
                self._check_loss()
            self.seconds = time.perf_counter() - start
            if self.step < self.steps:
                between()
        self._check_loss()
        self._check_weights()
        self.seconds = time.perf_counter() - start  # on a GPU the checks have waited for the last step

    def _restore_generators(self) -> None:
        torch.set_rng_state(self._generators[0])
        if self.device.type == "cuda" and len(self._generators) > 1:  # begun on a CPU, it draws other numbers anyway
            torch.cuda.set_rng_state(self._generators[1], self.device)

    def _pause(self, saver: Saver | None, signals: Signals, within: bool) -> None:
        came = signals.of_all(due=saver is not None and distributed.leads() and saver.due(within))
        if saver and came:
            self._check_loss()
            self._check_weights()
            saver.save()
        signals.let_through(came)

    def _check_loss(self) -> None:
        loss, _, _, unbroken = self.totals.tolist()
        if unbroken < self.step:
            raise TrainingError(f"the loss is {loss} {self._where(int(unbroken) + 1)}")

    def _check_weights(self) -> None:
        """Raises TrainingError for a NaN or an infinity in the network, or a NaN in what the method trains."""
        for name, values in self.network.model.state_dict().items():
            if not bool(values.isfinite().all()):
                raise TrainingError(f"{name} is no longer finite {self._where(self.step)}")
        for name, values in self.method.named_parameters() if self.method else ():
            if bool(values.isnan().any()):
                raise TrainingError(f"the method's {name} is no longer a number {self._where(self.step)}")

    def _check_agreement(self) -> None:
        """Raises TrainingError where processes have other masks or weights than others, if only by a bit."""
        method = self.method.state_dict() if self.method else {}
        states = {"masks": {"": self.network.mask}, "weights": self.network.model.state_dict(), "methods": method}
        for name, state in states.items():
            if not distributed.agree(state.values()):
                raise TrainingError(f"the processes have come apart: their {name} differ {self._where(self.step)}")

    def _where(self, step: int) -> str:
        return f"in phase {self.name}, epoch {self.epoch + 1}, step {step}"

    def _numbers(self) -> Epoch:
        """What there is to say of the epoch that ended."""
        loss, correct, count, _ = self.totals.tolist()
        return {
            "phase": self.name,
            "epoch": self.epoch + 1,
            "seconds": self.seconds,
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "loss": loss / count,
            "train_accuracy": 100 * correct / count,
            **(mask_numbers(self.network.mask, self.method) if self.method else {}),
        }

    def _step(self, step: int, x: Tensor, y: Tensor) -> Tensor:
        for optimizer in self.optimizers:
            optimizer.zero_grad()  # before the forward pass, at whose end memory is fullest
        lr = learning_rate(self.settings, step / (self.steps * self.settings.epochs))
        for group in self.optimizers[0].param_groups:
            group["lr"] = lr
        if self.method:
            self.network.gate(self.method.mask(step), self.method.visible())
            if self.method.resets_momentum(step):
                self.optimizers[0].state.clear()
        with autocast(self.device, self.recipe.precision), sync_batchnorm.over_all_processes():
            logits = self.network(x)
            loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        total = loss + self.method.penalty() if self.method else loss
        total.backward()
        trained = [*self.network.parameters(), *(self.method.parameters() if self.method else ())]
        distributed.average([values.grad for values in trained if values.grad is not None])
        for optimizer in self.optimizers:
            optimizer.step()
        if self.method:
            self.method.update(step)
        correct = (logits.detach().argmax(1) == y).sum()
        return torch.stack([loss.detach().double() * len(y), correct.double(), correct.new_tensor(len(y)).double()])

    def _bar(self, batches: Any) -> Any:
        """A progress bar, on a terminal only, and of the first process."""
        title = f"{self.name} {self.epoch + 1}/{self.settings.epochs}"
        hidden = None if distributed.leads() else True
        return tqdm(batches, initial=self.step, total=self.steps, desc=title, leave=False, disable=hidden)


def mask_numbers(mask: Tensor, method: Method) -> dict[str, float]:
    """The share of cost that a mask [n] removes, and the share of units between 0.05 and 0.95."""
    undecided = ((mask > 0.05) & (mask < 0.95)).double().mean()
    return {
        "sparsity": 1 - method.allocation.cost_of(mask) / method.allocation.total,
        "undecided": float(undecided),
    }


def evaluate(network: nn.Module, images: ImageSet, batch_size: int, precision: str) -> Accuracy:
    """Accuracy over all the images, each counted once."""
    return accuracy_over(network, images.batches(batch_size, part=distributed.part()), precision)


@torch.no_grad()
def accuracy_over(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str) -> Accuracy:
    """Accuracy over the images of some batches, of all processes; leaves the network in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    counts = torch.zeros(3, dtype=torch.float64, device=device)  # right, right among the best five, all
    for x, y in batches:
        with autocast(device, precision):
            logits = network(x)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
        counts += torch.stack([best[:, 0].sum(), best.sum(), best.new_tensor(len(y), dtype=torch.long)])
    top1, top5, count = distributed.total(counts.cpu()).tolist()
    return Accuracy(100 * top1 / count, 100 * top5 / count)
