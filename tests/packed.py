"""What the tests of packed networks share: weights of every kind, as drawn by hypothesis, with tiles that are gone."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pruner.export.indexing import Tile
from pruner.quantize import MAX_BITS, fake_quantize

State = dict[str, Tensor]
Tiles = dict[str, Tile | None]

BESIDES = {"bias": torch.tensor([0.5, -0.0]), "norm.num_batches_tracked": torch.tensor(7)}


@st.composite
def packed_weights(draw: Any) -> tuple[State, Tiles, int]:
    """One to three weights whose tiles are left all, none, one or by chance, quantised or not."""
    bits = draw(st.integers(0, MAX_BITS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    state: State = {name: tensor.clone() for name, tensor in BESIDES.items()}
    tiles: Tiles = {}
    for number in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
        sides = [draw(st.integers(1, size + 2)) for size in shape]
        grid = [math.ceil(size / side) for size, side in zip(shape, sides, strict=True)]
        share = draw(st.sampled_from(["all", "none", "one", 0.05, 0.3, 0.7]))
        chance = torch.rand(grid, generator=generator)
        mask = chance <= chance.min() if share == "one" else chance < {"all": 1, "none": 0}.get(share, share)
        for dim, side in enumerate(sides):
            mask = mask.repeat_interleave(side, dim).narrow(dim, 0, shape[dim])
        weight = torch.randn(shape, generator=generator)
        state[f"w{number}"] = fake_quantize(weight, mask.float(), bits) if bits else weight * mask
        tiles[f"w{number}"] = Tile(tuple(sides), draw(st.integers(0, 5)))
        if share == "all" and draw(st.booleans()):
            tiles[f"w{number}"] = None
    return state, tiles, bits
