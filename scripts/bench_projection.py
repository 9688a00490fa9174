#!/usr/bin/env python3
"""How long the projection onto a budget takes, forward and backward, beside what it is to beat and what bounds it.

    python scripts/bench_projection.py [--units N ...] [--threads N] [--device cuda] [--output FILE.csv]

All start cold and take turns, so that what else the machine does slows all of them alike; `ratio` is the median over
the rounds of a time over that of `soft_mask` in the same round. Scores are standard normal, and denormal floats count
as zero, as in a run. `spartan` is the solver of arXiv 2205.14107 as pruner's authors understood it: a full sort, up to
100 Sinkhorn sweeps until the budget is met to 1%, the implicit gradient. 10^8 units take about 5 GiB.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from benching import processor, write
from torch import Tensor

from pruner.export.latency import in_turns
from pruner.runtime.device import pick_device
from pruner.sparsity.budget import hard_mask, soft_mask
from pruner.store.commit import commit_of

SWEEPS, CLOSE = 100, 0.01  # Spartan's solver
COUPLED_MOST = 100_000  # units of coupled costs: filters and heads, never more than thousands
LAYERS = 20  # of the made-up network whose filters have a coupled cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[1_000, 20_000, 270_608, 25_600_000])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.1], help="in deviations of the scores")
    parser.add_argument("--keep", type=float, default=0.1, help="the share of the cost that stays")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch decides)")
    parser.add_argument("--output", type=Path, help="default: outputs/tables/experiment-projection-DEVICE.csv")
    given = parser.parse_args()
    device = pick_device(given.device, given.threads)
    rows = [
        row
        for units in given.units
        for temperature in given.temperatures
        for row in measured(units, given.keep, temperature, device)
    ]
    output = given.output or Path(f"outputs/tables/experiment-projection-{device.type}.csv")
    write(str(output), rows)


def measured(units: int, keep: float, temperature: float, device: torch.device) -> list[dict[str, Any]]:
    """A row for each competitor; `seconds` is its median."""
    calls = {
        name: partial(finished, call, device) for name, call in competitors(units, keep, temperature, device).items()
    }
    times = dict(zip(calls, in_turns(list(calls.values())), strict=True))
    rows = []
    for name, own in times.items():
        ratios = [mine / ours for mine, ours in zip(own, times["soft_mask"], strict=True)]
        rows.append(
            {
                "what": name,
                "units": units,
                "temperature": temperature,
                "keep": keep,
                **spread("seconds", own),
                "rounds": len(own),
                **spread("ratio", ratios),
                "device": device.type,
                "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
                "threads": torch.get_num_threads(),
                "torch_version": torch.__version__,
                "commit": commit_of(),
            }
        )
        took = f"{median(own):.6f} s [{rows[-1]['seconds_q1']:.6f}, {rows[-1]['seconds_q3']:.6f}]"
        print(f"{units:>11,} units, temperature {temperature}: {name:18} {took}, {median(ratios):.2f} times soft_mask")
    return rows


def competitors(units: int, keep: float, temperature: float, device: torch.device) -> dict[str, Callable[[], object]]:
    """What is timed, by name: forward and backward but for the sort and the hard masks, which have no gradient."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(units, generator=generator).to(device).requires_grad_()
    gradient = torch.randn(units, generator=generator).to(device)
    cost = torch.randint(1, 50, (units,), generator=generator).float().to(device)
    plain = scores.detach()
    kept, paid = keep * units, keep * float(cost.sum(dtype=torch.float64))

    def both(operator: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(operator(scores), scores, gradient)

    calls = {
        "soft_mask": both(lambda s: soft_mask(s, kept, None, temperature)),
        "soft_mask_costs": both(lambda s: soft_mask(s, paid, cost, temperature)),
        "spartan": both(lambda s: Spartan.apply(s, kept, temperature)),
        "sort": lambda: torch.sort(plain),
        "sigmoid": both(torch.sigmoid),
        "hard_mask": lambda: hard_mask(plain, kept),
        "hard_mask_costs": lambda: hard_mask(plain, paid, cost),
    }
    if units <= COUPLED_MOST:
        coupled = Chain(units, device)
        budget = keep * float(coupled(torch.ones(units, dtype=torch.float64, device=device)))
        calls["soft_mask_coupled"] = both(lambda s: soft_mask(s, budget, coupled, temperature))
        calls["hard_mask_coupled"] = lambda: hard_mask(plain, budget, coupled)
    return calls


class Chain:
    """The weights of layers that read each other's filters: sums of (filters kept) times (filters kept before)."""

    def __init__(self, units: int, device: torch.device):
        layer = torch.arange(units, device=device) * LAYERS // units
        self.members = torch.nn.functional.one_hot(layer, LAYERS).T.double().contiguous()

    def __call__(self, mask: Tensor) -> Tensor:
        kept = self.members @ mask
        return (kept[1:] * kept[:-1]).sum()


class Spartan(torch.autograd.Function):
    """y = sigmoid(scores / temperature + mu) with sum(y) == budget, to 1%."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, budget: float, temperature: float) -> Tensor:
        z = scores / temperature
        falling = torch.sort(z, descending=True).values
        mu = -float(falling[int(budget)])  # the start: the mask of a temperature of zero
        for _ in range(SWEEPS):
            share = -torch.nn.functional.softplus(z + mu)  # units: the log of what each gives to being dropped
            sent = float(torch.logsumexp(z + share, 0))  # kept and dropped: the log of what arrives, before its scaling
            if abs(math.expm1(sent + mu - math.log(budget))) <= CLOSE:
                break
            mu = math.log(budget) - sent
        mask = torch.sigmoid(z + mu)
        ctx.save_for_backward(mask)
        ctx.temperature = temperature
        return mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        v = mask * (1 - mask)
        vg = v * grads[0]
        return (vg - v * (vg.sum() / v.sum())) / ctx.temperature, None, None


def finished(call: Callable[[], object], device: torch.device) -> None:
    """Runs a call to its end, which a GPU reaches later than the call returns."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(name: str, values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_q1": lower, f"{name}_q3": upper}


if __name__ == "__main__":
    main()
