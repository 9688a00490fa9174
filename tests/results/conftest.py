"""A folder of runs to compare, and configs without runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pruner import cli
from pruner.config import Config
from pruner.results.row import Row, write_row


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty current folder, and a function that puts rows below its `outputs` as runs do."""
    monkeypatch.chdir(tmp_path)

    def put(*rows: Row, below: str = "outputs") -> None:
        for index, row in enumerate(rows):
            write_row(tmp_path / below / "digits-resnet20" / f"run{index}" / "result.csv", row)

    return put


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A function that gives the Config that words of the command line make, without a run."""
    caught: list[Config] = []

    def catch(config: Config) -> int:
        caught.append(config)
        return 0

    monkeypatch.setattr("pruner.job.execute", catch)

    def compose(*words: str) -> Config:
        assert cli.main(list(words)) == 0
        return caught.pop()

    return compose
