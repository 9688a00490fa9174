"""What the reader of a table must know beside its numbers: mixed versions and settings, parameters that no mask can
reach, repeated seeds, failures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pruner.compare.settings import Settings, differences, of_method
from pruner.compare.tables import VERSIONS, Entry, Key, Layout, Table, shown
from pruner.store.row import LABELS, Row

SHOWN = 8  # settings that one note lists at most


def caption(table: Table) -> str:
    """What is the same in all of a table, in words."""
    same = dict(zip(table.layout.split, table.key, strict=True))
    pair = " ".join(str(same[key]) for key in ("dataset", "model") if key in same)
    kind = ", ".join(plain(same[key]) for key in ("granularity", "scope", "budget") if key in same)
    more = [f"{same['quant_bits']}-bit weights"] if same.get("quant_bits") is not None else []
    more += [str(same["method"])] if "method" in same else []
    more += [f"sparsity {plain(same['sparsity'])}"] if "sparsity" in same else []
    more += [str(same[name]) for name in LABELS if same.get(name)]
    epochs = " + ".join(
        f"{plain(same[f'{phase}_epochs'])} {phase}"
        for phase in ("dense", "prune", "finetune")
        if f"{phase}_epochs" in same
    )
    setting = ": ".join(part for part in (pair, ", ".join(part for part in (kind, *more) if part)) if part)
    return "; ".join(part for part in (setting, epochs and f"epochs {epochs}") if part)


def labels(key: Key, names: tuple[str, ...]) -> list[str]:
    """The values of a key as text where no header names them: a number says what it is of, but for sparsities."""
    bare = ("sparsity", "method")
    return [
        f"{name} {plain(value)}" if name not in bare and not isinstance(value, str) else plain(value)
        for name, value in zip(names, key, strict=True)
    ]


def line_names(found: Iterable[Table], layout: Layout) -> dict[Key, str]:
    """What lines are called in pictures, by their values of `Layout.lines`: the method, and what else differs."""
    keys = [tuple(entry.keys[name] for name in layout.lines) for table in found for entry in table.ordered()]
    differ = [name == "method" or len(set(values)) > 1 for name, *values in zip(layout.lines, *keys, strict=True)]
    lines = {}
    for key in keys:
        told = [n for n, differs in enumerate(differ) if differs and key[n] is not None]
        lines[key] = " ".join(labels(tuple(key[n] for n in told), tuple(layout.lines[n] for n in told)))
    return lines


def place(entry: Entry | Row, layout: Layout) -> str:
    """Where an entry stands, as in `dtp at 0.9`."""
    keys = entry.keys if isinstance(entry, Entry) else {name: shown(entry, name) for name in layout.rows + layout.cols}
    row, col = (", ".join(labels(tuple(keys[n] for n in names), names)) for names in (layout.rows, layout.cols))
    return f"{row} at {col}" if col else row


def notes(table: Table, settings: Mapping[str, Settings] | None = None) -> list[str]:
    """One line for each thing to know. `settings` has those of the runs whose config.yaml was found, by run_id."""
    lines = []
    layout = table.layout
    for column in VERSIONS:
        found = sorted({_version(row[column]) for row in table.done})
        if len(found) > 1 and column not in layout.keys:
            lines.append(f"note: runs of different {column}: {', '.join(found)}")
    lines += _settings(table, settings or {})
    lines += _out_of_reach(table)
    for entry in table.ordered():
        seeds = [row["seed"] for row in entry.runs]
        if len(set(seeds)) < len(seeds):
            lines.append(
                f"note: {place(entry, layout)} has several runs of one seed, with settings that are not in this table"
            )
    for entry in table.ordered():
        for reference in entry.published:
            lines.append(f"published: {place(entry, layout)}: {reference.accuracy:g}, {reference.origin}")
    for row in table.failed:
        lines.append(f"failed: {place(row, layout)}, seed {row['seed']}: {row['error'] or '-'}")
    return lines


def _settings(table: Table, settings: Mapping[str, Settings]) -> list[str]:
    """Settings that no column of a row has, where runs differ: those of training among all runs of the table, those
    of a method among its own runs."""
    known = [key for key in table.layout.keys if key in ("granularity", "scope", "sparsity", "seed")]
    known += ["seed", "budget.name", "quantization.name", "quantization.bits", "recipe.name", "method"]
    known += [f"recipe.{key}" for key in table.layout.keys if key.endswith("_epochs")]
    found = [(row, settings[row["run_id"]]) for row in table.done if row["run_id"] in settings]
    varied = differences((values for _, values in found), known)
    for method in sorted({row["method"] for row, _ in found} if "options" not in table.layout.keys else ()):
        own = [of_method(values) for row, values in found if row["method"] == method]
        varied |= {f"{method}: {key}": values for key, values in differences(own, []).items()}
    if not varied:
        return []
    first = "; ".join(f"{key} {', '.join(values)}" for key, values in list(varied.items())[:SHOWN])
    more = f"; and {len(varied) - SHOWN} more" if len(varied) > SHOWN else ""
    return [f"note: runs of different settings: {first}{more}"]


def _out_of_reach(table: Table) -> list[str]:
    """Models of which most is in layers such as an LSTM, or in excluded ones: no sparsity of theirs is the network's.

    Not where heads are pruned, which leaves out by design all that is no attention.
    """
    most: dict[str, int] = {}  # percent
    for row in table.done:
        total, prunable = row["params_total"], row["prunable_params_total"]
        if row["granularity"] != "head" and total and prunable is not None and 2 * prunable < total:
            most[row["model"]] = max(most.get(row["model"], 0), 100 * (total - prunable) // total)
    return [
        f"note: {model}: {percent}% of the parameters are in no layer that can be pruned"
        for model, percent in sorted(most.items())
    ]


def _version(value: str | None) -> str:
    """A version; of a commit the first letters, which are enough to find it."""
    short = re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", value or "")
    return short or "unknown"


def plain(value: object) -> str:
    """A key's value as text."""
    if value is None:
        return "-"
    return f"{value:.12g}" if isinstance(value, int | float) else str(value)
