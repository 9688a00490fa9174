"""A run that was killed goes on, and ends in the same bytes as one that was not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pruner.checkpoint import Checkpoint
from pruner.combinations import builtin_methods
from pruner.config import Config
from pruner.job import execute
from pruner.results.row import EPOCH_COLUMNS, read_rows
from pruner.results.store import RunFolder
from pruner.training import Trainer

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


def without_times(path: Path) -> list[dict[str, Any]]:
    columns = EPOCH_COLUMNS if path.name == "epochs.csv" else None
    rows = read_rows(path, columns) if columns else read_rows(path)
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def same(config: Config, expected: RunFolder) -> None:
    found = RunFolder(Path(config.output_dir) / config.run_id)
    for name in ("result.csv", "epochs.csv"):
        assert without_times(found.path / name) == without_times(expected.path / name)
    for name in ("model.safetensors", "model.json", "layers.csv", "ratios.csv", "masks.csv"):
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes()
    assert not found.checkpoint.exists()


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
    steps: list[int] = []
    step = Trainer._step

    def counted(self: Trainer, number: int, x: Tensor, y: Tensor) -> Tensor:
        steps.append(number)
        return step(self, number, x, y)

    monkeypatch.setattr(Trainer, "_step", counted)
    assert execute(config) == 0
    assert len(steps) == 3 * (6 - saves)  # no epoch is trained twice
    same(config, uninterrupted(config))


@pytest.mark.parametrize("method", ["dtp", "gmp"])
@pytest.mark.parametrize("steps", [1, 5, 8, 11, 14, 17])
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


@pytest.mark.parametrize("method", [method.label for method in builtin_methods()])
def test_every_method_goes_on_where_it_was(
    method: str,
    tiny_config: Callable[..., Config],
    uninterrupted: Callable[[Config], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in the second epoch of pruning, and again while finetuning; with quantised weights."""
    granularity = "filter" if method in ("l1", "fpgm") else "weight"
    quantization = {"name": "int4", "bits": 4}
    config = tiny_config(method, granularity=granularity, quantization=quantization, recipe=RECIPE)
    for steps in (10, 5):
        with monkeypatch.context() as patch:
            die(patch, Trainer, "_step", at=steps)
            killed(config)
    assert execute(config) == 0
    same(config, uninterrupted(config))


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
