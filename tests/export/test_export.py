"""What ships: really smaller, the same outputs, in three formats that were read back; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import DenseNet, MobileNetV2

import pruner.data
from pruner.cli.export import NAMES, main
from pruner.config import Config
from pruner.export.accuracy import right
from pruner.export.formats import ABOUT, FORMATS, OPSET
from pruner.export.networks import load_model
from pruner.export.shipped import shipped
from pruner.sparsity.units.layers import count_macs
from pruner.store.folders import RunFolder
from pruner.store.tensors import read_sealed, write_sealed
from tests.exporting import refusal

Make = Callable[..., Config]
Finish = Callable[[Config], RunFolder]


def images_of(side: int, channels: int = 3) -> dict[str, Any]:
    sizes = {"classes": 6, "image_size": side, "channels": channels, "train_size": 64, "test_size": 24, "noise": 0.2}
    return {"label": "synthetic", "name": "synthetic", "options": sizes}


def model_of(name: str, **options: Any) -> dict[str, Any]:
    return {"label": name, "name": name, "options": options}


def mobilenet_of_five_blocks(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """As torchvision's, which takes half a minute to export: depthwise convolutions, with and without residuals."""
    blocks = [[1, 8, 1, 1], [6, 12, 2, 2], [6, 16, 1, 2]]  # expansion, channels, how many, stride of the first
    return MobileNetV2(num_classes=classes, width_mult=0.5, inverted_residual_setting=blocks)


def densenet_of_two_blocks(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """As torchvision's, which take a minute to export: layers that read all the layers before them."""
    return DenseNet(growth_rate=8, block_config=(3, 2), num_init_features=8, bn_size=2, num_classes=classes)


# One of each family, pruned where whole channels or heads go.
FAMILIES: dict[str, dict[str, Any]] = {
    "lenet5": {"model": model_of("lenet5"), "dataset": images_of(16, channels=1), "granularity": "filter"},
    "resnet20": {"model": model_of("resnet20", width=4), "granularity": "filter"},
    "resnet20 without parameters in shortcuts": {
        "model": model_of("resnet20", width=4, shortcut="pad"), "granularity": "filter"
    },
    "vgg16": {"model": model_of("vgg16", width=0.1), "dataset": images_of(32), "granularity": "filter"},
    "squeezenet": {
        "model": model_of("torchvision", arch="squeezenet1_1"), "dataset": images_of(32), "granularity": "filter"
    },
    "mobilenet_v2, shorter": {
        "model": {**model_of("mobilenet"), "name": "tests.export.test_export:mobilenet_of_five_blocks"},
        "granularity": "filter",
    },
    "densenet, shorter": {
        "model": {**model_of("densenet"), "name": "tests.export.test_export:densenet_of_two_blocks"},
        "granularity": "filter",
    },
    "vit": {
        "model": model_of("vit", patch=8, dim=12, depth=2, heads=3, mlp=16), "dataset": images_of(16),
        "granularity": "head", "sparsity": 0.4,
    },
}  # fmt: skip


QUICK = {"lenet5", "mobilenet_v2, shorter", "vit"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in FAMILIES]
)
def test_every_family_ships_in_every_format(family: str, tiny_config: Make, finish: Finish) -> None:
    config = tiny_config(recipe={"dense_epochs": 1, "prune_epochs": 1}, **FAMILIES[family])
    run = finish(config)
    row = run.finished()
    assert row is not None and row["latency_ms"] > 0 and row["dense_latency_ms"] > 0
    network = shipped(run.path, own_code=True)
    kept = sum(parameter.numel() for parameter in network.model.parameters())
    assert kept == row["params_kept"] < row["params_total"]
    assert count_macs(network.model, network.shape) == row["macs_kept"] < row["macs_total"]  # torch's own counter
    test = pruner.data.load(config.dataset, config.data_dir, "cpu").test
    for form, write in FORMATS.items():
        written = write(network, run.path / "export")
        assert network.difference(written.predict) <= 1e-5, form
        assert 100 * right(written.predict, test) / len(test) == pytest.approx(row["accuracy"], abs=1e-9), form
        for batch in (1, 7):
            assert written.predict(torch.randn(batch, *network.shape)).shape == (batch, 6)
    exported = onnx.load(run.path / "export" / "model.onnx")
    assert [(one.domain, one.version) for one in exported.opset_import if not one.domain] == [("", OPSET)]
    about = json.loads({entry.key: entry.value for entry in exported.metadata_props}[ABOUT])
    assert (
        about["params"] == kept and about["run"]["run_id"] == config.run_id and len(about["mean"]) == len(about["std"])
    )
    session = onnxruntime.InferenceSession(run.path / "export" / "model.onnx")
    assert [one.name for one in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]


