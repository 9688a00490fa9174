"""The command line: what is refused and in which words, what reaches `execute`, what a sweep does."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import io
import json
import logging
import os
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pruner import data, methods, models
from pruner.checks import ConfigError
from pruner.cli.main import main
from pruner.compose import validate
from pruner.compose.choices import conf_folder
from pruner.config import Config, Recipe
from pruner.models import check_arch, torchvision_names
from pruner.options import resolve
from pruner.run import job
from tests.sweeping import ONE_BY_ONE

CONF = conf_folder()
CHOICES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))

# The words given, and what the one line on stderr must say.
WRONG: list[tuple[list[str], list[str]]] = [
    (["sparsity=1.5"], ["sparsity=1.5", "at least 0 and below 1"]),
    (["sparsity=abc"], ["sparsity=abc", "number"]),
    (["sparsity="], ["sparsity=", "number"]),
    (["sparsity=ninety"], ["sparsity=ninety: expected a number\n"]),
    (["sparsity=nan"], ["sparsity=nan", "finite number"]),
    (["sparsty=0.9"], ["sparsty=0.9", "dataset, model, method", "did you mean sparsity?"]),
    (["sparsity.x=1"], ["sparsity.x=1", "single value"]),
    (["method=dpt"], ["method=dpt", "dsa, dtp, fpgm, gmp, grasp", "did you mean dtp?"]),
    (["model=resnet21"], ["model=resnet21", "did you mean resnet20?"]),
    (["help"], ["'help': not understood", "see pruner --help"]),
    (["output_dir=für"], ["'output_dir=für'", """quotes, as in 'output_dir="für"'"""]),
    (["hydra.run.dir=X"], ["hydra.run.dir=X: not used", "output_dir=FOLDER"]),
    (["method.name=gmp", "--plan"], ["method.name=gmp: not with method=dtp", "use method=gmp\n"]),
    (["method=magnitude", "method.name=gmp", "--plan"], ["method.name=gmp: not with method=magnitude"]),
    (["model.name=resnet23", "--plan"], ["model.name=resnet23: choose one of", "did you mean resnet20?"]),
    (["+method.foo=3", "--plan"], ["method.foo=3: no such key; dtp takes sharpness"]),
    (["method.ramp=abc", "--plan"], ["method.ramp=abc: expected a number"]),
    (["-m", "method=gmp", "method.every=2.5,3", "--plan"], ["method.every=2.5: expected a whole number"]),
    (["-m", "hydra.sweep.dir=/dev/null/x", "--plan"], ["hydra.sweep.dir=/dev/null/x: /dev/null is not a folder"]),
    (["method="], ["method=", "fpgm, gmp"]),
    (["block.shape=[4,4]"], ["block.shape=[4,4]: only with granularity=block"]),
    (["nm.n=1"], ["nm.n=1: only with granularity=nm"]),
    (["ratios={conv1:1.0}"], ["ratios={conv1:1.0}: only with scope=custom"]),
    (["granularity=block", "block.shape=[0,4]"], ["block.shape=[0, 4]", "above 0", "[16,8]"]),
    (["granularity=block", "block.size=3"], ["block.size=3", "no such key", "shape"]),
    (["granularity=nm", "nm.n=4"], ["nm.n=4: from 1 to 3, below nm.m=4"]),
    (["granularity=nm", "sparsity=0.9"], ["sparsity=0.9", "2:4", "leave it out"]),
    (["granularity=nm", "scope=erk"], ["scope=erk: not with granularity=nm", "use scope=global"]),
    (["granularity=head"], ["granularity=head: model=resnet20", "use granularity=filter or weight"]),
    (["granularity=filter", "model=vit"], ["granularity=filter: model=vit", "use granularity=head or weight"]),
    (
        ["granularity=filter", "model=vit_b_16"],
        ["granularity=filter: model=vit_b_16", "use granularity=head or weight"],
    ),
    (["method=dsa", "scope=row"], ["scope=row: not with method=dsa", "use scope=global"]),
    (["method=fpgm"], ["granularity=weight: not with method=fpgm", "use granularity=filter"]),
    (["scope=custom"], ["ratios=null: scope=custom needs them", "ratios={conv1:1.0,layer1*:0.5}"]),
    (["scope=custom", "ratios={conv1:2}"], ["ratios.conv1=2", "from 0 to 1"]),
    (["quantization=int5"], ["quantization=int5", "int4", "did you mean"]),
    (["quantization.bits=9"], ["quantization.bits=9: from 1 to 8, or 0 for none"]),
    (["method=5"], ["method=5", "fpgm, gmp"]),
    (["method=null"], ["method=null", "fpgm, gmp"]),
    (["method=[dtp,gmp]"], ["method=[dtp,gmp]", "fpgm, gmp"]),
    (["~method"], ["method=null", "fpgm, gmp"]),
    (["method.nosuch=3"], ["method.nosuch=3", "method takes name, "]),
    (["method.rampp=3"], ["method.rampp=3", "did you mean method.ramp?"]),
    (["+foo=3"], ["foo=3", "no such key"]),
    (["granularity=filter", "model=lenet_300_100"], ["granularity=filter", "lenet_300_100", "granularity=weight"]),
    (["dataset=imagefolder"], ["dataset.root", "missing"]),
    (["dataset=imagefolder", "dataset.root=/nowhere"], ["dataset.root=/nowhere", "no such folder"]),
    (["model=resnet999"], ["model=resnet999", "resnet20", "vgg16", "torchvision", "did you mean resnet"]),
    (["model=vgg16_bn"], ["model=vgg16_bn", "model=torchvision model.arch=vgg16_bn"]),
    (["model=torchvision"], ["model.arch", "missing"]),
    (["model=torchvision", "model.arch=resnet999"], ["model.arch=resnet999", "did you mean resnet"]),
    (["device=foo"], ["device=foo", "auto, cpu, cuda"]),
    (["device="], ["device=", "auto, cpu, cuda"]),
    (["device=cuda"], ["device=cuda", "no CUDA device is present"]),
    (["device=cuda:N"], ["device=cuda:N", "cuda:0"]),
    (["seed=-1"], ["seed=-1", "0 to 4294967295"]),
    (["seed=1.5"], ["seed=1.5", "whole number"]),
    (["seed=${nosuch}"], ["nosuch", "seed"]),
    (["recipe.dense_epochs=-1"], ["recipe.dense_epochs=-1", "0 or more"]),
    (["recipe=7"], ["recipe=7", "quick, short, smoke"]),
    (["experiment=nosuch"], ["experiment=nosuch", "choose one of"]),
    (["sparsity=["], ["sparsity=[", "write key=value"]),
    (["sparsity"], ["'sparsity'", "write key=value"]),
    (["=3"], ["=3", "no such key"]),
    ([""], ["''", "write key=value"]),
    (["sparsity=é"], ["sparsity=é", "quotes"]),
    (["sparsity='é'"], ["sparsity=é", "number"]),
    (["sparsity=0.8,0.9"], ["sparsity=0.8,0.9", "use -m"]),
    (["--config-dir", "/nowhere"], ["--config-dir=/nowhere", "no such folder"]),
    (["--config-dir", 300 * "x"], ["--config-dir=x", "too long"]),
    (["--config-dir", "\0"], ["--config-dir=", "null"]),
    (["--cfg", "job", "--package", "nosuch"], ["package 'nosuch' not found"]),
    (["--cfg", "job", "--resolve", "seed=${nosuch}"], ["'nosuch' not found"]),
    (["--config-name", "nosuch"], ["--config-name=nosuch"]),
    (["--config-path", "."], ["--config-path", "--config-dir"]),
    (["--nosuch"], ["--nosuch", "--help"]),
    (["--seed=3"], ["--seed=3", "no dashes"]),
    (["-m", "--cfg", "job"], ["--multirun", "--cfg"]),
    (["method=../dtp"], ["method=../dtp", "choose one of"]),
    (["hydra/launcher=nosuch"], ["hydra/launcher=nosuch", "basic"]),
    (["-m", "sparsity=0.8,1.9"], ["sparsity=1.9"]),
    (["-m", "method=dtp,gpm"], ["method=gpm", "did you mean gmp?"]),
    (["-m", "sparsty=0.8,0.9"], ["sparsty=0.8", "did you mean sparsity?"]),
    (["-m", "granularity=weight,filter", "model=resnet20,lenet_300_100"], ["granularity=filter", "lenet_300_100"]),
    (["-m", "sparsity=interval(0,1)"], ["sweep"]),
    (["-m", "hydra.sweeper.cells_per_gpu=0"], ["hydra.sweeper.cells_per_gpu=0: 1 or more"]),
    (["-m", "experiment=a,b"], ["experiment=a,b", "one experiment at a time"]),
    (["-m", "method=gmp,magnitude", "method.every=5"], ["method.every=5", "no such key; method takes"]),
    (["hydra.sweeper.grid=[]", "-m"], ["hydra.sweeper.grid", "did you mean hydra.sweeper.grids?"]),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # --config-dir adds to both
    monkeypatch.setenv("PYTHONPATH", str(CONF.parent))
    monkeypatch.setattr(validate, "cuda_devices", lambda: 0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configs that reached `execute`, which does nothing but fail for the seeds 1 (status) and 2 (ConfigError)."""
    received: list[Config] = []

    def execute(config: Config, cell: str = "", wait: bool = True) -> int:
        received.append(config)
        if config.seed == 2:
            raise ConfigError("method.x=1: found out late")
        return int(config.seed == 1)

    monkeypatch.setattr(job, "execute", execute)
    return received


