#!/usr/bin/env python3
"""What a step of the prune phase costs over a step of the dense phase, in time and in memory, method by method.

    python scripts/bench_steps.py [--methods dtp,...] [--steps 8] [--threads N] [--device D] [--output FILE.csv]
        [key=value ...]

Dense and prune steps take turns on the same images, a few at a time, so that what else the machine does slows both
alike, and so that what a method does in some steps only is counted. The key=value words say the rest of the run; the
default is ResNet-20 on made-up CIFAR-10 images, 128 at once, weights at 0.9:

    python scripts/bench_steps.py
    python scripts/bench_steps.py --output outputs/tables/experiment-steps-resnet50.csv \\
        model=torchvision model.arch=resnet50 dataset.image_size=224 recipe.batch_size=16

Memory is the peak of what tensors hold in three steps, over that in three dense steps, in copies of the prunable
weights (float32).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate

import torch
from benching import processor, quartiles, write
from torch.profiler import ProfilerActivity

from pruner.compose.choices import conf_folder
from pruner.compose.composing import checked, composer
from pruner.config import Config
from pruner.export.latency import in_turns
from pruner.run.experiment import Experiment, prepare
from pruner.sparsity.masked import MaskedModel
from pruner.store.commit import commit_of
from pruner.training.trainer import Trainer

METHODS = "dtp,smart,spartan,dsa,dpp,pdp,gmp,magnitude"
WORDS = [
    "dataset=synthetic",
    "dataset.image_size=32",
    "dataset.train_size=320",
    "dataset.test_size=16",
    "dataset.classes=10",
    "model=resnet20",
    "recipe=short",
    "recipe.precision=float32",
    "recipe.prune_epochs=100",
]
MEMORY_STEPS = 3
ROUNDS, SECONDS = 50, 40.0  # of the two in turn: whichever ends first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="key=value")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8, help="at a time: DSA makes one of its ratios' in eight")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="outputs/tables/experiment-steps-resnet20.csv")
    parser.add_argument("--memory", choices=["dense", "prune"], help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    words = [*WORDS, f"threads={given.threads}", f"device={given.device}", *given.words]
    methods = given.methods.split(",")
    if given.memory:
        print(peak(config_of([*words, f"method={methods[0]}"]), given.memory))
        return
    rows = []
    for method in methods:
        rows.append(measured(method, words, sys.argv[1:], given.steps))
        print("{method}: dense {dense_ms} ms, prune {prune_ms} ms, ratio {ratio} ({ratio_quartiles}), "
              "{extra_copies} copies more".format(**rows[-1]), flush=True)  # fmt: skip
    write(given.output, rows)


def config_of(words: list[str]) -> Config:
    with composer([conf_folder()], "config") as hydra:
        return checked(hydra.compose(words))


def measured(method: str, words: list[str], arguments: list[str], steps: int) -> dict[str, object]:
    config = config_of([*words, f"method={method}"])
    benches = [prepare(config), prepare(config)]
    dense, prune = (one_step(experiment, phase) for experiment, phase in zip(benches, ("dense", "prune"), strict=True))
    before, after = in_turns([several(dense, steps), several(prune, steps)], ROUNDS, SECONDS)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    prunable = sum(layer.size for layer in benches[0].allocation.units.layers if layer.prunable)
    child = [sys.executable, __file__, *arguments, "--methods", method, "--memory"]
    peaks = [int(subprocess.run([*child, phase], check=True, capture_output=True, text=True).stdout.split()[-1])
             for phase in ("dense", "prune")]  # fmt: skip
    return {
        "method": method,
        "model": config.model.options.get("arch", config.model.label),
        "granularity": config.granularity,
        "sparsity": config.sparsity,
        "batch": config.recipe.batch_size,
        "image_size": config.dataset.options["image_size"],
        "precision": config.recipe.precision,
        "dense_ms": round(1000 * statistics.median(before) / steps, 2),
        "prune_ms": round(1000 * statistics.median(after) / steps, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": quartiles(ratios),
        "rounds": len(ratios),
        "steps_a_round": steps,
        "dense_peak_mb": round(peaks[0] / 2**20, 1),
        "prune_peak_mb": round(peaks[1] / 2**20, 1),
        "extra_copies": round((peaks[1] - peaks[0]) / (4 * prunable), 2),
        "device": torch.cuda.get_device_name() if benches[0].device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "hardware": processor(),
        "torch_version": torch.__version__,
        "commit": commit_of(),
    }


def one_step(experiment: Experiment, phase: str) -> Callable[[], object]:
    """A call that does the next step of a phase, always on the same images."""
    if phase == "dense":
        network, method = MaskedModel(experiment.model, experiment.allocation.units), None
    else:
        network, (method, _) = experiment.network(), experiment.method()
        method.begin()
    trainer = Trainer(network, experiment.data.train, experiment.config.recipe, phase, experiment.config.seed, method)
    network.train()
    x, y = next(iter(experiment.data.train.batches(experiment.config.recipe.batch_size, seed=0)))
    steps = iter(range(10**9))

    def step() -> None:
        trainer._step(next(steps), x, y)
        if experiment.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def several(step: Callable[[], object], count: int) -> Callable[[], None]:
    """A call that does a few steps."""

    def steps() -> None:
        for _ in range(count):
            step()

    return steps


def peak(config: Config, phase: str) -> int:
    """The most bytes that tensors held at a time, from the run's first one to the end of a few steps of a phase."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        experiment = prepare(config)
        step = one_step(experiment, phase)
        for _ in range(MEMORY_STEPS):
            step()
    if experiment.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # What torch asked for and gave back. The system's view (VmHWM) differs by 40 MB from one run to the next.
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


if __name__ == "__main__":
    main()
