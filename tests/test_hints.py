"""Which name was meant."""

from __future__ import annotations

import pytest

from pruner.checks import hint, mistakes, nearest

METHODS = ["acdc", "dpp", "dsa", "dtp", "gmp", "magnitude", "pdp", "random", "smart"]
RESNETS = ["resnet18", "resnet20", "resnet32", "resnet56", "resnet101", "resnet110", "resnet152", "vgg11", "vgg16"]


@pytest.mark.parametrize(
    ("name", "other", "count"),
    [("", "abc", 3), ("dpt", "dtp", 1), ("dpt", "dpp", 1), ("gpm", "gmp", 1), ("kitten", "sitting", 3), ("a", "a", 0)],
)
def test_a_swapped_pair_is_one_mistake(name: str, other: str, count: int) -> None:
    assert mistakes(name, other) == mistakes(other, name) == count


@pytest.mark.parametrize(
    ("name", "names", "meant"),
    [
        ("dpt", METHODS, "dtp"),  # not dpp, which is one mistake away too, but of other letters
        ("DTP", METHODS, "dtp"),
        ("magnitud", METHODS, "magnitude"),
        ("resnet21", RESNETS, "resnet20"),
        ("resnet999", RESNETS, "resnet152"),
        ("vgg61", RESNETS, "vgg16"),
        ("cifar", ["mnist", "cifar10", "cifar100"], "cifar10"),
        ("xyz", METHODS, None),
        (5001 * "1", METHODS, None),
    ],
)
def test_the_nearest_name(name: str, names: list[str], meant: str | None) -> None:
    assert nearest(name, names) == ([meant] if meant else [])
    assert hint(name, names, "method.") == (f" (did you mean method.{meant}?)" if meant else "")