def python(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **hidden, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def mapping(text: str) -> DictConfig:
    parsed = OmegaConf.create(text)
    assert isinstance(parsed, DictConfig)
    return parsed


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[" ".join(words) or "empty" for words, _ in WRONG])
def test_wrong_input_is_one_line(
    words: list[str], expected: list[str], runs: list[Config], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pruner: ") and said.err.endswith("\n") and said.err.count("\n") == 1
    for part in expected:
        assert part in said.err
    assert runs == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["main", "compare", "export"])
def test_the_help_of_every_command_needs_no_torch(command: str) -> None:
    code = f"""
import sys
from contextlib import suppress
from pruner.cli.{command} import main
with suppress(SystemExit):
    main(["--help"])
sys.exit("torch" in sys.modules or "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr


def test_torch_is_never_imported_before_the_config_is_right(tmp_path: Path) -> None:
    """Torch takes seconds to import; that help, configs and refusals (every sixth) do without keeps them below one."""
    code = """
import json, sys
import pruner.run.job
from pruner.cli.main import main
pruner.run.job.execute = lambda config: 0
statuses = [main(words) for words in json.loads(sys.argv[1])]
loaded = [name for name in ("torch", "torchvision", "pandas", "sklearn", "numpy") if name in sys.modules]
print(json.dumps([statuses, loaded]))
"""
    fine = [["--help"], ["--cfg", "job"], [], ["model=resnet50", "dataset=cifar10"]]
    wrong = [words for words, _ in WRONG[::6]]
    done = python(code, json.dumps(wrong + fine))
    assert done.returncode == 0, done.stderr
    statuses, loaded = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [2] * len(wrong) + [0] * len(fine)
    assert loaded == []
    assert len(done.stderr.splitlines()) == len(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["sparsity=1.5"], ["sparsty=0.9"], ["device=cuda:0"], ["model=rèsnet"]])
def test_a_real_process_exits_with_2_and_one_line(words: list[str]) -> None:
    done = python("import runpy; runpy.run_module('pruner', run_name='__main__')", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("pruner: ")


KEYS = st.sampled_from(["sparsity", "method", "recipe.dense_lr", "dataset.root", "a.b", "+x", "~seed", "model@x", ""])


@given(key=KEYS, value=st.text(st.sampled_from("ab1.,=:[]{}()'\"\\$ é\n~+-"), max_size=8))
@settings(deadline=None, max_examples=15)
def test_no_word_makes_a_traceback(key: str, value: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(["--cfg", "job", f"{key}={value}"])
    assert status in (0, 2)
    assert len(said.getvalue().splitlines()) == (1 if status else 0)


# ---------------------------------------------------------------- devices


def fake_driver(counts: dict[str, tuple[int, int]]) -> Callable[[str], object]:
    """A stand-in for ctypes.CDLL: for a library's name, what starting it returns and how many devices it has."""

    def load(library: str) -> object:
        if library not in counts:
            raise OSError(library)
        started, count = counts[library]

        def tell(pointer: ctypes._Pointer[ctypes.c_int]) -> int:
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int))[0] = count
            return 0

        return types.SimpleNamespace(cuInit=lambda flags: started, cuDeviceGetCount=tell, hipGetDeviceCount=tell)

    return load


