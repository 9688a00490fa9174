"""The command that a page shows gives the very same run, and settings that no column has are not mixed silently."""

import csv
import io
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from pruner.cli.compare import main
from pruner.compare.notes import notes
from pruner.compare.settings import as_word, command, differences, flat
from pruner.compare.tables import tables
from pruner.compose.choices import conf_folder
from pruner.config import from_dict
from pruner.store.folders import RunFolder
from pruner.store.row import COLUMNS, FURTHER, read_rows, write_table
from tests.compare.made_rows import run

TABLES = conf_folder().parent / "outputs/tables"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["method=gmp", "sparsity=0.95", "seed=3", "threads=1"],
        ["dataset=cifar10", "recipe=short", "granularity=filter", "budget=macs", "sparsity=0.5"],
        ["recipe=cifar", "recipe.weight_decay=1e-4", "recipe.dense_milestones=[3,5]"],
        ["granularity=filter", "method=dtp", "method.sharpness=5.0"],  # conf/tuned/ has another value
        ["method=dtp", "method.sharpness=5"],  # the default is 5.0
        ["granularity=nm", "nm.n=1", "method=smart", "method.schedule=reheating"],
        ["granularity=block", "block.shape=[4,2]", "method.sharpness=100", "dataset.validation=0.1"],
        ["scope=custom", "ratios={conv1:1.0,layer1*:0.5}", "budget.exclude=[first,last]"],
        ["quantization=int4", "method=dpp", "scope=row", "sparsity=0.0"],
        ["dataset=synthetic", "dataset.classes=7", "model=vit", "granularity=head"],
        ["dataset=synthetic", "dataset.image_size=32", "model=resnet18"],
        ["dataset=synthetic", "dataset.image_size=32", "model=torchvision", "model.arch=vgg16_bn"],
        ["method=gmp", "method.score.name=snip", "+method.score.batches=2"],
        ["method=grasp", "~method.score.temperature"],
        ["method=spartan", "granularity=kernel", "method.revive=true"],
        ["method=spartan", "granularity=kernel", "~method.revive"],
        ["data_dir='/data/over there'", "output_dir=elsewhere", "model.width=8"],
        ["dataset.mean=[0.5]", "dataset.std=[0.25]", "model=resnet20"],
        ["dataset=synthetic", "model=resnet18", "model.weights=default", "model.expected_accuracy=69.8"],
    ],
)
def test_the_command_gives_the_same_run(composed, words):
    config = composed(*words)
    said = command(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    program, *again = shlex.split(said)
    assert program == "pruner"
    assert composed(*again).run_id == config.run_id
    assert len(again) <= len(words) + 1, said  # what the files say already is not repeated


def test_an_option_that_came_later_leaves_the_names_of_older_runs(composed):
    """method.revive is younger than Spartan's tables: to spell out what they had without it is the same run."""
    older, same, other = (
        composed("method=spartan", word) for word in ("~method.revive", "seed=0", "method.revive=false")
    )
    assert older.run_id == same.run_id != other.run_id
    assert older.dense_id == other.dense_id
    assert flat(older.to_dict()) == flat(same.to_dict())  # so tables put them into one line


def without(config, group, *keys):
    """`config` as of a time, or of a file of one's own, that has no such options."""
    values = config.to_dict()
    for key in keys:
        del values[group]["options"][key]
    return from_dict(values)


def test_keys_of_images_and_weights_leave_the_names_of_older_runs(composed, tmp_path):
    """How images are normalised is part of a run only where it is said; what weights are said to reach never is."""
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
    folder = ["dataset=imagefolder", f"dataset.root={tmp_path}", "model=resnet18", "model.weights=default"]
    for words, young in (
        (["dataset=digits"], {"mean": "[0.5]", "std": "[0.5]"}),
        (folder, {"mean": "[0.5,0.5,0.5]", "std": "[0.5,0.5,0.5]", "crop_scale": "[0.2,1]"}),
    ):
        now = composed(*words)
        older = without(now, "dataset", *young)
        assert (older.run_id, older.dense_id) == (now.run_id, now.dense_id)
        assert flat(older.to_dict()) == flat(now.to_dict())
        for key, value in young.items():
            other = composed(*words, f"dataset.{key}={value}")
            assert other.run_id != now.run_id and other.dense_id != now.dense_id
    now = composed(*folder)
    assert without(now, "model", "expected_accuracy").run_id == now.run_id
    assert composed(*folder, "model.expected_accuracy=69.8").run_id == now.run_id
    assert now.to_dict()["dataset"]["options"]["resize"] == 256


def test_what_follows_the_images_size_is_part_of_the_run(composed, tmp_path):
    """dataset.resize was 256 for images of any size; such runs keep their names, and the same words have another."""
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
    words = ["dataset=imagefolder", f"dataset.root={tmp_path}", "threads=1"]
    fixed, follows, said = (composed(*words, "dataset.image_size=64", f"dataset.resize={n}") for n in (256, "null", 73))
    assert fixed.dataset.options["resize"] == 256
    assert follows.run_id == said.run_id != fixed.run_id
    assert composed(*words, "dataset.resize=256").run_id == composed(*words).run_id
    # The id of older runs of a file of one's own that has no such key, which were of 224 and 256.
    assert "resize" not in without(composed(*words), "dataset", "resize").dataset.options
    assert without(follows, "dataset", "resize").run_id == follows.run_id


def test_a_recipe_of_another_name_is_spelled_out(composed):
    config = composed("recipe=cifar", "recipe.name=mine")
    said = command(config.to_dict())
    assert "recipe.prune_epochs=60" in said and "recipe=cifar" not in said
    assert composed(*shlex.split(said)[1:]).run_id == config.run_id


@pytest.mark.parametrize(
    "value",
    [
        *(
            "it's",
            "1",
            "null",
            "True",
            "x y,z",
            "back\\",
            "a\\'b",
            "",
            "é",
            "1e3",
            "[a]",
            "a=b",
            "$HOME",
            "package.module:Class",
        ),
        *(None, True, 3, 5e-05, 1e22, [], {}, [True, "off-1", None, [1.5]], {"conv1": 1.0, "layer1*": 0.5}),
    ],
)
def test_every_value_comes_back_from_the_command_line(value):
    word = OverridesParser.create().parse_override(f"key={as_word(value)}")
    assert word.value() == value and type(word.value()) is type(value)


def test_a_method_of_ones_own_needs_its_folder(composed):
    config = composed("--config-dir", "examples/own_method", "method=movement", "method.ramp=0.25")
    said = shlex.split(command(config.to_dict()))
    assert said[1:4] == ["--config-dir", "DIR", "method=movement"]
    again = [word.replace("DIR", "examples/own_method") for word in said[1:]]
    assert composed(*again).run_id == config.run_id


def test_differences_leave_out_what_cannot_change_a_result(composed):
    ours = flat(composed("method=gmp", "threads=1", "data_dir=a").to_dict())
    theirs = flat(composed("method=gmp", "recipe.prune_lr=0.01", "method.ramp=0.5", "seed=1").to_dict())
    assert differences([ours, theirs], ["seed"]) == {"method.ramp": ["0.3", "0.5"], "recipe.prune_lr": ["0.01", "0.05"]}
    assert differences([ours, theirs], ["seed", "method"]) == {"recipe.prune_lr": ["0.01", "0.05"]}
    assert differences([ours], []) == differences([], []) == {}


def test_different_recipes_in_one_table_are_said(composed):
    rows = [run("dtp"), run("gmp"), run("gmp", seed=1)]
    words = [["method=dtp"], ["method=gmp", "recipe.prune_lr=0.01"], ["method=gmp", "method.ramp=0.5", "seed=1"]]
    settings = {row["run_id"]: flat(composed(*given).to_dict()) for row, given in zip(rows, words, strict=True)}
    (table,) = tables(rows)
    said = "note: runs of different settings: recipe.prune_lr 0.01, 0.05; gmp: method.ramp 0.3, 0.5"
    assert notes(table, settings) == [said]
    assert notes(table, {}) == []


def test_a_search_is_laid_out_by_the_options_in_which_its_runs_differ(composed, outputs, tmp_path, capsys):
    words = [["method=gmp"], ["method=gmp", "method.ramp=0.5"], ["method=gmp", "method.ramp=0.5", "seed=1"]]
    words += [["method=pdp"], ["method=magnitude"]]
    configs = [composed(*given) for given in words]
    rows = [run(c.method.name, c.sparsity, c.seed, 80.0 + n) | {"run_id": c.run_id} for n, c in enumerate(configs)]
    outputs(*rows)
    for index, config in enumerate(configs):
        RunFolder(tmp_path / "outputs" / "digits-resnet20" / f"run{index}").write_config(config.to_dict())
    assert main(["--rows", "method,options", "--output", "t", "--html", "t.html"]) == 0
    text = capsys.readouterr().out
    assert "ramp=0.5" in text and "81.50 ± 0.71 (2)" in text and "ramp=0.3" in text and "80.00 (1)" in text
    assert "note" not in text
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert len(lines) == 5 and "options" in lines[0]
    assert main(["t-rows.csv"]) == 0  # the rows are as any others
    assert main(["--rows", "method,options", "--baseline", "gmp"]) == 2
    assert "--baseline=gmp: several options in one setting: ramp=0.3; ramp=0.5" in capsys.readouterr().err
    assert main(["--rows", "method,options", "--baseline", "pdp", "--format", "csv"]) == 0  # one setting
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {line["options"]: line["difference"] for line in lines if line["method"] == "gmp"} == {
        "ramp=0.5": "-2.0",
        "ramp=0.3": "-3.0",
    }


def test_shapes_of_units_are_of_different_tables(composed, outputs, tmp_path, capsys):
    """Blocks of 16x8 and of 4x4, 2:4 and 4:8: a row has the granularity alone, its config.yaml the shape."""
    words = [["granularity=block"], ["granularity=block", "block.shape=[4,4]"], ["granularity=nm"]]
    words += [["granularity=nm", "nm.n=4", "nm.m=8"]]
    configs = [composed("method=gmp", *given) for given in words]
    rows = [run("gmp", c.sparsity, granularity=c.granularity) | {"run_id": c.run_id} for c in configs]
    outputs(*rows)
    for index, config in enumerate(configs):
        RunFolder(tmp_path / "outputs" / "digits-resnet20" / f"run{index}").write_config(config.to_dict())
    assert main(["outputs", "--output", "t"]) == 0
    captions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("digits resnet20: ")]
    found = [caption.split(": ")[1].split(",")[0] for caption in captions]
    assert found == ["block 16x8", "block 4x4", "nm 2:4", "nm 4:8"]
    rows = read_rows(tmp_path / "t-rows.csv", further=FURTHER)
    assert [row["granularity"] for row in rows] == ["block", "block", "nm", "nm"]  # what granularity= takes
    assert [row["granularity_in_full"] for row in rows] == found
    assert main(["t-rows.csv"]) == 0  # gathered rows keep it
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("digits resnet20: ")] == captions
    assert main(["outputs", "--filter", "granularity=nm"]) == 0
    assert capsys.readouterr().out.count("digits resnet20: ") == 2
    for source in ("outputs", "t-rows.csv"):
        for value, count in (("block", 2), ("block 4x4", 1), ("nm 2:4,block", 3)):
            assert main([source, "--filter", f"granularity={value}"]) == 0
            assert capsys.readouterr().out.count("digits resnet20: ") == count
        assert main([source, "--filter", "granularity=block 5x5"]) == 2
        capsys.readouterr()


