"""`Pruning` in a training loop of one's own: what the runner gives, gone on with after any step, as people train."""

from __future__ import annotations

import copy
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import pruner
import pruner.data
from pruner.checks import ConfigError
from pruner.compose.combinations import allowed, builtin_methods
from pruner.config import GRANULARITIES, Choice, Config
from pruner.data import ImageSet
from pruner.export import latency
from pruner.methods.base import Method
from pruner.methods.options import Options
from pruner.pruning import Pruning
from pruner.runtime.seeds import derive
from pruner.store.folders import DenseStore, RunFolder
from pruner.store.row import LAYER_COLUMNS, read_rows
from pruner.training.optimizer import learning_rate, make_optimizer
from tests import parallel_loop
from tests import tiny_network as tiny

METHODS = {method.label: method for method in builtin_methods()}
CELLS = [
    (label, kind) for label, method in METHODS.items() for kind in GRANULARITIES if "global" in allowed(method, kind)
]
SHAPE, CLASSES = (3, 8, 8), 6


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tiny.TinyNetwork(SHAPE, CLASSES)


def batches(count: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, *SHAPE, generator=generator), torch.arange(8) % CLASSES) for _ in range(count)]


def pruned(model: nn.Module, method: Any = "dtp", **settings: Any) -> Pruning:
    given: dict[str, Any] = {"steps": 4, "sparsity": 0.5, "examples": batches()} | settings
    return Pruning(model, method, example=torch.zeros(1, *SHAPE), **given)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(pruning: Pruning, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    """A training loop as people write it."""
    for x, y in data:
        loss = F.cross_entropy(pruning(x), y) + pruning.penalty()
        loss.backward()
        pruning.step(optimizer)
        optimizer.zero_grad()


def saved(state: Any) -> Any:
    """What `torch.load` gives of what `torch.save` wrote."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return torch.load(io.BytesIO(stream.getvalue()), weights_only=True)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


# The runner's loop, written out.


def steps_of(images: ImageSet, config: Config, phase: str) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The rate and the batch of each of a phase's steps, with torch seeded as the runner seeds it."""
    recipe = config.recipe
    settings, steps = recipe.phase(phase), images.steps(recipe.batch_size)
    for epoch in range(settings.epochs):
        seed = derive(config.seed, phase, epoch)
        torch.manual_seed(seed)
        for number, (x, y) in enumerate(images.batches(recipe.batch_size, seed=seed, augment=True)):
            yield learning_rate(settings, (epoch * steps + number) / (steps * settings.epochs)), x, y


class Loop:
    """Both phases of a run, with a `Pruning`; goes on from its own state."""

    def __init__(self, config: Config, dense: dict[str, Tensor]) -> None:
        self.config = config
        data = pruner.data.load(config.dataset, "", "cpu")
        model = tiny.TinyNetwork(data.shape, data.classes)
        model.load_state_dict(dense)
        self.images, examples = data.train, data.train
        if config.method.name == "dsa":
            self.images, examples = data.train.split(0.1, derive(config.seed, "held-out"))
        recipe = config.recipe
        self.pruning = Pruning(
            model,
            config.method,
            example=torch.zeros(1, *data.shape),
            steps=self.images.steps(recipe.batch_size) * recipe.prune_epochs,
            examples=examples,
            lr=recipe.prune_lr,
            batch_size=recipe.batch_size,
            sparsity=config.sparsity,
            granularity=config.granularity,
            budget=config.budget.name,
            scope=config.scope,
            block=tiny.BLOCK,
            nm=tiny.PATTERN,
        )
        self.all_images = data.train
        self.optimizer = make_optimizer(model, recipe, 0.1)
        self.phase, self.done = "prune", 0

    def run(self, most: int) -> bool:
        """Makes so many steps of the phase under way at most; whether it was all of it."""
        images = self.images if self.phase == "prune" else self.all_images
        self.pruning.train()
        left = islice(steps_of(images, self.config, self.phase), self.done, self.done + most)
        made = 0
        for lr, x, y in left:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.zero_grad()
            (F.cross_entropy(self.pruning(x), y) + self.pruning.penalty()).backward()
            self.pruning.step(self.optimizer)
            made += 1
        self.done += made
        return made < most

    def harden(self) -> None:
        self.pruning.harden()
        self.optimizer = make_optimizer(self.pruning.model, self.config.recipe, 0.1)
        self.phase, self.done = "finetune", 0

    def state(self) -> Any:
        return saved([self.pruning.state_dict(), self.optimizer.state_dict(), self.phase, self.done])

    def go_on(self, state: Any) -> None:
        self.pruning.load_state_dict(state[0])
        self.optimizer.load_state_dict(state[1])
        self.phase, self.done = state[2:]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs find one dense network."""
    return tmp_path_factory.mktemp("outputs")


# One mask at once, by other scores than magnitude, is one way through the code: at every granularity in make long.
SCORED = {"fpgm", "grasp", "l1", "random", "snip", "synflow"}


@pytest.mark.parametrize(
    ("label", "granularity"),
    [
        pytest.param(*cell, marks=pytest.mark.long if cell[0] in SCORED and cell[1] != "filter" else [])
        for cell in CELLS
    ],
)
def test_a_loop_of_ones_own_ends_as_the_runner_does_also_interrupted(
    label: str,
    granularity: str,
    tiny_config: Callable[..., Config],
    finish: Callable[[Config], RunFolder],
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # for speed, as rough latencies
    monkeypatch.setattr(latency, "in_turns", partial(latency.in_turns, most=latency.LEAST))
    config = tiny_config(
        label,
        granularity=granularity,
        budget="macs" if granularity in ("filter", "head") else "params",
        model={"label": "tiny", "name": f"{tiny.__name__}:TinyNetwork", "options": {}},
        block={"shape": list(tiny.BLOCK)} if granularity == "block" else None,
        nm={"n": tiny.PATTERN[0], "m": tiny.PATTERN[1]} if granularity == "nm" else None,
        output_dir=str(outputs),
    )
    folder = finish(config)
    row = folder.row()
    dense = load_file(DenseStore(outputs / config.dense_id).path / "model.safetensors")
    loop = Loop(config, dense)
    assert not loop.run(4)  # of six, in the second epoch
    interrupted = "prune" if CELLS.index((label, granularity)) % 2 else "finetune"
    for phase in ("prune", "finetune"):
        if phase == interrupted:
            state, loop = loop.state(), Loop(config, {name: torch.zeros_like(tensor) for name, tensor in dense.items()})
            loop.go_on(state)
        assert loop.run(100)
        if phase == "prune":
            loop.harden()
            assert not loop.run(1)
    model = loop.pruning.finish()
    kept = load_file(folder.path / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in kept.items()
    }
    report = loop.pruning.report()
    assert row is not None and report == {column: row[column] for column in report}
    for mine, written in zip(loop.pruning.layers(), read_rows(folder.layers, LAYER_COLUMNS), strict=True):
        assert mine == {column: written[column] for column in mine}


# The script of the README.


@pytest.mark.parametrize(
    ("label", "granularity"),
    [cell for number, cell in enumerate(CELLS) if cell[1] == "filter" or number % 4 == 0 or cell[0] == "smart"],
)
def test_the_script_of_the_readme_takes_every_method_by_name(label: str, granularity: str) -> None:
    """With another network, twelve lines at most beside the imports."""
    page = (Path(pruner.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "pruner.Pruning(" in text)
    lines = [line for line in block.splitlines() if line and "import " not in line]
    assert len(lines) <= 12
    own = {"model": network(), "data": batches()}
    script = "\n".join(line for line in lines if line.partition(" = ")[0] not in own)
    script = script.replace('"smart"', repr(label)).replace('"filter"', repr(granularity))
    names: dict[str, Any] = {"torch": torch, "pruner": pruner, "cross_entropy": F.cross_entropy, **own}
    exec(script, names)
    left = names["pruning"].report()
    assert 0.5 <= left["achieved_sparsity"] < 0.6
    cut = granularity in ("filter", "head")
    assert sum(p.numel() for p in names["small"].parameters()) == left["params_kept" if cut else "params_total"]


# What is read, and when.


class Reads(Method):
    """Remembers the mean of the weights when it began."""

    seen: Tensor

    def begin(self) -> None:
        self.register_buffer("seen", self.setup.magnitudes().detach().mean())

    def mask(self, step: int) -> Tensor:
        return torch.ones(self.setup.units.n)

    def scores(self) -> Tensor:
        return self.setup.magnitudes().detach()


@pytest.mark.parametrize("label", [*METHODS])
def test_no_method_reads_weights_before_the_first_step(label: str) -> None:
    """Built before the weights are trained or after: the same masks."""
    granularity = "filter"
    late = network(1)
    early = copy.deepcopy(late)
    with torch.no_grad():
        for parameter in early.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2)))
    one = pruned(early, label, granularity=granularity)
    early.load_state_dict(late.state_dict())
    other = pruned(late, label, granularity=granularity)
    for pruning in (one, other):
        torch.manual_seed(3)
        train(pruning, sgd(pruning.model), batches())
    assert torch.equal(one.harden(), other.harden()) and same(early, late)


def test_a_class_of_ones_own_and_its_options() -> None:
    pruning = pruned(network(), Reads)
    train(pruning, sgd(pruning.model), batches())
    assert isinstance(pruning.method, Reads) and float(pruning.method.seen) > 0
    with pytest.raises(ConfigError, match=r"^method\.tau=1: no such key; Reads takes no options"):
        pruned(network(), Reads, options={"tau": 1})
    assert pruned(network(), "dtp", options={"sharpness": 7}).method.options.sharpness == 7
    assert Options.limits.granularities == GRANULARITIES


# The order of calls.


def test_a_wrong_order_of_calls_says_the_right_one() -> None:
    pruning = pruned(network(), steps=2)
    optimizer = sgd(pruning.model)
    calls: list[tuple[Callable[[], Any], str]] = [
        (partial(pruning.step, optimizer), r"step\(\) without a forward pass: call pruning\(x\)"),
        (pruning.harden, r"harden\(\) comes after the last step, and 0 of 2 steps are made \(by pruning"),
        (pruning.finish, r"finish\(\) before harden\(\)"),
        (pruning.shrink, r"shrink\(\) before harden\(\)"),
        (pruning.report, r"report\(\) before harden\(\)"),
        (pruning.layers, r"layers\(\) before harden\(\)"),
    ]
    for call, said in calls:
        with pytest.raises(RuntimeError, match=f"^{said}"):
            call()
    train(pruning, optimizer, batches(2))
    with pytest.raises(RuntimeError, match=r"^all 2 steps are made: call harden\(\)"):
        pruning(batches()[0][0])
    pruning.harden()
    late: list[Callable[[], Any]] = [pruning.harden, pruning.gate]
    for call in late:
        with pytest.raises(RuntimeError, match=r"after harden\(\): masks are fixed; go on training, or call finish"):
            call()
    train(pruning, optimizer, batches(1))
    assert pruning.penalty() == 0.0
    assert pruning.finish() is pruning.model and pruning.finish() is pruning.model


def test_an_optimizer_of_another_network_is_refused() -> None:
    pruning, other = pruned(network()), sgd(network())
    F.cross_entropy(pruning(batches()[0][0]), batches()[0][1]).backward()
    for call in (pruning.step, pruning.follow):
        with pytest.raises(
            RuntimeError, match=r"^the optimizer has no parameter of the model: make it of pruning.model"
        ):
            call(other)


def test_to_stop_early_is_said() -> None:
    pruning = pruned(network(), "gmp", steps=100)
    train(pruning, sgd(pruning.model), batches(3))
    hard = pruning.harden(early=True)
    assert pruning.allocation.cost_of(hard) <= pruning.allocation.target(0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "magnitud"}, r"method=magnitud: choose one of .* \(did you mean magnitude\?\)"),
        ({"method": "one_shot"}, r"method=one_shot: choose one of "),
        ({"sparsity": None}, r"sparsity=None: give the share of the cost that goes"),
        ({"sparsity": 1.0}, r"sparsity=1.0: give .* at least 0 and below 1"),
        ({"sparsity": 0.75, "granularity": "nm"}, r"sparsity=0.75: granularity=nm sets it; leave it out, or change nm"),
        ({"steps": -1}, r"steps=-1: 0 or more"),
        ({"granularity": "filters"}, r"granularity=filters: choose one of "),
        ({"granularity": "filter", "scope": "row"}, r"scope=row: not with granularity=filter: "),
        ({"method": "dsa", "scope": "layer"}, r"scope=layer: not with method=dsa: it learns"),
        ({"method": "dsa", "examples": None}, r"method=dsa: looks at held-out examples; give batches of them"),
        ({"method": "snip", "examples": None}, r"method.score.name=snip: looks at examples, and there are none"),
        ({"options": {"sharpness": -1.0}}, r"method.sharpness=-1.0: above 0"),
        ({"granularity": "nm", "nm": (4, 4)}, r"nm.n=4: from 1 to 3"),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        pruned(network(), **settings)


def test_a_state_of_another_pruning_is_refused() -> None:
    state = pruned(network(), "smart").state_dict()
    with pytest.raises(ValueError, match=r"of another pruning: smart weight .* and this one is dtp weight"):
        pruned(network(), "dtp").load_state_dict(state)


def test_examples_that_are_used_up_are_said() -> None:
    for label in ("snip", "dsa"):
        pruning = pruned(network(), label, examples=iter([]), options={"every": 1} if label == "dsa" else {})
        with pytest.raises(ValueError, match=r"^examples gave no batch: give what can be gone through again"):
            train(pruning, sgd(pruning.model), batches())


@pytest.mark.parametrize("label", ["acdc", "dpp", "dsa", "dtp", "smart", "spartan"])
def test_a_copy_goes_on_by_itself(label: str) -> None:
    """As averages of weights are made of copies."""
    pruning = pruned(network(), label, granularity="filter", steps=8)
    optimizer = sgd(pruning.model)
    train(pruning, optimizer, batches(3))
    other = copy.deepcopy(pruning)
    train(pruning, optimizer, batches(5, seed=1))
    assert other.steps_done == 3 and not same(pruning.model, other.model)
    train(other, sgd(other.model), batches(5, seed=2))
    assert other.allocation.cost_of(other.harden()) <= other.allocation.target(0.5)
    assert other.method.setup.model is other.model is not pruning.model


# In evaluation.


def test_evaluation_is_under_the_latest_mask_also_after_loading() -> None:
    pruning = pruned(network(), "spartan", granularity="filter")
    train(pruning, sgd(pruning.model), batches(3))
    x = batches()[0][0]
    before = pruning.eval()(x)
    assert not torch.allclose(before, pruning.model.eval()(x))
    again = pruned(network(5), "spartan", granularity="filter")
    again.load_state_dict(saved(pruning.state_dict()))
    assert torch.equal(again.eval()(x), before)


def test_shrinking_gives_the_same_answers() -> None:
    pruning = pruned(network(), "magnitude", granularity="filter", budget="macs")
    train(pruning, sgd(pruning.model), batches())
    pruning.harden()
    x, small = batches()[0][0], pruning.shrink().eval()
    assert sum(p.numel() for p in small.parameters()) == pruning.report()["params_kept"]
    torch.testing.assert_close(small(x), pruning.model.eval()(x), rtol=1e-5, atol=1e-6)


# As people train.


@pytest.mark.parametrize("label", ["acdc", "dpp", "dsa", "dtp", "smart", "spartan"])
def test_accumulated_gradients_are_those_of_the_whole_batch(label: str) -> None:
    """Two halves of a batch, of a network without batch norm, make the step of the whole."""

    def plain() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))

    one, other = pruned(plain(), label), pruned(plain(), label)
    optimizers = sgd(one.model), sgd(other.model)
    for x, y in batches(4):
        (F.cross_entropy(one(x), y) + one.penalty()).backward()
        for half in range(2):
            loss = F.cross_entropy(other(x[half::2]), y[half::2]) + other.penalty()
            (loss / 2).backward()
        for pruning, optimizer in zip((one, other), optimizers, strict=True):
            pruning.step(optimizer)
            optimizer.zero_grad()
    for mine, theirs in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        if not mine[0].endswith("_extra_state"):
            torch.testing.assert_close(mine[1], theirs[1], rtol=1e-4, atol=1e-5)


def test_an_optimizer_that_is_followed_makes_the_same_steps() -> None:
    """Also one that runs the forward pass inside of its step, as Lightning has it."""
    one, other, closed = (pruned(network(), "acdc", steps=8) for _ in range(3))
    train(one, sgd(one.model), batches(8))
    optimizer = sgd(other.model)
    other.follow(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) after follow\(\)"):
        other.step(optimizer)
    for x, y in batches(8):
        F.cross_entropy(other(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    inside = sgd(closed.model)
    closed.follow(inside)
    for x, y in batches(8):

        def closure(x: Tensor = x, y: Tensor = y) -> float:
            inside.zero_grad()
            loss = F.cross_entropy(closed(x), y)
            loss.backward()
            return float(loss.detach())

        inside.step(closure)
    for pruning in (one, other, closed):
        pruning.harden()
    assert same(one.finish(), other.finish()) and same(one.finish(), closed.finish())


def test_clipped_gradients_and_a_scaler() -> None:
    """A scaler that scales by 1024, as under float16, changes nothing in float32; the method's own gradients too."""
    one, other = pruned(network(), "smart"), pruned(network(), "smart")
    optimizers = sgd(one.model), sgd(other.model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for x, y in batches(4):
        (F.cross_entropy(one(x), y) + one.penalty()).backward()
        nn.utils.clip_grad_norm_(one.model.parameters(), 0.1)
        one.step(optimizers[0])
        scaler.scale(F.cross_entropy(other(x), y) + other.penalty()).backward()
        scaler.unscale_(optimizers[1])
        nn.utils.clip_grad_norm_(other.model.parameters(), 0.1)
        other.step(optimizers[1], scaler)
        scaler.update()
        for optimizer in optimizers:
            optimizer.zero_grad()
    found = [dict(pruning.method.named_parameters())["latent"] for pruning in (one, other)]
    torch.testing.assert_close(found[0], found[1])
    still = pruned(network(), "smart")
    still.begin()
    assert not torch.allclose(found[0], dict(still.method.named_parameters())["latent"], atol=1e-4)  # it has moved


def test_autocast_and_inputs_by_name() -> None:
    pruning = pruned(network(), "dtp")
    with torch.autocast("cpu", torch.bfloat16):
        answer = pruning(images=batches()[0][0])
    assert answer.dtype is torch.bfloat16
    F.cross_entropy(answer.float(), batches()[0][1]).backward()
    pruning.step(sgd(pruning.model))
    assert pruning.steps_done == 1


def test_the_public_names_are_there_and_no_others() -> None:
    assert {*dir(pruner)} >= {"Pruning", "soft_mask", "hard_mask", "load_model"}
    assert pruner.Pruning is Pruning
    with pytest.raises(AttributeError, match=r"^module 'pruner' has no attribute 'Prunning'"):
        _ = pruner.Prunning


def test_a_choice_is_as_good_as_a_name() -> None:
    pruning = pruned(network(), Choice("mine", "gmp", {"every": 2}))
    assert pruning.method.options.every == 2


@pytest.mark.slow
def test_two_processes_under_data_parallel_make_the_steps_of_one(tmp_path: Path) -> None:
    """Whatever each has drawn: the same masks, and the weights that the whole batches give."""
    command = [sys.executable, "-m", "tests.parallel_loop", str(tmp_path)]
    ends = [subprocess.Popen([*command, str(rank), "2"], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for end in ends:
        _, said = end.communicate(timeout=300)
        assert end.returncode == 0, said
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for method in parallel_loop.METHODS:
        alone = parallel_loop.pruned(method, 0, 1)
        for states in found:
            assert alone.hard is not None and torch.equal(states[method].pop("hard"), alone.hard)
            for name, tensor in alone.model.state_dict().items():
                torch.testing.assert_close(states[method][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it meets on the way
def test_a_compiled_pruning_makes_the_same_steps() -> None:
    """As far as torch.compile can follow it; with a compiler that changes nothing."""
    one, other = pruned(network(), "gmp"), pruned(network(), "gmp")
    compiled = torch.compile(other, backend="eager")
    optimizers = sgd(one.model), sgd(other.model)
    for x, y in batches(4):
        for call, pruning, optimizer in ((one, one, optimizers[0]), (compiled, other, optimizers[1])):
            (F.cross_entropy(call(x), y) + pruning.penalty()).backward()
            pruning.step(optimizer)
            optimizer.zero_grad()
    assert torch.equal(one.harden(), other.harden()) and same(one.model, other.model)
