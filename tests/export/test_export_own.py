"""Exporting what a user's own classes made: from any folder, with the code that the run had, and only when told to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pruner.cli.export import main
from pruner.run import phases
from tests.fuzz.answers import Answer, ask

MODEL = """\
from own_parts_to_export import hidden
from torch import nn


class Mine(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Conv2d(shape[0], hidden, 3), nn.Flatten(), nn.Linear(hidden * 36, classes))
"""
DATA = """\
from pruner.data.sources import synthetic


def mine(*, data_dir, device):
    return synthetic(data_dir=data_dir, device=device)
"""
FILES = {
    "model/mine.yaml": "name: own_model_to_export:Mine\n",
    "dataset/mine.yaml": "name: own_data_to_export:mine\n",
    "own_model_to_export.py": MODEL,
    "own_parts_to_export.py": "hidden = 4\n",
    "own_data_to_export.py": DATA,
}


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run whose model and data set are of the folder `own` beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", str(Path(phases.__file__).parents[2]))
    for name, text in FILES.items():
        Path("own", name).parent.mkdir(parents=True, exist_ok=True)
        Path("own", name).write_text(text)
    words = ["dataset=mine", "model=mine", "method=magnitude", "granularity=filter", "recipe=smoke", "device=cpu"]
    assert ask(["--config-dir", "own", *words, "sparsity=0.5"]).status == 0
    return next(tmp_path.glob("outputs/mine-mine/*/result.csv")).parent


@pytest.fixture
def export(done: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """The command on that run, in a process that has imported nothing of the user's."""

    def call(*words: str) -> Answer:
        sys.path[:] = [place for place in sys.path if not Path(place, "own_model_to_export.py").exists()]
        for name in [name for name in sys.modules if name.startswith("own_") and name.endswith("_to_export")]:
            del sys.modules[name]
        return ask([str(done), *words], main)

    return call


def said(answer: Answer) -> str:
    assert answer.status == 2 and not answer.out and answer.err.count("\n") == 1, answer
    return answer.err


def test_it_is_found_again_from_another_folder(done: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    command: Sequence[str] = [sys.executable, "-c", "from pruner.cli.export import main; raise SystemExit(main())"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    answer = subprocess.run(
        [*command, str(done), "--own-code", "--test"], cwd=elsewhere, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "test images:" in answer.stdout and (done / "export" / "model.safetensors").exists()


def test_without_a_word_nothing_of_it_runs(export: Callable[..., Answer]) -> None:
    Path("own/own_model_to_export.py").write_text("raise SystemExit('it was run')\n")
    for words in ((), ("--config-dir", "own")):
        text = said(export(*words))
        assert "name=own_model_to_export:Mine" in text and "say --own-code" in text


def test_code_that_is_another_now_is_refused_by_name(done: Path, export: Callable[..., Answer]) -> None:
    Path("before").mkdir()
    for name in ("own_model_to_export.py", "own_parts_to_export.py"):
        Path("before", name).write_text(FILES[name])
    part = Path("own/own_parts_to_export.py").absolute()
    part.write_text("hidden = 2 + 2\n")
    text = said(export("--own-code"))
    assert f"model.name=own_model_to_export:Mine: {part} is not what {done} was made with; give" in text
    assert "--config-dir" in text and not (done / "export").exists()
    assert "is not what" in said(export("--own-code", "--config-dir", "own"))
    assert export("--own-code", "--config-dir", "before").status == 0
    (done / "fingerprint.json").unlink()  # who does so says that it does not matter
    assert export("--own-code", "--config-dir", "own").status == 0


def test_code_that_was_moved(export: Callable[..., Answer]) -> None:
    Path("own").rename("moved")
    text = said(export("--own-code"))
    assert f"not in {Path('own').absolute()} any more" in text and "--config-dir" in text
    assert export("--own-code", "--config-dir", "moved", "--test").status == 0
    assert "--config-dir=own: no such folder" in said(export("--own-code", "--config-dir", "own"))


def test_of_a_run_without_a_fingerprint(done: Path, export: Callable[..., Answer]) -> None:
    (done / "fingerprint.json").unlink()
    assert "no module named own_model_to_export" in said(export("--own-code"))
    assert export("--own-code", "--config-dir", "own").status == 0
