"""A run that was killed goes on, and ends in the same bytes as one that was not."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.compose.combinations import builtin_methods
from pruner.config import Config
from pruner.run.job import execute
from pruner.store.folders import RunFolder
from pruner.training import checkpoint
from pruner.training.checkpoint import Checkpoint
from pruner.training.trainer import Trainer
from tests import killing

RECIPE = {"dense_epochs": 2, "prune_epochs": 2, "finetune_epochs": 2}  # three steps an epoch


class Killed(KeyboardInterrupt):
    """What a test throws into a run."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], RunFolder]:
    """The folder of the same run, undisturbed; made once."""
    outputs = tmp_path_factory.mktemp("uninterrupted")

    def run(config: Config) -> RunFolder:
        config = replace(config, output_dir=str(outputs))
        assert execute(config) == 0
        return RunFolder(outputs / config.run_id)

    return run


@pytest.fixture(autouse=True)
def saved_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short it was."""
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


def same(config: Config, expected: RunFolder) -> None:
    killing.same(RunFolder(Path(config.output_dir) / config.run_id), expected)


def die(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, after: bool = False) -> None:
    """Makes the call number `at` of `owner.name` raise Killed, instead of the call or after it."""
    original, calls = getattr(owner, name), itertools.count(1)

    def call(*arguments: Any, **more: Any) -> Any:
        now = next(calls) == at
        if now and not after:
            raise Killed
        result = original(*arguments, **more)
        if now:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, call)


def killed(config: Config) -> None:
    with pytest.raises(Killed):
        execute(config)
    assert not (Path(config.output_dir) / config.run_id / "result.csv").exists()


@pytest.mark.parametrize("saves", range(1, 7))
def test_killed_between_two_epochs(
    saves: int,
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Right after a checkpoint was kept: 1 and 2 in the dense phase, 3 and 4 in prune, 5 and 6 in finetune."""
    config = tiny_config("dtp", recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, Checkpoint, "save", at=saves, after=True)
        killed(config)
    steps = counted(monkeypatch)
    assert execute(config) == 0
    assert len(steps) == 3 * (6 - saves)  # no epoch is trained twice
    same(config, uninterrupted(config))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that are trained from now on."""
    steps: list[int] = []
    step = Trainer._step

    def noted(self: Trainer, number: int, x: Tensor, y: Tensor) -> Tensor:
        steps.append(number)
        return step(self, number, x, y)

    monkeypatch.setattr(Trainer, "_step", noted)
    return steps


@pytest.mark.parametrize("method", ["dtp", pytest.param("gmp", marks=pytest.mark.long)])
@pytest.mark.parametrize("steps", [1, 8, 17])
def test_killed_within_an_epoch(
    method: str,
    steps: int,
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(method, granularity="filter", recipe={**RECIPE, "optimizer": "adam", "prune_lr": 0.001})
    with monkeypatch.context() as patch:
        die(patch, Trainer, "_step", at=steps)
        killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


# What a method's state holds is held for all of them by tests/test_pruning.py; others are one mask at once.
FEW = ("acdc", "dpp", "dsa", "dtp", "gmp", "magnitude")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m.label, marks=[] if m.label in FEW else pytest.mark.long) for m in builtin_methods()],
)
def test_every_method_goes_on_within_an_epoch(
    method: str,
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after a step in the middle of an epoch of every phase, with quantised weights; no step is done twice.

    Dense training, in which methods have no say, is killed with one of them.
    """
    granularity = "filter" if method in ("l1", "fpgm") else "weight"
    quantization = {"name": "int4", "bits": 4}
    config = tiny_config(
        method, granularity=granularity, quantization=quantization, recipe=RECIPE, checkpoint_minutes=1e-9
    )
    expected, trained = uninterrupted(config), method != "dtp"
    if trained:
        shutil.copytree(expected.path.parents[1] / config.dense_id, Path(config.output_dir) / config.dense_id)
    steps = counted(monkeypatch)
    # In the second epochs of dense, whose last step is saved next, of prune (dsa: the first of finetune), of finetune.
    for saves in (5, 5) if trained else (5, 6, 5):
        with monkeypatch.context() as patch:
            die(patch, Checkpoint, "save", at=saves, after=True)
            killed(config)
    assert execute(config) == 0
    begun = [] if trained else [*range(6)]
    assert steps == [*begun, *range(4 if method == "dsa" else 6), *range(6)]  # dsa keeps images for its ratios
    same(config, expected)


