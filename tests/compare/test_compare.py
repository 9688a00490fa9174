"""The command over many runs: hand-computed entries, honest notes, and no row lost or counted twice."""

import csv
import errno
import os

import pytest

from pruner.cli.compare import main
from pruner.compare.gather import gather
from pruner.compare.notes import caption, notes
from pruner.compare.render import LONG_COLUMNS
from pruner.compare.tables import tables
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, write_table
from tests.compare.made_rows import run

LEGEND = "Test accuracy in percent: mean ± sample standard deviation over seeds (number of runs)."
BEST = "best mean of its column."


# 80, 82, 87: mean 83, deviations -3 -1 4, variance (9 + 1 + 16) / 2 = 13, std 3.6056.
THREE = [run(seed=0, accuracy=80.0), run(seed=1, accuracy=82.0), run(seed=2, accuracy=87.0)]
FIVE = [*THREE, run(sparsity=0.95, accuracy=70.0), run("gmp", 0.95, 0, 71.0), run("gmp", 0.95, 1, 72.0)]
FAILED = run("gmp", 0.9, 3) | {"status": "failed", "accuracy": None, "error": "loss is nan"}


def test_the_console_table(outputs, capsys):
    outputs(*FIVE, FAILED)
    assert main([]) == 0
    assert capsys.readouterr().out == (
        "digits resnet20: weight, global, params; epochs 10 dense + 5 prune + 2 finetune\n"
        "method               0.9              0.95\n"
        "gmp                    -  71.50 ± 0.71 (2) *\n"
        "dtp     83.00 ± 3.61 (3)         70.00 (1)\n"
        "failed: gmp at 0.9, seed 3: loss is nan\n"
        "\n"
        f"{LEGEND}\n"
        f"*: {BEST}\n"
    )


def test_the_files(outputs, tmp_path, capsys):
    outputs(*[row | {"dense_accuracy": 90.0 + row["seed"], "params_kept": 100} for row in FIVE], FAILED)
    assert main(["--output", "tables/sweep"]) == 0
    with (tmp_path / "tables" / "sweep.csv").open(newline="") as stream:
        entries = list(csv.DictReader(stream))
    assert list(entries[0]) == list(LONG_COLUMNS)
    assert [(entry["method"], entry["sparsity"], entry["n"]) for entry in entries] == [
        ("gmp", "0.95", "2"),
        ("dtp", "0.9", "3"),
        ("dtp", "0.95", "1"),
    ]
    dtp = entries[1]
    assert (dtp["dataset"], dtp["budget"], dtp["finetune_epochs"]) == ("digits", "params", "2")
    assert (dtp["value"], dtp["mean"], dtp["min"], dtp["max"]) == ("accuracy", "83.0", "80.0", "87.0")
    assert float(dtp["std"]) == pytest.approx(13**0.5)
    assert (dtp["dense_accuracy"], dtp["params_kept"], dtp["soft_accuracy"]) == ("91.0", "100.0", "")
    assert (entries[2]["std"], entries[2]["difference"], entries[2]["published"]) == ("", "", "")

    assert (tmp_path / "tables" / "sweep.md").read_text(encoding="utf-8") == (
        "**digits resnet20: weight, global, params; epochs 10 dense + 5 prune + 2 finetune**\n"
        "\n"
        "| method | 0.9 | 0.95 |\n"
        "| --- | ---: | ---: |\n"
        "| gmp | - | **71.50 ± 0.71** (2) |\n"
        "| dtp | 83.00 ± 3.61 (3) | 70.00 (1) |\n"
        "\n"
        "failed: gmp at 0.9, seed 3: loss is nan\n"
        "\n"
        f"{LEGEND}\n"
        f"Bold: {BEST}\n"
    )
    with (tmp_path / "tables" / "sweep-rows.csv").open(newline="") as stream:
        kept = list(csv.DictReader(stream))
    assert list(kept[0]) == list(COLUMNS)
    assert sorted(row["run_id"] for row in kept) == sorted(row["run_id"] for row in [*FIVE, FAILED])

    shown = capsys.readouterr().out
    assert main(["tables/sweep-rows.csv"]) == 0  # the gathered rows give the same table again
    assert capsys.readouterr().out == shown


def test_runs_that_differ_in_a_group_key_get_tables_of_their_own():
    rows = [run(), run(budget="macs"), run(prune_epochs=6), run(finetune_epochs=None), run("gmp"), run(quant_bits=3)]
    found = tables(rows)
    assert [(table.key[4], table.key[5], table.key[7:], len(table.done)) for table in found] == [
        ("macs", None, (5, 2), 1),
        ("params", None, (5, None), 1),
        ("params", None, (5, 2), 2),
        ("params", None, (6, 2), 1),
        ("params", 3, (5, 2), 1),
    ]
    assert caption(found[-1]).endswith("params, 3-bit weights; epochs 10 dense + 5 prune + 2 finetune")


def test_the_best_method_at_the_highest_sparsity_comes_first():
    rows = [run("a", 0.9, accuracy=99.0), run("a", 0.95, accuracy=50.0), run("b", 0.9, accuracy=60.0)]
    rows += [run("b", 0.95, accuracy=55.0), run("c", 0.9, accuracy=97.0), run("d", 0.9, accuracy=98.0)]
    assert tables(rows)[0].rows == [("b",), ("a",), ("d",), ("c",)]


