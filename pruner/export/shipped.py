"""A run's network as it ships, made from the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruner import __version__
from pruner.checks import ConfigError, build, convert, one_line, require
from pruner.export.indexing import Tile
from pruner.export.networks import load_model
from pruner.sparsity.surgery import Widths, widths_of, without
from pruner.sparsity.units.base import Left
from pruner.sparsity.units.layers import count_macs
from pruner.store.folders import RunFolder
from pruner.store.row import Row

PROBES = 8  # images of noise on which networks must agree
TOLERANCE = 1e-5  # of the largest output: the same sums in another order


@dataclass(frozen=True)
class Shipped:
    """A network without its dead parts, and the whole one that it comes from; both on the CPU, in eval mode."""

    model: nn.Module
    whole: nn.Module
    row: Row
    architecture: dict[str, Any]  # of model.json, of the whole network
    widths: Widths
    tiles: dict[str, Tile | None]

    @property
    def shape(self) -> tuple[int, ...]:
        """[channels, height, width] of an image."""
        return tuple(self.architecture["shape"])

    @property
    def bits(self) -> int:
        """Of a quantised weight; 0 where weights are floats."""
        return int(self.architecture["bits"])

    def provenance(self) -> dict[str, Any]:
        """What a file says of itself: how to feed the network, what was done to it, and what it costs."""
        kept = ("label", "name", "options", "shape", "classes", "labels", "mean", "std", "bits", "run")
        return {
            **{key: self.architecture[key] for key in kept},
            "accuracy": self.row["accuracy"],
            "commit": self.row["commit"],
            "params": sum(parameter.numel() for parameter in self.model.parameters()),
            "macs": count_macs(self.model, self.shape),
            "exported_by": f"pruner {__version__}, torch {torch.__version__}",
        }

    def probes(self) -> Tensor:
        """Images of noise [PROBES, *shape]."""
        return torch.randn(PROBES, *self.shape, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def difference(self, predict: Callable[[Tensor], Tensor]) -> float:
        """The largest difference of its outputs from the whole network's, over the largest of these.

        `predict` is a function from images to logits. Raises ConfigError when the difference is above TOLERANCE.
        """
        expected = self.whole(self.probes())
        found = predict(self.probes())
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if not difference <= TOLERANCE:  # neither is a NaN
            raise ConfigError(
                f"what was exported differs from the run's network by {difference:.2g} of its largest output"
            )
        return difference


def shipped(folder: str | Path, own_code: bool = False) -> Shipped:
    """The network of a finished run without the channels and heads that its masks took.

    Raises ConfigError, one line, when the folder holds no finished run or a damaged one, when its model.json is of
    another run or an older version, when nothing is left of a layer, or when the two networks do not agree.
    """
    run = RunFolder(folder)
    row = run.finished()
    if row is None:
        raise ConfigError(f"{folder}: no finished run here (result.csv with status done)")
    for name in ("accuracy", "params_total", "macs_total"):
        require(row[name] is not None, f"{run.result}: {name}", None, "a run that is done has one")
    whole, architecture = load_model(folder, own_code)
    left, tiles = _masks(architecture, Path(folder) / "model.json")
    of = architecture["run"]
    if not isinstance(of, dict) or of.get("run_id") != row["run_id"]:
        raise ConfigError(one_line(f"{folder}: model.json is of another run than result.csv, {row['run_id']}"))
    model = without(whole, left)
    one = Shipped(model, whole, row, architecture, widths_of(whole, left), tiles)
    try:
        one.difference(model)
    except RuntimeError as error:  # torch's, where the parts of the network do not fit each other any more
        raise ConfigError(one_line(f"{folder}: masks.channels do not fit the network ({error})")) from error
    return one


def _masks(architecture: Mapping[str, Any], path: Path) -> tuple[dict[str, Left], dict[str, Tile | None]]:
    """What is left of modules, and the tiles of weights, as `report.description` wrote them."""
    lacks = {"masks", "bits", "labels", "mean", "std", "run"} - architecture.keys()
    if lacks:
        raise ConfigError(f"{path}: lacks {', '.join(sorted(lacks))}: of another version of pruner, or not a run's")
    convert(architecture["bits"], int, f"{path}: bits")
    masks = build(_Masks, architecture["masks"], f"{path}: masks")
    channels = {name: build(Left, part, f"{path}: masks.channels.{name}") for name, part in masks.channels.items()}
    return channels, {
        name: None if tile is None else build(Tile, tile, f"{path}: masks.tiles.{name}")
        for name, tile in masks.tiles.items()
    }


@dataclass(frozen=True)
class _Masks:
    channels: dict[str, Any]
    tiles: dict[str, Any]
