"""What the built-in methods can be told: a frozen dataclass each, which checks itself and declares the method's limits.

Nothing here imports torch, so that a wrong value is refused at once. A method of your own has such a class beside it,
or none (`Options`). What the settings do is in docs/methods/, where their values come from in conf/method/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pruner.checks import one_of, require
from pruner.config import GRANULARITIES
from pruner.methods.limits import Limits

Score = str | Mapping[str, Any]  # a name, or a mapping of `name` and options: see `pruner.methods.scores`


@dataclass(frozen=True)
class Options:
    """No options. A subclass is a frozen dataclass whose fields are the keys of the method's YAML file.

    It checks its own ranges in `__post_init__` (see `pruner.checks`), and sets `limits` where the method cannot serve
    every granularity and scope.
    """

    limits: ClassVar[Limits] = Limits()

    def check(self, key: str, allowed: str, *conditions: bool) -> None:
        """Raises ConfigError that names the option `key`, its value and what is `allowed`, unless all hold."""
        require(all(conditions), f"method.{key}", getattr(self, key), allowed)

    def check_shares(self, *keys: str) -> None:
        """Raises ConfigError unless these options are shares of the phase, from 0 to 1."""
        for key in keys:
            self.check(key, "from 0 to 1", 0 <= getattr(self, key) <= 1)

    def check_signs(self, above: tuple[str, ...] = (), from_zero: tuple[str, ...] = ()) -> None:
        """Raises ConfigError unless these options are `above` zero, or zero or more."""
        for key in above:
            self.check(key, "above 0", getattr(self, key) > 0)
        for key in from_zero:
            self.check(key, "0 or more", getattr(self, key) >= 0)


@dataclass(frozen=True)
class ACDCOptions(Options):
    """In shares of the phase: warmup, dense at first; period, of one sparse and one dense stage of equal length;
    last_dense and last_sparse, where the last dense and the last sparse stage begin. 0 <= warmup <= last_dense <=
    last_sparse < 1, period above 0. score: of a unit (see `pruner.methods.scores`); the paper's: magnitude.
    """

    warmup: float = 0.1
    period: float = 0.1
    last_dense: float = 0.75
    last_sparse: float = 0.85
    score: Score = "magnitude"

    def __post_init__(self) -> None:
        self.check_signs(from_zero=("warmup",), above=("period",))
        self.check("last_dense", f"method.warmup={self.warmup} or more", self.last_dense >= self.warmup)
        allowed = f"method.last_dense={self.last_dense} or more, and below 1"
        self.check("last_sparse", allowed, self.last_dense <= self.last_sparse < 1)


@dataclass(frozen=True)
class DPPOptions(Options):
    """sigma: scale of the Gumbel noise, 0 or more; `sigma_end` at the end of the phase, on a line between.
    temperature and temperature_end: of the softmaxes, above 0, on a line too. score_lr: Adam's rate for the logits; 0
    keeps them as they start. entropy: lambda, 0 or more. softmaxes: the most units that a row may keep for S to be the
    sum of softmaxes. init: `magnitude`, logits that start at log|w|, or `random`, normal ones. spread: their standard
    deviation at the start, above 0. ramp: share of the phase over which the budget comes down, in [0, 1].
    """

    sigma: float = 0.03
    sigma_end: float = 0.0
    temperature: float = 5.0
    temperature_end: float = 0.5
    score_lr: float = 0.2
    entropy: float = 1e-5
    softmaxes: int = 32
    init: str = "magnitude"
    spread: float = 5.0
    ramp: float = 0.3

    def __post_init__(self) -> None:
        self.check_signs(from_zero=("sigma", "sigma_end", "score_lr", "entropy"))
        self.check_signs(above=("temperature", "temperature_end", "spread"), from_zero=("softmaxes",))
        one_of("method.init", self.init, ("magnitude", "random"))
        self.check_shares("ramp")


@dataclass(frozen=True)
class DSAOptions(Options):
    """beta: sharpness at the end of the phase, 1 or more. spread: standard deviation given to log b within a group; 0
    leaves log b as it is. floor: the least chance that a unit is drawn, as a share of its group's alpha, in [0, 1).
    start: theta at first. every: steps of the weights between two of theta. rate: how far, in log-odds, the loss can
    move theta over the phase, 0 or more; 0 leaves all ratios equal. pull: share of the gap to z - u that a step of
    theta closes, in (0, 1]. duals: steps of u in the phase, 1 or more. ramp: share of the phase in which the budget
    comes down, in [0, 1]. batch_share: held-out images in a step, as a share of the run's batch, above 0; never fewer
    than two.
    """

    limits = Limits(
        "it learns the share of every layer itself",
        granularities=tuple(name for name in GRANULARITIES if name != "nm"),
        scopes=("global",),
    )
    beta: float = 100.0
    spread: float = 2.0
    floor: float = 0.01
    start: float = 5.0
    every: int = 8
    rate: float = 2.0
    pull: float = 0.5
    duals: int = 10
    ramp: float = 0.3
    batch_share: float = 0.25

    def __post_init__(self) -> None:
        self.check("beta", "1 or more", self.beta >= 1)
        self.check_signs(from_zero=("spread",))
        self.check("floor", "at least 0 and below 1", 0 <= self.floor < 1)
        self.check("every", "1 or more", self.every >= 1)
        self.check_signs(from_zero=("rate",))
        self.check("pull", "above 0, to 1", 0 < self.pull <= 1)
        self.check("duals", "1 or more", self.duals >= 1)
        self.check_shares("ramp")
        self.check_signs(above=("batch_share",))


@dataclass(frozen=True)
class DTPOptions(Options):
    """sharpness: x = T std(s) / eps, above 0; how decided the plan is after the phase. score_lr: rate of the scores,
    in units of their initial standard deviation; 0 keeps them as they start. init: `magnitude` (standardised) or
    `constant`. ramp: share of the phase over which the budget comes down, in [0, 1]; 0 asks for all at once.
    """

    sharpness: float = 5.0
    score_lr: float = 0.02
    init: str = "magnitude"
    ramp: float = 0.3

    def __post_init__(self) -> None:
        self.check_signs(above=("sharpness",), from_zero=("score_lr",))
        one_of("method.init", self.init, ("magnitude", "constant"))
        self.check_shares("ramp")


@dataclass(frozen=True)
class GMPOptions(Options):
    """ramp: share of the phase over which the budget falls, in [0, 1]. every: steps between two masks. score: of a
    unit (see `pruner.methods.scores`); the paper's is magnitude.
    """

    ramp: float = 0.3
    every: int = 5
    score: Score = "magnitude"

    def __post_init__(self) -> None:
        self.check_shares("ramp")
        self.check("every", "1 or more", self.every >= 1)


@dataclass(frozen=True)
class OneShotOptions(Options):
    """score: of a unit (see `pruner.methods.scores`)."""

    score: Score = "magnitude"


@dataclass(frozen=True)
class PDPOptions(Options):
    """tau: width of the undecided band, in units of the mean square of the competing magnitudes, above 0. ramp: share
    of the phase over which the budget comes down, in [0, 1].
    """

    tau: float = 0.5
    ramp: float = 0.7

    def __post_init__(self) -> None:
        self.check_signs(above=("tau",))
        self.check_shares("ramp")


@dataclass(frozen=True)
class SmartOptions(Options):
    """tau0, tau1: temperatures of the first and the last step, tau0 >= tau1 > 0, in standard deviations of the initial
    m. undecided: the largest share of units with a mask from 0.05 to 0.95, under the final budget, that tau0 may leave
    at the start, above 0; it is lowered where there are more, not below tau1; 1 takes tau0 as it is. schedule: how it
    falls, `exponential`, `linear`, `cosine`, or `reheating`: an exponential fall that starts again `reheats` times
    (see `pruner.methods.schedules`). score_lr: rate of m, in the same units; 0 keeps m as it starts. ramp: share of the
    phase over which the budget comes down, in [0, 1]; 0 asks for all at once.
    """

    tau0: float = 1.0
    tau1: float = 0.3
    undecided: float = 0.25
    schedule: str = "exponential"
    reheats: int = 2
    score_lr: float = 0.02
    ramp: float = 0.3

    def __post_init__(self) -> None:
        self.check_signs(above=("tau0",))
        self.check("tau1", f"above 0, and at most method.tau0={self.tau0}", 0 < self.tau1 <= self.tau0)
        self.check("undecided", "above 0, to 1", 0 < self.undecided <= 1)
        one_of("method.schedule", self.schedule, ("exponential", "linear", "cosine", "reheating"))
        self.check_signs(from_zero=("reheats", "score_lr"))
        self.check_shares("ramp")


@dataclass(frozen=True)
class SpartanOptions(Options):
    """beta_start, beta_end: sharpness of the soft mask at the first step and once it is frozen, per standard deviation
    of the magnitudes; above 0 and not falling. ramp: share of the phase over which the budget comes down, in [0, 1].
    freeze: share of the phase after which the mask stays, in (0, 1]. revive: whether an output all of whose units are
    hidden has gradients, as other hidden units have.
    """

    beta_start: float = 1.0
    beta_end: float = 4.0
    ramp: float = 0.3
    freeze: float = 0.8
    revive: bool = True

    def __post_init__(self) -> None:
        self.check_signs(above=("beta_start",))
        self.check("beta_end", f"method.beta_start={self.beta_start} or more", self.beta_end >= self.beta_start)
        self.check_shares("ramp")
        self.check("freeze", "above 0 and at most 1", 0 < self.freeze <= 1)


BUILTIN: dict[str, type[Options]] = {
    "acdc": ACDCOptions,
    "dpp": DPPOptions,
    "dsa": DSAOptions,
    "dtp": DTPOptions,
    "gmp": GMPOptions,
    "one_shot": OneShotOptions,
    "pdp": PDPOptions,
    "smart": SmartOptions,
    "spartan": SpartanOptions,
}
