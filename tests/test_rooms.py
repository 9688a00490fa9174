"""The rooms of the code: which there are, how large their files are, and that arrows between them go one way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pruner

ROOT = Path(pruner.__file__).parent
AT_THE_TOP = {"__init__", "__main__", "pruning", "config", "checks", "options", "quantize"}


def test_arrows_go_down_and_in_no_circle() -> None:
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


def test_what_is_of_no_room_is_used_by_many() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == AT_THE_TOP


def test_one_file_knows_hydra_from_inside() -> None:
    inside = re.compile(r"^\s*(from|import) hydra\._", re.MULTILINE)
    folders = ("pruner", "tests", "scripts", "examples")
    files = [path for folder in folders for path in (ROOT.parent / folder).rglob("*.py")]
    knowing = [path for path in files if inside.search(path.read_text(encoding="utf-8"))]
    assert knowing == [ROOT / "compose/hydra_internals.py"]


def test_files_are_short() -> None:
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in ROOT.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > 300} == {}
