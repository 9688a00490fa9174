"""A folder of runs to compare."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pruner.store.folders import RunFolder
from pruner.store.row import Row


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An empty current folder, and a function that puts rows below its `outputs` as runs do."""
    monkeypatch.chdir(tmp_path)

    def put(*rows: Row, below: str = "outputs") -> None:
        for index, row in enumerate(rows):
            RunFolder(tmp_path / below / "digits-resnet20" / f"run{index}").write_result(row)

    return put
