"""A model that is being pruned by a method under a budget: the one object that the runner and any training loop use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pruner.methods
from pruner.checks import ConfigError, one_of, require
from pruner.config import BUDGETS, GRANULARITIES, SCOPES, Block, Choice, Pattern
from pruner.methods.base import Loss, Method, Setup
from pruner.methods.examples import Examples, Shuffled
from pruner.runtime import packed
from pruner.runtime.seeds import generator
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.counts import count, revived
from pruner.sparsity.intake import accept
from pruner.sparsity.masked import MaskedModel
from pruner.sparsity.size import network_bytes
from pruner.sparsity.surgery import without
from pruner.sparsity.trial import find_units
from pruner.sparsity.units.base import Units

SOFT, HARD, FINISHED = "soft", "hard", "finished"  # the stages: masks move, masks are fixed, zeros are in the weights


class Pruning(nn.Module):
    """A model under the masks of a method, from its first step to the network that ships.

        pruning = Pruning(model, "smart", example=x, steps=1000, sparsity=0.9)
        loss = criterion(pruning(x), y) + pruning.penalty(); loss.backward(); pruning.step(optimizer)    # 1000 times
        pruning.harden()                                                     # and the same again: finetuning
        model = pruning.finish()

    The weights stay the model's own parameters, and are its optimizer's; the method's own parameters have an optimizer
    in here. The method reads the weights when the first step begins, not before. What the masks draw at random depends
    on the seed and the step alone, so that every process of several draws the same.

    A call in the wrong order raises RuntimeError, which says the right one.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | type[Method] | Choice = "dtp",
        *,
        example: Tensor,
        steps: int,
        sparsity: float | None = None,
        granularity: str = "weight",
        scope: str = "global",
        budget: str = "params",
        options: Mapping[str, Any] | None = None,
        examples: Examples | Shuffled | None = None,
        loss: Loss = F.cross_entropy,
        lr: float = 0.01,
        seed: int = 0,
        min_units: int = 1,
        exclude: tuple[str, ...] = (),
        block: tuple[int, int] = (16, 8),
        nm: tuple[int, int] = (2, 4),
        ratios: Mapping[str, float] | None = None,
        bits: int = 0,
        batch_size: int = 128,
        precision: str = "float32",
        compiled: bool = False,
        units: Units | None = None,
    ):
        """`model` is pruned in place; it is in float32 and on its device. `example` [B, ...] is what it is given.

        method: a name of the command line's, such as `dtp` or `snip`, with its `options`, or a subclass of `Method`.
        steps: of the optimizer, over which masks go from soft to decided. sparsity: the share of the cost that goes,
        from 0 and below 1; granularity=nm sets it by `nm`. granularity to ratios, but for what is named here: as on the
        command line. examples: any iterable of batches (inputs, targets), for methods that look at some of their own:
        those that train the weights for snip and grasp, held-out ones for dsa; `loss` compares answers with targets.
        lr: the peak rate of the weights, for methods whose own optimizer follows it. bits: of prunable weights in the
        forward pass, 0: all. batch_size, precision: of the weights' steps, for methods that make steps of their own.
        compiled: training compiles its forward passes. units: found before, of this very model.

        Raises ConfigError, one line, for whatever cannot be pruned so, before anything is trained.
        """
        super().__init__()
        one_of("granularity", granularity, GRANULARITIES)
        one_of("scope", scope, SCOPES)
        one_of("budget", budget, BUDGETS)
        require(steps >= 0, "steps", steps, "0 or more")
        if granularity == "nm":
            given, sparsity = sparsity, 1 - Pattern(*nm).n / nm[1]
            require(given in (None, sparsity), "sparsity", given, "granularity=nm sets it; leave it out, or change nm")
        if sparsity is None or not 0 <= sparsity < 1:
            raise ConfigError(f"sparsity={sparsity}: give the share of the cost that goes, at least 0 and below 1")
        chosen = pruner.methods.choice(method, options or {}, granularity)
        pruner.methods.check_combination(chosen, granularity, scope)
        self.shape = tuple(example.shape[1:])
        if units is None:
            accept(model, self.shape)
            units = find_units(model, self.shape, granularity, exclude, Block(block), Pattern(*nm))
        self.network = MaskedModel(model, units, bits, compiled)
        self.allocation = Allocation(units, budget, scope, sparsity, min_units, ratios)
        cls = method if isinstance(method, type) else pruner.methods.find(chosen)
        cls.Options.limits.check(f"method={chosen.label}", granularity, scope)
        if cls.held_out and examples is None:
            raise ConfigError(f"method={chosen.label}: looks at held-out examples; give batches of them as examples=")
        parts = examples, self.shape, loss, batch_size, precision, bits
        setup = Setup(model, self.allocation, steps, generator(seed, "method"), *parts)
        self.method = cls(setup, pruner.methods.read_options(chosen, cls))
        self._optimizer = self.method.optimizer(lr)
        self.steps, self.steps_done, self.stage = steps, 0, SOFT
        self.hard: Tensor | None = None  # the 0/1 mask [n], once there is one
        self._measures: dict[str, dict[str, float]] = {}
        self._begun = self._under_way = self._followed = False  # under way: a step has had a forward pass
        parts_of_state = chosen.label, granularity, scope, budget, sparsity, steps, units.n, self.method.options
        self._about = " ".join(map(str, parts_of_state))  # which a state has to agree with

    @property
    def model(self) -> nn.Module:
        """The model itself, whose parameters its optimizer trains."""
        return self.network.model

    @property
    def units(self) -> Units:
        """The units that masks [n] are over."""
        return self.allocation.units

    @property
    def mask(self) -> Tensor:
        """The mask [n] of the latest forward pass, without gradients."""
        return self.network.mask

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """The model's answer: in training under the mask of the step under way, in evaluation under the latest mask."""
        if self.training and self.stage == SOFT:
            self.gate()
        return self.network(*inputs, **keywords)

    def gate(self, mask: Tensor | None = None) -> None:
        """From now on forward passes apply `mask` [n], until training goes on; None: the mask of the step under way."""
        self._expect_soft("gate()")
        if mask is not None:
            self.network.gate(mask)
            return
        if self.steps_done == self.steps:
            raise RuntimeError(f"all {self.steps} steps are made: call harden(), and go on training under fixed masks")
        with torch.autocast(self.units.device.type, enabled=False):  # masks have no digits to spare
            self.begin()
            self.network.gate(self.method.mask(self.steps_done), self.method.visible())
        self._under_way = True

    def begin(self) -> None:
        """Lets the method read the trained weights, if it has not: the first forward pass of training does so."""
        if self.stage == SOFT and not self._begun:
            self.method.begin()
            self._begun = True

    def penalty(self) -> Tensor | float:
        """What the method adds to the loss; 0 once masks are fixed."""
        return self.method.penalty() if self.stage == SOFT else 0.0

    def step(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        """The step of the weights' `optimizer`, and then the method's own; with AMP's `scaler`, by that.

        Gradients of the weights are the caller's to clear, those of the method's own parameters are cleared here.
        """
        if self._followed:
            raise RuntimeError("step() after follow(), which makes it a part of optimizer.step(): call that alone")
        self._before(optimizer)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
        self._after(scaler)

    def follow(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        """From now on every `optimizer.step()` is a `step`: for trainers that call the optimizer for themselves."""
        self._check(optimizer)
        optimizer.register_step_pre_hook(lambda *_: self._clear_momentum(optimizer))
        optimizer.register_step_post_hook(lambda *_: self._after(scaler))
        self._followed = True

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        if self.stage == SOFT and not self._under_way:
            raise RuntimeError("step() without a forward pass: call pruning(x) in training mode, backward(), step()")
        if self.steps_done == 0:
            self._check(optimizer)
        self._clear_momentum(optimizer)

    def _check(self, optimizer: torch.optim.Optimizer) -> None:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if trained.isdisjoint(map(id, self.model.parameters())):
            raise RuntimeError("the optimizer has no parameter of the model: make it of pruning.model.parameters()")

    def _clear_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        if self.stage == SOFT and self.method.resets_momentum(self.steps_done):
            optimizer.state.clear()

    def _after(self, scaler: torch.amp.GradScaler | None) -> None:
        """The method's own part of a step, of which trainers that follow may make more than there are."""
        if self.stage != SOFT or not self._under_way:
            return
        if self._optimizer is not None:
            own = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
            if scaler is None or not own:
                self._optimizer.step()
            else:
                scaler.step(self._optimizer)
            self._optimizer.zero_grad()
        self.network.let_go()
        self.method.update(self.steps_done)
        self.steps_done += 1
        self._under_way = False

    @torch.no_grad()
    def harden(self, early: bool = False) -> Tensor:
        """Fixes 0/1 masks that meet the budget, and folds the soft mask into the weights that stay; gives the mask [n].

        `early`: also before all steps are made.
        """
        self._expect_soft("harden()")
        if self.steps_done < self.steps and not early:
            made = f"{self.steps_done} of {self.steps} steps are made (by pruning.step(), or after pruning.follow())"
            raise RuntimeError(f"harden() comes after the last step, and {made}; to stop here, harden(early=True)")
        self.begin()
        self.hard = self.allocation.hard(self.method.scores())
        self._measures = self.method.measures()
        self.network.harden(self.hard, self.method.final_mask())
        self.stage = HARD
        return self.hard

    def finish(self) -> nn.Module:
        """The plain model, with the zeros of the mask (and quantised weights) in its parameters."""
        if self.stage == SOFT:
            raise RuntimeError("finish() before harden(): masks are soft yet; call harden() first")
        if self.stage == HARD:
            self.network.bake()
            if leaks := revived(self.model, self.units, self._hard("finish()")):
                raise RuntimeError(f"pruned weights came back to life in {', '.join(leaks)}")
            self.stage = FINISHED
        return self.model

    def shrink(self) -> nn.Module:
        """A copy of the finished model without dead channels and heads; finer zeros stay in it."""
        left = self.units.left(self._hard("shrink()"))
        return without(self.finish(), left)

    def report(self) -> dict[str, Any]:
        """What is left, by columns of result.csv: `achieved_sparsity`, parameters and multiply-adds, `size_bytes`."""
        hard = self._hard("report()")
        counts, _ = count(self.model, self.shape, self.units, hard)
        achieved = 1 - self.allocation.cost_of(hard) / self.allocation.total
        size = network_bytes(self.model, self.units, hard, self.method.setup.bits)
        return {"achieved_sparsity": achieved, **asdict(counts), "size_bytes": size}

    def layers(self) -> list[dict[str, Any]]:
        """What is left of each prunable layer, by columns of layers.csv."""
        _, rows = count(self.model, self.shape, self.units, self._hard("layers()"))
        return [{**row, **self._measures.get(row["layer"], {})} for row in rows]

    def get_extra_state(self) -> Tensor:
        """All of the state that is not in parameters and buffers, as bytes: any file of tensors can hold it."""
        state = {
            "about": self._about,
            "steps_done": self.steps_done,
            "stage": self.stage,
            "begun": self._begun,
            "mask": self.mask,
            "hard": self.hard,
            "measures": self._measures,
            "generator": self.method.setup.generator.get_state(),
            "optimizer": self._optimizer.state_dict() if self._optimizer else None,
        }
        return packed.pack(state)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from what `get_extra_state` gave. Raises ValueError for the state of another pruning."""
        found = packed.unpack(state, self.units.device)
        if found["about"] != self._about:
            raise ValueError(f"the state is of another pruning: {found['about']}, and this one is {self._about}")
        self.steps_done, self.stage, self._begun = found["steps_done"], found["stage"], found["begun"]
        self.hard, self._measures, self._under_way = found["hard"], found["measures"], False
        self.method.setup.generator.set_state(found["generator"].cpu())
        if self._optimizer is not None:
            self._optimizer.load_state_dict(found["optimizer"])
        if self.hard is None:
            self.network.gate(found["mask"])
        else:
            self.network.fix(self.hard)

    def _hard(self, call: str) -> Tensor:
        if self.hard is None:
            raise RuntimeError(f"{call} before harden(): what is left is not decided; call harden() first")
        return self.hard

    def _expect_soft(self, call: str) -> None:
        if self.stage != SOFT:
            raise RuntimeError(f"{call} after harden(): masks are fixed; go on training, or call finish()")
