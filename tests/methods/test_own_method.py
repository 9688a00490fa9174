"""A user's own method: examples/own_method, a class and a YAML file, run from another folder as the README shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pruner.export.networks import load_model
from pruner.store.row import read_rows

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "own_method"


def pruner(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m pruner` on a tiny run with the example's folder added."""
    tiny = ["dataset=synthetic", "model.width=4", "recipe=smoke", "sparsity=0.8", "threads=1", "device=cpu"]
    command = [sys.executable, "-m", "pruner", "--config-dir", str(EXAMPLE), *tiny, *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_example_runs(tmp_path: Path) -> None:
    said = pruner("method=movement", "method.ramp=0.4", cwd=tmp_path)
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
    said = pruner("method=movement", "method.ramp=2", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr == "pruner: method.ramp=2.0: from 0 to 1\n"
    assert list(tmp_path.iterdir()) == []


def test_it_is_among_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal, where one is said to be there
    said = pruner("--help", cwd=tmp_path)
    (line,) = (line for line in said.stdout.splitlines() if line.split()[:1] == ["movement"])
    assert "scores learn from the gradient of the mask" in line