def test_dropout_goes_on_where_it_was(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What draws from torch's own generator, which is seeded once an epoch, draws on within it."""
    model = {"label": "noisy", "name": f"{__name__}:Noisy"}
    config = tiny_config(model=model, recipe=RECIPE, checkpoint_minutes=1e-9)
    with monkeypatch.context() as patch:
        die(patch, Checkpoint, "save", at=5, after=True)
        killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


class Noisy(nn.Sequential):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(math.prod(shape), 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, classes)
        )


def test_a_state_that_does_not_fit_is_refused(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, Checkpoint, "save", at=4, after=True)
        killed(config)
    kept = Checkpoint(RunFolder(Path(config.output_dir) / config.run_id).checkpoint)
    state = kept.load()
    network = {**state["network"], "_extra_state": torch.zeros(3, dtype=torch.uint8)}
    for spoilt in ({**state, "network": {}}, {**state, "trainer": {"epoch": 1}}, {**state, "network": network}):
        kept.save(spoilt)
        before = kept.path.read_bytes()
        with pytest.raises(ConfigError, match=r"state\.pt: does not fit this run \(.*\); delete it") as refusal:
            execute(config)
        assert "\n" not in str(refusal.value)
        assert kept.path.read_bytes() == before


def test_scores_that_draw_go_on_drawing_where_they_were(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("gmp", options={"every": 1, "score": {"name": "snip", "per_class": 2}}, recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, Trainer, "_step", at=10)
        killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


def test_killed_again_and_again(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("dtp", scope="layer", recipe=RECIPE)
    for _ in range(6):  # each start gets as far as one more checkpoint
        with monkeypatch.context() as patch:
            die(patch, Checkpoint, "save", at=1, after=True)
            killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Which torch takes where it is left to it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("saves", "asked"), [(1, 0), (4, 2), (6, 0)])
@pytest.mark.usefixtures("two_threads")
def test_a_run_goes_on_with_the_threads_it_began_with(
    saves: int,
    asked: int,
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In every phase, and whatever is asked for now: with others it would end in another network."""
    config = tiny_config("dtp", recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, Checkpoint, "save", at=saves, after=True)
        killed(config)
    torch.set_num_threads(2)
    assert execute(replace(config, threads=asked)) == 0
    assert "goes on with as many threads as it began with: 1, not 2" in capsys.readouterr().err
    same(config, uninterrupted(config))


@pytest.mark.usefixtures("two_threads")
def test_a_run_begins_again_with_the_threads_it_began_with(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of itself nothing was saved yet, but its dense network was trained with as many."""
    config = tiny_config("dtp", recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, Trainer, "_step", at=8)
        killed(config)
    torch.set_num_threads(2)
    assert execute(replace(config, threads=0)) == 0
    same(config, uninterrupted(config))


def test_killed_before_the_row_is_written(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config("dtp", recipe={**RECIPE, "finetune_epochs": 0})
    with monkeypatch.context() as patch:
        die(patch, RunFolder, "write_result", at=1)
        killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


def test_killed_after_the_row_was_written(
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is done; the next start removes the checkpoint that is left, and only that."""
    config = tiny_config("dtp", recipe=RECIPE)
    with monkeypatch.context() as patch:
        die(patch, RunFolder, "tidy", at=2)
        with pytest.raises(Killed):
            execute(config)
    folder = RunFolder(Path(config.output_dir) / config.run_id)
    assert folder.finished() and folder.checkpoint.exists()
    with folder.lock():
        assert execute(config) == 0  # another process has the folder: nothing is waited for
        assert folder.checkpoint.exists()
    steps = counted(monkeypatch)
    assert execute(config) == 0
    assert steps == []
    same(config, uninterrupted(config))
