"""The sets that need no file: scikit-learn's digits and the synthetic one."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits

from pruner.config import Choice
from pruner.data import ImageSet, load


def everything(part: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(part.batches(1000))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_digits_are_scikit_learns_with_every_fifth_for_testing(tmp_path: Path) -> None:
    data = load(Choice("digits", "digits"), str(tmp_path), "cpu")
    assert data.shape == (1, 8, 8) and data.labels == tuple("0123456789")
    bunch = load_digits()
    every_fifth = torch.arange(1797) % 5 == 0
    for part, rows in ((data.train, ~every_fifth), (data.test, every_fifth)):
        images, labels = everything(part)
        assert labels.tolist() == bunch.target[rows.numpy()].tolist()
        pixels = (images.double() * data.std[0] + data.mean[0]) * 16
        grey = torch.from_numpy(bunch.images)[rows][:, None]
        assert (pixels - grey).abs().max() <= 0.5 * 16 / 255 + 1e-4  # rounding to 255 levels and no more
    assert not any(tmp_path.iterdir())


def test_synthetic_is_the_same_every_time_and_learnable(tmp_path: Path) -> None:
    first, again = (load(Choice("s", "synthetic"), str(tmp_path), "cpu") for _ in range(2))
    assert (first.shape, first.classes, len(first.train), len(first.test)) == ((3, 8, 8), 4, 128, 64)
    images, labels = everything(first.train)
    assert torch.equal(images, everything(again.train)[0])
    assert labels.bincount().tolist() == [32] * 4
    # The nearest class mean of the training images tells the test images apart.
    means = torch.stack([images[labels == label].mean(0) for label in range(4)])
    seen = {image.numpy().tobytes() for image in images}
    images, labels = everything(first.test)
    assert not any(image.numpy().tobytes() in seen for image in images)
    assert torch.cdist(images.flatten(1), means.flatten(1)).argmin(1).eq(labels).all()
    assert not any(tmp_path.iterdir())


def test_more_noise_makes_synthetic_images_harder_to_tell(tmp_path: Path) -> None:
    calm, loud = (
        everything(load(Choice("s", "synthetic", {"noise": noise}), str(tmp_path), "cpu").train) for noise in (0.0, 0.3)
    )
    assert all(calm[0][calm[1] == label].std(0).max() < 1e-6 for label in range(4))
    assert all(loud[0][loud[1] == label].std(0).mean() > 0.1 for label in range(4))
