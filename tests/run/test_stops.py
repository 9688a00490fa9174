"""What ends a phase before its time: numbers that are no longer finite, and signals."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from torch import Tensor

from pruner.config import Config, Recipe
from pruner.run.job import execute
from pruner.runtime.signals import endings_raise
from pruner.store.folders import RunFolder
from pruner.training import checkpoint
from pruner.training.checkpoint import Checkpoint, Saver
from pruner.training.trainer import Trainer, TrainingError
from tests.killing import same
from tests.toy_training import Constant, trainer_of


class Kept:
    """In the place of a Saver: keeps every state that it is asked to save; `due` always, or never."""

    def __init__(self, trainer: Trainer, due: bool = True) -> None:
        self.trainer, self.always = trainer, due
        self.states: list[tuple[int, int]] = []  # epochs and steps done

    def due(self, within: bool) -> bool:
        return self.always

    def save(self) -> None:
        assert all(bool(value.isfinite().all()) for value in self.trainer.network.model.state_dict().values())
        self.states.append((self.trainer.epoch, self.trainer.step))


class Poisoned(Constant):
    """Constant, until forward pass number `at`: then its logits are NaN, or only the gradient of its logits."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__(2)
        self.at, self.where, self.calls = at, where, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits = super().forward(images)
        if self.calls != self.at:
            return logits
        if self.where == "gradient":
            logits.register_hook(lambda gradient: gradient * math.nan)
            return logits
        return logits * {"nan": math.nan, "inf": math.inf}[self.where]


@pytest.mark.parametrize(
    ("where", "at", "said", "saved"),
    [
        ("nan", 1, "the loss is nan in phase dense, epoch 1, step 1", []),
        ("nan", 4, "the loss is nan in phase dense, epoch 2, step 2", [(0, 1), (1, 0), (1, 1)]),
        ("inf", 3, "the loss is nan in phase dense, epoch 2, step 1", [(0, 1), (1, 0)]),
        ("gradient", 3, "logits is no longer finite in phase dense, epoch 2, step 1", [(0, 1), (1, 0)]),
        ("gradient", 4, "logits is no longer finite in phase dense, epoch 2, step 2", [(0, 1), (1, 0), (1, 1)]),
    ],
)
def test_what_is_not_finite_stops_the_phase_at_once_and_is_not_saved(
    where: str, at: int, said: str, saved: list[tuple[int, int]]
) -> None:
    lines: list[dict[str, Any]] = []
    model = Poisoned(at, where)
    trainer = trainer_of(model, Recipe("r", 3, dense_epochs=3))
    kept = Kept(trainer)
    with pytest.raises(TrainingError, match=f"^{said}$"):
        trainer.run(lines.append, cast(Saver, kept))
    assert model.calls == at and kept.states == saved
    assert len(lines) == (at - 1) // 2


def test_weights_that_nobody_saves_show_in_the_next_loss() -> None:
    model = Poisoned(3, "gradient")
    with pytest.raises(TrainingError, match="the loss is nan in phase dense, epoch 2, step 2"):
        trainer_of(model, Recipe("r", 3, dense_epochs=3)).run(lambda numbers: None)
    assert model.calls == 4


def test_the_step_is_named_however_late_the_loss_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it is looked at after so many steps, or before a save."""
    looks: list[int] = []
    look = Trainer._check_loss

    def rarely(self: Trainer) -> None:
        looks.append(self.step)
        if self.step == 2:
            look(self)

    monkeypatch.setattr(Trainer, "_check_loss", rarely)
    with pytest.raises(TrainingError, match="the loss is nan in phase dense, epoch 2, step 1"):
        trainer_of(Poisoned(3, "nan"), Recipe("r", 3, dense_epochs=3)).run(lambda numbers: None)
    assert looks[-1] == 2


def test_a_run_goes_on_from_its_last_good_state(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says what went wrong; what was saved before stays, and is enough to end as if nothing had."""
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)
    config = tiny_config("dtp")
    alone = replace(config, output_dir=str(tmp_path / "alone"))
    assert execute(alone) == 0
    step = Trainer._step

    def spoilt(self: Trainer, number: int, x: Tensor, y: Tensor) -> Tensor:
        totals = step(self, number, x, y)
        if self.name == "prune" and number == 4:  # the second of three in the second epoch
            next(self.network.parameters()).data.fill_(math.nan)
            totals[0] = math.nan
        return totals

    folder = RunFolder(Path(config.output_dir) / config.run_id)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", spoilt)
        for _ in range(2):  # what is spoilt again fails again
            assert execute(config) == 1
            row = folder.row()
            assert row is not None and row["status"] == "failed"
            assert row["error"] == "TrainingError: the loss is nan in phase prune, epoch 2, step 2"
            state = Checkpoint(folder.checkpoint).load()
            assert (state["trainer"]["epoch"], state["trainer"]["step"]) == (1, 0)
            assert all(bool(values.isfinite().all()) for values in state["network"].values())
    assert execute(config) == 0
    same(folder, RunFolder(Path(alone.output_dir) / alone.run_id))


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Signals do what they do there, also where the tests were started in the background, with some ignored."""
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Signalled(Constant):
    """Sends its process signals in forward pass number 3, the first of the second epoch."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(2)
        self.numbers, self.calls = numbers, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            for number in self.numbers:
                signal.raise_signal(number)
        return super().forward(images)


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_step_and_for_the_save(number: int) -> None:
    model = Signalled(number)
    trainer = trainer_of(model, Recipe("r", 3, dense_epochs=3))
    kept = Kept(trainer, due=False)
    with pytest.raises(BaseException) as end, endings_raise():
        trainer.run(lambda numbers: None, cast(Saver, kept))
    assert kept.states == [(1, 1)] and model.calls == 3
    if number == signal.SIGINT:
        assert end.type is KeyboardInterrupt
    else:
        assert isinstance(end.value, SystemExit) and end.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_second_interrupt_does_not_wait() -> None:
    kept = Kept(trainer_of(Signalled(signal.SIGINT, signal.SIGINT), Recipe("r", 3, dense_epochs=3)), due=False)
    with pytest.raises(KeyboardInterrupt):
        kept.trainer.run(lambda numbers: None, cast(Saver, kept))
    assert kept.states == []


def test_another_handler_gets_its_signal_when_the_state_is_saved() -> None:
    """As a cluster's does, which asks to be queued again; where it does not raise, training goes on."""
    model = Signalled(signal.SIGUSR2, signal.SIGUSR2)
    trainer = trainer_of(model, Recipe("r", 3, dense_epochs=3))
    kept = Kept(trainer, due=False)
    seen: list[tuple[int, list[tuple[int, int]]]] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: seen.append((number, list(kept.states))))
    try:
        trainer.run(lambda numbers: None, cast(Saver, kept))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [(signal.SIGUSR2, [(1, 1)])] and model.calls == 6


def test_in_a_thread_signals_are_left_alone() -> None:
    lines: list[dict[str, Any]] = []
    trainer = trainer_of(Constant(2), Recipe("r", 3, dense_epochs=2))
    thread = threading.Thread(target=lambda: trainer.run(lines.append))
    thread.start()
    thread.join()
    assert len(lines) == 2
