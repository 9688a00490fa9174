"""The text of `pruner --help`, read from the comments in `conf/`, so that it cannot fall behind them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from pruner.folders import choices, natural

WIDTH = 118
_GROUP = re.compile(r"^  - (\w+): (\S+) +# (.+)$", re.MULTILINE)
_KEY = re.compile(r"^(\w+): (\S+) +# (.+)$", re.MULTILINE)

USAGE = """\
pruner compares differentiable pruning methods fairly: dense -> prune -> harden -> finetune -> evaluate -> one row.

Usage
  pruner [key=value ...]         one run; what is not given keeps its default
  pruner -m key=a,b [...]        a sweep: every combination; started again, it runs what is missing
  pruner experiment=NAME [...]   a paper's sweep
  pruner --plan [...]            say what a run or a sweep would do and how long it takes; start nothing
  pruner --cfg job [key=value]   show the config instead of running it
  pruner --config-dir DIR ...    add your own choices: DIR/method/NAME.yaml and the Python modules beside it
  pruner --help | --hydra-help | --version
"""

EXAMPLES = """\
Examples
  pruner method=dtp sparsity=0.9
  pruner -m dataset=cifar10 method=dtp,gmp sparsity=0.9,0.95 seed=0,1,2 recipe=short
  pruner model=resnet50 dataset=imagefolder dataset.root=/data/imagenet granularity=filter budget=macs sparsity=0.5
  pruner-compare outputs         the finished runs as tables

Exit status
  0 done, or already done; 1 a run failed (see its run.log); 2 the command line or the config is wrong
"""


def render(folders: Sequence[Path], torchvision: Iterable[str]) -> str:
    """The whole help text: the choices in all `folders` (the program's own first), then keys and their defaults.

    `torchvision` are the names of its models that can be given as `model=NAME`.
    """
    config = (folders[0] / "config.yaml").read_text(encoding="utf-8")
    parts = [USAGE]
    for group, default, meaning in _GROUP.findall(config):
        lines = [f"{group}=   {meaning} (default {default.replace('null', 'none')})"]
        lines += [_row(name, _first_comment(path)) for name, path in choices(folders, group).items()]
        if group == "model":
            lines.append(_wrapped("or by torchvision's name: " + " ".join(sorted(torchvision, key=natural))))
        parts.append("\n".join(lines) + "\n")
    launchers = [_row(name, _first_comment(path)) for name, path in choices(folders, "hydra/launcher").items()]
    title = "hydra/launcher=   where a sweep's cells run (default cores; basic: one after the other)"
    parts.append("\n".join([title, *launchers]) + "\n")
    parts.append("\n".join(["Other keys and their defaults", *_keys("", config)]) + "\n")
    recipe = (folders[0] / "recipe" / "quick.yaml").read_text(encoding="utf-8")
    parts.append("\n".join(["Keys of every recipe, as set by recipe=quick", *_keys("recipe.", recipe)]) + "\n")
    parts.append(
        "Every choice may have keys of its own, as method.ramp: see its file, or pruner method=gmp --cfg job.\n"
        "Some methods have other values for other units than single weights, in conf/tuned/GRANULARITY/METHOD.yaml\n"
    )
    return "\n".join([*parts, EXAMPLES])


def _first_comment(path: Path) -> str:
    lines = (line.lstrip("# ").rstrip() for line in path.read_text("utf-8", "replace").splitlines() if line[:1] == "#")
    return next((line for line in lines if not line.startswith("@package")), "(its file begins with no comment)")


def _keys(prefix: str, text: str) -> list[str]:
    return [_row(f"{prefix}{key}={value}", what) for key, value, what in _KEY.findall(text) if key != "name"]


def _row(name: str, what: str) -> str:
    return f"  {name:<30} {what}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
