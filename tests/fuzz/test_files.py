"""Files that went wrong: a clear line and the right exit status, and nothing is overwritten or deleted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.checks import ConfigError
from pruner.cli import compare
from pruner.export.networks import load_model
from pruner.store.folders import DenseStore, RunFolder
from pruner.training.checkpoint import Checkpoint
from tests.fuzz.amount import tries
from tests.fuzz.answers import OUTPUTS, WORDS, ask, contents, only_refused
from tests.fuzz.damage import Damage, cut, damages, declared, flipped, replaced


def spoil(tree: Path, pattern: str, damage: Damage) -> Path | None:
    """A copy of `tree` as this folder's outputs, with one file spoiled; None where that leaves the file as it was."""
    shutil.rmtree("outputs", ignore_errors=True)
    shutil.copytree(tree / "outputs", "outputs")
    (path,) = Path("outputs").glob(pattern)
    before = path.read_bytes()
    path.write_bytes(damage(before))
    return None if path.read_bytes() == before else path


RUN, DENSE = "synthetic-resnet20/*", "dense/*"


@pytest.mark.filterwarnings("default")  # torch's, about what it finds in a damaged file
@given(damage=damages())
@tries(4, 100)
@example(damage=flipped([0.4], 3))
@example(damage=replaced(b""))
def test_a_run_goes_on_as_it_was_or_is_refused(trees: dict[str, Path], damage: Damage) -> None:
    path = spoil(trees["interrupted"], f"{RUN}/checkpoint/state.pt", damage)
    if path is not None and not refused_for(path):  # what changed was between the numbers
        assert networks(Path()) == networks(trees["done"])


@pytest.mark.parametrize("damage", [cut(0.5), replaced(b""), declared(2**62), replaced(b"\xff" * 99)])
def test_a_damaged_dense_network_is_not_trained_again(trees: dict[str, Path], damage: Damage) -> None:
    path = spoil(trees["interrupted"], f"{DENSE}/model.safetensors", damage)
    assert path is not None and refused_for(path)


def refused_for(path: Path) -> bool:
    """Whether the run is refused in one line that names the file and what to do; if not it must come to its end."""
    before = contents(Path("outputs"))
    answer = ask([*WORDS, OUTPUTS])
    assert answer.status in (0, 2) and "Traceback" not in answer.err
    if answer.status == 2:
        last = answer.err.splitlines()[-1]
        assert last.startswith("pruner: ") and str(path) in last and "delete" in last and not answer.out
        assert changed(before) <= {"run.log"}
    return answer.status == 2


def networks(folder: Path) -> list[bytes]:
    """The bytes of the runs' networks."""
    return [path.read_bytes() for path in folder.glob(f"outputs/{RUN}/model.safetensors")]


def changed(before: dict[str, bytes]) -> set[str]:
    """The names of the files of the outputs that are gone or other than `before`."""
    after = contents(Path("outputs"))
    return {Path(name).name for name in before if after.get(name) != before[name]}


@given(damage=damages(), name=st.sampled_from(("dense.json", "model.safetensors")))
@tries(30, 100)
@example(damage=flipped([0.9], 0), name="model.safetensors")
def test_a_dense_network_is_as_it_was_or_refused(trees: dict[str, Path], damage: Damage, name: str) -> None:
    path = spoil(trees["done"], f"{DENSE}/{name}", damage)
    if path is not None:
        as_it_was_or_refused(DenseStore(path.parent).load, path, trees["done"] / path.with_name("dense.json"))


@given(damage=damages(), name=st.sampled_from(("model.json", "model.safetensors")))
@tries(30, 150)
@example(damage=flipped([0.9], 0), name="model.safetensors")
def test_a_network_is_as_it_was_or_refused(trees: dict[str, Path], damage: Damage, name: str) -> None:
    path = spoil(trees["done"], f"{RUN}/{name}", damage)
    if path is not None:
        as_it_was_or_refused(lambda: load_model(path.parent), path, trees["done"] / path.with_name("model.json"))


