"""What a run is: plain dataclasses, every range checked here, before any work starts.

Nothing in this file imports torch, so that help and wrong input are answered at once. The values come from
`conf/` (through Hydra, in `pruner.compose`) or from a run's own `config.yaml`; both are plain dictionaries here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from pruner.checks import build, one_of, require
from pruner.options import OPTIONAL, hash8, what_counts, with_resize

GRANULARITIES = ("weight", "kernel", "block", "nm", "filter", "head")
SCOPES = ("global", "layer", "row", "erk", "custom")
BUDGETS = ("params", "macs")
PHASES = ("dense", "prune", "finetune")
SCHEDULES = ("constant", "linear", "cosine", "step")
MOST_THREADS = 4096  # more than any machine has cores; too many end the process where they are started
OPEN_GROUPS = ("dataset", "model", "method")  # a user's own class can stand here; see Choice
PLACES = ("data_dir", "output_dir")  # of the machine where it runs
# Options of built-in choices that are paths, and what else may stand there.
PATHS = {"dataset": ("root", ()), "model": ("weights", ("default",))}


@dataclass(frozen=True)
class Choice:
    """One entry of an open group (dataset, model, method): built in, or a user's class.

    `label` is what the user typed and the tables show, `name` a built-in or `package.module:Class`, and
    `options` everything else in its YAML file, handed to the class as keyword arguments.
    """

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What is counted, and the guard against layer collapse.

    `exclude` names layers that are neither pruned nor counted (`first` and `last` stand for those).
    """

    name: str = "params"
    min_units: int = 1
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("budget", self.name, BUDGETS)
        require(self.min_units >= 0, "budget.min_units", self.min_units, "0 or more")


@dataclass(frozen=True)
class Block:
    """The shape of granularity=block: rows (output channels) by columns (input channels)."""

    shape: tuple[int, ...] = (16, 8)

    def __post_init__(self) -> None:
        fits = len(self.shape) == 2 and min(self.shape) >= 1
        require(fits, "block.shape", list(self.shape), "two whole numbers above 0, as in [16,8]")


