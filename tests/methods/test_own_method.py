"""A user's own method: examples/own_method, a class and a YAML file, run from another folder as the docs show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pruner.export.networks import load_model
from pruner.store.row import read_rows
from tests.fuzz.answers import ask

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "own_method"


TINY = ["dataset=synthetic", "model.width=4", "recipe=smoke", "sparsity=0.8", "threads=1", "device=cpu"]
WORDS = ["--config-dir", str(EXAMPLE), *TINY]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # --config-dir adds to both
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pruner", *WORDS, "method=movement", "method.ramp=0.4"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    (result,) = tmp_path.glob("outputs/synthetic-resnet20/movement-weight-global-params-0.8-s0-*/result.csv")
    (row,) = read_rows(result)
    assert (row["status"], row["method"], row["sparsity"]) == ("done", "movement", 0.8)
    assert str(result.parent.relative_to(tmp_path)) in said.stdout

    weights = [tensor for tensor in load_file(result.parent / "model.safetensors").values() if tensor.dim() > 1]
    kept = sum(int((weight != 0).sum()) for weight in weights)
    assert kept == row["prunable_params_kept"] == row["prunable_params_total"] // 5
    load_model(result.parent)  # without the user's folder


def test_its_option_is_checked(tmp_path: Path) -> None:
    said = ask([*WORDS, "method=movement", "method.ramp=2"])
    assert said.status == 2
    assert said.err == "pruner: method.ramp=2.0: from 0 to 1\n"
    assert list(tmp_path.iterdir()) == []


def test_it_is_among_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal, where one is said to be there
    said = ask([*WORDS, "--help"])
    (line,) = (line for line in said.out.splitlines() if line.split()[:1] == ["movement"])
    assert "scores learn from the gradient of the mask" in line
