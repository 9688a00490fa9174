"""A network with every kind of layer that can be pruned, small enough for hundreds of runs, and its costs by hand.

What follows the network is written for it alone, knows nothing of `pruner`, and reads everything off saved weights:
dictionaries by layer, where `attention1.in_proj` and `attention1.out_proj` are the packed projections of an attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, TOKENS = 8, 4  # channels of the tokens, and how many there are
HEADS = {"attention1": 4, "attention2": 2}
BLOCK = (4, 3)  # of 8 and 10 output channels, and of 3, 8 and 10 input channels: cut off in both directions
PATTERN = (2, 4)  # of 3, 8 and 10 input channels, and of the single one of the depthwise convolution
# What one weight is worth in multiply-adds for an image of 8x8: one for each pixel of the output, or each token.
POSITIONS = {
    **{"stem": 64, "conv1": 64, "conv2": 64, "depthwise": 16, "pointwise": 16, "embed": 4},
    **{f"{attention}.{part}": TOKENS for attention in HEADS for part in ("in_proj", "out_proj")},
    **{"hidden": 1, "classifier": 1},
}


class TinyNetwork(nn.Module):
    """Images [batch, 3, 8, 8] -> logits [batch, classes]; 2,700 prunable weights for 6 classes.

    A stem, a residual block, a depthwise and a pointwise convolution (this one without a norm), an embedding of
    patches as tokens, two attentions with residuals, the mean over tokens, two linear layers.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 10, 3, padding=1, bias=False)
        self.conv1_norm = nn.BatchNorm2d(10)
        self.conv2 = nn.Conv2d(10, 8, 3, padding=1, bias=False)
        self.conv2_norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.embed = nn.Conv2d(8, WIDTH, 2, stride=2)
        self.attention1 = nn.MultiheadAttention(WIDTH, HEADS["attention1"], batch_first=True)
        self.attention2 = nn.MultiheadAttention(WIDTH, HEADS["attention2"], batch_first=True)
        self.hidden = nn.Linear(WIDTH, 10)
        self.classifier = nn.Linear(10, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(images)).relu()
        inner = self.conv1_norm(self.conv1(x)).relu()
        x = (x + self.conv2_norm(self.conv2(inner))).relu()
        x = self.pointwise(self.depthwise_norm(self.depthwise(x)).relu()).relu()
        tokens = self.embed(x).flatten(2).transpose(1, 2)  # [batch, TOKENS, WIDTH]
        for attention in (self.attention1, self.attention2):
            tokens = tokens + attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.classifier(self.hidden(tokens.mean(1)).relu())


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The prunable weights among the tensors of a saved network, by layer."""
    names = {layer: f"{layer}_weight" if layer.endswith("in_proj") else f"{layer}.weight" for layer in POSITIONS}
    return {layer: tensors[name] for layer, name in names.items()}


def worth(layer: str, budget: str) -> int:
    """What one weight of a layer costs."""
    return POSITIONS[layer] if budget == "macs" else 1


def tiles(weight: Tensor, granularity: str) -> Tensor:
    """The number of weights that are not zero in every unit of a layer [rows, units of a row].

    For single weights (also those of a pattern), kernels and blocks. A row is an output channel, or four for blocks.
    """
    nonzero = (weight != 0).reshape(*weight.shape[:2], -1)  # [out, in, kernel]
    if granularity == "block":
        bands = [band.split(BLOCK[1], dim=1) for band in nonzero.split(BLOCK[0])]
        return torch.stack([torch.cat([block.sum((0, 1)) for block in band]) for band in bands])
    return nonzero.sum(2) if granularity == "kernel" else nonzero.flatten(1).long()


def heads(weights: dict[str, Tensor], attention: str) -> Tensor:
    """The number of weights that are not zero in every head: rows of q, k and v, and columns of the output."""
    count = HEADS[attention]
    rows = weights[f"{attention}.in_proj"].view(3, count, WIDTH // count, WIDTH)
    columns = weights[f"{attention}.out_proj"].view(WIDTH, count, WIDTH // count)
    return (rows != 0).sum((0, 2, 3)) + (columns != 0).sum((0, 2))


def channels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which channels are left in the three groups of them, by the first layer that makes them.

    The residual ties conv2 to the stem, and a depthwise filter goes with its channel. Fails unless the zeros are
    exactly those of the filters of dead channels and of what reads them.
    """
    groups = {layer: (weights[layer] != 0).flatten(1).any(1) for layer in ("stem", "conv1", "pointwise")}
    makes = {**groups, "conv2": groups["stem"], "depthwise": groups["stem"]}
    reads = {"conv1": "stem", "conv2": "conv1", "pointwise": "stem", "embed": "pointwise"}
    for layer, weight in weights.items():
        left = torch.ones_like(weight, dtype=torch.bool).reshape(*weight.shape[:2], -1)  # [out, in, kernel]
        if layer in makes:
            left &= makes[layer][:, None, None]
        if layer in reads:
            left &= groups[reads[layer]][:, None]
        assert torch.equal((weight != 0).reshape(left.shape), left), layer
    return groups