def test_the_command_offers_every_format() -> None:
    assert set(NAMES) == set(FORMATS)  # the names are known before torch is imported


FINE = [
    {"granularity": "weight", "sparsity": 0.9},
    {"granularity": "weight", "scope": "row", "sparsity": 0.5},
    {"granularity": "kernel"},
    {"granularity": "block", "block": {"shape": [3, 2]}},
    {"granularity": "nm", "nm": {"n": 2, "m": 4}},
    {"granularity": "filter"},
]


@pytest.mark.parametrize("bits", [0, 3])
@pytest.mark.parametrize("what", FINE, ids=lambda what: what["granularity"] + what.get("scope", ""))
def test_the_file_is_as_small_as_the_row_says(
    what: dict[str, Any], bits: int, tiny_config: Make, finish: Finish
) -> None:
    run = finish(tiny_config(quantization={"name": "some", "bits": bits}, **what))
    row = run.finished()
    assert row is not None
    network = shipped(run.path)
    written = FORMATS["safetensors"](network, run.path / "export")
    assert f"of which {row['size_bytes']:,} are weights" in written.size
    assert (row["latency_ms"] is None) is (what["granularity"] != "filter")  # zeros alone give no speed
    loaded, about = load_model(run.path / "export")
    expected = network.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(network.probes()), network.model(network.probes()))
    assert about["bits"] == bits and about["run"]["run_id"] == row["run_id"]
    stored = load_file(run.path / "export" / "model.safetensors")
    packed = [name for name in stored if stored[name].dtype == torch.uint8 and ":" not in name]
    assert len(packed) == (len(network.tiles) if bits else 0)  # integer weights


def test_a_fresh_process_predicts_the_same(tiny_config: Make, finish: Finish, tmp_path: Path) -> None:
    run = finish(tiny_config(granularity="filter", quantization={"name": "int4", "bits": 4}))
    assert main([str(run.path)]) == 0
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file\n"
        "from pruner.export.networks import load_model\n"
        "model, _ = load_model(sys.argv[1])\n"
        "save_file({'logits': model(load_file(sys.argv[2])['images']).detach()}, sys.argv[3])"
    )
    network = shipped(run.path)
    save_file({"images": network.probes()}, tmp_path / "images.safetensors")
    words = [run.path / "export", tmp_path / "images.safetensors", tmp_path / "logits.safetensors"]
    subprocess.run([sys.executable, "-c", script, *words], check=True)
    assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], network.model(network.probes()))


@pytest.fixture
def run(tiny_config: Make, finished: Finish) -> RunFolder:
    return finished(tiny_config(granularity="filter"))


def test_the_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    row = run.finished()
    assert row is not None
    assert main([str(run.path), "--test"]) == 0
    said = capsys.readouterr().out.splitlines()
    ratio = row["params_total"] / row["params_kept"]
    assert said[0] == (
        f"parameters:     {row['params_total']:,} before, {row['params_kept']:,} in the file ({ratio:.2f}x fewer)"
    )
    right_ones = round(row["accuracy"] / 100 * 48)
    assert said[4] == f"test images:    {right_ones} of 48 right, in the run {right_ones}"
    assert said[5:] == [f"wrote {run.path / 'export' / name}" for name in ("model.safetensors", "model.json")]


