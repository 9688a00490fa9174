"""The short table that ends a run: what was asked, what came out, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def summary(row: Mapping[str, Any], folder: str | Path) -> str:
    """A finished run's row as a plain-text table of 80 columns at most (the folder's line may be longer).

    Accuracies are in percent on the test set; `-` stands where something does not apply.
    """
    accuracies = [("dense", "dense", "dense"), ("soft masks", "soft", "prune"), ("hard masks", "hard", "")]
    lines = [
        f"{_title(row)}",
        f"sparsity of {_text(row, 'budget')}: asked {_text(row, 'sparsity')}, "
        f"achieved {_number(row, 'achieved_sparsity', '.6f')}",
        "",
        f"{'':22}{'accuracy %':>16}{'epochs':>16}{'seconds':>16}",
    ]
    for label, accuracy, phase in accuracies:
        lines.append(_phase(row, label, f"{accuracy}_accuracy", phase))
    lines += [
        _phase(row, "final (finetuned)", "accuracy", "finetune"),
        "",
        f"{'':22}{'before':>16}{'after':>16}{'kept':>16}",
        _kept(row, "parameters", "params"),
        _kept(row, "  prunable", "prunable_params"),
        _kept(row, "multiply-adds (MACs)", "macs"),
        _kept(row, "  prunable", "prunable_macs"),
        *_latency(row),
        "",
        f"folder: {folder}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def already_done(row: Mapping[str, Any], folder: str | Path) -> str:
    """Says that this very run is done and nothing was trained, over the same table."""
    return f"already done, nothing to run (delete the folder to run it again)\n{summary(row, folder)}"


def in_one_line(cell: str, row: Mapping[str, Any], before: bool) -> str:
    """How a sweep's cell of this name ended; `before`: it was not this sweep that ran it."""
    if row["status"] != "done":
        return f"{cell}: failed: {row['error']}"
    return f"{cell}: {'already done' if before else 'done'}, accuracy {_number(row, 'accuracy', '.2f')}"


def closing(cells: int, done: int, wrong: Sequence[str], results: str | Path | None) -> str:
    """What ends a sweep, after its tables: how many of its cells have a row, what went wrong, where the rows are.

    `wrong` has a line for each cell that failed or was refused; `results` is None where no cell has a row.
    """
    rest = cells - done - len(wrong)
    counts = [f"{done} done", *([f"{len(wrong)} failed"] if wrong else []), *([f"{rest} not run"] if rest else [])]
    lines = [f"{cells} cell{'' if cells == 1 else 's'}: {', '.join(counts)}", *wrong]
    return "\n".join([*lines, *([f"results: {results}"] if results else [])])


def _title(row: Mapping[str, Any]) -> str:
    names = ("dataset", "model", "method", "granularity", "scope")
    return " ".join(_text(row, name) for name in names) + f", seed {_text(row, 'seed')}"


def _phase(row: Mapping[str, Any], label: str, accuracy: str, phase: str) -> str:
    epochs = _number(row, f"{phase}_epochs", "d") if phase else ""
    seconds = _number(row, f"{phase}_seconds", ".1f") if phase else ""
    return f"{label:22}{_number(row, accuracy, '.2f'):>16}{epochs:>16}{seconds:>16}"


def _kept(row: Mapping[str, Any], label: str, what: str) -> str:
    before, after = row.get(f"{what}_total"), row.get(f"{what}_kept")
    share = f"{100 * after / before:.2f}%" if before and after is not None else "-"
    return f"{label:22}{_number(row, f'{what}_total', ','):>16}{_number(row, f'{what}_kept', ','):>16}{share:>16}"


def _latency(row: Mapping[str, Any]) -> list[str]:
    """Nothing where no structure was removed."""
    before, after = row.get("dense_latency_ms"), row.get("latency_ms")
    return [f"{'latency, ms':22}{before:>16.2f}{after:>16.2f}{after / before:>16.2%}"] if before and after else []


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "-" if value is None else str(value)


def _number(row: Mapping[str, Any], name: str, form: str) -> str:
    value = row.get(name)
    return "-" if value is None else format(value, form)
