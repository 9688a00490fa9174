"""Published numbers stand beside runs of the same setting, and nowhere else."""

import csv

import pytest

from pruner.checks import ConfigError
from pruner.cli.compare import main
from pruner.compare.references import BUILT_IN, NEEDED, OPTIONAL, read_references
from tests.compare.made_rows import run

HEADER = ",".join(NEEDED)
LINE = "acdc,resnet50,imagenet,weight,params,0.9,75.03"
IMAGENET = {"model": "resnet50", "dataset": "imagenet"}


def test_the_built_in_file_names_a_source_and_a_mark_for_each_number():
    found = read_references(BUILT_IN)
    with BUILT_IN.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert set(lines[0]) == set(NEEDED + OPTIONAL)
    assert len(found) == sum(bool(line["sparsity"]) for line in lines) > 100
    assert all(line["source"] and line["mark"] in ("read", "second") for line in lines)


def test_the_number_is_that_of_the_same_setting(outputs, capsys):
    outputs(run("acdc", 0.9, 0, 74.0, **IMAGENET), run("gmp", 0.9, 0, 73.0, **IMAGENET))
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1:4] == [
        "method        0.9    published",
        "acdc    74.00 (1) *      75.03",
        "gmp     73.00 (1)",
    ]
    assert "published: acdc at 0.9: 75.03, AC/DC; arXiv 2106.12379; github.com/IST-DASLab/ACDC" in out
    assert "; read; scope=global\n" in out


@pytest.mark.parametrize(
    "other",
    [
        {"method": "gmp"},
        {"model": "resnet18"},
        {"dataset": "cifar10"},
        {"granularity": "kernel"},
        {"budget": "macs"},
        {"sparsity": 0.91},
    ],
)
def test_unknown_stays_empty(outputs, capsys, other):
    outputs(run("acdc", 0.9, 0, 74.0, **IMAGENET) | other)
    assert main([]) == 0
    assert "published" not in capsys.readouterr().out


def test_a_note_of_a_scope_is_heeded(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEADER},note\n{LINE},scope=layer; first layer dense\n{LINE},\n")
    layer, every = read_references(path)
    ours = run("acdc", 0.9004) | IMAGENET
    assert (layer.fits(ours), every.fits(ours), layer.fits(ours | {"scope": "layer"})) == (False, True, True)


def test_ones_own_numbers_stand_beside_the_built_in_ones(outputs, tmp_path, capsys):
    outputs(run("acdc", 0.9, 0, 74.0, **IMAGENET))
    (tmp_path / "mine.csv").write_text(
        f"\ufeff{HEADER},source\r\n{LINE.replace('75.03', '75.5')},my shelf\r\n", "utf-8"
    )
    assert main(["--references", "mine.csv"]) == 0
    out = capsys.readouterr().out
    assert "75.03 / 75.50" in out and "published: acdc at 0.9: 75.5, my shelf\n" in out


def test_other_values_than_the_accuracy_have_no_published_number(outputs, capsys):
    outputs(run("acdc", 0.9, 0, 74.0, hard_accuracy=60.0, **IMAGENET))
    assert main(["--value", "hard_accuracy"]) == 0
    assert "published" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"", "lacks the column method; needed are method, model"),
        (b"method,accuracy\n", "lacks the column model"),
        (f"{HEADER},notes\n".encode(), "no such column: notes; there are"),
        (f"{HEADER}\nacdc,resnet50\n".encode(), "row 1 has 2 cells, the header has 7"),
        (f"{HEADER}\n{LINE}\n{LINE}%\n".encode(), "row 2: accuracy=75.03%: expected a number from 0 to 100"),
        (f"{HEADER}\n{LINE.replace('0.9', '90')}\n".encode(), "row 1: sparsity=90: expected a number from 0 to 1"),
        (f"{HEADER}\n{LINE.replace('75.03', 'nan')}\n".encode(), "row 1: accuracy=nan: expected"),
        (f'{HEADER}\n"{LINE}\n'.encode(), "cannot be read"),
    ],
)
def test_a_bad_file_is_one_clear_line(outputs, tmp_path, capsys, text, message):
    outputs(run())
    if text is not None:
        (tmp_path / "mine.csv").write_bytes(text)
    assert main(["--references", "mine.csv", "--output", "t"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("pruner-compare: mine.csv: ") and message in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.glob("t*"))


def test_a_file_without_a_number_is_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEADER}\nacdc,resnet50,imagenet,weight,params,,75\nacdc,resnet50,imagenet,weight,params,0.9,\n")
    assert read_references(path) == []
    path.write_text("")
    with pytest.raises(ConfigError):
        read_references(path)
