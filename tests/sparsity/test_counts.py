"""What is left of small networks, counted by hand."""

import torch
from torch import nn

from pruner.sparsity.counts import count, revived
from pruner.sparsity.units.make import make_units

SHAPE = (2, 4, 4)


def network() -> nn.Sequential:
    """Parameters 3*2*9 + 3 = 57, 6, 5*3*1 = 15, 2*5*4 + 2 = 42; multiply-adds 54*16, none, 15*4, 40."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 1, stride=2, bias=False),
        nn.Flatten(), nn.Linear(20, 2),
    )  # fmt: skip


def test_weights() -> None:
    model = network()
    units = make_units(model, SHAPE, "weight")
    mask = torch.ones(54 + 15 + 40)
    mask[:50] = 0  # of the first convolution 4 stay
    mask[54:64] = 0  # of the second 5
    mask[-1] = 0
    counts, rows = count(model, SHAPE, units, mask)
    assert (counts.params_total, counts.params_kept) == (57 + 6 + 15 + 42, 57 + 6 + 15 + 42 - 61)
    assert (counts.macs_total, counts.macs_kept) == (54 * 16 + 15 * 4 + 40, 4 * 16 + 5 * 4 + 39)
    assert (counts.prunable_params_total, counts.prunable_params_kept) == (109, 48)
    assert (counts.prunable_macs_total, counts.prunable_macs_kept) == (counts.macs_total, counts.macs_kept)
    keys = ("layer", "units_total", "units_kept", "params_total", "params_kept", "macs_total", "macs_kept")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("0", 54, 4, 54, 4, 864, 64),
        ("3", 15, 5, 15, 5, 60, 20),
        ("5", 40, 39, 40, 39, 40, 39),
    ]


def test_filters_take_biases_norms_and_readers_along() -> None:
    model = network()
    units = make_units(model, SHAPE, "filter")
    mask = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 1])  # 2 of 3, 3 of 5
    counts, rows = count(model, SHAPE, units, mask)
    assert counts.params_kept == (2 * 2 * 9 + 2) + 2 * 2 + 3 * 2 + (2 * 3 * 4 + 2)
    assert counts.macs_kept == 36 * 16 + 6 * 4 + 24
    assert counts.prunable_params_kept == 36 + 6 + 24
    keys = ("layer", "units_total", "units_kept", "params_kept", "macs_kept")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("0", 3, 2, 36, 576), ("3", 5, 3, 6, 24), ("5", 0, 0, 24, 24)
    ]  # fmt: skip


def test_excluded_layers_are_in_the_totals_and_not_among_the_prunable() -> None:
    model = network()
    units = make_units(model, SHAPE, "weight", ("last",))
    mask = torch.ones(69)
    mask[60:] = 0
    counts, rows = count(model, SHAPE, units, mask)
    assert [row["layer"] for row in rows] == ["0", "3"]
    assert (counts.params_total, counts.params_kept) == (120, 111)
    assert (counts.macs_total, counts.macs_kept) == (964, 964 - 9 * 4)
    assert (counts.prunable_params_total, counts.prunable_params_kept) == (69, 60)
    assert (counts.prunable_macs_total, counts.prunable_macs_kept) == (924, 924 - 36)


def test_an_excluded_layer_still_loses_what_reads_dead_filters() -> None:
    model = network()
    units = make_units(model, SHAPE, "filter", ("last",))
    counts, rows = count(model, SHAPE, units, torch.tensor([1.0, 1, 1, 0, 0, 1, 1, 1]))
    assert [row["layer"] for row in rows] == ["0", "3"]
    assert counts.params_kept == 57 + 6 + 9 + (2 * 3 * 4 + 2)
    assert counts.macs_kept == 864 + 9 * 4 + 24
    assert (counts.prunable_params_total, counts.prunable_params_kept) == (69, 63)


def test_nothing_is_counted_as_gone_under_a_mask_of_ones() -> None:
    model = network()
    for granularity in ("weight", "filter"):
        units = make_units(model, SHAPE, granularity)
        counts, _ = count(model, SHAPE, units, torch.ones(units.n))
        assert counts.params_kept == counts.params_total == 120 and counts.macs_kept == counts.macs_total == 964


def test_revived_names_what_is_not_zero() -> None:
    model = network()
    units = make_units(model, SHAPE, "filter")
    mask = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1])
    assert sorted(revived(model, units, mask)) == ["0.bias", "0.weight", "1.weight", "3.weight"]  # beta is zero
    with torch.no_grad():
        for name, zero in units.zeros(mask).items():
            dict(model.named_parameters())[name].mul_(zero)
    assert revived(model, units, mask) == []
    with torch.no_grad():
        model.get_parameter("3.weight")[2, 0] = -1e-30
    assert revived(model, units, mask) == ["3.weight"]
