"""The text of `pruner --help`, read from the comments in `conf/`, so that it cannot fall behind them."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from pruner.compose.choices import choices, natural

WIDTH = 120  # of a line; less where the terminal has fewer columns
NAMES = 33  # columns for the names in a table, with their indent
LEAST = 24  # columns for what a name means: where a terminal leaves fewer, it goes below the name
Row = tuple[str, str]  # a name and what it means
_GROUP = re.compile(r"^  - (\w+): (\S+) +# (.+)$", re.MULTILINE)
_KEY = re.compile(r"^(\w+): (\S+) +# (.+)$", re.MULTILINE)

INTRODUCTION = """\
pruner compares differentiable pruning methods fairly: dense -> prune -> harden -> finetune -> evaluate -> one row."""

USAGE = [
    ("pruner [key=value ...]", "one run; what is not given keeps its default"),
    ("pruner -m key=a,b [...]", "a sweep: every combination; started again, it runs what is missing"),
    ("pruner experiment=NAME [...]", "a paper's sweep"),
    ("pruner --plan [...]", "say what a run or a sweep would do and how long it takes; start nothing"),
    ("pruner --cfg job [key=value]", "show the config instead of running it"),
    ("pruner --config-dir DIR ...", "add your own choices: DIR/method/NAME.yaml and the Python modules beside it"),
    ("pruner --help | --hydra-help | --version", ""),
]

NOTES_ON_CHOICES = """\
Every choice may have keys of its own, as method.ramp: see its file, or pruner method=gmp --cfg job.
Some methods have other values for other units than single weights, in conf/tuned/GRANULARITY/METHOD.yaml"""

EXAMPLES = """\
Examples
  pruner method=dtp sparsity=0.9
  pruner -m dataset=cifar10 method=dtp,gmp sparsity=0.9,0.95 seed=0,1,2 recipe=short
  pruner model=resnet50 dataset=imagefolder dataset.root=/data/imagenet granularity=filter budget=macs sparsity=0.5
  pruner-compare outputs         the finished runs as tables
"""

EXIT_STATUS = [
    ("0", "done, or already done"),
    ("1", "a run failed (see its run.log); or what was to be printed could not be written"),
    ("2", "the command line or the config is wrong"),
    ("130", "interrupted by Ctrl-C; other signals: 128 and their number. The same command goes on from what is saved"),
]


def render(folders: Sequence[Path], torchvision: Iterable[str]) -> str:
    """The whole help text: the choices in all `folders` (the program's own first), then keys and their defaults.

    `torchvision` are the names of its models that can be given as `model=NAME`. Lines are as wide as the terminal, if
    it is one.
    """
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    config = (folders[0] / "config.yaml").read_text(encoding="utf-8")
    parts = [_text(INTRODUCTION, width), _table("Usage", USAGE, width)]
    for group, default, meaning in _GROUP.findall(config):
        title = f"{group}=   {meaning} (default {default.replace('null', 'none')})"
        part = _table(title, _choices(folders, group), width)
        if group == "model":
            names = " ".join(sorted(torchvision, key=natural))
            part += _text(f"or by torchvision's name: {names}", width, "  ", "    ")
        parts.append(part)
    title = "hydra/launcher=   where a sweep's cells run (default cores; basic: one after the other)"
    parts.append(_table(title, _choices(folders, "hydra/launcher"), width))
    parts.append(_table("Other keys and their defaults", _keys("", config), width))
    recipe = (folders[0] / "recipe" / "quick.yaml").read_text(encoding="utf-8")
    parts.append(_table("Keys of every recipe, as set by recipe=quick", _keys("recipe.", recipe), width))
    parts += ["".join(_text(line, width) for line in NOTES_ON_CHOICES.splitlines()), EXAMPLES]
    return "\n".join([*parts, _table("Exit status", EXIT_STATUS, width, column=6)])


def _choices(folders: Sequence[Path], group: str) -> list[Row]:
    return [(name, _first_comment(path)) for name, path in choices(folders, group).items()]


def _first_comment(path: Path) -> str:
    lines = (line.lstrip("# ").rstrip() for line in path.read_text("utf-8", "replace").splitlines() if line[:1] == "#")
    return next((line for line in lines if not line.startswith("@package")), "(its file begins with no comment)")


def _keys(prefix: str, text: str) -> list[Row]:
    return [(f"{prefix}{key}={value}", what) for key, value, what in _KEY.findall(text) if key != "name"]


def _table(title: str, rows: Sequence[Row], width: int, column: int = NAMES) -> str:
    """A title and its rows, what the names mean from `column` on, or further right where a name is longer."""
    column = max([column, *(len(name) + 3 for name, meaning in rows if meaning)])
    lines = [_text(title, width)]
    for name, meaning in rows:
        if width - column >= LEAST:
            lines.append(_text(f"{f'  {name}':<{column}}{meaning}".rstrip(), width, "", " " * column))
        else:
            lines.append(f"  {name}\n" + _text(meaning, width, "    ", "    "))
    return "".join(lines)


def _text(text: str, width: int, first: str = "", more: str = "") -> str:
    """Whole lines of `text`, the `first` and the others with these indents."""
    wrapped = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=more,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return "".join(f"{line}\n" for line in wrapped)