@dataclass(frozen=True)
class Pattern:
    """The pattern of granularity=nm: of every m neighbouring input channels n stay."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        require(self.m >= 2, "nm.m", self.m, "2 or more")
        require(1 <= self.n < self.m, "nm.n", self.n, f"from 1 to {self.m - 1}, below nm.m={self.m}")


@dataclass(frozen=True)
class Quantization:
    """How many bits a kept weight has: 0 leaves them as they are, 1 is binary (see `pruner.quantize`)."""

    name: str = "none"
    bits: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.bits <= 8, "quantization.bits", self.bits, "from 1 to 8, or 0 for none")


@dataclass(frozen=True)
class Phase:
    """How one phase trains: epochs, peak learning rate, and the rate's course over the phase.

    `warmup` is the share of the phase in which the rate rises linearly; `milestones` are the epochs at which
    the `step` schedule divides it by ten.
    """

    epochs: int
    lr: float
    schedule: str
    warmup: float
    milestones: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """How networks are trained: the optimizer, and three phases (`Phase`) spelled out flat."""

    name: str
    batch_size: int
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    precision: str = "float32"
    dense_epochs: int = 0
    dense_lr: float = 0.1
    dense_schedule: str = "cosine"
    dense_warmup: float = 0.0
    dense_milestones: tuple[int, ...] = ()
    prune_epochs: int = 0
    prune_lr: float = 0.01
    prune_schedule: str = "cosine"
    prune_warmup: float = 0.0
    prune_milestones: tuple[int, ...] = ()
    finetune_epochs: int = 0
    finetune_lr: float = 0.01
    finetune_schedule: str = "cosine"
    finetune_warmup: float = 0.0
    finetune_milestones: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, "recipe.batch_size", self.batch_size, "2 or more (batch norm needs two)")
        one_of("recipe.optimizer", self.optimizer, ("sgd", "adam"))
        one_of("recipe.precision", self.precision, ("float32", "bfloat16"))
        require(0 <= self.momentum < 1, "recipe.momentum", self.momentum, "at least 0 and below 1")
        require(self.weight_decay >= 0, "recipe.weight_decay", self.weight_decay, "0 or more")
        smooth = self.label_smoothing
        require(0 <= smooth < 1, "recipe.label_smoothing", smooth, "at least 0 and below 1")
        for name in PHASES:
            phase = self.phase(name)
            require(phase.epochs >= 0, f"recipe.{name}_epochs", phase.epochs, "0 or more")
            require(phase.lr > 0, f"recipe.{name}_lr", phase.lr, "above 0")
            one_of(f"recipe.{name}_schedule", phase.schedule, SCHEDULES)
            require(0 <= phase.warmup < 1, f"recipe.{name}_warmup", phase.warmup, "at least 0 and below 1")
            rising = all(a < b for a, b in pairwise((0, *phase.milestones)))
            require(rising, f"recipe.{name}_milestones", list(phase.milestones), "rising epochs above 0")

    def phase(self, name: str) -> Phase:
        """The settings of the phase `name`, one of PHASES."""
        return Phase(*(getattr(self, f"{name}_{f.name}") for f in fields(Phase)))


@dataclass(frozen=True)
class Config:
    """One run. `sparsity` is the share of the budgeted cost that is removed, 0 <= sparsity < 1.

    `block` and `nm` belong to the granularities of that name, `ratios` (of each group to keep) to scope=custom.
    """

    dataset: Choice
    model: Choice
    method: Choice
    granularity: str
    scope: str
    budget: Budget
    sparsity: float
    recipe: Recipe
    quantization: Quantization = Quantization()
    block: Block | None = None
    nm: Pattern | None = None
    ratios: dict[str, Any] | None = None
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    compile: bool = False
    latency_batch: int = 1
    checkpoint_minutes: float = 10.0
    data_dir: str = "data"
    output_dir: str = "outputs"

    def __post_init__(self) -> None:
        one_of("granularity", self.granularity, GRANULARITIES)
        one_of("scope", self.scope, SCOPES)
        require(0 <= self.sparsity < 1, "sparsity", self.sparsity, "at least 0 and below 1")
        require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")
        if self.scope == "custom":
            needs = "give a layer's share to keep, as in 'ratios={conv1:1.0,layer1*:0.5}'"
            require(bool(self.ratios), "ratios", "null", f"scope=custom needs them; {needs}")
        for group, ratio in (self.ratios or {}).items():
            share = isinstance(ratio, int | float) and not isinstance(ratio, bool) and 0 <= ratio <= 1
            require(share, f"ratios.{group}", ratio, "a share to keep, from 0 to 1")
        if self.nm is not None:
            given = abs(self.sparsity - _sparsity_of(self.nm)) < 1e-9
            pattern = f"{self.nm.n}:{self.nm.m}"
            require(
                given, "sparsity", self.sparsity, f"granularity=nm sets it: {pattern}; leave it out, or change nm.n"
            )
        require(
            0 <= self.threads <= MOST_THREADS, "threads", self.threads, f"from 1 to {MOST_THREADS}; 0: torch decides"
        )
        require(self.latency_batch >= 1, "latency_batch", self.latency_batch, "1 or more images")
        require(self.checkpoint_minutes > 0, "checkpoint_minutes", self.checkpoint_minutes, "above 0")

    @property
    def run_id(self) -> str:
        """The run's folder below `output_dir`; the same for every config that gives the same result."""
        run = "-".join(
            [self.method.label, self.granularity, self.scope, self.budget.name, f"{self.sparsity:g}", f"s{self.seed}"]
        )
        return f"{self._pair}/{run}-{hash8(self.identity())}"

    @property
    def dense_id(self) -> str:
        """The folder of the dense network below `output_dir`, shared by all runs that start from it."""
        return f"dense/{self._pair}-s{self.seed}-{hash8(self.dense_identity())}"

    @property
    def _pair(self) -> str:
        return f"{self.dataset.label}-{self.model.label}"

    def identity(self) -> dict[str, Any]:
        """All that can change the result, as plain values (without INCIDENTAL keys, and LATER ones at their value)."""
        default = {f.name: f.default for f in fields(self)}
        unused = {key for key in OPTIONAL if getattr(self, key) == default[key]}
        values = {key: value for key, value in asdict(self).items() if key not in unused}
        return what_counts(values)

    def dense_identity(self) -> dict[str, Any]:
        """All that can change the dense network."""
        everything = self.identity()
        recipe = {
            key: value
            for key, value in everything["recipe"].items()
            if key != "name" and not key.startswith(("prune_", "finetune_"))
        }
        return {key: everything[key] for key in ("dataset", "model", "seed")} | {"recipe": recipe}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in `config.yaml`, paths absolute; `from_dict` reads them back."""
        places = {key: absolute(getattr(self, key)) for key in PLACES}
        values: dict[str, Any] = json.loads(json.dumps(asdict(self) | places))
        return values


def from_dict(values: Mapping[str, Any]) -> Config:
    """A checked Config. Raises ConfigError with one line on the first thing that is wrong."""
    if values.get("sparsity", 0) is None and values.get("nm") is not None:  # the pattern says it
        values = {**values, "sparsity": _sparsity_of(build(Pattern, values["nm"], "nm"))}
    dataset = values.get("dataset")
    if isinstance(dataset, Mapping) and dataset.get("name") == "imagefolder":  # the image's size says it
        values = {**values, "dataset": {**dataset, "options": with_resize(dataset.get("options", {}))}}
    return build(Config, values)


def _sparsity_of(pattern: Pattern) -> float:
    return 1 - pattern.n / pattern.m


def conf_folder() -> Path:
    """`conf/`: inside the package where it is installed, beside it in the source tree."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def expand(path: str) -> str:
    """`path` with ~ and environment variables expanded."""
    return os.path.expandvars(os.path.expanduser(path))


def absolute(path: str) -> str:
    """`path`, expanded, as it is known in every folder."""
    return os.path.abspath(expand(path))


def path_options(group: str, choice: Choice) -> dict[str, str]:
    """The options of a built-in `choice` of dataset, model or method that are paths."""
    option, words = PATHS.get(group, ("", ()))
    value = choice.options.get(option)
    return {option: value} if ":" not in choice.name and isinstance(value, str) and value not in words else {}
