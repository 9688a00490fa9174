"""Folders of runs and dense networks: done markers, damage, and one trainer at a time."""

import json
import math
import shutil
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock, Timeout

import pruner
from pruner.checks import ConfigError
from pruner.store.folders import DenseStore, RunFolder
from pruner.store.row import LAYER_COLUMNS, read_rows

ROOT = Path(pruner.__file__).resolve().parents[1]
INFO = {"accuracy": 98.0, "seconds": 1.5}
DONE = {"status": "done", "method": "dtp", "sparsity": 0.9, "accuracy": 97.5}
STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(7)}


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_the_store_is_imported_without_torch():
    code = "import sys, pruner.store.folders, pruner.cli.compare; print({'torch', 'pandas'} & set(sys.modules))"
    assert python(code).communicate(timeout=300)[0].strip() == "set()"


def test_a_run_is_finished_once_its_row_says_done(tmp_path):
    run = RunFolder(tmp_path / "digits-resnet20" / "dtp")
    assert run.finished() is None
    assert list(tmp_path.iterdir()) == []
    run.write_result({"status": "failed", "error": "out of memory"})
    assert run.finished() is None
    run.write_result({"status": "done", "method": "dtp", "sparsity": 0.9, "accuracy": 97.5})
    row = run.finished()
    assert row is not None and row["accuracy"] == 97.5


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:-3],
        lambda good: good.replace(b"97.5", b"87.5"),  # a bit that flipped
        lambda good: good.replace(b"97.5", b"nan"),
        lambda good: good + good.splitlines(keepends=True)[1],  # twice the row
        lambda good: good.splitlines(keepends=True)[0],  # no row
    ],
)
def test_a_damaged_row_is_not_finished(tmp_path, caplog, damage):
    run = RunFolder(tmp_path)
    run.write_result(DONE)
    run.result.write_bytes(damage(run.result.read_bytes()))
    assert run.finished() is None
    assert str(run.result) in caplog.text and "running again" in caplog.text


@pytest.mark.parametrize("column", ["accuracy", "dense_accuracy"])
@pytest.mark.parametrize("value", ["nan", "250.0", "-1.0"])
def test_a_row_of_impossible_numbers_is_not_finished(tmp_path, caplog, column, value):
    """Also in the folder of an older version, without digests."""
    run = RunFolder(tmp_path)
    run.write_result(DONE | {column: 12.25})
    run.digests.path.unlink()
    run.result.write_bytes(run.result.read_bytes().replace(b"12.25", value.encode()))
    assert run.finished() is None
    assert f"{run.result}: {column}={value}: expected a" in caplog.text


def test_the_row_of_another_run_is_refused(tmp_path):
    run, other = (RunFolder(tmp_path / name, f"pair/{name}") for name in ("run", "other"))
    other.write_result(DONE | {"run_id": "pair/other"})
    assert other.finished() is not None
    run.path.mkdir()
    run.result.write_bytes(other.result.read_bytes())
    with pytest.raises(ConfigError) as error:
        run.finished()
    assert str(error.value) == f"{run.result}: is of the run pair/other, not of pair/run; delete it to run this one"


def test_config_epochs_and_layers(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = {"method": {"name": "dtp", "options": {"lr": 1e-5, "off": None}}, "sparsity": 0.9, "note": "été: yes"}
    run.write_config(config)
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == run.read_config() == config
    assert list(run.read_config()) == ["method", "sparsity", "note"]

    assert run.read_epochs() == []
    run.write_tables({"epochs": [{"phase": "dense", "epoch": 1}]})
    run.write_tables({"epochs": [{"phase": "dense", "epoch": 1}, {"phase": "dense", "epoch": 2, "loss": 0.25}]})
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
    interrupted(monkeypatch, lambda: store.save(STATE, INFO))
    assert store.model.exists()
    assert store.load() is None


def interrupted(monkeypatch, save):
    """Does what is interrupted after the tensors of a dense network were written, before its dense.json is."""
    with monkeypatch.context() as patch:
        patch.setattr("pruner.store.folders.write_sealed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save()


def test_tensors_beside_an_older_marker_are_noticed(tmp_path, monkeypatch):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO)
    interrupted(monkeypatch, lambda: store.save({name: tensor + 1 for name, tensor in STATE.items()}, INFO))
    with pytest.raises(ConfigError, match=r"model.safetensors: not the file that .* was written for .*; delete .*json"):
        store.load()


@pytest.mark.parametrize("name", ["dense.json", "model.safetensors"])
def test_flipped_bits_of_a_dense_network_are_noticed(tmp_path, name):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO)
    good = (tmp_path / name).read_bytes()
    for place in range(0, len(good), 3):
        (tmp_path / name).write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            found = store.load()
        except ConfigError as error:
            assert str(tmp_path) in str(error)
        else:  # blanks between words, or the name of the seal
            assert name == "dense.json" and found is not None and found[1].items() >= INFO.items()
            assert all(torch.equal(found[0][key], STATE[key]) for key in STATE)


def test_a_dense_network_of_before_there_were_digests(tmp_path, caplog):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO)
    store.info.write_text(json.dumps(INFO))
    found = store.load()
    assert found is not None and found[1] == INFO
    assert [record.getMessage().startswith(f"{store.model}: has no SHA-256") for record in caplog.records] == [True]


def test_the_dense_network_of_another_folder_is_refused(tmp_path):
    DenseStore(tmp_path / "s0").save(STATE, INFO)
    shutil.copytree(tmp_path / "s0", tmp_path / "s1")
    with pytest.raises(ConfigError, match=r"s1/dense.json: is of s0, not of s1; delete .*s1/dense.json to train"):
        DenseStore(tmp_path / "s1").load()


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


@pytest.mark.parametrize(
    ("key", "value"),
    [*product(["accuracy", "seconds"], ["98", None, [], True, float("nan"), -1.0, 1e400]), ("accuracy", 250)],
)
def test_wrong_numbers_of_a_dense_network_are_named(tmp_path, key, value):
    store = DenseStore(tmp_path)
    store.save(STATE, INFO | {key: value})
    said = rf"dense.json: {key}=.*: expected a number from 0 "
    if isinstance(value, float) and not math.isfinite(value):  # which no reader of JSON takes
        said = r"dense.json: cannot be read \((NaN|Infinity): expected a finite number\)"
    with pytest.raises(ConfigError, match=rf"{said}.*; delete .* to train"):
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
from pruner.store.folders import DenseStore
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


@pytest.mark.long  # test_job has two runs that share a dense network
def test_of_processes_at_the_same_time_one_trains_and_the_others_load(tmp_path):
    processes = [python(TRAIN, tmp_path / "dense" / "net") for _ in range(2)]
    said = sorted(process.communicate(timeout=300)[0].strip() for process in processes)
    assert said == ["loaded 98.0 3.0", "trained"]
    assert sorted(p.name for p in (tmp_path / "dense" / "net").iterdir()) == ["dense.json", "model.safetensors"]


HOLD = """
import sys, time
from pruner.store.folders import RunFolder
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
        holder.communicate(timeout=300)
    assert not run.exists()  # the lock lies beside it
    assert python(HOLD, run, 0).communicate(timeout=300)[0] == "held\n"


def test_waiting_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD, run.path, 0.5)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with run.lock():
        assert f"waiting for the process that works on {run.path}" in caplog.text
    holder.communicate(timeout=300)


def test_a_lock_is_released_by_an_error(tmp_path):
    run = RunFolder(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="boom"), run.lock():
            raise RuntimeError("boom")
