"""Text from strangers' rows and settings is shown as text: no terminal, document, page or spreadsheet obeys it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.checks import ConfigError
from pruner.cli.compare import main
from pruner.compare.render import latex, markdown
from pruner.config import Config
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, LAYER_COLUMNS, Row, read_rows, write_table
from tests.compare.made_rows import run

Put = Callable[..., None]
WRITE18 = "oops\n\\input{/etc/passwd}\n\\immediate\\write18{touch executed}"
TERMINAL = "a\x1b]0;title\x07\x1b[2J\x9b31m\r\u202eb\u200b\u2028c"
HTML = "<script>alert(1)</script>![x](http://x/y)"
FORMULAS = ("=HYPERLINK(0)", "+1", "-1", "@SUM(1)", "'=1", "''-1")


def written(path: Path, row: Row) -> Path:
    """A row as its owner wrote it by hand: nothing is escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerow(row)
    return path


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """What everything that `pruner-compare` writes of some rows holds, by the end of its name."""
    monkeypatch.chdir(tmp_path)

    def show(*rows: Row, status: int = 0) -> dict[str, str]:
        for number, row in enumerate(rows):
            written(Path(f"outputs/run{number}/result.csv"), row)
        assert main(["outputs", "--output", "t", "--html", "t.html"]) == status
        said = capsys.readouterr()
        ends = ("csv", "md", "tex", "html")
        files = {end: Path(f"t.{end}").read_bytes().decode() for end in ends}
        return files | {"rows": Path("t-rows.csv").read_bytes().decode(), "out": said.out, "err": said.err}

    return show


def test_a_line_end_does_not_leave_a_comment_of_latex(shown: Callable[..., dict[str, str]]) -> None:
    failed = run(run_id="b") | {"status": "failed", "accuracy": None, "error": WRITE18}
    tex = shown(run(), failed)["tex"]
    assert "touch executed" in tex
    assert all(line.startswith("% failed: ") for line in tex.splitlines() if "input" in line or "write18" in line)


def test_nothing_reaches_the_terminal_but_text(shown: Callable[..., dict[str, str]]) -> None:
    texts = dict.fromkeys(("method", "dataset", "model", "commit"), TERMINAL)
    failed = run(run_id=TERMINAL) | texts | {"status": "failed", "accuracy": None, "error": TERMINAL}
    wrong = run(run_id="b") | {"status": TERMINAL}
    for form, text in shown(run() | texts, failed, wrong, status=1).items():
        assert {c for c in text if not c.isprintable()} <= {"\n"}, form
        assert "0;title" in text and "2J 31m b c" in text, form


def test_markdown_and_latex_have_marks_as_text(shown: Callable[..., dict[str, str]]) -> None:
    name = f"{HTML}|*a*\\`_b_$x^2$#{{}}%&"
    files = shown(run(method=name, dataset=name, model="re_s|net"), run(method="a_b|c", dataset=name, run_id="x"))
    marked = "&lt;script>alert(1)&lt;/script>!\\[x\\](http://x/y)&#124;\\*a\\*\\\\\\`\\_b\\_\\$x^2\\$#{}%&amp;"
    assert files["md"].startswith(f"**{marked} re_s&#124;net: weight,")
    assert f"| {marked} | 80.00 (1) |" in files["md"] and "| a_b&#124;c | 80.00 (1) |" in files["md"]
    assert not re.search(r"(?<!\\)[#_&](?! )", re.sub(r"(?m)^%.*", "", files["tex"]))
    assert "alert" in files["html"] and "<script>alert" not in files["html"]


def test_marks_of_markdown_and_latex() -> None:
    assert markdown("a_b_ __c resnet18_cifar <b> [x](y) 1 + 2 | \\") == (
        "a_b\\_ \\_\\_c resnet18_cifar &lt;b> \\[x\\](y) 1 + 2 &#124; \\\\"
    )
    assert latex("[3cm] a") == "{[}3cm] a" and latex("*") == "{*}"  # behind \\ an argument
    assert latex("+1 [-2]") == "$+$1 [$-$2]"


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_of_text_is_a_formula(shown: Callable[..., dict[str, str]], text: str) -> None:
    files = shown(run(method=f"\t{text}"))
    for name in ("csv", "rows"):
        (row,) = csv.DictReader(files[name].splitlines())
        assert row["method"][0] == "'" and row["method"][1:].lstrip("'")[0] in "=+-@"


@pytest.mark.parametrize("text", [*FORMULAS, "it's", "'quoted'", "a=b", "1-2"])
def test_text_comes_back_from_a_file_as_it_was(tmp_path: Path, text: str) -> None:
    write_table(tmp_path / "r.csv", COLUMNS, [{"method": text, "sparsity": 0.5, "seed": 1, "dense_accuracy": -1.5}])
    (row,) = read_rows(tmp_path / "r.csv")
    assert (row["method"], row["dense_accuracy"]) == (text, -1.5)


def test_settings_of_strangers_are_text_too(
    shown: Callable[..., dict[str, str]], composed: Callable[..., Config], tmp_path: Path
) -> None:
    for number, label in enumerate(("plain", TERMINAL + HTML)):
        config = composed("method=gmp").to_dict()
        config["model"]["options"] = {"width": 16, f"key{TERMINAL}": label}
        RunFolder(tmp_path / "outputs" / f"run{number}").write_config(config)
    files = shown(run("gmp", run_id="a"), run("gmp", seed=1, run_id="b"))
    assert "alert" in files["out"] and files["out"].count("80.00 (1)") == 2
    for form, text in files.items():
        assert {c for c in text if not c.isprintable()} <= {"\n"}, form
    assert "<script>" not in files["md"] and "<script>alert" not in files["html"]


def test_names_of_folders_stay_on_one_line(outputs: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs(run())
    written(tmp_path / "outputs" / "evil\n\x1b[2J" / "result.csv", run() | {"status": "perhaps"})
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "pruner-compare: warning: outputs/evil [2J/result.csv: status=perhaps: expected done or failed\n"
    )


def test_every_refusal_is_one_line() -> None:
    assert str(ConfigError("a\n  b\x1b[2J\u202ec\x00")) == "a b [2J c"


def test_pictures_take_dollars_as_text(outputs: Put, tmp_path: Path) -> None:
    """Matplotlib reads $...$ as a formula, and stops at one that is none."""
    outputs(*(run("$\\frac$", sparsity, dataset="$\\x$ and $") for sparsity in (0.5, 0.9)))
    layers = [{"layer": name, "params_total": 4, "params_kept": 2} for name in ("$\\alpha$", "$\\nothing$")]
    write_table(tmp_path / "outputs" / "digits-resnet20" / "run0" / "layers.csv", LAYER_COLUMNS, layers)
    assert main(["--pictures", "p"]) == 0
    texts = "".join(path.read_text() for path in (tmp_path / "p").glob("*.svg"))
    assert all(f">{text}<" in texts for text in ("$\\frac$", "$\\alpha$", "$\\nothing$"))
