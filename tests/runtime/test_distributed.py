"""One run on several processes: what one process gives, with the same masks, and one way in which all of them end."""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pruner.checks import ConfigError
from pruner.cli.main import _answer
from pruner.config import Config, from_dict
from pruner.methods.one_shot import OneShot
from pruner.methods.options import OneShotOptions
from pruner.run.job import execute
from pruner.run.threads import settle_threads
from pruner.runtime import distributed
from pruner.runtime.device import pick_device
from pruner.store import fingerprint
from pruner.store.folders import DenseStore, Folder, RunFolder
from pruner.store.row import EPOCH_COLUMNS, read_rows
from pruner.training import sync_batchnorm
from pruner.training.checkpoint import Checkpoint
from tests import killing
from tests.sweeping import environment

REPOSITORY = Path(distributed.__file__).parents[2]
# Steps that are few and small: sums in another order differ by a rounding, which every step makes larger, and Adam, by
# which scores learn, makes a whole step of a gradient that is nearly 0.
CALM = {"dense_epochs": 1, "dense_lr": 0.004, "prune_epochs": 2, "prune_lr": 0.002, "finetune_lr": 0.002}


def torchrun(*words: str) -> subprocess.Popen[str]:
    """Two processes of `python -m` these words; what both say comes from one pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stdout=pipe, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def executed_by_two(configs: Sequence[Config], folder: Path) -> tuple[list[int], str]:
    """Executes runs one after the other, in the same two processes; the first one's exit statuses, and what was said.

    They first check what the processes tell each other, the store, and batch norm.
    """
    tasks, statuses = folder / "tasks.json", folder / "statuses.json"
    tasks.write_text(json.dumps([config.to_dict() for config in configs]))
    said, _ = torchrun("tests.runtime.test_distributed", str(tasks), str(statuses)).communicate(timeout=300)
    assert statuses.exists(), said
    return json.loads(statuses.read_text()), said


def folder_of(config: Config) -> RunFolder:
    return RunFolder(Path(config.output_dir) / config.run_id)


def elsewhere(config: Config, folder: Path) -> Config:
    return from_dict({**config.to_dict(), "output_dir": str(folder)})


def same(found: RunFolder, expected: RunFolder) -> None:
    """Asserts that two runs have the same masks, and else the same to the rounding of some 15 steps in float32."""
    networks = [load_file(folder.model) for folder in (found, expected)]
    for name, wanted in networks[1].items():
        torch.testing.assert_close(networks[0][name], wanted, rtol=1e-3, atol=1e-4, msg=f"{found.path.name}: {name}")
        assert torch.equal(networks[0][name] == 0, wanted == 0), name
    rows = [read_rows(folder.result)[0] for folder in (found, expected)]
    for column in ("accuracy", "accuracy_top5", "soft_accuracy", "hard_accuracy", "dense_accuracy", "params_kept"):
        assert rows[0][column] == rows[1][column], column
    assert {path.name for path in found.path.iterdir()} == {path.name for path in expected.path.iterdir()}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(
    tiny_config: Callable[..., Config], finish: Callable[[Config], RunFolder], tmp_path: Path
) -> None:
    cases = [
        tiny_config("dtp", sparsity=0.9, recipe=CALM),
        tiny_config("smart", granularity="filter", budget="macs", recipe=CALM, options={"score_lr": 2e-4}),
        tiny_config("dsa", recipe=CALM),
        tiny_config("dpp", scope="row", recipe=CALM, quantization={"name": "int4", "bits": 4}),
        tiny_config("snip", granularity="kernel", recipe={**CALM, "precision": "bfloat16"}),
    ]
    statuses, said = executed_by_two([elsewhere(config, tmp_path / "two") for config in cases], tmp_path)
    assert statuses == [0] * len(cases), said
    for config in cases[:-1]:
        same(folder_of(elsewhere(config, tmp_path / "two")), finish(config))
    epochs = read_rows(folder_of(elsewhere(cases[0], tmp_path / "two")).epochs, EPOCH_COLUMNS)
    wanted = read_rows(folder_of(cases[0]).epochs, EPOCH_COLUMNS)
    assert [row["loss"] for row in epochs] == pytest.approx([row["loss"] for row in wanted], rel=1e-4)
    assert said.count("finetune 1/1") == len(cases)  # one of the two speaks


@dataclass(frozen=True)
class How(OneShotOptions):
    how: str = ""


class Fails(OneShot):
    """Goes wrong in its second step."""

    Options = How
    options: How

    def mask(self, step: int) -> Tensor:
        second = os.environ.get("RANK") == "1"
        if step == 1 and self.options.how == "infinite":
            return self.fixed * (torch.inf if second else 1)
        if step == 1 and self.options.how == "apart":
            return self.fixed * (1 - second / 1024)
        if step == 1 and self.options.how == "alone" and second:
            raise RuntimeError("on the second process alone")
        return self.fixed

    def final_mask(self) -> Tensor:
        return self.fixed


@pytest.mark.slow
def test_when_one_process_fails_all_do_and_the_row_says_why(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    """A loss that is no number for one of them, masks that differ, and an error that the other cannot know of."""
    hows = ("infinite", "apart", "alone")
    recipe = {**CALM, "prune_epochs": 1}
    name = "tests.runtime.test_distributed:Fails"
    one_step = {**recipe, "batch_size": 48}  # the step that goes wrong is the epoch's last
    recipes = (recipe, one_step, recipe)
    cases = [
        tiny_config("fails", name=name, options={"how": how}, recipe=r) for how, r in zip(hows, recipes, strict=True)
    ]
    start = time.monotonic()
    statuses, said = executed_by_two(cases, tmp_path)
    assert time.monotonic() - start < 60  # nothing hangs
    assert statuses == [1, 1, 1], said
    rows = [read_rows(folder_of(config).result)[0] for config in cases]
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert rows[0]["error"] == "TrainingError: the loss is nan in phase prune, epoch 1, step 2"
    apart = "TrainingError: the processes have come apart: their masks differ in phase prune, epoch 1, step 2"
    assert rows[1]["error"] == apart
    assert rows[2]["error"] == "RuntimeError: on the second process alone"
    log = folder_of(cases[2]).log.read_text()
    assert "in another process" in log and log.count('raise RuntimeError("on the second process alone")') == 1
    assert said.count("the run failed") == 3


@pytest.mark.slow
def test_a_run_that_torchrun_is_told_to_end_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    images = ("dataset=synthetic", "dataset.image_size=8", "dataset.train_size=96", "dataset.test_size=48")
    recipe = ("recipe=smoke", "recipe.batch_size=32", "recipe.prune_epochs=4")
    words = (*images, "model.width=2", "method=dtp", *recipe, "device=cpu", "threads=1")
    process = torchrun("pruner", *words, f"output_dir={tmp_path / 'told'}")
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("prune 1/4"):
            process.send_signal(signal.SIGTERM)
            break
    said += process.communicate(timeout=100)[0]
    assert process.returncode != 0 and "stopped; the same command goes on from what is saved" in said, said
    assert len(list(tmp_path.glob("told/synthetic-*/*/checkpoint/state.pt"))) == 1
    said, _ = torchrun("pruner", *words, f"output_dir={tmp_path / 'told'}").communicate(timeout=100)
    assert "dense 1/1" not in said and "prune 1/4" not in said, said
    assert said.count("final (finetuned)") == 1  # the table, by one of the two
    torchrun("pruner", *words, f"output_dir={tmp_path / 'left'}").communicate(timeout=100)
    told, left = (next(tmp_path.glob(f"{outputs}/synthetic-*/*/result.csv")).parent for outputs in ("told", "left"))
    killing.same(RunFolder(told), RunFolder(left))


@pytest.mark.slow
def test_what_is_refused_is_said_once(tmp_path: Path) -> None:
    process = torchrun("pruner", "recipe=smoke", "recipe.batch_size=63", f"output_dir={tmp_path / 'outputs'}")
    said, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    ours = [line for line in said.splitlines() if line.startswith("pruner: ")]
    assert ours == ["pruner: recipe.batch_size=63: 2 processes share every batch; give a multiple of 2"]
    assert not (tmp_path / "outputs").exists()


@pytest.fixture
def as_second_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes on two machines."""
    variables = {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**variables, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("as_second_of_four")
def test_shares_of_a_batch() -> None:
    assert (distributed.part(), distributed.here(), distributed.leads()) == ((1, 4), (1, 2), False)
    distributed.check_batch(32, 100)
    with pytest.raises(ConfigError, match=r"^recipe\.batch_size=30: 4 processes share every batch; give a multiple of"):
        distributed.check_batch(30, 100)
    with pytest.raises(ConfigError, match=r"^recipe\.batch_size=32: 31 training images make no whole batch"):
        distributed.check_batch(32, 31)


@pytest.mark.usefixtures("as_second_of_four")
def test_a_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^torchrun: its processes share one run; start a sweep without it"):
        _answer(["-m", "seed=0,1", "recipe=smoke"])


@pytest.mark.usefixtures("as_second_of_four")
def test_every_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one at hand: what torch is asked for."""
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device: None)
    assert [str(pick_device(name)) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert used == [1, 1]
    with pytest.raises(ConfigError, match=r"^device=cuda:1: 4 processes need one each; use auto or cuda"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    few = r"^device=cuda: 2 processes on this machine, but 1 GPUs; give torchrun --nproc-per-node 1, or device=cpu"
    with pytest.raises(ConfigError, match=few):
        pick_device("auto")


def test_one_process_hears_itself() -> None:
    assert (distributed.part(), distributed.here(), distributed.leads()) == ((0, 1), (0, 1), True)
    values = torch.arange(3.0)
    assert distributed.total(values) is values and distributed.agree([values])
    assert distributed.first(lambda: 7) == distributed.in_turn(lambda: 7) == 7
    assert distributed.union([5, 0]) == [5, 0]
    distributed.check_batch(31, 3)


@pytest.mark.usefixtures("as_second_of_four")
def test_processes_that_are_not_joined_read_for_themselves(tmp_path: Path) -> None:
    """As where a table is made in the environment of a cluster's job."""
    folder = RunFolder(tmp_path)
    folder.write_config({"seed": 1})
    assert folder.read_config() == {"seed": 1} and folder.row() is None


def test_what_touches_the_disk_is_done_by_the_first_process() -> None:
    """All of it, so that whoever calls the store need not know of processes."""
    for_each = {"Folder.lock", "RunFolder.open_log", "Checkpoint.load", "make_importable", "of_dense"}  # but see inside
    found = set()
    for owner in (Folder, RunFolder, DenseStore, Checkpoint, fingerprint):
        module = getattr(owner, "__module__", owner.__name__)
        for name, function in vars(owner).items():
            own = inspect.isfunction(function) and function.__module__ == module and not name.startswith("_")
            if own and not hasattr(function, "__wrapped__"):
                found.add(function.__qualname__)
    assert found == for_each


def check_talk() -> None:
    """In each of two processes: what they hear of each other."""
    me = distributed.rank()
    assert distributed.first(lambda: me) == 0
    assert distributed.first(lambda: distributed.first(lambda: "nested")) == "nested"
    called: list[int] = []
    distributed.in_turn(lambda: called.append(me))
    assert called == [me]
    for error in (ConfigError("no"), SystemExit(143)):

        def fail(error: BaseException = error) -> None:
            assert distributed.leads()
            raise error

        with pytest.raises(type(error), match=str(error)):
            distributed.first(fail)
    assert distributed.union([15] if me else [0]) == [0, 15]
    assert distributed.total(torch.tensor([1.0, me])).tolist() == [2.0, 1.0]
    doubles, floats = torch.tensor([[2.0 * me]]).double(), torch.tensor([4.0, me])
    distributed.average([doubles, floats])
    assert doubles.tolist() == [[1.0]] and floats.tolist() == [4.0, 0.5]
    assert distributed.agree([torch.zeros(3)]) and not distributed.agree([torch.zeros(3), torch.tensor(1e-45 * me)])


def check_store(place: Path) -> None:
    """In each of two processes: the first alone reads and writes, though each would have a folder of its own."""
    me = distributed.rank()
    run, dense = RunFolder(place / str(me) / "run"), DenseStore(place / str(me) / "dense")
    torch.set_num_threads(1 + me)
    with run.lock():
        assert run.held() and not run.begun() and run.row() is None
        run.keep_config({"seed": me})
        settle_threads(run, 0)
        run.write_tables({"epochs": [{"phase": "dense", "epoch": 1 + me}]})
        Checkpoint(run.checkpoint).save({"weights": torch.tensor([float(me)])})
        dense.save({"weights": torch.tensor([float(me)])}, {"accuracy": 50.0, "seconds": me})
        log = run.open_log()
        log.close()
    assert torch.get_num_threads() == 1
    assert run.read_config() == {"seed": 0} and run.read_epochs()[0]["epoch"] == 1 and run.begun()
    assert Checkpoint(run.checkpoint).load()["weights"].tolist() == [0.0]
    tensors, info = dense.load() or ({}, {})
    assert (tensors["weights"].tolist(), info["seconds"]) == ([0.0], 0)
    assert isinstance(log, logging.FileHandler) == distributed.leads() == run.path.exists() == dense.path.exists()
    with distributed.apart():
        assert run.begun() == distributed.leads()
    distributed.first(lambda: dense.info.write_text("{"))
    distributed.first(run.config.unlink)
    with pytest.raises(ConfigError, match=r"0/dense/dense\.json: "):
        dense.load()
    with pytest.raises(FileNotFoundError, match="0/run"):
        run.check()
    with pytest.raises(ConfigError, match=r"0/run/config\.yaml: cannot be read"):
        run.read_config()


def check_batch_norm() -> None:
    """In each of two processes: half of a batch is normalised as in the whole one, forwards and backwards."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    me = distributed.rank()
    for shape, affine in (((6, 3, 4, 5), True), ((8, 2), True), ((4, 3, 2, 2), False)):
        whole, slope = 3 + 2 * draw(*shape), draw(*shape)
        own = slice(me * len(whole) // 2, (me + 1) * len(whole) // 2)
        wanted = normalised(whole, slope, affine)
        with sync_batchnorm.over_all_processes():
            found = normalised(whole[own], slope[own], affine)
        for values, expected in zip(found[:2], wanted[:2], strict=True):
            torch.testing.assert_close(values, expected[own], rtol=1e-4, atol=1e-5)
        for values, expected in zip(found[2:4], wanted[2:4], strict=True):
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
        for values, expected in zip(found[4:], wanted[4:], strict=True):  # gradients of which each has its share
            torch.testing.assert_close(distributed.total(values), expected, rtol=1e-4, atol=1e-4)
    with sync_batchnorm.over_all_processes():  # in evaluation each for itself
        x = draw(5, 2)
        expected = (x - 1) / 2
        torch.testing.assert_close(F.batch_norm(x, torch.ones(2), 4 * torch.ones(2), eps=0.0), expected)
        half = F.batch_norm(x.bfloat16(), torch.zeros(2), torch.ones(2), training=True)
    assert half.dtype == torch.bfloat16


def normalised(x: Tensor, slope: Tensor, affine: bool) -> list[Tensor]:
    """y and the gradient of x; the running statistics; the gradients of weight and bias where it is `affine`."""
    x, channels = x.clone().requires_grad_(), x.shape[1]
    weight, bias = torch.arange(1.0, channels + 1, requires_grad=True), torch.ones(channels, requires_grad=True)
    mean, var = torch.zeros(channels), torch.ones(channels)
    scale, shift = (weight, bias) if affine else (None, None)
    y = F.batch_norm(x, mean, var, scale, shift, training=True, momentum=0.3, eps=1e-3)
    inputs = [x, weight, bias] if affine else [x]
    d_x, *others = torch.autograd.grad((y * slope).sum(), inputs)
    return [y.detach(), d_x, mean, var, *others]


if __name__ == "__main__":
    with distributed.joined():
        check_talk()
        check_batch_norm()
        check_store(Path(sys.argv[1]).parent)
        ended = []
        for task in json.loads(Path(sys.argv[1]).read_text()):
            distributed.agree([])  # both have told of the run before, which is forgotten now
            distributed.first(lambda: distributed._stores[0].delete_key(distributed.TROUBLE))
            ended.append(execute(from_dict(task)))
        if distributed.leads():
            Path(sys.argv[2]).write_text(json.dumps(ended))
