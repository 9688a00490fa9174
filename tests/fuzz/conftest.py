"""Each test has an empty folder and no network; some have the folders of runs to spoil."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from pruner.run import phases
from tests.fuzz.answers import OUTPUTS, WORDS, ask


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two output folders: of a run that was interrupted after pruning, and of one that is done."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("interrupted", "done"):
            found[name] = tmp_path_factory.mktemp(name)
            patch.chdir(found[name])
            if name == "interrupted":
                patch.setattr(phases, "finetune", _interrupt)
            assert ask([*WORDS, OUTPUTS]).status == (130 if name == "interrupted" else 0)
            patch.undo()
    return found


def _interrupt(*anything: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*anything: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.chdir(tmp_path)
