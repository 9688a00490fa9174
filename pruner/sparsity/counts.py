"""What a mask leaves of a network: parameters and multiply-adds, exactly, in whole and layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pruner.sparsity.units.layers import count_macs
from pruner.sparsity.units.make import Units


@dataclass(frozen=True)
class Counts:
    """Totals of the dense network and what is left, of the whole model and of its prunable weights.

    params: parameters (numbers); macs: multiply-adds for one image. What is kept is of the network as it would
    ship: dead channels are gone with all that reads them; zeros of finer granularities are not counted.
    """

    params_total: int
    params_kept: int
    macs_total: int
    macs_kept: int
    prunable_params_total: int
    prunable_params_kept: int
    prunable_macs_total: int
    prunable_macs_kept: int


def count(model: nn.Module, shape: tuple[int, ...], units: Units, mask: Tensor) -> tuple[Counts, list[dict[str, Any]]]:
    """The counts of `model` on images [1, *shape] under a 0/1 mask [n], and a row for each prunable layer."""
    zeros = units.zeros(mask)
    gone = {name: int((zero == 0).sum()) for name, zero in zeros.items()}
    rows: list[dict[str, Any]] = []
    macs_gone = units.extra_macs_gone(mask)
    for layer in units.layers:
        macs_gone += layer.positions * gone.get(layer.weight, 0)
        if layer.prunable:
            kept = layer.size - gone.get(layer.weight, 0)
            in_layer = units.layer_mask(layer, mask)
            rows.append(
                {
                    "layer": layer.name,
                    "units_total": in_layer.numel(),
                    "units_kept": int((in_layer != 0).sum()),
                    "params_total": layer.size,
                    "params_kept": kept,
                    "macs_total": layer.size * layer.positions,
                    "macs_kept": kept * layer.positions,
                }
            )
    params_total = sum(parameter.numel() for parameter in model.parameters())
    macs_total = count_macs(model, shape)
    columns = ("params_total", "params_kept", "macs_total", "macs_kept")
    prunable = {f"prunable_{column}": sum(row[column] for row in rows) for column in columns}
    counts = Counts(
        params_total=params_total,
        params_kept=params_total - sum(gone.values()),
        macs_total=macs_total,
        macs_kept=macs_total - macs_gone,
        **prunable,
    )
    return counts, rows


def revived(model: nn.Module, units: Units, mask: Tensor) -> list[str]:
    """The names of parameters that are not zero where a 0/1 mask [n] says so; always empty, or masks leak."""
    parameters = dict(model.named_parameters())
    return [name for name, zero in units.zeros(mask).items() if bool((parameters[name][zero == 0] != 0).any())]
