"""Trees of class folders: the tree's check, decoding, and independence of the number of workers."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.data import ImageData, folder, load
from pruner.data.paths import check_folder

CLASSES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (20 + number, 26, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def get(root: Path, **options: Any) -> ImageData:
    sizes = {"image_size": 12, "resize": 16, "workers": 0}
    return load(Choice("f", "imagefolder", {"root": str(root), **sizes, **options}), "data", "cpu")


def everything(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_the_tree_becomes_a_dataset(tree: Path) -> None:
    data = get(tree)
    assert (data.name, data.classes, data.labels, data.shape) == ("imagefolder", 3, CLASSES, (3, 12, 12))
    assert (len(data.train), len(data.test), data.train.steps(5)) == (18, 6, 3)
    batches = list(data.test.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 2]
    images, labels = everything(batches)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and labels.dtype == torch.int64
    assert images.dtype == torch.float32 and batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_scales_and_cuts_out_the_middle(tree: Path) -> None:
    data = get(tree, resize=20)
    images, _ = next(data.test.batches(1))
    with Image.open(tree / "val" / "cat" / "0.png") as picture:  # 26 wide and 20 high: nothing to scale
        pixels = torch.from_numpy(np.array(picture))[4:16, 7:19].permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    assert torch.allclose(images[0], (pixels - mean) / std, atol=1e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_the_number_of_workers_changes_nothing(tree: Path, augment: bool) -> None:
    alone, helped = (
        everything(get(tree, workers=workers).train.batches(5, seed=11, augment=augment)) for workers in (0, 2)
    )
    assert torch.equal(alone[0], helped[0]) and torch.equal(alone[1], helped[1])
    assert len(alone[1]) == 15


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_in_its_middle_with_the_same_batches(tree: Path, workers: int) -> None:
    train = get(tree, workers=workers).train
    whole, rest = (list(train.batches(5, seed=11, augment=True, start=start)) for start in (0, 2))
    assert len(whole) == 3 and len(rest) == 1
    assert torch.equal(whole[2][0], rest[0][0]) and torch.equal(whole[2][1], rest[0][1])


def test_parts_of_batches_are_disjoint_and_complete(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of what a part leaves to others nothing is decoded."""
    train = get(tree).train
    whole = list(train.batches(7, seed=3, augment=True))
    opened: list[str] = []
    decode = folder.decode

    def noted(path: str) -> Image.Image:
        opened.append(path)
        return decode(path)

    monkeypatch.setattr(folder, "decode", noted)
    parts = [list(train.batches(7, seed=3, augment=True, part=(number, 3))) for number in range(3)]
    for (images, labels), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([x for x, _ in shares]), images)
        assert [y.tolist() for _, y in shares] == [labels[:3].tolist(), labels[3:5].tolist(), labels[5:].tolist()]
    assert len(opened) == len(set(opened)) == 14


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("start", ["at once", "late"])
def test_workers_serve_on_when_all_of_a_group_is_told_to_end(
    tree: Path, number: int, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that is under way needs them; it is for the process that they work for to end. Also where one of them
    has only just been started when the first batch is there."""
    begin = folder._until_told

    def late(worker: int) -> None:
        time.sleep(worker)
        begin(worker)

    monkeypatch.setattr(folder, "_until_told", late if start == "late" else begin)
    expected = list(get(tree).train.batches(2, seed=0))
    batches = get(tree, workers=2).train.batches(2, seed=0)
    found = [next(batches)]
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, number)
    found += batches
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(found, expected, strict=True))


def test_the_seed_decides(tree: Path) -> None:
    train = get(tree).train

    def one_pass(seed: int) -> torch.Tensor:
        return everything(train.batches(5, seed=seed, augment=True))[0]

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = one_pass(11)
    list(train.batches(5))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, one_pass(11)) and not torch.equal(first, one_pass(12))
    with pytest.raises(ValueError, match="seed"):
        next(train.batches(5, augment=True))


def test_shuffling_alone_only_reorders(tree: Path) -> None:
    train = get(tree).train
    plain, shuffled = everything(train.batches(6))[0], everything(train.batches(6, seed=2))[0]
    assert not torch.equal(plain, shuffled)
    assert sorted(image.numpy().tobytes() for image in plain) == sorted(i.numpy().tobytes() for i in shuffled)


def test_flip_can_be_turned_off(tree: Path) -> None:
    straight, mirrored = (
        everything(get(tree, flip=flip).train.batches(18, seed=5, augment=True))[0] for flip in (False, True)
    )
    flipped = [torch.equal(a.flip(-1), b) for a, b in zip(straight, mirrored, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(straight, mirrored, strict=True)]
    assert all(f or s for f, s in zip(flipped, same, strict=True)) and any(flipped) and any(same)


def test_validation_holds_out_training_images(tree: Path) -> None:
    data = get(tree, validation=1 / 3)
    assert (len(data.train), len(data.test)) == (12, 6)
    assert everything(data.test.batches(6))[1].tolist() == [0, 0, 1, 1, 2, 2]
    parts = [everything(part.batches(18))[0] for part in (data.train, data.test)]
    whole = everything(get(tree).train.batches(18))[0]
    assert sorted(i.numpy().tobytes() for i in torch.cat(parts)) == sorted(i.numpy().tobytes() for i in whole)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no such folder"),
        (["val/a"], "no folder train/ in it"),
        (["train/a"], "no folder val/ in it"),
        (["train", "val"], "no class folders in train/"),
        (["train/a", "train/b", "val/a"], "train/b is there but val/b is not"),
        (["train/a", "val/a", "val/c"], "val/c is there but train/c is not"),
    ],
)
def test_a_wrong_tree_is_one_line(tmp_path: Path, names: list[str], problem: str) -> None:
    root = folders(tmp_path / "top", *names)
    with pytest.raises(ConfigError) as caught:
        check_folder(str(root))
    expected = f"dataset.root={root}: {problem}; expected a folder with train/<class>/*.jpg and val/<class>/*.jpg"
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match=problem):
        get(root)


def test_a_class_without_images_is_one_line(tmp_path: Path) -> None:
    root = folders(tmp_path / "top", "train/a", "val/a")
    with pytest.raises(ConfigError) as caught:
        get(root)
    assert str(caught.value).startswith(f"dataset.root={root}: ") and "\n" not in str(caught.value)


def test_check_folder_gives_the_classes_and_reads_the_environment(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREE", str(tree))
    assert check_folder("$TREE") == CLASSES
    assert get(Path("$TREE")).labels == CLASSES


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 0}, "dataset.image_size=0: 1 or more"),
        ({"resize": 11}, "dataset.resize=11: image_size (12) or more"),
        ({"workers": -1}, "dataset.workers=-1: 0 or more"),
        ({"workers": "four"}, "dataset.workers=four: expected a whole number"),
    ],
)
def test_values_out_of_range_are_one_line(tree: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get(tree, **options)
    assert str(caught.value) == expected
