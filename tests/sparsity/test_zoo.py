"""The units of torchvision's networks, in both layouts of memory and at the smallest images that they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruner.checks import ConfigError
from pruner.models import build
from pruner.sparsity.intake import accept
from pruner.sparsity.units.make import Units, make_units
from tests.zoo import NETWORKS, QUICK, choice

# In both layouts; of those that the suite has, in the one of runs.
CASES = [
    pytest.param(name, layout, marks=marks if layout is torch.channels_last or marks else pytest.mark.long)
    for name in NETWORKS
    for marks in [[] if name in QUICK else [pytest.mark.zoo]]
    for layout in (torch.contiguous_format, torch.channels_last)
]


@pytest.mark.parametrize(("arch", "layout"), CASES)
def test_what_can_be_pruned_of_torchvisions_networks(
    arch: str,
    layout: torch.memory_format,
    assert_silent: Callable[[nn.Module, tuple[int, ...], Units, Tensor], None],
) -> None:
    known = NETWORKS[arch]
    shape = (3, known.side, known.side)
    torch.manual_seed(0)
    model = build(choice(arch), shape, 10)
    if layout is torch.channels_last:
        accept(model, shape, 10)
    assert make_units(model, shape, "weight").n == known.weights
    if isinstance(known.filters, str):
        with pytest.raises(ConfigError) as refused:
            make_units(model, shape, "filter")
        line = str(refused.value)
        assert "\n" not in line and known.filters in line and "use granularity=weight" in line
        return
    units = make_units(model, shape, "filter")
    assert units.n == known.filters
    mask = torch.rand(units.n, generator=torch.Generator().manual_seed(1)) < 0.8
    assert_silent(model, shape, units, mask.float())  # and can be taken out; counts are those of torch's counter


def test_the_page_on_networks_has_these_numbers() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "own-model.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+|none: .*) \| ([\d,]+) \|$", page, re.MULTILINE)
    said = {arch: ("none" if filters.startswith("none") else filters, weights) for arch, filters, weights in rows}
    assert said == {
        arch: ("none" if isinstance(known.filters, str) else f"{known.filters:,}", f"{known.weights:,}")
        for arch, known in NETWORKS.items()
    }
