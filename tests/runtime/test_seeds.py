"""Seeds: one for each purpose, and the same in every version."""

from __future__ import annotations

import itertools

import torch

from pruner.runtime.seeds import derive, generator


def test_seeds_do_not_change_between_versions() -> None:
    """Or every published number would."""
    assert derive(0, "prune", 3) == 698262749544429880
    assert 0 <= derive(2**32 - 1, "method") < 2**63


def test_purposes_give_unrelated_seeds() -> None:
    purposes = itertools.product(range(20), ["dense", "prune", "finetune"], range(20))
    seeds = [derive(*purpose) for purpose in purposes]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)  # torch looks at the low half alone on the CPU


def test_generators_leave_the_global_one_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = torch.rand(4, generator=generator(1, "method"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.rand(4, generator=generator(1, "method")), first)
    assert not torch.equal(torch.rand(4, generator=generator(2, "method")), first)
