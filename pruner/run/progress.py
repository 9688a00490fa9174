"""What a run keeps while it is under way: its epochs so far, and the state from which a later start goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pruner.run.experiment import Experiment
from pruner.run.report import report
from pruner.runtime.distributed import first
from pruner.store.folders import RunFolder
from pruner.training.checkpoint import Checkpoint, Saver
from pruner.training.trainer import Epoch, Trainer


class Progress:
    """The epochs of a run; of each epoch of pruning what it would keep of each group, and its soft masks.

    `state` is what an earlier start saved last, or empty. Raises ConfigError when it cannot be read.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder):
        self.experiment, self.folder = experiment, folder
        self.checkpoint = Checkpoint(folder.checkpoint)
        self.state = self.checkpoint.load()
        self.epochs: list[Epoch] = []
        self.ratios: list[dict[str, Any]] = []
        self.masks: list[dict[str, Any]] = []

    @property
    def phase(self) -> str:
        """The phase in which the earlier start was; empty where there was none."""
        return str(self.state.get("phase", ""))

    def restore(self, trainer: Trainer) -> None:
        """Puts the network, the trainer and the epochs so far where the state has them."""
        self.experiment.model.load_state_dict(self.state["model"])
        trainer.load_state_dict(self.state["trainer"])
        self.epochs, self.ratios, self.masks = (self.state[name] for name in ("epochs", "ratios", "masks"))

    def train(
        self,
        trainer: Trainer,
        more: Callable[[], dict[str, Any]],
        watch: Callable[[Epoch], Epoch] = lambda numbers: numbers,
    ) -> None:
        """Trains what is left of a phase, and keeps everything; `more` is what goes into the state beside the rest.

        `watch` gets the numbers of each epoch before they are written, and gives them back with its own.
        """

        def finished(numbers: Epoch) -> None:
            first(self.folder.check)
            self.epochs.append(report(watch(numbers), trainer.settings.epochs))
            first(write)

        def write() -> None:
            self.folder.write_epochs(self.epochs)
            self.folder.write_ratios(self.ratios)
            self.folder.write_masks(self.masks)

        def now() -> dict[str, Any]:
            return {
                "phase": trainer.name,
                "epochs": self.epochs,
                "ratios": self.ratios,
                "masks": self.masks,
                "model": self.experiment.model.state_dict(),
                "trainer": trainer.state_dict(),
                **more(),
            }

        trainer.run(finished, Saver(self.checkpoint, now, self.experiment.config.checkpoint_minutes))
