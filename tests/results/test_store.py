"""Folders of runs and dense networks: done markers, damage, and one trainer at a time."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock, Timeout

import pruner
from pruner.checks import ConfigError
from pruner.results.row import LAYER_COLUMNS, read_rows
from pruner.results.store import DenseStore, RunFolder

ROOT = Path(pruner.__file__).resolve().parents[1]
INFO = {"accuracy": 98.0, "seconds": 1.5}
STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(7)}


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_store_is_imported_without_torch():
    code = "import sys, pruner.results.store, pruner.results.compare; print({'torch', 'pandas'} & set(sys.modules))"
    assert python(code).communicate(timeout=30)[0].strip() == "set()"


def test_a_run_is_finished_once_its_row_says_done(tmp_path):
    run = RunFolder(tmp_path / "digits-resnet20" / "dtp")
    assert run.finished() is None
    assert list(tmp_path.iterdir()) == []
    run.write_result({"status": "failed", "error": "out of memory"})
    assert run.finished() is None
    run.write_result({"status": "done", "accuracy": 97.5})
    row = run.finished()
    assert row is not None and row["accuracy"] == 97.5


def test_a_row_that_cannot_be_read_is_not_finished(tmp_path, caplog):
    run = RunFolder(tmp_path)
    run.write_result({"status": "done"})
    run.result.write_bytes(run.result.read_bytes()[:-3])
    assert run.finished() is None
    assert str(run.result) in caplog.text and "running again" in caplog.text


def test_config_epochs_and_layers(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = {"method": {"name": "dtp", "options": {"lr": 1e-5, "off": None}}, "sparsity": 0.9, "note": "été: yes"}
    run.write_config(config)
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == run.read_config() == config
    assert list(run.read_config()) == ["method", "sparsity", "note"]

    assert run.read_epochs() == []
    run.write_epochs([{"phase": "dense", "epoch": 1}])
    run.write_epochs([{"phase": "dense", "epoch": 1}, {"phase": "dense", "epoch": 2, "loss": 0.25}])
    assert [(row["epoch"], row["loss"]) for row in run.read_epochs()] == [(1, None), (2, 0.25)]

    run.write_layers([{"layer": "conv1", "units_total": 8, "units_kept": 3}])
    assert read_rows(run.layers, LAYER_COLUMNS)[0]["units_kept"] == 3


@pytest.mark.parametrize("text", ["{", "just words", None])
def test_a_config_that_cannot_be_read_is_named(tmp_path, text):
    run = RunFolder(tmp_path)
    if text is not None:
        run.config.write_text(text)
    with pytest.raises(ConfigError) as error:
        run.read_config()
    assert str(run.config) in str(error.value) and "\n" not in str(error.value)


def test_a_dense_network_comes_back(tmp_path):
    store = DenseStore(tmp_path / "dense" / "digits-resnet20-s0-01234567")
    assert store.load() is None
    info = {"accuracy": 98.61, "accuracy_top5": None, "epochs": 20, "seconds": 12.345}
    store.save(STATE, info)
    found = store.load()
    assert found is not None
    state, kept = found
    assert kept == info
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[k], STATE[k]) and state[k].dtype == STATE[k].dtype for k in STATE)


def test_a_dense_network_without_its_marker_is_not_there(tmp_path, monkeypatch):
    store = DenseStore(tmp_path)
    monkeypatch.setattr("pruner.results.store.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.save(STATE, {})
    assert store.model.exists()
    assert store.load() is None


@pytest.mark.parametrize("name", ["dense.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "nonsense", "gone"])
def test_a_damaged_dense_network_is_named_and_left_alone(tmp_path, name, damage):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:-4], "empty": b"", "nonsense": b"\xff" * 40}[damage])
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    if (name, damage) == ("dense.json", "gone"):
        assert store.load() is None  # without its marker it is simply unfinished
    else:
        with pytest.raises(ConfigError) as error:
            store.load()
        assert str(error.value).startswith(f"{path}: cannot be read")
        assert str(error.value).endswith(f"delete {store.info} to train the dense network again")
        assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("key", ["accuracy", "seconds"])
@pytest.mark.parametrize("value", ["98", None, [], True])
def test_wrong_numbers_of_a_dense_network_are_named(tmp_path, key, value):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO | {key: value})
    with pytest.raises(ConfigError, match=f"dense.json: {key}=.*: expected a number; delete .* to train"):
        store.load()


def test_a_dense_network_of_other_tensors_is_named(tmp_path):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO)
    name = next(iter(STATE))
    with pytest.raises(ConfigError, match=f"model.safetensors: does not fit the network .{name}: has .*delete .*"):
        store.load(STATE | {name: torch.zeros(99)})
    with pytest.raises(ConfigError, match="another: missing"):
        store.load(STATE | {"another": torch.zeros(1)})


@pytest.mark.parametrize("text", ["dataset: &a {name: x, options: *a}", "a: {1: 2, null: []}\nb: !!binary aGk="])
def test_a_config_that_is_no_plain_text_is_named(tmp_path, text):
    run = RunFolder(tmp_path)
    run.config.write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml: (cannot be read \(has an alias|b=)"):
        run.read_config()


TRAIN = """
import sys, time
from pruner.results.store import DenseStore
store = DenseStore(sys.argv[1])
with store.lock():
    found = store.load()
    if found is None:
        import torch
        time.sleep(0.5)
        store.save({"w": torch.ones(3)}, {"accuracy": 98.0, "seconds": 1.0})
        print("trained")
    else:
        print("loaded", found[1]["accuracy"], sum(found[0]["w"].tolist()))
"""


def test_of_processes_at_the_same_time_one_trains_and_the_others_load(tmp_path):
    processes = [python(TRAIN, tmp_path / "dense" / "net") for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["loaded 98.0 3.0", "trained"]
    assert sorted(p.name for p in (tmp_path / "dense" / "net").iterdir()) == ["dense.json", "model.safetensors"]


HOLD = """
import sys, time
from pruner.results.store import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_killed_holder_leaves_no_lock(tmp_path):
    run = tmp_path / "pair" / "run"
    holder = python(HOLD, run, 60)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout):
            FileLock(tmp_path / "pair" / ".run.lock").acquire(timeout=0)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=10)
    assert not run.exists()  # the lock lies beside it
    assert python(HOLD, run, 0).communicate(timeout=10)[0] == "held\n"


def test_waiting_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD, run.path, 0.5)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with run.lock():
        assert f"waiting for the process that works on {run.path}" in caplog.text
    holder.communicate(timeout=10)


def test_a_lock_is_released_by_an_error(tmp_path):
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="boom"), run.lock():
            raise RuntimeError("boom")
