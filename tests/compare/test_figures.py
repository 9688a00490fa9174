"""Pictures: which there are, what they show, and how methods are told apart."""

import math
import os
import re
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib.colors
import pytest
from matplotlib.figure import Figure

import pruner
from pruner.cli.compare import main
from pruner.compare import plots
from pruner.compare.plot_styles import COLOURS, looks
from pruner.compare.plots import Axis, Line
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, EPOCH_COLUMNS, LAYER_COLUMNS, MASK_COLUMNS, write_table
from tests.compare.made_rows import run

NAME = "digits-resnet20-weight-global-params-10-5-2"
COSTS = {"macs_total": 1000, "macs_kept": 250}


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs of two methods with all their files, and the lines that were drawn, by the picture's name."""
    monkeypatch.chdir(tmp_path)
    for n, (method, seed) in enumerate([("gmp", 0), ("gmp", 1), ("dtp", 0)]):
        folder = RunFolder(tmp_path / "outputs" / "digits-resnet20" / f"run{n}")
        folder.write_result(run(method, 0.9, seed, 80.0 + 2 * seed, **COSTS))
        layers = [
            {"layer": name, "params_total": total, "params_kept": 2 + seed} for name, total in (("a", 10), ("b", 0))
        ]
        folder.write_layers([*layers, {"layer": "c", "params_total": 4, "params_kept": 4}])
        soft = [{"phase": "prune", "epoch": e, "undecided": 0.5 / e, "gap": 4.0 * seed + e} for e in (1, 2)]
        write_table(
            folder.epochs, EPOCH_COLUMNS, [{"phase": "dense", "epoch": 1}, *soft, {"phase": "finetune", "epoch": 1}]
        )
        bins = [(0.0, 0.5), (0.5, 1.0)]
        counts = [{"epoch": e, "bin_low": a, "bin_high": b, "count": 5 * e} for e in (1, 2) for a, b in bins]
        write_table(folder.path / "masks.csv", MASK_COLUMNS, counts)
    drawn = {}
    real = plots.draw_lines
    monkeypatch.setattr(
        "pruner.compare.figures.draw_lines",
        lambda path, title, lines, x, y: (drawn.update({path.name: lines}), real(path, title, lines, x, y)),
    )
    return drawn


def test_every_picture_is_there_as_png_and_svg(told, tmp_path):
    assert main(["--pictures", "pictures/mine"]) == 0
    ends = ["sparsity", "macs", *(f"0.9-{what}" for what in ("layers", "undecided", "gap", "masks"))]
    wanted = {f"{NAME}-{end}.{form}" for end in ends for form in ("png", "svg")}
    found = {path.name: path.read_bytes() for path in (tmp_path / "pictures" / "mine").iterdir()}
    assert set(found) == wanted
    for name, data in found.items():
        if name.endswith(".png"):
            width, height = struct.unpack(">II", data[16:24])
            assert data.startswith(b"\x89PNG") and width > 600 and height > 400
        else:
            texts = re.findall(r"<text[^>]*>([^<]+)</text>", data.decode())
            assert {"dtp", "gmp"} <= set(texts), name


def test_the_numbers_in_the_pictures(told):
    assert main(["--pictures", "p"]) == 0
    lines = {picture: {line.name: line for line in found} for picture, found in told.items()}
    dtp, gmp = (lines[f"{NAME}-sparsity"][method] for method in ("dtp", "gmp"))
    assert (list(dtp.x), list(dtp.y), list(dtp.spread)) == ([pytest.approx(1.0)], [80.0], [None])
    assert (list(gmp.y), list(gmp.spread)) == ([81.0], [pytest.approx(2**0.5)])
    assert list(lines[f"{NAME}-macs"]["gmp"].x) == [25.0]
    layers = lines[f"{NAME}-0.9-layers"]["gmp"]
    assert (list(layers.x), list(layers.y)) == ([0, 2], [pytest.approx(0.25), 1.0])  # b has no weights of its own
    assert list(lines[f"{NAME}-0.9-undecided"]["gmp"].y) == [0.5, 0.25]
    gap = lines[f"{NAME}-0.9-gap"]["gmp"]
    assert (list(gap.x), list(gap.y)) == ([1, 2], [3.0, 4.0])


def test_what_makes_a_tables_lines_makes_the_pictures_lines(told):
    assert main(["--pictures", "p", "--rows", "method,seed"]) == 0
    names = {picture: [line.name for line in found] for picture, found in told.items()}
    assert names[f"{NAME}-sparsity"] == names[f"{NAME}-0.9-layers"] == ["dtp seed 0", "gmp seed 0", "gmp seed 1"]