@pytest.mark.parametrize("places", [["gathered.csv", "outputs", "./outputs"], ["outputs", "gathered.csv"]])
def test_a_run_counts_once_and_as_done_when_it_was_repeated(outputs, tmp_path, capsys, places):
    failed = run() | {"status": "failed", "accuracy": None}
    write_table(tmp_path / "gathered.csv", COLUMNS, [failed, run(seed=1, accuracy=82.0)])
    outputs(run(), run(seed=1, accuracy=82.0))
    assert main(places) == 0
    out = capsys.readouterr().out
    assert "81.00 ± 1.41 (2)" in out and "failed" not in out


def test_rows_without_a_run_id_all_count(tmp_path):
    write_table(tmp_path / "rows.csv", COLUMNS, [run(run_id=None), run(seed=1, run_id=None)])
    gathered = gather([tmp_path / "rows.csv"])
    assert (len(gathered.rows), gathered.unreadable) == (2, [])


def test_mixed_versions_and_hidden_settings_are_said():
    rows = [run(commit="aaa"), run(seed=1), run(run_id="other settings", commit="aaa")]
    assert notes(tables(rows)[0]) == [
        "note: runs of different commit: aaa, unknown",
        "note: dtp at 0.9 has several runs of one seed, with settings that are not in this table",
    ]
    assert notes(tables(THREE)[0]) == []


def test_models_of_which_most_cannot_be_pruned_are_named():
    rows = [run(model="lstm", params_total=1000, prunable_params_total=9)]
    rows += [run("gmp", model="lstm", params_total=1000, prunable_params_total=400)]
    rows += [FAILED | {"model": "lstm", "params_total": 1000, "prunable_params_total": 0}]
    (found,) = tables(rows)
    assert notes(found)[0] == "note: lstm: 99% of the parameters are in no layer that can be pruned"
    for share in (500, 999, None):
        assert notes(tables([run(params_total=1000, prunable_params_total=share)])[0]) == []
    heads = run(granularity="head", params_total=1000, prunable_params_total=9)
    assert notes(tables([heads])[0]) == []  # heads alone, by design


def test_only_failures(outputs, capsys):
    outputs(FAILED)
    assert main(["--output", "t"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["no finished run", "failed: gmp at 0.9, seed 3: loss is nan"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[: len(good) // 2],
        lambda good: good.replace(b"accuracy_top5", b"top5"),
        lambda good: good.replace(b"done", b"perhaps"),
        lambda good: good.replace(b",80.0,", b",,"),
        lambda good: good.replace(b",80.0,", b",nan,"),
        lambda good: good.replace(b",80.0,", b",250.0,"),
        lambda good: good.replace(b",80.0,", b",90.0,"),
        lambda good: b"",
    ],
)
def test_a_damaged_row_is_named_and_the_others_go_on(outputs, tmp_path, capsys, damage):
    outputs(run(), run(seed=1, accuracy=82.0))
    path = tmp_path / "outputs" / "digits-resnet20" / "run0" / "result.csv"
    path.write_bytes(damage(path.read_bytes()))
    assert main([]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("pruner-compare: warning: outputs/digits-resnet20/run0/result.csv: ")
    assert said.err.count("\n") == 1
    assert "82.00 (1)" in said.out


def test_what_is_left_out_is_said_beside_every_mean(outputs, tmp_path, capsys):
    """A table travels without what the console said."""
    outputs(run(), run(seed=1, accuracy=82.0), run(seed=2, scope="layer"))
    path = "outputs/digits-resnet20/run0/result.csv"
    (tmp_path / path).write_text("status,accuracy\ndone,99.0\n")  # of another version
    assert main(["--output", "t", "--html", "page.html"]) == 1
    assert capsys.readouterr().out.count(f"left out: {path}: other columns than expected") == 2
    for name in ("t.md", "t.tex", "page.html"):
        assert (tmp_path / name).read_text(encoding="utf-8").count("left out: ") == 2, name


def test_a_closed_folder_is_named(outputs, tmp_path, capsys, monkeypatch):
    outputs(run(), run(seed=1, accuracy=82.0))
    scan = os.scandir

    def closed(path):
        if str(path).endswith("run0"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert main([]) == 1
    said = capsys.readouterr()
    assert "82.00 (1)" in said.out and "left out: " in said.out
    assert "Permission denied: 'outputs/digits-resnet20/run0'" in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("folder", "accuracy", "counted"),
    [("outputs/digits-resnet20/run1", 80.0, False), ("copy/run0", 81.0, False), ("copy/run0", 80.0, True)],
)
def test_copies_that_say_different_things_are_named(outputs, tmp_path, capsys, folder, accuracy, counted):
    """A row in the folder of another run, and two accuracies of one run; a plain copy of a folder is none of these."""
    outputs(run())
    RunFolder(tmp_path / folder).write_result(run(accuracy=accuracy))
    assert main(["outputs", str(tmp_path)]) == (0 if counted else 1)
    said = capsys.readouterr()
    assert "80.00 (1)" in said.out
    here = "outputs/digits-resnet20/run0/result.csv"
    expected = f"{folder}/result.csv: not counted, {here} has the run {run()['run_id']} too"
    assert (expected in said.err) is not counted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "outputs: no such file or folder"),
        (["here"], "no result.csv below here"),
        (["here", "there"], "there: no such file or folder"),
    ],
)
def test_nothing_to_compare(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert main([*arguments, "--output", "t"]) == 2
    assert capsys.readouterr().err == f"pruner-compare: {message}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_an_output_that_cannot_be_written(outputs, tmp_path, capsys):
    outputs(run())
    (tmp_path / "file").write_text("")
    assert main(["--output", "file/table"]) == 2
    assert capsys.readouterr().err.startswith("pruner-compare: --output file/table: ")


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "PREFIX-rows.csv" in "".join(capsys.readouterr().out.split())
