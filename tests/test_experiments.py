"""The papers' sweeps: every cell of each is one that can run, methods meet on equal terms, and one cell really runs."""

from __future__ import annotations

import csv
import functools
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import pruner.models
from pruner.cli.main import main
from pruner.compose.cells import cells_of, general
from pruner.compose.choices import choices, conf_folder
from pruner.compose.combinations import allowed, builtin_methods
from pruner.compose.composing import composer
from pruner.config import Config
from pruner.sparsity.allocation import Allocation
from pruner.sparsity.units.make import make_units
from pruner.store.row import read_rows

CONF = conf_folder()
TABLES = Path(__file__).parents[1] / "outputs/tables"
EXPERIMENTS = list(choices([CONF], "experiment"))

# The cells of one seed, and how many seeds there are.
SIZES = {
    "dpp_cifar10_resnet18": (15, 3),
    "dpp_mnist_lenet": (60, 3),
    "dsa_cifar10": (33, 3),
    "dsa_imagenet": (9, 1),
    "dtp_cifar10_resnet56": (40, 3),
    "dtp_cifar100_vgg19": (32, 3),
    "dtp_imagenet": (30, 1),
    "shootout": (13, 3),
    "smart_block_imagenet": (56, 1),
    "smart_nm_vit": (16, 1),
    "spartan_imagenet": (9, 1),
    "spartan_vit_imagenet": (6, 1),
    "table_filter": (12, 3),
    "table_half": (8, 3),
    "table_homes": (12, 3),
    "table_kernel": (4, 3),
    "table_lenet": (6, 3),
    "table_vit": (6, 3),
    "table_weight": (16, 3),
    "tune_block": (20, 1),
    "tune_filter": (30, 1),
    "tune_kernel": (20, 1),
    "tune_weight": (66, 1),
}

# Those of many cells, of which one runs; of the others all are composed, a tenth of a second each. The rest is long.
MANY = {"dpp_mnist_lenet", "dtp_cifar10_resnet56", "dtp_imagenet", "smart_block_imagenet"}
MANY |= {name for name in SIZES if name.startswith("tune_")}
TWICE = {"smart_block_imagenet", "dtp_imagenet"}  # as dtp_cifar10_resnet56, on larger networks
LARGE = {"dsa_cifar10", "dtp_cifar100_vgg19", "smart_nm_vit", "dpp_cifar10_resnet18"}  # seconds each
COMPOSED = [pytest.param(name, marks=pytest.mark.long if name in MANY | LARGE else []) for name in EXPERIMENTS]
RUN = [pytest.param(name, marks=[] if name in (MANY | LARGE) - TWICE else pytest.mark.long) for name in EXPERIMENTS]

# One cell of each, the paper's own method, and images of the right shape; of large networks narrower or shallower ones.
MNIST, CIFAR = "dataset.image_size=28 dataset.channels=1", "dataset.image_size=32"
IMAGENET = "dataset.image_size=32 model.weights=null"  # the smallest that these networks take
VIT = f"{CIFAR} model=vit ~model.weights"  # in the place of ViT-B/16, whose 86M weights take a minute on a CPU
ONE_CELL = {
    "dpp_cifar10_resnet18": f"{CIFAR} model.width=16 granularity=filter scope=custom sparsity=0.8753 budget.exclude=[] "
    "ratios={conv1:1.0,layer1*:1.0,layer2*:1.0}",
    "dpp_mnist_lenet": f"{MNIST} model=lenet5 quantization=int3 sparsity=0.97",
    "dsa_cifar10": f"{CIFAR} model=resnet20 scope=global sparsity=0.67",
    "dsa_imagenet": f"{IMAGENET} model=resnet18 scope=global sparsity=0.40",
    "dtp_cifar10_resnet56": f"{CIFAR} model.width=8 budget=macs sparsity=0.5",
    "dtp_cifar100_vgg19": f"{CIFAR} model.width=0.2 granularity=filter sparsity=0.75",
    "dtp_imagenet": f"{IMAGENET} model=mobilenet_v2 granularity=filter budget=macs sparsity=0.5",
    "shootout": f"{CIFAR} method=dtp sparsity=0.95",
    "smart_block_imagenet": f"{IMAGENET} model=resnet18 scope=global block.shape=[32,32] sparsity=0.88",
    "smart_nm_vit": f"{VIT} nm.n=2 nm.m=4",
    "spartan_imagenet": f"{IMAGENET} model=resnet18 sparsity=0.9",
    "spartan_vit_imagenet": f"{VIT} block.shape=[32,32]",
    "table_filter": f"{CIFAR} hydra.sweeper.grids=[] method=dsa",
    "table_half": f"{CIFAR} hydra.sweeper.grids=[] method=dtp",
    "table_homes": f"{CIFAR} hydra.sweeper.grids=[] method=smart granularity=block sparsity=0.8",
    "table_kernel": f"{CIFAR} method=dpp",
    "table_lenet": f"{MNIST} method=dpp quantization=int3",
    "table_vit": f"{CIFAR} hydra.sweeper.grids=[] method=smart granularity=nm",
    "table_weight": f"{CIFAR} method=pdp sparsity=0.98",
    "tune_block": f"{CIFAR} dataset.validation=0.2 hydra.sweeper.grids=[] method=smart method.tau1=0.3",
    "tune_filter": f"{CIFAR} dataset.validation=0.2 hydra.sweeper.grids=[] method=dsa method.rate=1.0",
    "tune_kernel": f"{CIFAR} dataset.validation=0.2 hydra.sweeper.grids=[] method=spartan method.beta_end=50.0",
    "tune_weight": f"{CIFAR} dataset.validation=0.2 hydra.sweeper.grids=[] method=dtp method.sharpness=500.0",
}
SMOKE = "recipe=smoke recipe.batch_size=8 dataset=synthetic dataset.train_size=20 dataset.test_size=8 seed=0 threads=1"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True)
    return str(root)


