"""Files from strangers execute nothing: pickles are loaded as plain weights alone, and a run's folder names no code."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
import torch
from torchvision.models import SqueezeNet1_1_Weights

from pruner.checks import ConfigError
from pruner.cli import compare
from pruner.config import Choice
from pruner.data.files import NAMES
from pruner.export.networks import load_model
from pruner.models import build
from tests.fuzz.answers import WORDS, ask

MARKER = Path("executed")


class Stranger:
    """Leaves a folder where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(MARKER),)


def _as_torch_has_it(protocol: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(
        {"phase": "prune", "weights": torch.zeros(3), "more": Stranger()},
        stream,
        _use_new_zipfile_serialization=protocol,
    )
    return stream.getvalue()


PICKLES = {
    "bare": pickle.dumps({"phase": Stranger()}),
    "torch": _as_torch_has_it(True),
    "old torch": _as_torch_has_it(False),
}


@pytest.fixture(autouse=True)
def nothing_is_executed(without_a_network: None) -> Iterator[None]:
    yield
    assert not MARKER.exists()


@pytest.fixture(params=PICKLES)
def malicious(request: pytest.FixtureRequest) -> bytes:
    return PICKLES[request.param]


def refused(words: list[str], file: Path | str) -> None:
    """The run is refused in one line that names the file, which stays as it is."""
    before = Path(file).read_bytes()
    answer = ask(words)
    assert answer.status == 2 and "Traceback" not in answer.err
    assert answer.err.splitlines()[-1].startswith("pruner: ") and str(file) in answer.err.splitlines()[-1]
    assert Path(file).read_bytes() == before


@pytest.mark.parametrize("name", PICKLES)
def test_the_pickles_would_do_harm(name: str) -> None:
    torch.load(io.BytesIO(PICKLES[name]), weights_only=False) if "torch" in name else pickle.loads(PICKLES[name])
    assert MARKER.exists()
    MARKER.rmdir()


def test_as_a_checkpoint(malicious: bytes, trees: dict[str, Path]) -> None:
    shutil.copytree(trees["interrupted"] / "outputs", "outputs")
    (config,) = Path("outputs").glob("synthetic-resnet20/*/config.yaml")
    state = config.parent / "checkpoint" / "state.pt"
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(malicious)
    refused(WORDS, state)


def test_as_a_dense_networks_checkpoint(malicious: bytes, trees: dict[str, Path]) -> None:
    shutil.copytree(trees["dense"] / "outputs", "outputs")
    (info,) = Path("outputs").glob("dense/*/dense.json")
    info.unlink()
    state = info.parent / "checkpoint" / "state.pt"
    state.parent.mkdir()
    state.write_bytes(malicious)
    refused(WORDS, state)


def test_as_a_dense_network(malicious: bytes, trees: dict[str, Path]) -> None:
    shutil.copytree(trees["dense"] / "outputs", "outputs")
    (model,) = Path("outputs").glob("dense/*/model.safetensors")
    model.write_bytes(malicious)
    refused(WORDS, model)


def test_as_a_runs_network(malicious: bytes, trees: dict[str, Path]) -> None:
    shutil.copytree(trees["done"] / "outputs", "outputs")
    (model,) = Path("outputs").glob("synthetic-resnet20/*/model.safetensors")
    model.write_bytes(malicious)
    with pytest.raises(ConfigError, match=r"model\.safetensors: cannot be read"):
        load_model(model.parent)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_as_weights(malicious: bytes, suffix: str) -> None:
    file = Path(f"weights{suffix}")
    file.write_bytes(malicious)
    choice = Choice("squeezenet1_1", "torchvision", {"arch": "squeezenet1_1", "weights": str(file)})
    with pytest.raises(ConfigError, match=f"model.weights={file}: cannot be read"):
        build(choice, (3, 32, 32), 10)


def test_as_torchvisions_weights(malicious: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache of downloads, where torchvision itself would load it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(Path("hub").absolute()))
    file = Path("hub", "checkpoints", SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2])
    file.parent.mkdir(parents=True)
    file.write_bytes(malicious)
    choice = Choice("squeezenet1_1", "torchvision", {"arch": "squeezenet1_1", "weights": "default"})
    with pytest.raises(ConfigError, match=f"model.weights=default: .*{file.name}: cannot be read"):
        build(choice, (3, 32, 32), 10)


