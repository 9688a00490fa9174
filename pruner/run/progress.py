"""What a run, or a dense network, keeps while it is under way: its epochs so far, and the state that a later start goes
on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pruner.run.experiment import Experiment
from pruner.run.report import report
from pruner.run.threads import settle_threads
from pruner.store.folders import Folder
from pruner.training.checkpoint import Checkpoint, Saver
from pruner.training.trainer import Epoch, Trainer


class Stateful(Protocol):
    """What a phase trains or needs beside the network."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Progress:
    """The phases of what is made in `folder` with a config of these `settings`: begun, or gone on with.

    `tables` are the folder's, with the rows of all epochs so far; `measured` is what else phases that are over leave to
    later ones, as plain values. Needs the folder's lock; computes with as many threads as began (see `settle_threads`).
    Raises ConfigError where an earlier start's state cannot be read.
    """

    def __init__(self, experiment: Experiment, folder: Folder, settings: Mapping[str, Any]):
        self.experiment, self.folder = experiment, folder
        folder.tidy(done=False)
        folder.keep_config(settings)
        settle_threads(folder, experiment.config.threads)
        self.checkpoint = Checkpoint(folder.checkpoint)
        self._state = self.checkpoint.load()
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in folder.tables}
        self.measured: dict[str, Any] = {}

    @property
    def phase(self) -> str:
        """The phase that an earlier start was in, until that is gone on with; empty where there is none."""
        return str(self._state.get("phase", ""))

    def train(
        self,
        trainer: Trainer,
        beside: Stateful | None = None,
        watch: Callable[[Epoch], Epoch] = lambda numbers: numbers,
    ) -> None:
        """Trains what is left of a phase, and keeps everything, also what is trained `beside` the network.

        `watch` gets the numbers of each epoch before they are written, and gives them back with its own. Raises
        ConfigError where the state that it goes on from does not fit.
        """
        if self.phase == trainer.name:
            self._go_on(trainer, beside)

        def finished(numbers: Epoch) -> None:
            self.folder.check()
            self.tables["epochs"].append(report(watch(numbers), trainer.settings.epochs))
            self.folder.write_tables(self.tables)

        def state() -> dict[str, Any]:
            return {
                "phase": trainer.name,
                "tables": self.tables,
                "measured": self.measured,
                "model": self.experiment.model.state_dict(),
                "trainer": trainer.state_dict(),
                "beside": {} if beside is None else beside.state_dict(),
            }

        trainer.run(finished, Saver(self.checkpoint, state, self.experiment.config.checkpoint_minutes))

    def _go_on(self, trainer: Trainer, beside: Stateful | None) -> None:
        state, self._state = self._state, {}  # which takes as much memory as what it is of
        with self.checkpoint.put_in_place():
            self.tables, self.measured = state["tables"], state["measured"]
            self.experiment.model.load_state_dict(state["model"])
            trainer.load_state_dict(state["trainer"])
            if beside is not None:
                beside.load_state_dict(state["beside"])
