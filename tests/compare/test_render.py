"""Tables as text, Markdown, LaTeX and CSV: the same numbers in each, marks that are explained, nothing unescaped."""

import io
import re

import pandas
import pytest

from pruner.cli.compare import main
from pruner.compare.render import LONG_COLUMNS, latex
from tests.compare.made_rows import run

ROWS = [run("gmp", seed=s, accuracy=a) for s, a in enumerate((80.0, 82.0, 81.0))]
ROWS += [run("dtp", seed=s, accuracy=a) for s, a in enumerate((81.0, 82.5, 84.0))]
ROWS += [run("dtp", 0.95, 0, 70.0), run("random", 0.95, 7, 10.0)]
# dtp minus gmp at 0.9: 1, 0.5, 3: mean 1.5, std 1.3229, t(2) = 4.3027, half width 3.2862.


@pytest.fixture
def shown(outputs, capsys):
    """What is printed for some words."""
    outputs(*ROWS)

    def show(*words):
        assert main(["outputs", *words]) == 0
        return capsys.readouterr().out

    return show


def test_text(shown):
    assert shown("--baseline", "gmp") == (
        "digits resnet20: weight, global, params; epochs 10 dense + 5 prune + 2 finetune\n"
        "method               0.9         0.95\n"
        "dtp     82.50 ± 1.50 (3) *  70.00 (1) *\n"
        "random                 -    10.00 (1)\n"
        "gmp     81.00 ± 1.00 (3)            -\n"
        "minus gmp:\n"
        "method                       0.9  0.95\n"
        "dtp     +1.50 [-1.79, +4.79] (3)     -\n"
        "\n"
        "Test accuracy in percent: mean ± sample standard deviation over seeds (number of runs).\n"
        "*: best mean of its column.\n"
        "Minus gmp: mean difference over the seeds that both have [its 95% t interval] (number of pairs); one pair has "
        "no interval.\n"
    )


def test_markdown(shown):
    lines = shown("--baseline", "gmp", "--format", "markdown").splitlines()
    assert "| dtp | **82.50 ± 1.50** (3) | **70.00** (1) |" in lines
    assert "| dtp | +1.50 [-1.79, +4.79] (3) | - |" in lines
    assert "Bold: best mean of its column." in lines


def test_latex(shown):
    out = shown("--baseline", "gmp", "--format", "latex")
    assert "dtp & \\textbf{82.50 $\\pm$ 1.50} (3) & \\textbf{70.00} (1) \\\\\n" in out
    assert "dtp & $+$1.50 [$-$1.79, $+$4.79] (3) & - \\\\\n" in out
    assert out.count("\\begin{tabular}{lrr}") == out.count("\\end{tabular}") == 2
    assert "% Minus gmp: mean" in out
    assert not re.search(r"(?m)^[^%\n]*(?<!\\)[%_#&](?! )[^\n&]*$", out)


def test_latex_escapes_what_a_name_may_hold():
    assert latex("a_b & 5% \\x{y}") == "a\\_b \\& 5\\% \\textbackslash{}x\\{y\\}"


def test_csv_is_read_by_pandas_and_has_all_digits(shown):
    frame = pandas.read_csv(io.StringIO(shown("--format", "csv", "--baseline", "gmp")))
    assert list(frame.columns) == list(LONG_COLUMNS)
    dtp = frame[(frame.method == "dtp") & (frame.sparsity == 0.9)].iloc[0]
    assert (dtp.n, dtp["mean"], dtp.baseline, dtp.pairs, dtp.difference) == (3, 82.5, "gmp", 3, 1.5)
    half = 4.302652729911275 * dtp["std"] / 3**0.5 * (1.75 / 2.25) ** 0.5
    assert (dtp.difference_low, dtp.difference_high) == pytest.approx((1.5 - half, 1.5 + half), rel=1e-9)
    assert frame[frame.method == "gmp"].difference.isna().all()


def test_the_files_hold_what_is_printed(shown, tmp_path):
    printed = {form: shown("--format", form, "--output", "t") for form in ("csv", "markdown", "latex")}
    files = {"csv": "t.csv", "markdown": "t.md", "latex": "t.tex"}
    assert {form: (tmp_path / name).read_text(encoding="utf-8") for form, name in files.items()} == printed
    assert (tmp_path / "t-rows.csv").exists()


def test_a_best_needs_another_and_ties_are_all_marked(outputs, capsys):
    outputs(run("a", accuracy=80.001), run("b", accuracy=79.999), run("c", accuracy=79.0), run("a", 0.5))
    assert main([]) == 0
    assert [line.count("*") for line in capsys.readouterr().out.splitlines()[2:5]] == [1, 1, 0]


def test_rows_and_columns_of_ones_own(shown):
    out = shown("--rows", "seed", "--cols", "method", "--filter", "sparsity=0.9", "method=gmp,dtp")
    assert out.splitlines()[:3] == [
        "digits resnet20: weight, global, params, sparsity 0.9; epochs 10 dense + 5 prune + 2 finetune",
        "seed        dtp          gmp",
        "0     81.00 (1)    80.00 (1)",
    ]
    out = shown("--rows", "method,sparsity", "--cols", "", "--value", "achieved_sparsity")
    assert out.splitlines()[1:3] == ["method  sparsity  achieved_sparsity", "dtp     0.9                       -"]


def test_values_in_their_own_units(outputs, capsys):
    outputs(run("a", params_kept=1234567, prune_seconds=1.25), run("b", params_kept=7654321, prune_seconds=2.0))
    assert main(["--value", "params_kept"]) == 0
    out = capsys.readouterr().out
    assert "a       1,234,567 (1) *\n" in out and "\nparams_kept: mean ± sample" in out
    assert main(["--value", "prune_seconds"]) == 0
    assert "a       1.2 (1) *" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--filter", "method"], "--filter method: write key=value[,value]; folders go before --filter"),
        (["--filter", "methd=dtp"], "--filter=methd: choose one of"),
        (["--filter", "seed=x"], "--filter seed=x: expected a number"),
        (["--filter", "method=none", "seed=0"], "--filter method=none seed=0: none of 8 rows is left"),
        (["--rows", "speed"], "--rows=speed: choose one of"),
        (["--baseline", "fpgm"], "--baseline=fpgm: no finished run of it; there are dtp, gmp, random"),
    ],
)
def test_a_wrong_argument_is_one_line(outputs, capsys, words, message):
    outputs(*ROWS)
    assert main(["outputs", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"pruner-compare: {message}") and said.err.count("\n") == 1


def test_an_empty_cell_can_be_filtered(outputs, capsys):
    outputs(run(), run("gmp", quant_bits=4))
    assert main(["outputs", "--filter", "quant_bits=", "sparsity=0.90"]) == 0
    assert "gmp" not in capsys.readouterr().out
