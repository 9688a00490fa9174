"""Rows are read back as they were written, and a file is whole or not there."""

import errno
import math
import os
import stat

import pytest

from pruner.checks import ConfigError
from pruner.store.row import (
    COLUMNS,
    EPOCH_COLUMNS,
    FURTHER,
    LAYER_COLUMNS,
    RATIO_COLUMNS,
    TEXT,
    read_rows,
    write_atomically,
    write_table,
)


def write_row(path, values):
    write_table(path, COLUMNS, [values])


def test_the_columns_are_the_contract_in_its_order():
    assert ",".join(COLUMNS) == (
        "status,error,method,dataset,model,granularity,scope,budget,sparsity,seed,achieved_sparsity,params_total,"
        "params_kept,macs_total,macs_kept,prunable_params_total,prunable_params_kept,prunable_macs_total,"
        "prunable_macs_kept,dense_accuracy,soft_accuracy,hard_accuracy,accuracy,accuracy_top5,dense_epochs,"
        "prune_epochs,finetune_epochs,dense_seconds,prune_seconds,finetune_seconds,quant_bits,size_bytes,latency_ms,"
        "dense_latency_ms,device,threads,precision,torch_version,pruner_version,commit,run_id"
    )
    assert set(TEXT) <= {*COLUMNS, *EPOCH_COLUMNS, *LAYER_COLUMNS, *RATIO_COLUMNS, *FURTHER}


def test_values_come_back_equal_and_of_the_same_type(tmp_path):
    values = {
        "status": "done",
        "method": 'odd, "quoted" name',
        "sparsity": 0.1 + 0.2,
        "seed": 2**31,
        "accuracy": 100 / 3,
        "achieved_sparsity": 1e-17,
        "macs_total": 15_470_264_320,
        "torch_version": "2.15",
        "commit": "1234567",
        "dense_accuracy": math.inf,
    }
    write_row(tmp_path / "result.csv", values)
    (row,) = read_rows(tmp_path / "result.csv")
    assert tuple(row) == COLUMNS
    assert row == dict.fromkeys(COLUMNS) | values
    assert {name: type(row[name]) for name in values} == {name: type(value) for name, value in values.items()}


def test_the_file_is_plain_csv(tmp_path):
    rows = [{"phase": "dense", "epoch": 1, "seconds": 1.23456, "loss": 0.5}, {"phase": "prune", "sparsity": True}]
    write_table(tmp_path / "epochs.csv", EPOCH_COLUMNS, rows)
    assert (tmp_path / "epochs.csv").read_bytes() == (
        b"phase,epoch,seconds,lr,loss,train_accuracy,sparsity,undecided,gap\ndense,1,1.235,,0.5,,,,\nprune,,,,,,,,\n"
    )


def test_an_error_is_put_on_one_line(tmp_path):
    write_row(tmp_path / "r.csv", {"status": "failed", "error": "first\r\n  second\u2028third\0 \udcff end"})
    assert (tmp_path / "r.csv").read_bytes().count(b"\n") == 2
    assert read_rows(tmp_path / "r.csv")[0]["error"] == "first second third end"


@pytest.mark.parametrize("length", [0, 1])
def test_tables_of_any_length(tmp_path, length):
    rows = [{"layer": "conv1", "units_kept": 3}] * length
    write_table(tmp_path / "layers.csv", LAYER_COLUMNS, rows)
    assert len(read_rows(tmp_path / "layers.csv", LAYER_COLUMNS)) == length


def test_an_unknown_column_and_a_wrong_type_are_refused(tmp_path):
    with pytest.raises(KeyError, match="acuracy"):
        write_row(tmp_path / "r.csv", {"acuracy": 1.0})
    with pytest.raises(TypeError, match="column seed: expected a number, not 'one'"):
        write_row(tmp_path / "r.csv", {"seed": "one"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, moment):
    path = tmp_path / "result.csv"
    write_row(path, {"status": "done", "seed": 1})
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, moment, full)
    with pytest.raises(OSError, match="no space left"):
        write_row(path, {"status": "failed", "seed": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_a_file_is_as_lasting_as_its_bytes(tmp_path, monkeypatch):
    """What a power failure may undo: the bytes are on the disk before they get their name, and then the name is."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(file):
        done.append(("sync", os.fstat(file).st_ino))
        fsync(file)

    def replaced(source, target):
        done.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(tmp_path / "file", b"x")
    file, folder = (tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino
    assert done == [("sync", file), ("replace", file), ("sync", folder)]


def test_a_file_has_the_permissions_of_any_other_and_missing_folders_are_made(tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    write_atomically(tmp_path / "a" / "b" / "file", b"x")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "plain", tmp_path / "a" / "b" / "file")]
    assert modes[0] == modes[1]


def test_the_order_of_columns_is_free_when_reading(tmp_path):
    write_table(tmp_path / "r.csv", COLUMNS[::-1], [{"seed": 3, "status": "done"}])
    assert read_rows(tmp_path / "r.csv")[0]["seed"] == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "cut short"),
        (lambda good: good[:-5], "cut short"),
        (lambda good: good[: good.rindex(b",")] + b"\n", "row 1 has 40 cells, the header has 41"),
        (lambda good: good.replace(b"seed", b"sead", 1), "other columns than expected (sead, seed)"),
        (lambda good: good.replace(b"status,error", b"status,status", 1), "other columns than expected (error)"),
        (lambda good: good.replace(b"0.9", b"0.9x"), "sparsity=0.9x: expected a number"),
        (lambda good: b"\xff\xfe" + good, "not a CSV file"),
        (lambda good: good.replace(b"dtp", b'"dtp'), "not a CSV file"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, damage, message):
    path = tmp_path / "result.csv"
    write_row(path, {"status": "done", "method": "dtp", "sparsity": 0.9, "run_id": "digits-resnet20/dtp"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError) as error:
        read_rows(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("second", [None, "elsewhere"])
def test_an_error_names_the_file_and_no_other(tmp_path, monkeypatch, second):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "hidden", None, second)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError) as error:
        write_atomically(tmp_path / "a.csv", b"")
    assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path / 'a.csv'}'"
