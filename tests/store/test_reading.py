"""Files of strangers are read, or refused in one line that names them: none hangs, floods memory or is a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.checks import ConfigError
from pruner.cli.compare import main
from pruner.compare.references import read_references
from pruner.store.folders import RunFolder
from pruner.store.reading import LARGEST, read_json, read_yaml
from pruner.store.row import COLUMNS, read_rows
from pruner.store.tensors import read_tensors
from tests.compare.made_rows import run

BOMB = "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
READERS: dict[str, Callable[[Path], object]] = {
    "json": read_json,
    "yaml": read_yaml,
    "references": read_references,
    "tensors": lambda path: read_tensors(path, {}),
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"has an alias, \*a0"),
        ("a: " + "[" * 400, "recursion"),
        ("a: " + "9" * 500, "500 characters"),
        ("a: 1" + ":1" * 100_000, "200,001 characters"),  # a number to base 60, which takes minutes
        ("a: 0x" + "f" * 300, "larger than any float"),
        ("a: !!timestamp x", "cannot be read"),
        ("a: !!int ''", "cannot be read"),
        ("[1]", "not a YAML mapping"),
        ("#" * 2**19, "bytes, more than"),
    ],
)
def test_yaml_that_is_a_trap(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{path}: .*{said}"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize(
    "text",
    ['{"a": ' + "[" * 100_000, '{"a": ' + "9" * 400 + "}", '{"a": 1e999}', '{"a": NaN}', '{"a": -Infinity}', "[1]"],
)
def test_json_that_is_a_trap(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{path}: "):
        read_json(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "gone", "large"])
def test_what_is_no_file_to_read_is_not_waited_for(tmp_path: Path, reader: str, kind: str) -> None:
    path = special(tmp_path / "file", kind)
    if (reader, kind) != ("tensors", "large"):  # tensors may be as large as they are
        with pytest.raises(ConfigError, match=f"^{path}: cannot be read"):
            READERS[reader](path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "large"])
@pytest.mark.parametrize("name", ["result.csv", "config.yaml", "epochs.csv", "layers.csv"])
def test_a_comparison_goes_on_without(outputs, tmp_path, capsys, kind, name):
    outputs(run(), run(seed=1, accuracy=82.0))
    path = tmp_path / "outputs" / "digits-resnet20" / "run0" / name
    path.unlink(missing_ok=True)
    special(path, kind)
    assert main(["--pictures", "p"] if name == "layers.csv" else ["--html", "page.html"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("pruner-compare: warning: ") and said.err.count("\n") == 1 and name in said.err
    assert ("82.00 (1)" if name == "result.csv" else "81.00 ± 1.41 (2)") in said.out


def special(path: Path, kind: str) -> Path:
    """What is no file that can be read, at `path`."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as stream:
            stream.truncate(LARGEST + 1)
    return path


def test_a_row_in_the_place_of_a_pipe_is_not_run_again(tmp_path: Path) -> None:
    """It could not be written at the run's end."""
    special(tmp_path / "result.csv", "pipe")
    with pytest.raises(ConfigError, match=r"result.csv: cannot be read \(not a regular file\)"):
        RunFolder(tmp_path).row()


def test_a_huge_cell_and_too_few_cells(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{'x' * 200_000}{',' * (len(COLUMNS) - 1)}\n")
    with pytest.raises(ConfigError, match=f"^{path}: .*field larger than field limit"):
        read_rows(path)
    path.write_text(f"{','.join(COLUMNS)}\n" + "\n" * 1_000_000)
    with pytest.raises(ConfigError, match=f"^{path}: row 1 has 0 cells"):
        read_rows(path)


@pytest.mark.parametrize(
    ("column", "value"), [("accuracy", 1e308), ("params_kept", 1e300), ("sparsity", 1.5), ("sparsity", -0.5)]
)
def test_numbers_that_no_table_holds(outputs, capsys, column, value):
    outputs(run(**{column: value}), run(seed=1, **{column: value}), run(seed=2, accuracy=82.0))
    assert main([]) == 1
    said = capsys.readouterr()
    assert "82.00 (1)" in said.out and said.err.count(f"result.csv: {column}={value}") == said.err.count("\n") == 2


def test_tables_of_too_many_cells(outputs, capsys, monkeypatch):
    monkeypatch.setattr("pruner.compare.tables.MOST_CELLS", 8)
    outputs(*(run(f"m{n}", n / 10) for n in range(3)))
    assert main([]) == 2
    assert capsys.readouterr().err == "pruner-compare: tables of more than 8 cells: choose runs with --filter\n"


def test_a_references_column_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("method,model,dataset,granularity,budget,sparsity,accuracy,accuracy\na,b,c,weight,params,0.9,1,2\n")
    with pytest.raises(ConfigError, match="the column accuracy is there twice"):
        read_references(path)