def test_held_out_images_are_no_test_images(composed, outputs, tmp_path, capsys):
    """Accuracies of training images that stood in for the test images are of another table, which says so."""
    configs = [composed("method=gmp", *words) for words in ([], ["dataset.validation=0.1"])]
    outputs(*(run("gmp", c.sparsity, accuracy=90.0) | {"run_id": c.run_id} for c in configs))
    for index, config in enumerate(configs):
        RunFolder(tmp_path / "outputs" / "digits-resnet20" / f"run{index}").write_config(config.to_dict())
    assert main(["outputs", "--output", "t"]) == 0
    rows = read_rows(tmp_path / "t-rows.csv", further=FURTHER)
    assert [(row["dataset"], row["dataset_in_full"]) for row in rows] == [
        ("digits", None),
        ("digits", "digits (10% held out)"),
    ]
    for source in (None, ["t-rows.csv"]):
        assert source is None or main(source) == 0
        said = capsys.readouterr().out.splitlines()
        captions = [line.partition(":")[0] for line in said if line.startswith("digits")]
        assert captions == ["digits resnet20", "digits (10% held out) resnet20"]
        assert "Accuracy in percent, where so said on held-out training images" in [
            line.partition(":")[0] for line in said
        ]
    RunFolder(tmp_path / "outputs" / "digits-resnet20" / "run1").result.unlink()
    assert main(["outputs"]) == 0
    assert "\nTest accuracy in percent: " in capsys.readouterr().out


