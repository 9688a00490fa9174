"""What runs would say of their networks before any work, for a plan: how many filters or heads can go, and what stays.

Each distinct network is built and traced once, on the CPU, with data that is there: nothing is downloaded. torch is
imported only where filters or heads would go.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.checks import ConfigError, one_line
from pruner.compose.cells import Cell
from pruner.config import Choice, Config, expand
from pruner.data.paths import downloaded_file
from pruner.run.job import Message, handler

if TYPE_CHECKING:
    from pruner.data import ImageData

TRACED = ("filter", "head")  # granularities of units that are found by tracing


def rehearsed(left: Sequence[Cell]) -> list[str]:
    """Lines on each distinct network of the cells that are `left`: how many units can go, then what its run would log.

    Raises ConfigError where the run of one of these cells would be refused.
    """
    networks: dict[str, list[Cell]] = {}
    for cell in left:
        config = cell.config
        if config.granularity in TRACED:
            parts = config.dataset, config.data_dir, config.model, config.budget.exclude, config.granularity
            networks.setdefault(repr(parts), []).append(cell)
    lines = []
    loaded: dict[str, ImageData] = {}
    for cells in networks.values():
        config = cells[0].config
        numbers = " ".join(str(cell.number) for cell in cells)
        lines.append(f"{config.granularity}s of {config.model.label} on {config.dataset.label}, for {numbers}")
        lines += [f"  {line}" for line in _rehearsed([cell.config for cell in cells], loaded)]
    return lines


def _rehearsed(configs: Sequence[Config], loaded: dict[str, ImageData]) -> list[str]:
    """The lines on the one network of these. `loaded` has the data that others needed, and gets what this one needs."""
    config = replace(configs[0], device="cpu", model=_without_download(configs[0].model))
    file = downloaded_file(config.dataset.name, Path(expand(config.data_dir)))
    if file and not file.exists():
        return [f"not known while there is no {file}, which a run would download"]

    import pruner.data
    from pruner.run.experiment import budgeted, prepare  # here, as it imports torch
    from pruner.sparsity.trial import say_what_stays

    key, stream = repr((config.dataset, config.data_dir)), io.StringIO()
    with handler(logging.StreamHandler(stream), Message()):
        try:
            if key not in loaded:
                loaded[key] = pruner.data.load(config.dataset, config.data_dir, "cpu")
            experiment = prepare(config, loaded[key])
            units = experiment.allocation.units
            say_what_stays(experiment.model, units)
            for other in configs[1:]:
                budgeted(other, experiment.data, experiment.device, experiment.model, units)
        except ConfigError:
            raise
        except Exception as error:  # whatever it is would be in the run's row
            return [one_line(f"would fail: {type(error).__name__}: {error}")]
    return [f"{units.n} {config.granularity}s can go", *stream.getvalue().splitlines()]


def _without_download(model: Choice) -> Choice:
    """The same network with random weights, where its own would be downloaded."""
    if model.options.get("weights") != "default":
        return model
    kept = {key: value for key, value in model.options.items() if key not in ("weights", "expected_accuracy")}
    return replace(model, options=kept)