def test_a_row_that_says_otherwise_is_found_out(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    row = run.finished()
    assert row is not None
    run.write_result({**row, "accuracy": (row["accuracy"] + 50) % 100})
    assert main([str(run.path), "--test"]) == 1


def test_models_of_a_users_own_need_a_word(run: RunFolder, refused: Callable[..., str]) -> None:
    change(run, "model.json", "name", "tests.tiny_network:Anything")
    assert "name=tests.tiny_network:Anything: a class outside of pruner" in refused(str(run.path))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    return partial(refusal, capsys)


def change(run: RunFolder, file: str, key: str, value: Any) -> None:
    """As whoever makes such a file on purpose."""
    values, digests = read_sealed(run.path / file)
    write_sealed(run.path / file, values | {key: value}, digests or {})


def test_what_cannot_be_exported(run: RunFolder, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no finished run here" in refused(str(tmp_path / "nowhere"))
    assert "whose model would be lost" in refused(str(run.path), "--output", str(run.path / "x" / ".."))
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refused(str(run.path), "--output", str(tmp_path / "file"))
    assert not (run.path / "export").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("options", {"width": 5}, "conv1.weight: has [4, 3, 3, 3]"),  # a wrong width
        ("masks", {"channels": {"conv1": {"outs": [9]}}, "tiles": {}}, "conv1: has 4 outs"),
        ("masks", {"channels": {"conv1": {"outs": [-1]}}, "tiles": {}}, "conv1: has 4 outs"),
        ("masks", {"channels": {"conv1": {"outs": []}}, "tiles": {}}, "conv1: none of its 4 outs is left"),
        ("masks", {"channels": {"conv1": {"outs": [0, 0]}}, "tiles": {}}, "conv1: the outs that are left are not in"),
        ("masks", {"channels": {"conv1": {"outs": "all"}}, "tiles": {}}, "masks.channels.conv1"),
        ("masks", "the zeros of the weights", "masks"),
        ("bits", [], "model.json: bits=[]: expected a whole number"),
        # what reads its channels stays
        ("masks", {"channels": {"layer1.0.conv1": {"outs": [0]}}, "tiles": {}}, "masks.channels do not fit"),
    ],
)  # fmt: skip
def test_a_damaged_description(run: RunFolder, key: str, value: Any, said: str, refused: Callable[..., str]) -> None:
    change(run, "model.json", key, value)
    assert said in refused(str(run.path))


def test_the_network_of_another_run_is_not_exported(
    run: RunFolder, finished: Finish, tiny_config: Make, refused: Callable[..., str]
) -> None:
    other = finished(tiny_config(granularity="filter", seed=1))
    for name in ("model.json", "model.safetensors"):
        shutil.copy(other.path / name, run.path / name)
    assert f"{run.path}: model.json is of another run than result.csv" in refused(str(run.path))


def test_a_flipped_bit_is_not_exported(run: RunFolder, refused: Callable[..., str]) -> None:
    data = bytearray(run.model.read_bytes())
    data[-1] ^= 1
    run.model.write_bytes(data)
    assert refused(str(run.path)).startswith(f"pruner-export: {run.model}: not the file that")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("accuracy", "no finished run here"),  # a damaged row, which the log names
        ("params_total", "result.csv: params_total=None: a run that is done has one"),
    ],
)
def test_a_row_without_its_numbers(run: RunFolder, column: str, said: str, refused: Callable[..., str]) -> None:
    row = run.finished()
    assert row is not None
    run.write_result(row | {column: None})
    assert said in refused(str(run.path))


def test_the_current_folder_may_be_the_runs_own(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path)
    assert main(["."]) == 0
    assert "wrote export/model.safetensors\n" in capsys.readouterr().out
    load_model("export")


@pytest.mark.parametrize("damage", ["truncated", "pickle", "empty"])
def test_a_damaged_network(run: RunFolder, damage: str, refused: Callable[..., str]) -> None:
    if damage == "pickle":
        torch.save(load_file(run.model), run.model)
    else:
        run.model.write_bytes(run.model.read_bytes()[: 1000 if damage == "truncated" else 0])
    assert refused(str(run.path)).startswith(f"pruner-export: {run.model}: cannot be read")
    assert not (run.path / "export").exists()


def test_an_export_with_a_wrong_width_is_not_loaded(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.path)]) == 0
    exported = RunFolder(run.path / "export")
    widths = json.loads((exported.path / "model.json").read_text())["widths"]
    name = next(name for name, sides in widths.items() if "outs" in sides)
    change(exported, "model.json", "widths", {**widths, name: {**widths[name], "outs": widths[name]["outs"] - 1}})
    with pytest.raises(ValueError, match=r"model.safetensors: does not fit model.json \(.*expected"):
        load_model(exported.path)


def test_onnx_is_an_extra(run: RunFolder, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'pruner[onnx]'" in refused(str(run.path), "--format", "onnx")


def test_an_own_data_set_needs_a_word(run: RunFolder, refused: Callable[..., str]) -> None:
    values, row = run.read_config(), run.finished()
    values["dataset"]["name"] = "somewhere:Images"
    run.write_config(values)
    assert row is not None
    run.write_result(row)
    assert "say --own-code to run it" in refused(str(run.path), "--test")
