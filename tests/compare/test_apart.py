"""No cell averages runs of different settings: whatever key a sweep goes over, its values stand apart, named."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from pruner.cli.compare import main
from pruner.compare.settings import as_word
from pruner.config import Config, from_dict
from pruner.store.folders import RunFolder
from tests.compare.made_rows import run

PDP = {"method": {"label": "pdp", "name": "pdp", "options": {}}}
Compose = Callable[..., Config]


@pytest.fixture
def swept(composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Leaves the folder of a run of gmp for each dictionary of other values; their accuracies are 80, 81, ..."""
    monkeypatch.chdir(tmp_path)
    plain = composed("method=gmp").to_dict()

    def sweep(*runs: dict[str, Any]) -> None:
        for number, others in enumerate(runs):
            values = copy.deepcopy(plain)
            for key, value in others.items():
                *parents, last = key.split(".")
                reduce(dict.__getitem__, parents, values)[last] = value
            config = from_dict(values)
            folder = RunFolder(tmp_path / "outputs" / config.run_id)
            folder.write_config(config.to_dict())
            row = run(config.method.label, config.sparsity, config.seed, 80.0 + number)
            folder.write_result(row | {"run_id": config.run_id})

    return sweep


def captions(out: str) -> list[str]:
    """What the captions of tables say between the budget and the epochs."""
    return [line.split("params")[1].split("; epochs")[0] for line in out.splitlines() if line.startswith("digits")]


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("model.options.width", 16, 8),
        ("dataset.options.validation", 0.1, 0.1000001),  # which a name in full does not tell apart
        ("recipe.batch_size", 128, 64),
        ("budget.exclude", ["first"], []),
        ("method.name", "gmp", "mine:Gmp"),  # another class of the same label
    ],
)
def test_a_sweep_over_any_key_splits_tables(swept, capsys, key, one, other):
    swept(*({key: value, "seed": seed} for value in (one, other) for seed in (0, 1)))
    assert main(["outputs", "--output", "t"]) == 0
    out = capsys.readouterr().out
    words = sorted(as_word(value) for value in (one, other))
    assert captions(out) == [f", {key.replace('.options', '')}={word}" for word in words]
    assert "80.50 ± 0.71 (2)" in out and "82.50 ± 0.71 (2)" in out and "note" not in out
    assert main(["t-rows.csv"]) == 0  # where no config.yaml says it any more
    assert capsys.readouterr().out == out


def test_options_of_a_method_are_lines_beside_other_methods(swept, capsys):
    swept(*({"method.options.ramp": ramp, "seed": seed} for ramp in (0.3, 0.5) for seed in (0, 1)), PDP)
    assert main(["outputs", "--output", "t", "--html", "t.html", "--baseline", "pdp"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert [line[:3] for line in lines[1:5]] == [
        ["method", "options", "0.9"],
        ["pdp", "-", "84.00"],
        ["gmp", "ramp=0.5", "82.50"],
        ["gmp", "ramp=0.3", "80.50"],
    ]
    assert main(["t-rows.csv", "--baseline", "pdp"]) == 0
    assert capsys.readouterr().out == out
    assert main(["outputs", "--rows", "sparsity", "--cols", "method", "--format", "csv"]) == 0
    cells = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sorted((cell["options"], cell["mean"]) for cell in cells) == [
        ("", "84.0"),
        ("ramp=0.3", "80.5"),
        ("ramp=0.5", "82.5"),
    ]
    assert main(["outputs", "--rows", "sparsity", "--cols", ""]) == 0  # a table for each method, and its options
    assert captions(capsys.readouterr().out) == [", gmp, ramp=0.3", ", gmp, ramp=0.5", ", pdp"]


def test_seeds_alone_are_averaged_and_methods_compared_as_before(swept, capsys):
    swept(*({"seed": seed, "threads": 1 + seed, "data_dir": f"d{seed}"} for seed in (0, 1)))
    swept(PDP | {"recipe.prune_lr": 0.01})
    assert main(["outputs"]) == 0
    out = capsys.readouterr().out
    assert captions(out) == [""] and "options" not in out
    assert "note: runs of different settings: recipe.prune_lr 0.01, 0.05" in out  # of methods, not within a cell


def test_an_older_config_without_a_younger_key_is_of_the_same_settings(swept, capsys, tmp_path):
    swept({"seed": 0}, {"seed": 1})
    path = sorted((tmp_path / "outputs").rglob("config.yaml"))[0]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("block", "nm", "ratios", "compile"))))
    assert len(path.read_text()) < len("".join(lines))
    (path.parent / "digests.json").unlink()  # which older runs did not have
    assert main(["outputs"]) == 0
    assert "80.50 ± 0.71 (2)" in capsys.readouterr().out


@pytest.mark.parametrize("place", [".", "../.."])
def test_the_current_folder_may_be_a_runs_own(swept, tmp_path, monkeypatch, capsys, place):
    swept({})
    (path,) = (tmp_path / "outputs").rglob("result.csv")
    monkeypatch.chdir(path.parent)
    assert main([place, "--html", "t.html"]) == 0
    assert "80.00 (1)" in capsys.readouterr().out
    assert '"command":"pruner method=gmp"' in Path("t.html").read_text()


def test_the_lock_of_a_folder_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    with RunFolder(".").lock():
        assert RunFolder(tmp_path / "run").held() and RunFolder("../run").held()
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == [".run.lock"]
