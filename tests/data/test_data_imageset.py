"""Order, augmentation, statistics and splits of sets that live on the device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.data import ImageData
from pruner.data.imageset import TensorSet, crop_and_flip, pixel_statistics, stratified_split, tensor_data


def make_data(
    count: int = 50, size: int = 6, channels: int = 3, *, flip: bool = True, crop_padding: int = 2
) -> ImageData:
    """Images whose first pixel is their index, so that a batch tells which images are in it."""
    images = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(3))
    images[:, 0, 0, 0] = torch.arange(count)
    tensors = {}
    for part in ("train", "test"):
        tensors[f"{part}_images"] = images.to(torch.uint8)
        tensors[f"{part}_labels"] = (torch.arange(count) % 5).to(torch.uint8)
    return tensor_data("made", tuple("abcde"), tensors, torch.device("cpu"), flip, crop_padding)


def indices(data: ImageData, images: torch.Tensor) -> list[int]:
    """Which images of `make_data` these are."""
    first = images[:, 0, 0, 0].double() * data.std[0] + data.mean[0]
    return (first * 255).round().int().tolist()


def visited(data: ImageData, batch_size: int, seed: int | None) -> list[int]:
    return [i for images, _ in data.train.batches(batch_size, seed=seed) for i in indices(data, images)]


def test_batches_have_the_promised_form() -> None:
    data = make_data()
    for images, labels in data.train.batches(16, seed=1, augment=True):
        assert images.shape == (16, *data.shape) == (16, 3, 6, 6)
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_without_a_seed_every_image_comes_in_order() -> None:
    data = make_data()
    batches = list(data.test.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert visited(data, 16, None) == list(range(50))
    assert torch.cat([labels for _, labels in batches]).tolist() == [i % 5 for i in range(50)]


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    data = make_data(400)
    images = torch.cat([images for images, _ in data.train.batches(64)]).double()
    assert images.mean((0, 2, 3)) == pytest.approx([0.0] * 3, abs=1e-6)
    assert images.std((0, 2, 3), correction=0) == pytest.approx([1.0] * 3, abs=1e-6)


def test_a_seed_shuffles_and_drops_what_does_not_fill_a_batch() -> None:
    data = make_data()
    order = visited(data, 16, 7)
    assert len(order) == len(set(order)) == 48 and order != sorted(order)
    assert order == visited(data, 16, 7) and order != visited(data, 16, 8)
    assert data.train.steps(16) == 3
    labels = torch.cat([labels for _, labels in data.train.batches(16, seed=7)])
    assert labels.tolist() == [i % 5 for i in order]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_a_pass_goes_on_in_its_middle_with_the_same_batches(augment: bool, start: int) -> None:
    train = make_data().train
    whole = list(train.batches(16, seed=7, augment=augment))
    rest = list(train.batches(16, seed=7, augment=augment, start=start))
    assert len(rest) == 3 - start
    for (images, labels), (same_images, same_labels) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", [None, 3])
def test_parts_of_batches_are_disjoint_and_complete(seed: int | None, parts: int) -> None:
    """Together they are the whole pass, augmented as there; batches of ten, and a rest of five for eight parts."""
    train = make_data(25).train
    whole = list(train.batches(10, seed=seed, augment=seed is not None))
    cut = [list(train.batches(10, seed=seed, augment=seed is not None, part=(n, parts))) for n in range(parts)]
    for number, (images, labels) in enumerate(whole):
        shares = [part[number] for part in cut if number < len(part)]
        assert torch.equal(torch.cat([x for x, _ in shares]), images)
        assert torch.equal(torch.cat([y for _, y in shares]), labels)
        sizes = [len(y) for _, y in shares]
        assert len(sizes) == min(parts, len(labels)) and max(sizes) - min(sizes) <= 1
    later = [list(train.batches(10, seed=seed, start=1, part=(n, parts))) for n in range(parts)]
    assert sum(len(y) for part in later for _, y in part) == sum(len(y) for _, y in whole[1:])


def test_seeds_that_differ_only_beyond_32_bits_differ() -> None:
    data = make_data()
    assert visited(data, 16, 7) != visited(data, 16, 7 + 2**32)


def test_a_set_smaller_than_a_batch_comes_whole() -> None:
    data = make_data(5)
    assert sorted(visited(data, 16, 0)) == list(range(5))
    assert data.train.steps(16) == 1


@pytest.mark.parametrize("batch_size", [1, 7, 10, 50, 64])
def test_steps_counts_the_batches(batch_size: int) -> None:
    data = make_data()
    assert len(list(data.train.batches(batch_size, seed=0))) == data.train.steps(batch_size)


def test_batches_neither_read_nor_move_the_global_generator() -> None:
    data = make_data()

    def one_pass() -> torch.Tensor:
        return torch.cat([images for images, _ in data.train.batches(10, seed=3, augment=True)])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = one_pass()
    list(data.train.batches(10))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(first, one_pass())


def test_augmenting_changes_images_but_not_their_order() -> None:
    data = make_data()
    plain = list(data.train.batches(10, seed=3))
    augmented = list(data.train.batches(10, seed=3, augment=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, augmented, strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(plain, augmented, strict=True))


def test_augmenting_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed"):
        next(make_data().train.batches(10, augment=True))


def test_augmenting_with_nothing_to_do_gives_the_image_itself() -> None:
    data = make_data(flip=False, crop_padding=0)
    for plain, same in zip(data.train.batches(10, seed=3), data.train.batches(10, seed=3, augment=True), strict=True):
        assert torch.equal(plain[0], same[0])


def test_flip_alone_mirrors_about_half_of_the_images() -> None:
    data = make_data(250, crop_padding=0)
    mirrored = 0
    for (plain, _), (seen, _) in zip(
        data.train.batches(50, seed=3), data.train.batches(50, seed=3, augment=True), strict=True
    ):
        for image, other in zip(plain, seen, strict=True):
            assert torch.equal(other, image) or torch.equal(other, image.flip(-1))
            mirrored += not torch.equal(other, image)
    assert 90 < mirrored < 160


def test_every_crop_comes_about() -> None:
    """With a padding of 1 each of the nine places must be seen, none else."""
    data = make_data(250, flip=False, crop_padding=1)
    black = torch.tensor([-mean / std for mean, std in zip(data.mean, data.std, strict=True)])
    places = set()
    for (plain, _), (seen, _) in zip(
        data.train.batches(50, seed=3), data.train.batches(50, seed=3, augment=True), strict=True
    ):
        for image, other in zip(plain, seen, strict=True):
            padded = black[:, None, None].expand(3, 8, 8).clone()
            padded[:, 1:-1, 1:-1] = image
            fits = [
                (r, c)
                for r in range(3)
                for c in range(3)
                if torch.allclose(padded[:, r : r + 6, c : c + 6], other, atol=1e-5)
            ]
            assert len(fits) == 1
            places.add(fits[0])
    assert len(places) == 9


def slow_crop_and_flip(image: np.ndarray, padding: int, row: int, column: int, mirror: bool) -> np.ndarray:
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crop = padded[row : row + image.shape[0], column : column + image.shape[1]]
    return crop[:, ::-1] if mirror else crop


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 6),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 8),
)
def test_crop_and_flip_equals_the_slow_way(
    seed: int, count: int, height: int, width: int, channels: int, padding: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, height, width, channels), generator=generator).to(torch.uint8)
    offsets = torch.randint(2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    expected = np.stack(
        [
            slow_crop_and_flip(image.numpy(), padding, int(offset[0]), int(offset[1]), mirror)
            for image, offset, mirror in zip(images, offsets, mirrored.tolist(), strict=True)
        ]
    )
    assert np.array_equal(crop_and_flip(images, padding, offsets, mirrored).numpy(), expected)


def test_the_middle_crop_unmirrored_is_the_image() -> None:
    images = torch.randint(0, 256, (4, 5, 6, 3)).to(torch.uint8)
    middle, no = torch.full((4, 2), 3), torch.zeros(4, dtype=torch.bool)
    assert torch.equal(crop_and_flip(images, 3, middle, no), images)
    assert torch.equal(crop_and_flip(images, 3, middle, ~no), images.flip(2))


def test_statistics_equal_numpys() -> None:
    images = torch.randint(0, 256, (40, 3, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = pixel_statistics(images)
    scaled = images.numpy().astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)), rel=1e-12)
    assert std == pytest.approx(scaled.std((0, 2, 3)), rel=1e-12)


def test_images_are_normalised_by_the_training_images_alone() -> None:
    """Of which half are at 0.2 and half at 0.4, and the test images at 1; what is split off changes nothing."""
    levels = {"train": [51, 102, 51, 102], "test": [255] * 4}
    tensors = {
        f"{part}_images": torch.tensor(values, dtype=torch.uint8).view(4, 1, 1, 1) for part, values in levels.items()
    }
    labels = torch.tensor([0, 0, 1, 1])
    data = tensor_data(
        "x", ("a", "b"), {**tensors, "train_labels": labels, "test_labels": labels}, torch.device("cpu"), False, 0
    )
    assert (data.mean, data.std) == ((pytest.approx(0.3),), (pytest.approx(0.1),))
    ((images, _),) = data.test.batches(4)
    assert images.flatten().tolist() == pytest.approx([7.0] * 4)
    seen = [image.item() for part in data.train.split(0.5, seed=0) for images, _ in part.batches(4) for image in images]
    assert sorted(seen) == pytest.approx([-1, -1, 1, 1], abs=1e-6)


def test_a_constant_channel_can_be_divided_by() -> None:
    assert pixel_statistics(torch.full((4, 1, 3, 3), 51, dtype=torch.uint8)) == ((pytest.approx(0.2),), (1.0,))


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=2, max_size=200),
    share=st.floats(0.02, 0.98),
    seed=st.integers(0, 2**63),
)
def test_a_split_is_disjoint_complete_and_stratified(labels: list[int], share: float, seed: int) -> None:
    everything = torch.tensor(labels)
    if not 0 < round(share * len(labels)) < len(labels):
        with pytest.raises(ValueError, match="nothing on one side"):
            stratified_split(everything, share, seed)
        return
    rest, held = stratified_split(everything, share, seed)
    assert sorted(rest.tolist() + held.tolist()) == list(range(len(labels)))
    assert len(held) == round(share * len(labels))
    for label in set(labels):
        whole, part = labels.count(label), everything[held].tolist().count(label)
        assert abs(part - whole * len(held) / len(labels)) <= 1
    assert torch.equal(held, stratified_split(everything, share, seed)[1])


def test_another_seed_splits_otherwise() -> None:
    labels = torch.arange(100) % 5
    assert not torch.equal(stratified_split(labels, 0.2, 0)[1], stratified_split(labels, 0.2, 1)[1])


def test_a_set_splits_into_two_sets() -> None:
    data = make_data()
    rest, held = data.train.split(0.2, seed=4)
    assert isinstance(rest, TensorSet) and (len(rest), len(held)) == (40, 10)
    parts = [[i for images, _ in part.batches(7) for i in indices(data, images)] for part in (rest, held)]
    assert sorted(parts[0] + parts[1]) == list(range(50))
    for part, numbers in zip((rest, held), parts, strict=True):
        assert torch.cat([labels for _, labels in part.batches(7)]).tolist() == [i % 5 for i in numbers]
    assert len(data.train) == 50
    again = [{i for images, _ in part.batches(7) for i in indices(data, images)} for part in rest.split(0.25, seed=5)]
    assert tuple(map(len, again)) == (30, 10) and again[0] | again[1] == set(parts[0])  # a split of a split