def channels_cost(stem: int, conv1: int, pointwise: int, budget: str) -> int:
    """The cost of the network with so many channels in each group, written out."""
    counts = {
        "stem": 3 * 9 * stem,
        "conv1": 9 * stem * conv1,
        "conv2": 9 * conv1 * stem,
        "depthwise": 9 * stem,
        "pointwise": stem * pointwise,
        "embed": 4 * pointwise * WIDTH,
        **{f"{attention}.in_proj": 3 * WIDTH * WIDTH for attention in HEADS},
        **{f"{attention}.out_proj": WIDTH * WIDTH for attention in HEADS},
        "hidden": WIDTH * 10,
        "classifier": 10 * 6,
    }
    return sum(count * worth(layer, budget) for layer, count in counts.items())


def units_left(weights: dict[str, Tensor], granularity: str) -> dict[str, list[int]]:
    """[left, all] units of every layer that has any. Fails unless each unit is whole or all zero."""
    left = {}
    if granularity == "filter":
        groups = channels(weights)
        groups = {**groups, "conv2": groups["stem"], "depthwise": groups["stem"]}
        return {layer: [int(alive.sum()), len(alive)] for layer, alive in groups.items()}
    if granularity == "head":
        for attention, count in HEADS.items():
            found = heads(weights, attention)
            assert set(found.tolist()) <= {0, 4 * WIDTH * WIDTH // count}
            for part in ("in_proj", "out_proj"):
                left[f"{attention}.{part}"] = [int((found > 0).sum()), count]
        assert all(bool(weight.all()) for layer, weight in weights.items() if layer not in left)
        return left
    for layer, weight in weights.items():
        found, sizes = tiles(weight, granularity), tiles(torch.ones_like(weight), granularity)
        assert bool(((found == 0) | (found == sizes)).all()), layer
        left[layer] = [int((found > 0).sum()), found.numel()]
    return left


def dearest_dropped(weights: dict[str, Tensor], granularity: str, budget: str) -> int:
    """The cost of the dearest unit that could be added to what is left."""
    if granularity == "filter":
        groups = channels(weights)
        kept = {name: int(alive.sum()) for name, alive in groups.items()}
        more = [{**kept, name: kept[name] + 1} for name, alive in groups.items() if not alive.all()]
        return max(channels_cost(**each, budget=budget) for each in more) - channels_cost(**kept, budget=budget)
    if granularity == "head":
        dead = [name for name in HEADS if not heads(weights, name).all()]
        return max(4 * WIDTH * WIDTH // HEADS[name] * worth(f"{name}.in_proj", budget) for name in dead)
    dropped = [
        int((tiles(torch.ones_like(weight), granularity) * (tiles(weight, granularity) == 0)).max())
        * worth(layer, budget)
        for layer, weight in weights.items()
    ]
    return max(dropped)


def small_parameters_dropped(weights: dict[str, Tensor], granularity: str) -> int:
    """How many parameters of batch norms and biases go with what is dropped."""
    if granularity == "filter":
        dead = {name: int((~alive).sum()) for name, alive in channels(weights).items()}
        return 3 * 2 * dead["stem"] + 2 * dead["conv1"] + dead["pointwise"]  # three norms, a norm, a bias
    if granularity == "head":  # the biases of queries, keys and values
        return sum(3 * WIDTH // HEADS[name] * int((heads(weights, name) == 0).sum()) for name in HEADS)
    return 0


def macs_between_tokens(weights: dict[str, Tensor], granularity: str) -> int:
    """Multiply-adds of attention itself: queries with keys, and their weights with values."""
    alive = {name: int((heads(weights, name) > 0).sum()) if granularity == "head" else HEADS[name] for name in HEADS}
    return sum(2 * TOKENS**2 * WIDTH // HEADS[name] * count for name, count in alive.items())
