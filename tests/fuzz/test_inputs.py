"""What users and strangers hand in: data sets, archives, references, YAML. Read or refused, and left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pruner.cli import compare
from pruner.config import Choice
from pruner.data import load
from pruner.data.files import NAMES
from tests.fuzz.amount import tries
from tests.fuzz.answers import Answer, ask, contents, only_refused
from tests.fuzz.damage import Damage, damages


@given(damage=damages())
@tries(30, 150)
def test_a_data_set_is_read_or_refused(tmp_path: Path, damage: Damage) -> None:
    tensors = {name: torch.zeros((4, 1, 28, 28) if "images" in name else 4, dtype=torch.uint8) for name in NAMES}
    path = tmp_path / "mnist.safetensors"
    save_file(tensors, path)
    path.write_bytes(damage(path.read_bytes()))
    assert only_refused(lambda: load(Choice("mnist", "mnist"), str(tmp_path), "cpu"), path)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08cut"], ids=["empty", "cut"])
def test_an_archive_that_is_not_the_published_one_is_not_read(name: str, content: bytes, tmp_path: Path) -> None:
    """Neither unpacked nor unpickled: its hash is wrong. What was put there by hand stays."""
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    for archive in ("train-images-idx3-ubyte.gz", "cifar-10-python.tar.gz"):
        (folder / archive).write_bytes(content)
    before = contents(tmp_path)
    answer = ask([f"dataset={name}", "model=lenet5", "recipe=smoke", f"data_dir={tmp_path / 'data'}"])
    assert answer.status == 2 and answer.err.splitlines()[-1].startswith(f"pruner: dataset={name}: no file")
    assert contents(tmp_path) == before


REFERENCES = b"""method,model,dataset,granularity,budget,sparsity,accuracy,note
gmp,resnet20,synthetic,weight,params,0.9,50,mine
"""


@given(content=damages().map(lambda damage: damage(REFERENCES)) | st.text().map(lambda text: text.encode("utf-16")))
@tries(10, 50)
def test_references_are_read_or_refused(trees: dict[str, Path], content: bytes) -> None:
    path = Path("references.csv")
    path.write_bytes(content)
    answer: Answer = ask([str(trees["done"] / "outputs"), "--references", str(path)], compare.main)
    assert answer.status == 0 or (answer.refuses_in_one_line and str(path) in answer.err)
    assert path.read_bytes() == content


YAMLS = (
    "- 1", "5", "null", "name: [\n", "\tname: x", "name: x\nname: y", "a: &a {b: *a}", "&a [*a]", "*a",
    "defaults: [nosuch]",
    "defaults: 5", "defaults: [{method: gmp}]", "defaults: [x]", "# @package _global_\nseed: -1",
    "# @package x.y\nname: gmp",
    "? [a]\n: b", "1: 2", "name: !!binary aGVsbG8=", "name: 2020-01-01", "name: !!python/name:os.system", "<<: 5",
    "%YAML 9.9\n---\n{}",
    "name: ${nosuch}", "name: ${oc.env:NO_SUCH}", "name: ???", "name: gmp\nramp: .nan", "name: gmp\nevery: 1e400",
    "{name: gmp} {",
    "---\nname: gmp\n---\nname: dtp", '"\\ud800": 1', 'name: "\\0"', "name: gmp\n" + 60 * "[", "hydra: {mode: 5}",
    "name: gmp\nscore: {name: []}",
)  # fmt: skip


@given(content=(st.sampled_from(YAMLS) | st.text(max_size=30)).map(lambda text: text.encode()) | st.binary(max_size=30))
@tries(5, 100)
def test_a_users_yaml_is_understood_or_refused(content: bytes) -> None:
    path = Path("mine/method/x.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    answer = ask(["--config-dir", "mine", "--plan", "method=x"])
    assert answer.status == 0 or answer.refuses_in_one_line
    assert contents(Path()) == {str(path): content}
