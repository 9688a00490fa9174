"""Files of a finished run that are not as they were written are named, whoever reads them."""

import pytest

from pruner.checks import ConfigError
from pruner.cli.compare import main
from pruner.store.folders import RunFolder
from pruner.store.row import LAYER_COLUMNS
from tests.compare.made_rows import run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A finished run with its settings and tables, in the current folder's outputs."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("outputs/pair/run")
    folder.write_config({"seed": 20})
    folder.write_tables({"epochs": [{"phase": "prune", "epoch": 1, "undecided": 0.25, "gap": 1.5}]})
    folder.write_layers([{"layer": "a", "params_total": 10, "params_kept": 5}])
    folder.write_tables({"masks": [{"epoch": 1, "bin_low": 0.0, "bin_high": 1.0, "count": 25}]})
    folder.write_result(run(accuracy=85.25))
    return folder


def change(path, old, new):
    before = path.read_bytes()
    assert before.count(old) == 1
    path.write_bytes(before.replace(old, new))


def test_a_run_as_it_was_written_is_compared_without_a_word(folder, capsys):
    assert main(["--html", "page.html"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--html", "page.html"], [("config.yaml", b"20", b"30"), ("epochs.csv", b"0.25", b"0.35")]),
        (["--pictures", "pictures"], [("layers.csv", b"10,5", b"10,7"), ("masks.csv", b"25", b"15")]),
    ],
)
def test_a_comparison_names_what_changed(folder, capsys, words, changes):
    for name, old, new in changes:
        change(folder.path / name, old, new)
    assert main(words) == 1
    warnings = {line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()}
    start = f"pruner-compare: warning: {folder.path}/"
    assert warnings == {f"{start}{name}: not as it was written" for name, _, _ in changes}


def test_a_row_that_changed_is_left_out_and_run_again(folder, capsys, caplog):
    change(folder.result, b"85.25", b"95.25")
    assert main([]) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"warning: {folder.result}: not as it was written" in said.err
    assert folder.finished() is None and "running again" in caplog.text


def test_a_run_that_is_under_way_again_may_change_its_tables(folder):
    folder.result.unlink()
    folder.write_tables({"epochs": [{"phase": "prune", "epoch": 1}, {"phase": "prune", "epoch": 2}]})
    assert len(folder.read_epochs()) == 2
    folder.write_result(run() | {"status": "failed", "accuracy": None})
    folder.write_tables({"epochs": [{"phase": "prune", "epoch": 1}]})
    assert len(folder.read_epochs()) == 1
    row = folder.row()
    assert row is not None and row["status"] == "failed"


def test_killed_between_the_digests_and_the_row(folder, monkeypatch):
    before = folder.result.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pruner.store.folders.write_atomically", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folder.write_result(run(accuracy=60.0))
    assert folder.result.read_bytes() == before and folder.finished() is None
    folder.write_result(run(accuracy=60.0))
    row = folder.finished()
    assert row is not None and row["accuracy"] == 60.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"result.csv": 5}'])
def test_damaged_digests(folder, capsys, text):
    folder.digests.path.write_text(text)
    assert folder.finished() is None
    assert main([]) == 1
    assert "digests.json" in capsys.readouterr().err


def test_a_run_of_before_there_were_digests(folder, capsys):
    folder.digests.path.unlink()
    change(folder.layers, b"10,5", b"10,7")
    row = folder.finished()
    assert row is not None and row["accuracy"] == 85.25
    assert folder.read_table(folder.layers, LAYER_COLUMNS)[0]["params_kept"] == 7
    assert main([]) == 0
    said = capsys.readouterr()
    assert "85.25" in said.out
    assert said.err.startswith(f"pruner-compare: note: {folder.result}: no digests.json") and said.err.count("\n") == 1


def test_a_changed_config_is_not_read(folder):
    change(folder.config, b"20", b"30")
    with pytest.raises(ConfigError, match=r"config\.yaml: not as it was written"):
        folder.read_config()
