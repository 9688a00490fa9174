"""What a sweep would do, told before it is started: its cells, the dense networks they share, what can go of those of
which whole filters or heads go, the time they take.

Times are estimated from rows that are there, and from nothing else; what was never measured is said to be so.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruner.compare.gather import gather, result_files
from pruner.compose.cells import Cell
from pruner.compose.validate import cuda_devices
from pruner.config import Config, expand
from pruner.store.folders import Folder
from pruner.store.row import Row
from pruner.sweep.rehearsal import rehearsed

# What an epoch's time depends on, the closest likeness first; a phase without the method's masks needs no more.
LIKENESS: dict[str, list[tuple[str, ...]]] = {
    "dense": [()],
    "prune": [("method", "granularity"), ("method",), ()],
    "finetune": [("granularity",), ()],
}


@dataclass(frozen=True)
class Measured:
    """Seconds of one epoch: the median over the finished runs of these `run_ids`."""

    seconds: float
    run_ids: frozenset[str]


def epoch_seconds(config: Config, phase: str, rows: Iterable[Row], on_gpu: bool) -> Measured | None:
    """What one epoch of `phase` takes, from the `rows` of the same data set, model and kind of device.

    Of these, the ones that are most alike count (LIKENESS). None where nothing was measured.
    """
    asked = {"method": config.method.label, "granularity": config.granularity}
    pair = (config.dataset.label, config.model.label)
    near = [
        row
        for row in rows
        if (row["dataset"], row["model"]) == pair
        and (row["device"] != "cpu") == on_gpu
        and row["status"] == "done"
        and row[f"{phase}_epochs"]
        and row[f"{phase}_seconds"]
    ]
    for alike in LIKENESS[phase]:
        found = [row for row in near if all(row[key] == asked[key] for key in alike)]
        if found:
            each = [row[f"{phase}_seconds"] / row[f"{phase}_epochs"] for row in found]
            return Measured(statistics.median(each), frozenset(row["run_id"] for row in found))
    return None


def text(cells: Sequence[Cell]) -> str:
    """The plan for the console. Raises ConfigError where a run would be refused, as far as `rehearsed` finds out."""
    states = {cell.number: cell.state for cell in cells}
    lines = [_counts("cell", list(states.values())), ""]
    for cell in cells:
        lines.append(f"{states[cell.number]:<10} {cell.name}  {cell.folder.path}")
    left = [cell for cell in cells if states[cell.number] != "done"]
    shared: dict[Path, list[Cell]] = {}
    for cell in left:
        shared.setdefault(cell.dense.path, []).append(cell)
    if shared:
        there = {path: users[0].dense.info.exists() for path, users in shared.items()}
        lines += ["", _counts("dense network", ["there" if found else "to train" for found in there.values()])]
        for path, users in shared.items():
            numbers = " ".join(str(cell.number) for cell in users)
            lines.append(f"{'there' if there[path] else 'to train':<10} {path}  for {numbers}")
    if networks := rehearsed(left):
        lines += ["", *networks]
    return "\n".join([*lines, "", *estimate(left)])


def estimate(left: Sequence[Cell]) -> list[str]:
    """Lines that say how long the cells that are `left` take one after the other, what that rests on, and what is left
    out as it cannot be read."""
    if not left:
        return ["nothing to do"]
    folders = dict.fromkeys(Path(expand(cell.config.output_dir)) for cell in left)
    files, closed = result_files([str(folder) for folder in folders if folder.exists()])
    gathered = gather(files)
    rows, unreadable = gathered.rows, [*closed, *gathered.unreadable]
    total, runs, unknown = 0.0, frozenset[str](), dict[str, list[str]]()
    for cell, phase, epochs in _work(left):
        config = cell.config
        found = epoch_seconds(config, phase, rows, config.device != "cpu" and cuda_devices() > 0)
        if found:
            total += epochs * found.seconds
            runs |= found.run_ids
        else:
            what = f"{phase} of {config.model.label} on {config.dataset.label}"
            unknown.setdefault(what, []).append(str(cell.number))
    lines = [f"not measured yet: {what}, for {' '.join(numbers)}" for what, numbers in unknown.items()]
    if runs:
        known = f"{'what was measured takes ' if unknown else ''}about {duration(total)}, one cell after the other"
        lines.append(f"{known} (epochs of {len(runs)} finished run{'' if len(runs) == 1 else 's'})")
    if unreadable:
        more = f"; and {len(unreadable) - 1} more like this" if len(unreadable) > 1 else ""
        lines.append(f"left out of the estimate: {unreadable[0]}{more}")
    return lines


def duration(seconds: float) -> str:
    """As in 40 s, 25 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _work(left: Sequence[Cell]) -> Iterator[tuple[Cell, str, int]]:
    """(cell, phase, epochs that are left of it); a dense network's with the first cell that needs it."""
    networks = set()
    for cell in left:
        folders: list[tuple[str, Folder]] = [("prune", cell.folder), ("finetune", cell.folder)]
        if cell.dense.path not in networks and not cell.dense.info.exists():
            networks.add(cell.dense.path)
            folders.insert(0, ("dense", cell.dense))
        for phase, folder in folders:
            over = sum(epoch["phase"] == phase for epoch in folder.read_epochs())
            epochs = cell.config.recipe.phase(phase).epochs - over
            if epochs > 0:
                yield cell, phase, epochs


def _counts(what: str, states: Sequence[str]) -> str:
    found = {state: states.count(state) for state in dict.fromkeys(states)}
    parts = ", ".join(f"{count} {state}" for state, count in found.items())
    return f"{len(states)} {what}{'' if len(states) == 1 else 's'}: {parts}"
