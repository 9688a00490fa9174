"""`pruner --plan`: what would be run, what is shared, and how long it takes as far as that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pruner.cli.main import main
from pruner.config import PHASES
from pruner.store.folders import RunFolder
from pruner.store.row import Row
from pruner.sweep.plan import duration, epoch_seconds
from tests.cli.test_cli import python
from tests.odd_networks import Net, conv, normed
from tests.sweeping import QUICK


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_plan_writes_nothing_and_needs_no_torch(tmp_path: Path) -> None:
    code = """
import json, sys
from pruner.cli.main import main
statuses = [main(words) for words in json.loads(sys.argv[1])]
print(json.dumps([statuses, "torch" in sys.modules]))
"""
    plans = [["--plan"], ["--plan", "-m", *QUICK, "seed=0,1"]]
    done = python(code, json.dumps(plans), PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0], False]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_tells_what_is_done_failed_shared_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, "threads=1", "method=gmp"]) == 0
    words = ["-m", *QUICK, "method=gmp,magnitude,random", "seed=0,1"]
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    before = capsys.readouterr().out
    runs = [Path(line.split()[-1]) for line in before.splitlines() if "[" in line]
    failed = RunFolder(runs[4])
    failed.write_result({"status": "failed", "error": "no luck", "run_id": "/".join(runs[4].parts[-2:])})
    RunFolder(runs[3]).write_config({})
    with RunFolder(runs[5]).lock():
        assert main([*words, "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 cells: 1 done, 2 to do, 1 unfinished, 1 failed, 1 running\n")
    assert f"done       [1/6] method=gmp seed=0  {runs[0]}\n" in said
    assert f"failed     [5/6] method=random seed=0  {failed.path}\n" in said
    dense = {line.split("  for ")[1]: line.split()[0] for line in said.splitlines() if "  for " in line}
    assert dense == {"3 5": "there", "2 4 6": "to"}
    assert said.endswith("one cell after the other (epochs of 1 finished run)\n")
    assert "2 dense networks: 1 to train, 1 there\n" in said
    assert main(["-m", "dataset=digits", *QUICK[1:], "seed=0,1", "--plan"]) == 0
    other = capsys.readouterr().out
    assert "not measured yet: dense of lenet_300_100 on digits, for 1 2\n" in other and "about" not in other


def test_a_plan_says_what_its_estimate_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "outputs" / name / "result.csv" for name in ("one", "other")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("status,error\n")
    words = ["--plan", *QUICK, "method=gmp"]
    assert main(words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("left out of the estimate: outputs/one/result.csv: other columns than expected (")
    assert last.endswith("; and 1 more like this")
    for file in files:
        file.unlink()
    assert main(words) == 0
    assert "left out" not in capsys.readouterr().out


def grouped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network with a group norm, which keeps the filters before it."""
    return Net(lambda n, x: n.b(n.norm(n.a(x))), 6, a=conv(3, 8), norm=nn.GroupNorm(2, 8), b=normed(8, 6))


def test_a_plan_says_of_each_network_what_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine" / "model" / "grouped.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(f"# a network\nname: {__name__}:grouped\n")
    words = ["--config-dir=mine", "-m", "--plan", *QUICK, "dataset.classes=5", "method=gmp,grasp"]
    assert main([*words, "model=grouped", "granularity=filter", "sparsity=0.5,0.9"]) == 2
    assert capsys.readouterr().err.startswith("pruner: sparsity=0.9: keeps 67 of 678 params, but 293 are needed")
    assert main([*words, "model=grouped", "granularity=filter,weight", "sparsity=0.5"]) == 0
    said = capsys.readouterr().out
    lines = "  6 filters can go\n  8 filters stay, of a: native_group_norm in norm\n\n"
    assert f"\nfilters of grouped on synthetic, for 1 3\n{lines}" in said
    assert said.count("can go") == 1  # two cells have this network, and weights are not traced
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_plan_downloads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruner.models.torchvision._download", lambda arch: pytest.fail("a download"))
    words = ["--plan", "granularity=filter", "sparsity=0.5", "method=gmp"]
    assert main([*words, "dataset=cifar10"]) == 0
    absent = "  not known while there is no data/cifar10.safetensors, which a run would download\n"
    assert absent in capsys.readouterr().out
    images = ["dataset=synthetic", "dataset.image_size=32"]
    assert main([*words, *images, "model=squeezenet1_1", "model.weights=default"]) == 0
    assert "filters of squeezenet1_1 on synthetic, for 1\n  " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def row(method: str, seconds: float, epochs: int = 10, **other: Any) -> Row:
    numbers: Row = {f"{phase}_epochs": epochs for phase in PHASES}
    numbers |= {f"{phase}_seconds": seconds for phase in PHASES}
    names = {"dataset": "synthetic", "model": "resnet20", "granularity": "weight", "device": "cpu", "status": "done"}
    return {**names, **numbers, "method": method, "run_id": f"{method}{seconds}", **other}


def test_an_epoch_takes_what_the_runs_most_alike_took(tiny_config: Any) -> None:
    gmp, dtp = tiny_config("gmp"), tiny_config("dtp")
    rows = [
        row("gmp", 10.0),
        row("gmp", 30.0),
        row("gmp", 20.0),
        row("gmp", 70.0, granularity="filter"),
        row("random", 50.0),
        row("gmp", 900.0, device="NVIDIA H100"),
        row("gmp", 900.0, dataset="digits"),
        row("gmp", 900.0, model="vgg16"),
        row("gmp", 900.0, status="failed"),
        row("gmp", 0.0, epochs=0),
    ]
    measured = epoch_seconds(gmp, "prune", rows, on_gpu=False)
    assert measured is not None
    assert (measured.seconds, measured.run_ids) == (2.0, {"gmp10.0", "gmp20.0", "gmp30.0"})
    other = epoch_seconds(dtp, "prune", rows, on_gpu=False)
    assert other is not None and (other.seconds, len(other.run_ids)) == (3.0, 5)
    dense = epoch_seconds(gmp, "dense", rows, on_gpu=True)
    assert dense is not None and (dense.seconds, dense.run_ids) == (90.0, {"gmp900.0"})
    assert epoch_seconds(gmp, "finetune", [], on_gpu=False) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (29, "29 s"), (90, "2 min"), (3570, "1 h 0 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_another_sweeper_has_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "+hydra.sweeper._target_=hydra_plugins.a.B", "--plan"]) == 2
    assert "--plan: not with a sweeper that decides" in capsys.readouterr().err