def as_it_was_or_refused(load: Callable[[], object], path: Path, good: Path) -> None:
    """What changed may be blanks of the JSON, which is `good`, or its seal, without which it is of an older version."""
    found: list[object] = []
    assert only_refused(lambda: found.append(load()), path)
    if found:
        assert path.name == good.name
        values = json.loads(path.read_text())
        assert "sha256" not in values or values == json.loads(good.read_text())


TABLES = ("result.csv", "config.yaml", "epochs.csv", "layers.csv", "ratios.csv", "masks.csv", "digests.json")


@given(damage=damages(), name=st.sampled_from(TABLES))
@tries(10, 100)
@example(damage=replaced(b"!!python/object/apply:os.getcwd []\n"), name="config.yaml")
@example(damage=replaced(b"{x: [], dataset: 5, block: 7}\n"), name="config.yaml")
def test_a_comparison_is_made_of_the_rest(trees: dict[str, Path], damage: Damage, name: str) -> None:
    path = spoil(trees["done"], f"{RUN}/{name}", damage)
    before = contents(Path("outputs"))
    answer = ask(["outputs", "--html", "page.html"], compare.main)
    if path is not None and name in ("result.csv", "config.yaml", "epochs.csv"):  # what a page is made of
        assert answer.status == 1 and str(path) in answer.err
    assert answer.status in (0, 1, 2)
    assert bool(answer.err) == (answer.status != 0)
    assert all(line.startswith("pruner-compare: ") for line in answer.err.splitlines())
    assert changed(before) == set()


@given(damage=damages())
@tries(2, 40)
@example(damage=cut(0.9))
@example(damage=replaced(b""))
def test_a_row_that_cannot_be_read_is_made_again(trees: dict[str, Path], damage: Damage) -> None:
    """A result.csv is the last thing that a run leaves; half of one is none. The dense network stays as it is."""
    path = spoil(trees["done"], f"{RUN}/result.csv", damage)
    if path is None:
        return
    before = contents(Path("outputs/dense"))
    answer = ask([*WORDS, OUTPUTS])
    assert answer.status == 0 and "Traceback" not in answer.err
    row = RunFolder(path.parent).finished()
    assert row is not None
    assert contents(Path("outputs/dense")) == before


@pytest.mark.parametrize(
    ("column", "cell"), [("params_kept", "3.5"), ("seed", "1e999"), ("threads", "nan"), ("accuracy", "9" * 400)]
)
def test_a_number_that_cannot_be_is_named(trees: dict[str, Path], column: str, cell: str) -> None:
    def change(data: bytes) -> bytes:
        header, row = csv.reader(data.decode().splitlines())
        row[header.index(column)] = cell
        return f"{','.join(header)}\n{','.join(row)}\n".encode()

    path = spoil(trees["done"], f"{RUN}/result.csv", change)
    answer = ask(["outputs"], compare.main)
    assert answer.status == 1 and answer.err.startswith(f"pruner-compare: warning: {path}: {column}=")


@given(damage=damages())
@tries(4, 40)
def test_a_plan_says_which_file_is_wrong(trees: dict[str, Path], damage: Damage) -> None:
    path = spoil(trees["interrupted"], f"{RUN}/epochs.csv", damage)
    before = contents(Path("outputs"))
    answer = ask(["--plan", *WORDS, OUTPUTS])
    assert answer.status == 0 or (answer.refuses_in_one_line and str(path) in answer.err)
    assert changed(before) == set()


@pytest.mark.filterwarnings("default")
@given(damage=damages())
@tries(20, 150)
def test_a_checkpoint_is_what_was_saved_or_refused(tmp_path: Path, damage: Damage) -> None:
    """To the bit: a flipped one would train on unnoticed."""
    checkpoint = Checkpoint(tmp_path)
    weights = torch.arange(200.0)
    checkpoint.save({"weights": weights, "epochs": [1, 2]})
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    try:
        state = checkpoint.load()
    except ConfigError as error:
        assert str(checkpoint.path) in str(error) and "\n" not in str(error)
    else:
        assert torch.equal(state["weights"], weights) and state["epochs"] == [1, 2]


@pytest.mark.parametrize("state", [[1, 2], 5, "text", None])
def test_a_checkpoint_of_something_else_is_refused(state: object, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="not a state"):
        Checkpoint(tmp_path).load()