def test_the_same_rows_give_the_same_files(outputs, tmp_path):
    outputs(run() | COSTS, run("gmp") | COSTS)
    for folder in ("one", "two"):
        assert main(["--pictures", folder]) == 0
    assert len(list((tmp_path / "one").iterdir())) == 4
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_gathered_rows_alone_give_the_tables_pictures(outputs, tmp_path):
    write_table(tmp_path / "rows.csv", COLUMNS, [run(), run("gmp", sparsity=0.0)])
    assert main(["rows.csv", "--pictures", "p"]) == 0
    assert {path.name for path in (tmp_path / "p").iterdir()} == {f"{NAME}-sparsity.png", f"{NAME}-sparsity.svg"}


def test_a_damaged_file_is_named_and_the_others_are_drawn(told, tmp_path, capsys):
    damaged = tmp_path / "outputs" / "digits-resnet20" / "run0" / "layers.csv"
    damaged.write_text(f"{','.join(LAYER_COLUMNS)}\nhalf")
    assert main(["--pictures", "p"]) == 1
    assert capsys.readouterr().err.startswith("pruner-compare: warning: outputs/digits-resnet20/run0/layers.csv: cut")
    assert len(list((tmp_path / "p").iterdir())) == 12


def test_names_beside_the_lines_keep_clear_of_one_another():
    figure = Figure(figsize=plots.SIZE, layout="constrained")
    axes = figure.add_subplot()
    styles = looks(f"method{i}" for i in range(15))
    lines = [
        Line(str(name), look, [1, 2], [0, 80 + 0.1 * i], [0.2, None]) for i, (name, look) in enumerate(styles.items())
    ]
    plots._lines(axes, "", lines, Axis("x"), Axis("y"))
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 15
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_methods_are_told_apart_without_colour():
    found = looks([f"m{i:02}" for i in range(17)])
    assert len({(look.marker, look.dashes) for look in found.values()}) == 17
    assert len({(look.colour, look.marker) for look in found.values()}) == 17
    assert found == looks(reversed(list(found)))
    for colour in COLOURS:  # dark enough for a line on white: the contrast that WCAG asks of graphics, nearly
        red, green, blue = (
            c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in matplotlib.colors.to_rgb(colour)
        )
        assert 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) > 2


HERE = {**os.environ, "PYTHONPATH": str(Path(pruner.__file__).parents[1])}  # importable from anywhere
HIDDEN = """
import sys
sys.modules["matplotlib"] = None
from pruner.cli.compare import main
sys.exit(main(["outputs", "--pictures", "p"]))
"""


def test_without_matplotlib_one_line_says_what_to_install(outputs, tmp_path):
    outputs(run())
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, cwd=tmp_path, env=HERE)
    assert done.returncode == 2
    assert done.stderr == (
        "pruner-compare: --pictures: needs Matplotlib; install it with pip install 'pruner[pictures]'\n"
    )
    assert not (tmp_path / "p").exists()


def test_tables_need_no_matplotlib(outputs, tmp_path):
    outputs(run())
    code = "import sys; from pruner.cli.compare import main; main([]); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=HERE)
    assert done.stdout.endswith("\nFalse\n")


def test_files_for_which_there_is_no_picture(told, tmp_path, capsys, monkeypatch):
    """A million layers, a histogram with a bin of its own for every epoch, and cells that are empty or no numbers."""
    monkeypatch.setattr("pruner.compare.figures.MOST_LAYERS", 9)
    monkeypatch.setattr("pruner.compare.figures.MOST_BINS", 9)
    first, second, third = (tmp_path / "outputs" / "digits-resnet20" / f"run{n}" for n in range(3))
    layers = [{"layer": f"l{n}", "params_total": 4, "params_kept": 2} for n in range(10)]
    write_table(first / "layers.csv", LAYER_COLUMNS, layers)
    write_table(second / "layers.csv", LAYER_COLUMNS, [{"layer": "a", "params_total": 4}])
    bins = [{"epoch": n, "bin_low": n / 10, "bin_high": 1.0, "count": n} for n in range(4)]
    write_table(third / "masks.csv", MASK_COLUMNS, bins)
    epochs = [{"phase": "prune", "epoch": 1, "undecided": value, "gap": 1.0} for value in (math.inf, math.nan)]
    write_table(first / "epochs.csv", EPOCH_COLUMNS, epochs)
    write_table(third / "epochs.csv", EPOCH_COLUMNS, [{"phase": "prune", "gap": 2.0}])
    assert main(["--pictures", "p", "--html", "page.html"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("pruner-compare: warning: ") for line in lines)
    assert all(any(part in line for line in lines) for part in (
        "run1/layers.csv: params_kept=None: expected", "run2/epochs.csv: epoch=None: expected",
        "-0.9-layers: 13 layers are too many", "-0.9-masks: bins=4: too many",
    ))  # fmt: skip
    ends = {path.stem.rpartition("-")[2] for path in (tmp_path / "p").iterdir()}
    assert ends == {"sparsity", "macs", "undecided", "gap"}  # undecided is of the run whose numbers are finite