def test_rows_that_older_versions_gathered_are_as_those_of_today(outputs, tmp_path, capsys):
    """They had the names in full in the columns themselves."""
    older = {"granularity": "block 16x8", "dataset": "digits (10% held out)"}
    rows = [run("gmp") | older, run("gmp", seed=1) | older, run("pdp")]
    write_table(tmp_path / "older.csv", COLUMNS, rows)
    assert main(["older.csv", "--output", "t"]) == 0
    shown = capsys.readouterr().out
    assert "digits (10% held out) resnet20: block 16x8, global" in shown
    rows = read_rows(tmp_path / "t-rows.csv", further=FURTHER)
    assert [(row["granularity"], row["dataset"]) for row in rows] == [("block", "digits")] * 2 + [("weight", "digits")]
    assert main(["t-rows.csv"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["older.csv", "--filter", "granularity=block", "dataset=digits", "--format", "csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["granularity"], line["dataset"], line["n"]) == ("block 16x8", "digits (10% held out)", "2")
    assert main(["older.csv", "--baseline", "granularity=block 16x8"]) == 0


@pytest.mark.parametrize("path", sorted(TABLES.glob("t*-rows.csv")), ids=lambda path: path.stem)
def test_a_committed_table_is_what_its_rows_give(path, outputs, capsys):
    """Their names in full are in the columns themselves; filters take the choices all the same."""
    granularities = {row["granularity"].partition(" ")[0] for row in read_rows(path)}
    assert main([str(path), "--output", "t", "--filter", f"granularity={','.join(granularities)}"]) == 0
    assert {row["granularity"] for row in read_rows(Path("t-rows.csv"), further=FURTHER)} == granularities
    shown = capsys.readouterr().out
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == shown
