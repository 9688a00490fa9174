"""Each test has an empty folder and no network; some have the folders of runs to spoil."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from pruner.run import phases
from tests.fuzz.answers import OUTPUTS, WORDS, ask


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Output folders: of runs that were interrupted before pruning and after it, and of one that is done."""
    found = {}
    for name, phase in (("dense", "prune"), ("interrupted", "finetune"), ("done", "")):
        found[name] = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(found[name])
            if phase:
                patch.setattr(phases, phase, _interrupt)
            assert ask([*WORDS, OUTPUTS]).status == (130 if phase else 0)
    return found


def _interrupt(*anything: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*anything: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.chdir(tmp_path)