@functools.cache
def configs(name: str, root: str) -> list[Config]:
    """The cells of an experiment's first seed, each of them checked as before a run."""
    words = [f"experiment={name}", "seed=0"]
    with composer([CONF], "config") as hydra:
        head = hydra.master(general(hydra, words))
        if head.dataset.name == "imagefolder":
            words.append(f"dataset.root='{root}'")
        return [cell.config for cell in cells_of(hydra, head, words)[1]]


def own_method(name: str) -> str:
    """The method whose paper an experiment is of: its name begins with it."""
    return name.partition("_")[0]


@pytest.mark.parametrize("name", COMPOSED)
def test_every_cell_can_run(name: str, images: str) -> None:
    with composer([CONF], "config") as hydra:
        seeds = hydra.master([f"experiment={name}"]).hydra.sweeper.params.seed.split(",")
    assert (len(configs(name, images)), len(seeds)) == SIZES[name]


@pytest.mark.parametrize("name", COMPOSED)
def test_methods_meet_under_equal_conditions(name: str, images: str) -> None:
    """Wherever the paper's method is, others are; and where methods meet, they share recipe and dense network."""
    settings = defaultdict(list)
    for config in configs(name, images):
        units = (config.granularity, config.block, config.nm, config.quantization.bits)
        settings[config.model.label, units, config.budget.name, config.sparsity].append(config)
    for met in settings.values():
        labels = {config.method.label for config in met}
        assert len(labels) > 1
        assert own_method(name) in labels or own_method(name) in ("shootout", "table", "tune")
        assert len({config.dense_id for config in met}) == len({config.recipe for config in met}) == 1
        assert len({config.budget for config in met}) == 1


def test_the_shootout_has_every_method_that_takes_single_weights(images: str) -> None:
    fitting = {method.label for method in builtin_methods() if "global" in allowed(method, "weight")}
    assert {config.method.label for config in configs("shootout", images)} == fitting


def test_dsa_keeps_the_flops_of_its_paper(images: str) -> None:
    kept: dict[str, set[float]] = defaultdict(set)
    for name in ("dsa_cifar10", "dsa_imagenet"):
        for config in configs(name, images):
            kept[config.model.label].add(round(1 - config.sparsity, 9))
    assert kept == {
        "vgg16": {0.30, 0.05},
        "resnet18_cifar": {0.25, 0.17, 0.07},
        "resnet20": {0.75, 0.50, 0.33},
        "resnet56": {0.75, 0.50, 0.33},
        "resnet18": {0.60},
        "resnet50": {0.60, 0.50},
    }


def kept_filters(config: Config, classes: int) -> dict[str, float]:
    """The share of the filters that a cell keeps, by the layer that makes them."""
    with torch.random.fork_rng():
        model = pruner.models.build(config.model, (3, 32, 32), classes)
        units = make_units(model, (3, 32, 32), "filter", config.budget.exclude)
        allocation = Allocation(
            units, config.budget.name, config.scope, config.sparsity, config.budget.min_units, config.ratios
        )
        mask = allocation.hard(torch.rand(units.n))
    return {group.name: float(mask[group.start : group.stop].mean()) for group in units.groups}


def test_dpp_keeps_a_quarter_of_the_feature_maps_of_the_last_two_stages(images: str) -> None:
    config = next(cell for cell in configs("dpp_cifar10_resnet18", images) if cell.granularity == "filter")
    for layer, kept in kept_filters(config, classes=10).items():
        assert kept == pytest.approx(0.25 if layer.startswith(("layer3", "layer4")) else 1, abs=1 / 256), layer


def test_dtps_shares_of_vgg19_are_those_of_round_ratios_of_filters(images: str) -> None:
    cells = {cell.sparsity: cell for cell in configs("dtp_cifar100_vgg19", images) if cell.granularity == "filter"}
    for config, ratio in zip((cells[sparsity] for sparsity in sorted(cells)), (0.5, 0.6, 0.7, 0.8, 0.9), strict=True):
        for layer, kept in kept_filters(config, classes=100).items():
            assert kept == pytest.approx(1 - ratio, abs=1 / 64), layer


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("table_")])
def test_a_measured_table_is_what_its_experiment_makes(name: str, images: str) -> None:
    """Or a default has changed since: then the table shows settings that no one gets by its command any more."""
    rows = read_rows(TABLES / f"{name.replace('_', '-')}-rows.csv")
    first = {row["run_id"] for row in rows if row["seed"] == 0}
    assert first == {config.run_id for config in configs(name, images)}
    assert (len(first), len(rows)) == (SIZES[name][0], SIZES[name][0] * SIZES[name][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_cell_of_each_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SMOKE.split(), *ONE_CELL[name].split()]
    if "method=" not in ONE_CELL[name]:
        words.append(f"method={own_method(name)}")
    assert main([f"experiment={name}", "output_dir=out", *words]) == 0
    (path,) = Path("out").glob("synthetic-*/*/result.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["status"], row["error"]) == ("done", "")
    assert float(row["achieved_sparsity"]) == pytest.approx(float(row["sparsity"]), abs=0.02)


def test_every_experiment_is_tested() -> None:
    assert set(EXPERIMENTS) == set(SIZES) == set(ONE_CELL)