@pytest.mark.parametrize(
    ("drivers", "count"),
    [
        ({}, 0),
        ({"libcuda.so.1": (0, 2)}, 2),
        ({"libcuda.so.1": (100, 2)}, 0),  # installed, no device: cuInit fails
        ({"nvcuda.dll": (0, 1)}, 1),
        ({"libcuda.so.1": (100, 0), "libamdhip64.so": (0, 4)}, 4),
    ],
)
def test_devices_are_counted_by_the_driver(
    drivers: dict[str, tuple[int, int]], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the fixture's cuda_devices
    monkeypatch.setattr(ctypes, "CDLL", fake_driver(drivers))
    assert validate.cuda_devices() == count


@pytest.mark.parametrize(
    ("device", "count", "refusal"),
    [
        ("auto", 0, None),
        ("cpu", 0, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cuda:1", 1, "device=cuda:1: not present; there is cuda:0"),
        ("cuda:2", 2, "device=cuda:2: not present; there is cuda:0 to cuda:1"),
        ("cuda", 0, "device=cuda: no CUDA device is present; use auto or cpu"),
    ],
)
def test_a_device_must_be_present(
    device: str, count: int, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "cuda_devices", lambda: count)
    with pytest.raises(ConfigError) if refusal else contextlib.nullcontext() as caught:
        validate.check_device(device)
    assert caught is None or str(caught.value) == refusal


def test_metal_is_refused_for_its_lack_of_float64() -> None:
    with pytest.raises(ConfigError, match="device=mps: has no float64"):
        validate.check_device("mps")


# ---------------------------------------------------------------- one run


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True)
    return root


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] != "experiment"])
def test_every_choice_composes(group: str, name: str, runs: list[Config], images: Path) -> None:
    needed = {
        "imagefolder": [f"dataset.root='{images}'"],
        "dataset=imagenet": [f"dataset.root='{images}'"],
        "torchvision": ["model.arch=resnet18"],
        "head": ["model=vit"],
    }
    needed |= {only: ["granularity=filter"] for only in ("fpgm", "l1")}
    needed["custom"] = ["ratios={conv1:1.0}"]
    choice = f"{group}={name}"
    assert main([choice, *needed.get(choice, needed.get(name, []))]) == 0
    value = getattr(runs[0], group)
    shown = "resnet18" if name == "torchvision" else name  # tables tell its networks apart
    assert shown == (value if isinstance(value, str) else getattr(value, "label", value.name))