def test_as_a_data_set(malicious: bytes) -> None:
    file = Path("data/cifar10.safetensors")
    file.parent.mkdir()
    file.write_bytes(malicious)
    refused(["dataset=cifar10", "recipe=smoke"], file)


def test_in_an_archive_of_a_data_set(malicious: bytes) -> None:
    """CIFAR's own files are pickles: torchvision reads them where their hash is right, and only there."""
    archive = Path("data/cifar10/cifar-10-python.tar.gz")
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(malicious)
            tar.addfile(member, io.BytesIO(malicious))
    before = archive.read_bytes()
    answer = ask(["dataset=cifar10", "recipe=smoke"])
    assert answer.status == 2 and answer.err.splitlines()[-1].startswith("pruner: dataset=cifar10: no file")
    assert archive.read_bytes() == before
    assert NAMES and [path.name for path in Path("data").iterdir()] == ["cifar10"]


class Download(io.BytesIO):
    """What a server in the place of the real one would send."""

    length, url = None, None

    def info(self) -> Message:
        return Message()


def test_from_another_server(malicious: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads have the hashes that torchvision knows, or are not read and not kept."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *anything, **more: Download(malicious))
    monkeypatch.setattr(torch.hub, "urlopen", urllib.request.urlopen)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "hub")
    for name in ("cifar10", "mnist"):
        answer = ask([f"dataset={name}", "model=lenet5", "recipe=smoke"])
        assert answer.status == 2 and f"dataset={name}: no file" in answer.err
    choice = Choice("squeezenet1_1", "torchvision", {"arch": "squeezenet1_1", "weights": "default"})
    with pytest.raises(ConfigError, match="invalid hash"):
        build(choice, (3, 32, 32), 10)
    assert [path for path in Path().rglob("*") if path.is_file()] == []


CONFIGS = {
    "target": "_target_: os.mkdir\npath: executed\ndataset: {_target_: os.mkdir, _args_: [executed]}\n",
    "class": "method: {label: x, name: 'os:mkdir', options: {path: executed}}\nmodel: {name: 'os:mkdir'}\n",
    "tag": "dataset: !!python/object/apply:os.mkdir [executed]\n",
    "new": "!!python/object/new:os.mkdir [executed]\n",
    "resolver": "seed: ${oc.env:HOME}\ndefaults: [{x: y}]\nhydra: {searchpath: ['file:///']}\n",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_of_a_strangers_run(kind: str, trees: dict[str, Path]) -> None:
    """It is compared, and gone on with, as plain values."""
    shutil.copytree(trees["interrupted"] / "outputs", "outputs")
    (config,) = Path("outputs").glob("synthetic-resnet20/*/config.yaml")
    config.write_text(CONFIGS[kind])
    assert ask(WORDS).status == 0
    config.write_text(CONFIGS[kind])
    (config.parent / "digests.json").unlink()  # as whoever means it
    answer = ask(["outputs", "--html", "page.html"], compare.main)
    assert (
        (answer.status == 1 and "config.yaml: cannot be read" in answer.err)
        if kind in ("tag", "new")
        else answer.status == 0
    )
    assert config.read_text() == CONFIGS[kind]


def test_a_network_that_names_code() -> None:
    """torch.hub.load takes any keyword, and runs the hubconf.py of a folder."""
    assert ask(WORDS).status == 0
    (description,) = Path("outputs").glob("synthetic-resnet20/*/model.json")
    (description.parent / "hubconf.py").write_text("import os\nos.mkdir('executed')\n")
    options = f'{{"repo_or_dir": "{description.parent}", "model": "x", "source": "local"}}'
    text = f'{{"label": "x", "name": "torch.hub:load", "options": {options}, "shape": [3, 8, 8], "classes": 4}}'
    description.write_text(text)
    with pytest.raises(ConfigError, match="outside of pruner"):
        load_model(description.parent)
