"""Checkpoints: what goes in comes out, and a damaged file is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from pruner.checkpoint import Checkpoint
from pruner.checks import ConfigError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    assert checkpoint.load() == {}
    assert not checkpoint.folder.exists()
    weights = torch.randn(3, 2)
    checkpoint.save({"phase": "dense", "weights": torch.zeros(1)})
    checkpoint.save({"phase": "prune", "weights": weights, "epochs": [{"loss": 0.1, "epoch": 1}]})
    found = checkpoint.load()
    assert torch.equal(found.pop("weights"), weights)
    assert found == {"phase": "prune", "epochs": [{"loss": 0.1, "epoch": 1}]}
    assert [path.name for path in checkpoint.folder.iterdir()] == ["state.pt"]
    checkpoint.remove()
    checkpoint.remove()  # a run without a single epoch has none
    assert not checkpoint.folder.exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"weights": torch.randn(100)})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"state\.pt: cannot be read \(.*\); delete it to start this run again$"):
        checkpoint.load()


class Stranger:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.path.write_bytes(pickle.dumps(Stranger()))
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoint.load()
    torch.save({"phase": Stranger()}, checkpoint.path)
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoint.load()
    assert "executed" not in capsys.readouterr().out
