"""Published sets: their files, what is refused, and the download, without a network."""

import gzip
import hashlib
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.data import ImageData, load


def make_tensors(shape: tuple[int, ...] = (3, 32, 32)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for part, count in (("train", 20), ("test", 10)):
        tensors[f"{part}_images"] = torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)
        tensors[f"{part}_labels"] = (torch.arange(count) % 10).to(torch.uint8)
    return tensors


def get(name: str, data_dir: Path) -> ImageData:
    return load(Choice(name, name), str(data_dir), "cpu")


def message(name: str, data_dir: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        get(name, data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_network(*args: object, **kwargs: object) -> None:
    raise URLError("no route\nto host")


class FakeTorchvision:
    """Stands in for a dataset class of torchvision; remembers where it was told to work."""

    def __init__(self, form: str) -> None:
        self.form, self.roots = form, list[Path]()
        shape = (1, 28, 28) if form == "mnist" else (3, 32, 32)
        self.tensors = make_tensors(shape)

    def __call__(self, root: str, train: bool, download: bool) -> SimpleNamespace:
        assert download
        print("Downloading ...")
        print("100%", file=sys.stderr)
        self.roots.append(Path(root))
        (Path(root) / "archive").write_text("large")
        part = "train" if train else "test"
        images, labels = self.tensors[f"{part}_images"], self.tensors[f"{part}_labels"]
        if self.form == "mnist":
            return SimpleNamespace(data=images[:, 0], targets=labels.long())
        return SimpleNamespace(data=images.permute(0, 2, 3, 1).numpy(), targets=labels.tolist())


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (3, 32, 32)), ("fashion_mnist", (1, 28, 28))])
def test_a_file_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", no_network)
    tensors = make_tensors(shape)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    before = (tmp_path / f"{name}.safetensors").read_bytes()
    data = get(name, tmp_path)
    assert (data.name, data.shape, data.classes) == (name, shape, 10)
    images, labels = next(data.test.batches(10))
    assert labels.tolist() == tensors["test_labels"].tolist()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    assert torch.equal(((images * std + mean) * 255).round().to(torch.uint8), tensors["test_images"])
    scaled = tensors["train_images"].double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]
    assert (tmp_path / f"{name}.safetensors").read_bytes() == before


WRONG = {
    "missing": (lambda t: t.pop("test_labels"), "no tensor test_labels in it"),
    "float": (lambda t: t.update(train_images=t["train_images"].float()), "train_images is float32, expected uint8"),
    "int64": (lambda t: t.update(test_labels=t["test_labels"].long()), "test_labels is int64, expected uint8"),
    "rank": (lambda t: t.update(train_images=t["train_images"][:, 0].clone()), "train_images is [20, 32, 32]"),
    "shape": (
        lambda t: t.update(make_tensors((1, 28, 28))),
        "train_images is [20, 1, 28, 28], expected [N, 3, 32, 32]",
    ),
    "lengths": (lambda t: t.update(test_labels=t["test_labels"][:9].clone()), "test_labels is [9], expected one"),
    "range": (lambda t: t["train_labels"].fill_(10), "train_labels has 10, labels run from 0 to 9"),
    "empty": (lambda t: t.update(test_images=t["test_images"][:0].clone()), "test_images is [0, 3, 32, 32]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    spoil, expected = WRONG[case]
    tensors = make_tensors()
    spoil(tensors)
    path = tmp_path / "cifar10.safetensors"
    save_file(tensors, path)
    before = path.read_bytes()
    said = message("cifar10", tmp_path)
    assert said.startswith(f"dataset=cifar10: {path}: {expected}")
    assert path.read_bytes() == before


def test_a_truncated_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cifar10.safetensors"
    save_file(make_tensors(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    before = path.read_bytes()
    assert message("cifar10", tmp_path).startswith(f"dataset=cifar10: {path}: cannot be read (")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "fashion_mnist"])
def test_no_network_gives_one_line_that_says_what_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}.get(name, name.upper())
    monkeypatch.setattr(torchvision.datasets, source, no_network)
    data_dir = tmp_path / "data"
    said = message(name, data_dir)
    assert said.startswith(f"dataset={name}: no file {data_dir}/{name}.safetensors and the download failed")
    assert "(<urlopen error no route to host>); put that file there, or the official " in said
    assert said.endswith(f"into {data_dir / name}")
    assert not data_dir.exists()


@pytest.mark.parametrize(("name", "source"), [("cifar10", "CIFAR10"), ("mnist", "MNIST")])
def test_a_download_becomes_one_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    source: str,
) -> None:
    fake = FakeTorchvision(name)
    monkeypatch.setattr(torchvision.datasets, source, fake)
    data = get(name, tmp_path / "deep" / "data")
    assert (len(data.train), len(data.test)) == (20, 10)
    path = tmp_path / "deep" / "data" / f"{name}.safetensors"
    assert list(path.parent.iterdir()) == [path]
    stored = load_file(path)
    assert stored.keys() == fake.tensors.keys()
    for key, tensor in stored.items():
        assert tensor.dtype == torch.uint8 and torch.equal(tensor, fake.tensors[key])
    assert len(fake.roots) == 2 and not fake.roots[0].exists()
    assert capfd.readouterr() == ("", "")
    get(name, path.parent)
    assert len(fake.roots) == 2


def test_a_data_dir_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert message("cifar10", tmp_path / "file" / "data").startswith(f"data_dir={tmp_path}/file/data: cannot write")


@pytest.mark.parametrize(("name", "source"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_official_archives_put_there_by_hand_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    """torchvision's own class reads tiny archives of the official form, their checksums told to it."""
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", no_network)
    tensors, resources = make_tensors((1, 28, 28)), []
    folder = tmp_path / name
    folder.mkdir()
    for prefix, part in (("train", "train"), ("t10k", "test")):
        for kind, magic, code in (("images", 2051, "idx3"), ("labels", 2049, "idx1")):
            array = (
                tensors[f"{part}_{kind}"].squeeze(1).numpy() if kind == "images" else tensors[f"{part}_{kind}"].numpy()
            )
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            packed = gzip.compress(header + np.ascontiguousarray(array).tobytes())
            archive = folder / f"{prefix}-{kind}-{code}-ubyte.gz"
            archive.write_bytes(packed)
            resources.append((archive.name, hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(getattr(torchvision.datasets, source), "resources", resources)
    get(name, tmp_path)
    stored = load_file(tmp_path / f"{name}.safetensors")
    assert all(torch.equal(stored[key], tensors[key]) for key in tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.safetensors"]
    assert len(list(folder.iterdir())) == 4
