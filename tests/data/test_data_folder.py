"""Trees of class folders: the tree's check, decoding, and independence of the number of workers."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from pruner.checks import ConfigError
from pruner.config import Choice, Config
from pruner.data import ImageData, folder, load
from pruner.data.folder import IMAGENET_MEAN, IMAGENET_STD
from pruner.data.imageset import seed_of, visiting_order
from pruner.data.paths import check_folder, pictures
from pruner.data.pictures import UnreadablePicture, decode
from pruner.options import shorter_side
from pruner.run.job import execute
from pruner.store.folders import RunFolder

SHARES = "the least and the largest share of the area, as in [0.08,1]"
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


def test_files_come_in_torchvisions_order(tmp_path: Path) -> None:
    """Also from folders within, and through links."""
    root = folders(tmp_path / "top", "train/b/x-1/y", "train/b/x/y", "train/a", "val/a", "val/b", "../other/deep")
    files = ["train/b/9.PNG", "train/b/10.jpg", "train/b/x/y/1.tiff", "train/b/x-1/y/2.webp", "train/b/x/3.bmp"]
    for file in [*files, "train/a/B.jpeg", "train/a/a.ppm", "train/a/no.txt", "train/a/.jpg", "../other/deep/0.pgm"]:
        (root / file).touch()
    (root / "train/a/link").symlink_to("../../../other")
    (root / "train/a/again.jpg").symlink_to("a.ppm")
    assert list(pictures(str(root), "train", ("a", "b"))) == ImageFolder(root / "train").samples


def listing(root: Path) -> str:
    """What is wrong with the part train of a tree, said in one line."""
    with pytest.raises(ConfigError) as caught:
        pictures(str(root), "train", check_folder(str(root)))
    text = str(caught.value)
    assert text.startswith(f"dataset.root={root}: ") and text.isprintable()
    return text.removeprefix(f"dataset.root={root}: ")


@pytest.mark.parametrize("target", ["..", ".", "../b", "../../..", "../../../pool"])
def test_links_that_lead_back_or_into_another_class_are_refused(tmp_path: Path, target: str) -> None:
    """To list them would never end, or give pictures the label of a class that they are not of."""
    root = folders(tmp_path / "top", "train/a", "val/a", "val/b", "../pool/b")
    (root / "train/b").symlink_to("../../pool/b")
    for name in ("a", "b"):
        (root / "train" / name / "0.jpg").touch()
        (root / "train" / name / "up").symlink_to((root / "train/a" / target).resolve())
    assert "whose pictures would count twice" in listing(root)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders(tmp_path / "top", "train/a/in", "val/a")
    closed = {"train": root / "train/a/in", "val": root / "val"}[part]
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert listing(root).startswith(f"Permission denied ({closed}); expected a folder with train/")


def test_a_class_that_model_json_cannot_name_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    root = folders(tmp_path / "top", f"train/{name}", f"val/{name}")
    assert listing(root) == "train/'caf\\udce9': a class needs a name in UTF-8"


def spoiled(tree: Path, root: Path, file: str, share: float) -> Path:
    """A copy of the tree in which of one file only a share is left."""
    shutil.copytree(tree, root)
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[: int(share * len(content))])
    return root


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("file", ["train/dog/3.png", "val/eel/1.png"])
def test_a_file_cut_off_is_named_before_any_work(
    tree: Path, tmp_path: Path, file: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "CHECKED_AT_ONCE", 8)
    root = spoiled(tree, tmp_path / "top", file, 0.9)
    before = torch.get_rng_state()
    with pytest.raises(ConfigError) as caught:
        get(root, workers=workers)
    assert str(caught.value).startswith(f"dataset.root={root}: {root / file}: ") and str(caught.value).isprintable()
    assert not multiprocessing.active_children()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_cut_off_later_is_named_in_the_epoch(tree: Path, tmp_path: Path, workers: int) -> None:
    file = "train/dog/3.png"
    train = get(tree, workers=workers).train
    assert isinstance(train, folder.FolderSet)
    root = spoiled(tree, tmp_path / "top", file, 0.5)
    samples = tuple((str(root / Path(path).relative_to(tree)), label) for path, label in train.samples)
    with pytest.raises(UnreadablePicture) as caught:
        list(replace(train, samples=samples).batches(3, seed=0, augment=True))
    assert str(caught.value).startswith(f"{root / file}: ") and str(caught.value).isprintable()
    assert not multiprocessing.active_children()  # which are waited for where the program ends


def test_a_picture_that_may_not_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: str, mode: str) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("pruner.data.pictures.open", closed, raising=False)
    with pytest.raises(ConfigError) as caught:
        get(tree)
    assert str(caught.value) == f"dataset.root={tree}: {tree / 'train/cat/0.png'}: Permission denied"


def test_a_run_that_meets_an_unreadable_picture_names_it_in_its_row(
    tree: Path, tmp_path: Path, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """A TIFF tells little by its header, and training images are decoded only in the epoch."""
    root = tmp_path / "top"
    shutil.copytree(tree, root)
    bad = root / "train/cat/bad.tif"
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(bad)
    bad.write_bytes(bad.read_bytes()[:-100])
    options = {"root": str(root), "image_size": 8, "workers": 2}
    config = tiny_config(
        dataset={"label": "mine", "name": "imagefolder", "options": options}, recipe={"batch_size": 19}
    )
    assert execute(config) == 1
    row = RunFolder(Path(config.output_dir) / config.run_id).row()
    assert row is not None and row["error"].startswith(f"UnreadablePicture: {bad}: ")
    assert "Traceback" not in row["error"] + capsys.readouterr().err
    assert not multiprocessing.active_children()


def test_images_are_fed_as_weights_were_trained(tree: Path) -> None:
    """Pixels less dataset.mean, over dataset.std, in all parts of the set; and model.json has both."""
    own, data = (
        get(tree, validation=1 / 3, **given) for given in ({}, {"mean": [0.5, 0.25, 0], "std": [1, 0.5, 0.25]})
    )
    assert (data.mean, data.std) == ((0.5, 0.25, 0.0), (1.0, 0.5, 0.25))
    for part in ("train", "test"):
        pixels, found = (everything(getattr(images, part).batches(6)) for images in (own, data))
        unscaled = [
            images * torch.tensor(of.std).view(3, 1, 1) + torch.tensor(of.mean).view(3, 1, 1)
            for (images, _), of in ((pixels, own), (found, data))
        ]
        torch.testing.assert_close(*unscaled, rtol=0, atol=1e-6)
        assert torch.equal(pixels[1], found[1])
    assert get(tree, std=[1, 1, 1]).mean == own.mean  # each of the two by itself


def test_crop_scale_says_how_much_a_training_image_shows(tree: Path) -> None:
    def augmented(**given: Any) -> torch.Tensor:
        return everything(get(tree, flip=False, **given).train.batches(18, seed=1, augment=True))[0]

    assert torch.equal(augmented(), augmented(crop_scale=[0.08, 1.0]))
    assert not torch.equal(augmented(), augmented(crop_scale=[0.5, 1.0]))
    # Of pictures wider than 4/3 no crop has all of the area: torchvision then takes the largest of that ratio.
    whole = augmented(crop_scale=[1, 1])
    order = visiting_order(18, 18, torch.Generator().manual_seed(seed_of(1))).tolist()
    samples = pictures(str(tree), "train", CLASSES)
    for image, index in zip(whole, order, strict=True):
        with Image.open(samples[index][0]) as picture:
            side = min(picture.width, round(picture.height * 4 / 3))
            left = round((picture.width - side) / 2)
            middle = picture.crop((left, 0, left + side, picture.height)).resize((12, 12), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(middle)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        torch.testing.assert_close(image, (pixels - mean) / std)


def test_resize_follows_the_size_of_the_image(tree: Path) -> None:
    """Of a test image the network sees the middle 7/8 of the shorter side, as ImageNet's 224 of 256."""
    follows, said, fixed = (next(get(tree, image_size=14, resize=n).test.batches(6))[0] for n in (None, 16, 20))
    assert torch.equal(follows, said) and not torch.equal(follows, fixed)
    assert [shorter_side(size) for size in (224, 32, 64, 299, 384)] == [256, 37, 73, 342, 439]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 0}, "dataset.image_size=0: 1 or more"),
        ({"resize": 11}, "dataset.resize=11: image_size (12) or more"),
        ({"crop_scale": [0.5]}, f"dataset.crop_scale=[0.5]: {SHARES}"),
        ({"crop_scale": [0.5, 0.2]}, f"dataset.crop_scale=[0.5, 0.2]: {SHARES}"),
        ({"crop_scale": [0, 1]}, f"dataset.crop_scale=[0, 1]: {SHARES}"),
        ({"crop_scale": 1}, "dataset.crop_scale=1: expected a list, such as [1,2]"),
        ({"mean": [0.5]}, "dataset.mean=[0.5]: expected a number for each of 3 channels, for pixels from 0 to 1"),
        ({"workers": -1}, "dataset.workers=-1: 0 or more"),
        ({"workers": "four"}, "dataset.workers=four: expected a whole number"),
    ],
)
def test_values_out_of_range_are_one_line(tree: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get(tree, **options)
    assert str(caught.value) == expected
