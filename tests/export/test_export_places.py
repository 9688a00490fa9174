"""An export takes the place of nothing but an export, and that whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pruner.checks import ConfigError
from pruner.cli.export import main
from pruner.config import Config
from pruner.export.networks import load_model
from pruner.export.shipped import Shipped
from pruner.store.folders import RunFolder
from tests.exporting import refusal

Make = Callable[..., Config]
Finish = Callable[[Config], RunFolder]
Refused = Callable[..., str]


@pytest.fixture
def run(tiny_config: Make, finished: Finish) -> RunFolder:
    return finished(tiny_config(granularity="filter"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return partial(refusal, capsys)


def test_no_run_and_no_dense_network_is_overwritten(run: RunFolder, tmp_path: Path, refused: Refused) -> None:
    for marker in ("result.csv", "dense.json", "epochs.csv"):  # of what is done, or goes on
        other = tmp_path / marker.partition(".")[0]
        other.mkdir()
        (other / marker).touch()
        assert f"--output {other}: has a {marker}" in refused(str(run.path), "--output", str(other))
        assert [path.name for path in other.iterdir()] == [marker]


def test_no_link_leads_out_of_a_run(run: RunFolder, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run.path / "export").symlink_to(tmp_path / "elsewhere")
    said = f"a link out of the run's folder, to {tmp_path / 'elsewhere'}"
    assert said in refused(str(run.path)) and said in refused(str(run.path), "--output", str(run.path / "export"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert main([str(run.path), "--output", str(tmp_path / "elsewhere")]) == 0
    (run.path / "export").unlink()
    (run.path / "export").mkdir()
    (tmp_path / "mine").write_text("precious")
    (run.path / "export" / "model.json").symlink_to(tmp_path / "mine")
    assert main([str(run.path)]) == 0  # a name is given to another file, whatever it was of
    assert (tmp_path / "mine").read_text() == "precious"
    load_model(run.path / "export")


@pytest.mark.parametrize("moment", ["between its files", "compared with the run"])
def test_an_export_that_fails_leaves_the_one_before(
    run: RunFolder, moment: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.path / "export"
    difference = Shipped.difference

    def fail(*anything: Any) -> None:
        raise ConfigError("no room")

    def fail_once_written(self: Shipped, predict: Any) -> float:
        if predict is not self.model:
            fail()
        return difference(self, predict)

    assert main([str(run.path)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if moment == "between its files":
        monkeypatch.setattr("pruner.export.networks.write_sealed", fail)
    else:
        monkeypatch.setattr(Shipped, "difference", fail_once_written)
    assert "no room" in refused(str(run.path))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    assert "no room" in refused(str(run.path))
    assert not folder.exists()


def test_an_export_that_is_killed_between_its_files_is_not_loaded(
    run: RunFolder,
    tmp_path: Path,
    finished: Finish,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    assert main([str(run.path), "--output", str(out)]) == 0
    description, replace = (out / "model.json").read_bytes(), os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target) == out / "model.json":
            raise KeyboardInterrupt
        replace(source, target)

    other = finished(tiny_config(granularity="filter", seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            main([str(other.path), "--output", str(out)])
    assert (out / "model.json").read_bytes() == description
    with pytest.raises(ConfigError, match=r"model\.safetensors: not the file that the JSON beside it was written for"):
        load_model(out)
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors"]
