"""What a user's own class is made of, told from files alone."""

from __future__ import annotations

import sys
import sysconfig
from hashlib import sha256
from pathlib import Path

import pytest

from pruner.checks import ConfigError
from pruner.store.own_code import NOTHING, in_use, sources

TREE = {
    "mine.py": "import math, helper\nfrom kit import part\nraise SystemExit('it was run')\n",
    "helper.py": "def late():\n    import later\n",
    "later.py": "",
    "unused.py": "",
    "kit/__init__.py": "from .inner import *\n",
    "kit/part.py": "from . import beside\nfrom .. import beyond\nimport pruner.config\nx = '\\w'\n",
    "kit/beside.py": "this is no Python",
    "kit/inner/__init__.py": "from ..other import thing\n",
    "kit/other.py": "import mine\n",
    "kit/unused.py": "",
    "spaces/deep/mine.py": "",
    "pruner/config.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_it_is_what_is_imported_from_the_same_place(tree: Path) -> None:
    place, files = sources("mine:Class", [str(tree / "nowhere"), str(tree)])
    assert place == str(tree)
    inner = {"kit/__init__.py", "kit/part.py", "kit/beside.py", "kit/inner/__init__.py", "kit/other.py"}
    assert files.keys() == {"mine.py", "helper.py", "later.py"} | inner
    assert all(files[name] == sha256(TREE[name].encode()).hexdigest() for name in files)


def test_a_package_needs_no_init(tree: Path) -> None:
    assert sources("spaces.deep.mine:Class", [str(tree)])[1].keys() == {"spaces/deep/mine.py"}


@pytest.mark.parametrize("name", ["nothing:X", "a..b:X", ":X", "../mine:X", "kit.nothing:X", f"{'x' * 999}:X", "\0:X"])
def test_what_is_not_there_is_nothing(name: str, tree: Path) -> None:
    assert sources(name, [str(tree)]) == NOTHING


def test_of_what_is_installed_its_own_package_counts(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(tree)})
    assert "mine.py" not in sources("kit:X", [str(tree)])[1]


def test_what_was_imported_before_a_change_is_not_taken_for_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "changes_under_us.py"
    module.write_text("class Mine: pass\n")
    before = in_use("method.name", "changes_under_us:Mine")
    module.write_text("class Mine: x = 1\n")
    after = in_use("method.name", "changes_under_us:Mine")  # not imported yet
    assert before != after
    monkeypatch.setitem(sys.modules, "changes_under_us", __import__("changes_under_us"))
    module.write_text("class Mine: x = 2\n")
    with pytest.raises(ConfigError, match=r"method\.name=changes_under_us:Mine: .*_us\.py was changed while"):
        in_use("method.name", "changes_under_us:Mine")
