"""Weights from a file that do not do what they can: warned of, or refused before anything is pruned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pruner.checks import ConfigError
from pruner.cli.main import main
from pruner.config import Choice, Config
from pruner.models import build
from pruner.run.dense import check_loaded
from pruner.run.experiment import Experiment
from pruner.run.job import execute
from pruner.store.folders import RunFolder
from pruner.store.reading import read_json

LOOK = "look at dataset.mean and std"


def experiment(classes: int = 10, images: int = 10_000, **options: Any) -> Experiment:
    data = SimpleNamespace(classes=classes, test=range(images))
    config = SimpleNamespace(model=Choice("mine", "torchvision", {"weights": "mine.pth", **options}))
    return cast(Experiment, SimpleNamespace(data=data, config=config))


@pytest.mark.parametrize(
    ("accuracy", "images", "outcome"),
    [
        (96.0, 10_000, "fine"),
        (93.5, 10_000, "fine"),  # 1.0 and three standard errors, 0.65, below
        (93.2, 10_000, "warned"),
        (89.5, 10_000, "warned"),
        (89.2, 10_000, "refused"),
        (53.06, 10_000, "refused"),
        (89.2, 100, "fine"),  # of so few images nothing more can be said
        (82.0, 100, "refused"),
    ],
)
def test_an_accuracy_below_what_is_expected(
    accuracy: float, images: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    one = experiment(images=images, expected_accuracy=95.0)
    line = f"model.expected_accuracy=95.0: the dense network reaches {accuracy:.2f}%; {LOOK}"
    if outcome == "refused":
        with pytest.raises(ConfigError) as caught:
            check_loaded(one, accuracy)
        assert str(caught.value).startswith(line)
        assert all(cause in str(caught.value) for cause in ("image size", "labels", "shortcuts"))
    else:
        check_loaded(one, accuracy)
        assert [message.startswith(line) for message in caplog.messages] == ([True] if outcome == "warned" else [])


@pytest.mark.parametrize(
    ("classes", "accuracy", "options", "warned"),
    [
        (10, 10.2, {}, True),
        (10, 19.0, {}, True),  # two of ten labels in their place
        (10, 53.0, {}, False),
        (1000, 0.1, {}, True),
        (1000, 40.0, {}, False),
        (2, 51.0, {}, True),
        (2, 5.0, {}, True),  # the two labels the other way round
        (2, 70.0, {}, False),
        (10, 10.0, {"weights": None}, False),  # not loaded: nothing is known of it
        (10, 12.0, {"expected_accuracy": 12.0}, True),
    ],
)
def test_weights_near_chance_are_warned_of(
    classes: int, accuracy: float, options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    check_loaded(experiment(classes, **options), accuracy)
    found = [f"is near chance, which is {100 / classes:.2f}%; {LOOK}" in message for message in caplog.messages]
    assert found == ([True] if warned else [])


def loaded(tiny_config: Callable[..., Config], path: Path, **options: Any) -> Config:
    """A run that starts from random weights in a file."""
    model = {"arch": "shufflenet_v2_x0_5", "weights": str(path)}
    if not path.exists():
        torch.save(build(Choice("", "torchvision", {"arch": model["arch"]}), (3, 32, 32), 6).state_dict(), path)
    return tiny_config(
        dataset={
            "label": "synthetic",
            "name": "synthetic",
            "options": {"classes": 6, "image_size": 32, "mean": [0.5] * 3},
        },
        model={"label": "mine", "name": "torchvision", "options": {**model, **options}},
        recipe={"dense_epochs": 0, "prune_epochs": 0, "finetune_epochs": 0},
    )


def test_weights_that_miss_what_is_expected_are_not_pruned(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it the run is made, says that it is near chance, and tells with what its images were normalised."""
    with pytest.raises(ConfigError, match=r"^model.expected_accuracy=90.0: the dense network reaches \d+.\d\d%; "):
        execute(loaded(tiny_config, tmp_path / "mine.pth", expected_accuracy=90.0))
    config = loaded(tiny_config, tmp_path / "mine.pth")
    folder = RunFolder(Path(config.output_dir) / config.run_id)
    assert folder.row() is None
    capsys.readouterr()
    assert execute(config) == 0
    assert "is near chance, which is 16.67%" in capsys.readouterr().err
    description = read_json(folder.path / "model.json")
    assert (description["mean"], description["options"]) == ([0.5] * 3, {"arch": "shufflenet_v2_x0_5"})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.expected_accuracy=76.1"], "76.1: only with model.weights, which it is of"),
        (["model.weights=x.pth", "model.expected_accuracy=0.761"], "0.761: in percent, above 1 and at most 100"),
        (["model.weights=x.pth", "model.expected_accuracy=101"], "101: in percent, above 1 and at most 100"),
        (["model.weights=x.pth", "model.expected_accuracy=good"], "good: expected a number"),
    ],
)
def test_an_expected_accuracy_is_a_percentage_of_loaded_weights(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dataset=synthetic", "model=resnet18", *words]) == 2
    assert capsys.readouterr().err.startswith(f"pruner: model.expected_accuracy={expected}")