BUILTIN = {"dataset": data.BUILTIN, "model": models.BUILTIN, "method": methods.BUILTIN}


def taker(group: str, named: str) -> typing.Any:
    """What takes a choice's options: its class or function, of a method its class of options."""
    found = resolve(group, named, BUILTIN[group])
    return found.Options if group == "method" else found


@pytest.mark.parametrize(("group", "name"), [choice for choice in CHOICES if choice[0] in BUILTIN])
def test_a_choice_spells_out_what_its_class_takes(group: str, name: str) -> None:
    of_all = {"name", "validation", "mean", "std", "expected_accuracy"}
    written = set(mapping((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))) - of_all
    by_the_program = {"dataset": {"data_dir", "device"}, "model": {"shape", "classes"}, "method": set()}
    named = mapping((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))["name"]
    taken = set(inspect.signature(taker(group, named)).parameters)
    assert written == taken - by_the_program[group]


@pytest.mark.parametrize("group", BUILTIN)
def test_a_choice_says_by_its_values_which_types_its_class_takes(group: str) -> None:
    """Which is what --plan, that does not load the class, goes by."""
    for path in sorted((CONF / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        factory = taker(group, values.pop("name"))
        fields_say = is_dataclass(factory) or not inspect.isclass(factory)
        hints = typing.get_type_hints(factory if fields_say else factory.__init__)
        simple = {name: type(value) for name, value in values.items() if isinstance(value, int | float | bool | str)}
        assert {name: hints[name] for name in simple.keys() - {"validation"}} == {
            name: kind for name, kind in simple.items() if name != "validation"
        }, path.name


@pytest.mark.parametrize("path", sorted(CONF.glob("recipe/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_spells_out_every_key(path: Path) -> None:
    assert list(mapping(path.read_text(encoding="utf-8"))) == [field.name for field in fields(Recipe)]


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_yaml_file_begins_with_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[0].startswith("# @package"):
        lines = lines[1:]
    assert lines[0].startswith("# ") and len(lines[0]) <= 89, "one line of --help, 120 characters with the name"


def test_the_defaults_and_where_options_go(runs: list[Config], tmp_path: Path) -> None:
    assert main([]) == 0
    assert main(["method=gmp", "method.ramp=0.5", "sparsity=0.75", "budget.exclude=[first]"]) == 0
    default, other = runs
    assert (default.dataset.label, default.model.label, default.method.label) == ("digits", "resnet20", "dtp")
    assert (default.granularity, default.scope, default.budget.name) == ("weight", "global", "params")
    assert (default.sparsity, default.recipe.name, default.seed, default.device) == (0.9, "quick", 0, "auto")
    assert (default.threads, default.data_dir, default.output_dir) == (0, "data", "outputs")
    assert (other.method.name, other.method.options) == (
        "gmp",
        {"ramp": 0.5, "every": 5, "score": {"name": "magnitude"}},
    )
    assert (other.sparsity, other.budget.exclude) == (0.75, ("first",))
    assert list(tmp_path.iterdir()) == []  # Hydra leaves no folder, no .hydra and no log


def test_the_status_of_a_run_is_the_exit_status(runs: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert [main([f"seed={seed}"]) for seed in (0, 1, 2)] == [0, 1, 2]
    assert capsys.readouterr().err == "pruner: method.x=1: found out late\n"


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "vgg11_bn", "vit_b_16"])
def test_torchvision_models_are_choices_by_name(name: str, runs: list[Config]) -> None:
    assert main([f"model={name}"]) == 0
    assert (runs[0].model.label, runs[0].model.name) == (name, "torchvision")
    assert runs[0].model.options == {"arch": name, "weights": None, "expected_accuracy": None}


def test_our_vgg16_is_not_torchvisions(runs: list[Config]) -> None:
    assert main(["model=vgg16"]) == 0
    assert (runs[0].model.name, runs[0].model.options) == ("vgg16", {"width": 1.0})


def test_show_the_config_and_the_version(runs: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seed=3", "--cfg", "job", "method=gmp"]) == 0
    shown = mapping(capsys.readouterr().out)
    assert (shown["seed"], shown["method"]["name"], shown["method"]["every"]) == (3, "gmp", 5)
    assert set(shown) == {field.name for field in fields(Config)} - {"block", "nm", "ratios"}
    assert main(["--cfg", "job", "--package", "budget"]) == 0
    assert "min_units: 1" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pruner ")
    assert main(["--shell-completion", "install=bash"]) == 0
    assert "complete" in capsys.readouterr().out
    assert runs == []


def test_flags_that_hydra_answers() -> None:
    """In processes of their own, because Hydra sets up logging for these."""
    asks = "import sys; from pruner.cli.main import main; sys.exit(main())"
    assert "--multirun" in python(asks, "--hydra-help").stdout
    assert str(CONF) in python(asks, "--info", "searchpath").stdout


# ---------------------------------------------------------------- help


def test_help_lists_every_choice_and_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal, where one is said to be there
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for group, name in CHOICES:
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{group}="))
        block = lines[start + 1 : lines.index("", start)]
        described = [line.split(maxsplit=1)[1] for line in block if line.split(maxsplit=1)[0] == name]
        assert len(described) == 1 and len(described[0]) > 10
    words = " ".join(lines).split()
    assert {"resnet50", "mobilenet_v2"} <= set(words) and "vgg16_bn" not in words
    keys = set(mapping((CONF / "config.yaml").read_text(encoding="utf-8"))) - {"defaults", "hydra"}
    for key in keys | {f"recipe.{field.name}" for field in fields(Recipe) if field.name != "name"}:
        assert any(line.startswith(f"  {key}=") for line in lines), key
    assert "Exit status" in lines and max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[lines.index("Exit status") + 1 :]] == ["0", "1", "2", "130"]


@pytest.mark.parametrize("columns", [40, 60])
def test_help_fits_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the commands, which are there to be copied, and names that are longer."""
    assert main(["--help"]) == 0
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.split() == wide.split()
    assert {line for line in said.splitlines() if len(line) > columns and "pruner" not in line} == set()


# ---------------------------------------------------------------- sweeps


@pytest.fixture
def handlers() -> Iterator[list[logging.Handler]]:
    before = list(logging.getLogger().handlers)
    yield before
    assert logging.getLogger().handlers == before, "Hydra has set up logging"


def test_a_sweep_runs_every_cell_in_order(
    runs: list[Config], handlers: list[logging.Handler], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["recipe=smoke", "-m", ONE_BY_ONE, "method=gmp,random", "sparsity=0.8,0.9"]) == 0
    cells = [("gmp", 0.8), ("gmp", 0.9), ("random", 0.8), ("random", 0.9)]
    assert [(run.method.label, run.sparsity) for run in runs] == cells
    assert {run.recipe.name for run in runs} == {"smoke"}
    said = [f"[{n}/4] method={method} sparsity={sparsity}" for n, (method, sparsity) in enumerate(cells, 1)]
    assert capsys.readouterr().out.splitlines() == [*said, "4 cells: 0 done, 4 not run"]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1 and written[0].name == "sweep.yaml"
    assert written[0].parent.parent == tmp_path / "outputs" / "sweeps"


def test_a_failing_cell_does_not_stop_the_others(runs: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", ONE_BY_ONE, "seed=0,1,3", "output_dir=elsewhere"]) == 1
    assert main(["-m", ONE_BY_ONE, "seed=0,2,1,3"]) == 2
    assert [run.seed for run in runs] == [0, 1, 3, 0, 2, 1, 3]
    said = capsys.readouterr()
    assert said.err == "pruner: method.x=1: found out late\n"
    assert "4 cells: 0 done, 1 failed, 3 not run\nfailed: [2/4] seed=2: method.x=1: found out late\n" in said.out
    assert [path.name for path in Path("elsewhere").iterdir()] == ["sweeps"]


@pytest.mark.parametrize("sweeper", ["basic", "grids"])
def test_hydras_own_sweeper_will_do_and_folders_may_have_odd_names(sweeper: str, runs: list[Config]) -> None:
    words = [f"hydra/sweeper={sweeper}", "hydra.sweeper.max_batch_size=2", 'output_dir="it\'s here"']
    assert main(["-m", ONE_BY_ONE, *words, "seed=0,3,4"]) == 0
    assert [run.seed for run in runs] == [0, 3, 4]
    assert [path.name for path in Path().glob("*/sweeps/*/*")] == ["sweep.yaml"]
    assert [path.name for path in Path().iterdir()] == ["it's here"]


def test_what_is_swept_can_be_a_range_or_a_reference(runs: list[Config]) -> None:
    assert main(["-m", ONE_BY_ONE, "seed=range(3,6)", "method.ramp=${sparsity}", "sparsity=0.5"]) == 0
    assert [(run.seed, run.method.options["ramp"]) for run in runs] == [(3, 0.5), (4, 0.5), (5, 0.5)]


# ---------------------------------------------------------------- a user's own folder


@pytest.fixture
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "method").mkdir()
    (folder / "model").mkdir()
    (folder / "method" / "coin.yaml").write_text("# tosses a coin\nname: coins_of_mine:Coin\nbias: 0.5\n")
    (folder / "method" / "broken.yaml").write_text("name: [\n")
    (folder / "model" / "resnet50.yaml").write_text("# my own network\nname: coins_of_mine:Net\ndepth: 3\n")
    (folder / "coins_of_mine.py").write_text("class Coin: ...\nclass Net: ...\n")
    return folder


def test_a_users_choices_and_modules(mine: Path, runs: list[Config]) -> None:
    assert main(["--config-dir", str(mine), "method=coin", "method.bias=0.7", "model=resnet50"]) == 0
    assert (runs[0].method.label, runs[0].method.name) == ("coin", "coins_of_mine:Coin")
    assert runs[0].method.options == {"bias": 0.7}
    assert runs[0].model.options == {"depth": 3}  # the file, not torchvision's model of that name
    child = "from coins_of_mine import Coin; print(Coin.__name__)"
    assert python(child).stdout == "Coin\n"
    assert main(["model=resnet50"]) == 0
    assert runs[1].model.options == {"arch": "resnet50", "weights": None, "expected_accuracy": None}


def test_a_users_choices_are_swept_named_and_shown(
    mine: Path, runs: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", ONE_BY_ONE, "--config-dir", str(mine), "method=coin,random"]) == 0
    assert [run.method.label for run in runs] == ["coin", "random"]
    assert main(["--config-dir", str(mine), "--help"]) == 0
    assert "tosses a coin" in capsys.readouterr().out
    assert main(["--config-dir", str(mine), "method=cion"]) == 2
    assert "did you mean coin?" in capsys.readouterr().err
    assert main(["--config-dir", str(mine), "method=broken"]) == 2
    said = capsys.readouterr().err
    assert "broken.yaml" in said and said.count("\n") == 1


def test_every_torchvision_name_is_reachable() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet50"):
        check_arch("resnet5")
    for name in torchvision_names():
        check_arch(name)


def test_a_folder_that_may_not_be_read_is_said(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["--config-dir", str(mine), "--plan"]) == 2
    assert capsys.readouterr().err == f"pruner: --config-dir={mine}: Permission denied\n"


def test_help_of_a_file_in_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "latin.yaml").write_bytes("# für Kanäle\nname: gmp\n".encode("latin-1"))
    assert main(["--config-dir", str(tmp_path / "mine"), "--help"]) == 0
    assert "latin" in capsys.readouterr().out
