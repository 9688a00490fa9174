"""Checkpoints: what goes in comes out, and a damaged file is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from pruner import __version__
from pruner.checks import ConfigError
from pruner.training import checkpoint
from pruner.training.checkpoint import Checkpoint, Saver


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "checkpoint")
    assert kept.load() == {}
    assert not kept.folder.exists()
    weights = torch.randn(3, 2)
    kept.save({"phase": "dense", "weights": torch.zeros(1)})
    kept.save({"phase": "prune", "weights": weights, "epochs": [{"loss": 0.1, "epoch": 1}]})
    found = kept.load()
    assert torch.equal(found.pop("weights"), weights)
    assert found == {"phase": "prune", "epochs": [{"loss": 0.1, "epoch": 1}]}
    assert [path.name for path in kept.folder.iterdir()] == ["state.pt"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path)
    kept.save({"weights": torch.randn(100)})
    kept.path.write_bytes(kept.path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"state\.pt: cannot be read \(.*\); delete it to start this run again$"):
        kept.load()


def test_a_state_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoint(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        kept.save({"phase": "prune"})
    before = kept.path.read_bytes()
    now = checkpoint.FORMAT
    with pytest.raises(
        ConfigError, match=rf"state\.pt: of format {now + 1}, and pruner .* reads format {now}; go on with"
    ):
        kept.load()
    torch.save({"phase": "prune"}, kept.path)
    with pytest.raises(ConfigError, match="of format None"):
        kept.load()
    kept.path.write_bytes(before)
    with pytest.raises(ConfigError, match="of format"):
        Checkpoint(tmp_path).load()


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = (Checkpoint(tmp_path / name / "checkpoint") for name in ("one", "other"))
    one.save({"phase": "prune"})
    other.folder.mkdir()
    other.path.write_bytes(one.path.read_bytes())
    with pytest.raises(ConfigError, match=r"other/checkpoint/state\.pt: is of one, not of other; delete it to start"):
        other.load()
    assert one.load() == {"phase": "prune"}


def test_another_version_goes_on_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoint(tmp_path).save({"phase": "prune"})
    Checkpoint(tmp_path).load()
    assert caplog.messages == []
    now = {"pruner": __version__, "torch": "9.9.9"}
    monkeypatch.setattr(checkpoint, "versions", lambda: dict(now))
    for _ in range(2):  # both are named, once, however often it goes on
        kept = Checkpoint(tmp_path)
        kept.load()
        assert kept.versions == {"pruner": __version__, "torch": f"{torch.__version__}, 9.9.9"}
        kept.save({"phase": "finetune"})
    assert caplog.messages == [f"torch 9.9.9 goes on with what torch {torch.__version__} began"]


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Checkpoint(tmp_path / "run" / "checkpoint").save({})
    assert list(tmp_path.iterdir()) == []


def test_saving_takes_its_share_of_the_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: each save takes three seconds, so 150 lie between two, or the minutes if they are more."""
    clock = [0.0]
    monkeypatch.setattr("pruner.training.checkpoint.time.monotonic", lambda: clock[0])

    def state() -> dict[str, int]:
        clock[0] += 3
        return {}

    for minutes, within in ((1.0, 150.0), (10.0, 600.0)):
        saver = Saver(Checkpoint(tmp_path), state, minutes)
        assert saver.due(within=False) and not saver.due(within=True)  # the first epoch is saved, however short
        saver.save()
        saved = clock[0]
        for ago, between_epochs in ((149.0, False), (151.0, True)):
            clock[0] = saved + ago
            assert saver.due(within=False) == between_epochs
        clock[0] = saved + within - 1
        assert not saver.due(within=True)
        clock[0] = saved + within + 1
        assert saver.due(within=True)


class Stranger:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Checkpoint(tmp_path)
    kept.path.write_bytes(pickle.dumps(Stranger()))
    with pytest.raises(ConfigError, match="cannot be read"):
        kept.load()
    torch.save({"phase": Stranger()}, kept.path)
    with pytest.raises(ConfigError, match="cannot be read"):
        kept.load()
    assert "executed" not in capsys.readouterr().out
