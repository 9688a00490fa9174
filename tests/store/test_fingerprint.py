"""Other data, weights or code under the same name: refused by name, nothing overwritten, never the old numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from pruner.config import Choice, Config
from pruner.data import BUILTIN, sources
from pruner.data.files import Published
from pruner.data.paths import data_file
from pruner.run import phases
from pruner.store import fingerprint
from tests.fuzz.answers import Answer, ask, contents

SMALL = ["model=lenet_300_100", "method=magnitude", "recipe=smoke", "device=cpu", "threads=1"]
DIGITS = ["dataset=mnist", *SMALL]
IMAGES = ["dataset=imagefolder", "dataset.image_size=8", "dataset.resize=8", "dataset.workers=0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # --config-dir adds to both
    monkeypatch.setenv("PYTHONPATH", "")


def digits(folder: str, seed: int) -> None:
    """40 and 20 images of noise under MNIST's name."""
    Path(folder).mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for part, count in (("train", 40), ("test", 20)):
        tensors[f"{part}_images"] = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
        tensors[f"{part}_labels"] = (torch.arange(count) % 10).to(torch.uint8)
    save_file(tensors, data_file("mnist", Path(folder)))


def images(root: Path, colour: int) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8), (colour, colour, number)).save(folder / f"{number}.png")


def only(pattern: str) -> Path:
    (found,) = (path for path in Path().glob(pattern) if path.suffix != ".lock")
    return found


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of since this was asked last."""
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return found


def refused(answer: Answer, *said: str) -> None:
    assert answer.refuses_in_one_line, (answer.status, answer.out, answer.err)
    assert all(text in answer.err for text in (*said, "give another output_dir")), answer.err


def test_one_root_in_two_folders_is_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means another thing in another folder; and the same folder by another way is the same run."""
    outputs = f"output_dir={tmp_path / 'outputs'}"
    for place, colour in (("here", 0), ("there", 200)):
        images(tmp_path / place / "imgs", colour)
        monkeypatch.chdir(tmp_path / place)
        answer = ask([*IMAGES, *SMALL, "dataset.root=imgs", outputs])
        assert answer.status == 0 and "already done" not in answer.out
    assert len(list(tmp_path.glob("outputs/imagefolder-*/*/result.csv"))) == 2
    assert len(list(tmp_path.glob("outputs/dense/*/dense.json"))) == 2
    assert "already done" in ask([*IMAGES, *SMALL, "dataset.root=../there/imgs/", outputs]).out


def test_images_that_were_added_or_replaced_are_found(tmp_path: Path) -> None:
    images(tmp_path / "imgs", 0)
    words = [*IMAGES, *SMALL, "dataset.root=imgs"]
    assert ask(words).status == 0
    Path("imgs/notes.txt").touch()  # not of the images
    assert "already done" in ask(words).out
    Image.effect_noise((50, 50), 90).save("imgs/val/dog/1.png")
    refused(ask(words), f"dataset.root={tmp_path / 'imgs'}: ", "imgs/val is not what", str(only("outputs/imagef*/*")))
    Path("imgs/val/dog/1.png").rename("imgs/train/dog/2.png")
    refused(ask(words), "imgs/train is not what")


def test_another_file_of_the_same_name(caplog: pytest.LogCaptureFixture) -> None:
    """For a run that is done, for one that needs the dense network, for a sweep of both and its plan."""
    digits("a", 0)
    digits("b", 1)
    words = [*DIGITS, "sparsity=0.5"]
    assert ask([*words, "data_dir=a"]).status == 0
    before = contents(Path())
    run_folder, dense = only("outputs/mnist-*/*"), only("outputs/dense/*/")
    said = f"data_dir=b: {Path('b/mnist.safetensors').absolute()} is not what {{}} was made with (then in "
    refused(ask([*words, "data_dir=b"]), said.format(run_folder))
    refused(ask([*DIGITS, "sparsity=0.8", "data_dir=b"]), said.format(dense))
    refused(ask(["-m", *DIGITS, "sparsity=0.5,0.8", "data_dir=b"]), said.format(run_folder))
    refused(ask(["--plan", *words, "data_dir=b"]), said.format(run_folder))
    assert contents(Path()) == before and not warned(caplog)

    Path("c").mkdir()
    data_file("mnist", Path("a")).rename("c/mnist.safetensors")  # the same, moved
    assert "already done" in ask([*words, "data_dir=c"]).out and not warned(caplog)
    assert "already done" in ask([*words, "data_dir=a"]).out  # nothing to compare with, which is said
    assert warned(caplog) == [f"data_dir=a: not there any more, to be compared with what made {run_folder}"]


def test_two_sets_of_data_in_one_sweep_are_no_equal_cells() -> None:
    digits("a", 0)
    digits("b", 1)
    answer = ask(["-m", *DIGITS, "data_dir=a,b", "--plan"])
    assert answer.refuses_in_one_line and "data_dir=b: holds other data than a, for the same run" in answer.err
    digits("b", 0)
    assert "1 cell: 1 to do" in ask(["-m", *DIGITS, "data_dir=a,b", "--plan"]).out


def test_folders_of_older_versions_are_taken_for_what_they_say(caplog: pytest.LogCaptureFixture) -> None:
    digits("data", 0)
    words = ["-m", *DIGITS, "sparsity=0.5,0.8", "hydra/launcher=basic"]
    assert ask(words).status == 0
    for kept in Path().glob("outputs/**/fingerprint.json"):
        kept.unlink()
    assert ask([*DIGITS, "sparsity=0.5"]).status == 0
    (said,) = warned(caplog)
    assert f"{only('outputs/mnist-*/*-0.5-*')}: has no fingerprint.json" in said
    assert ask(words).status == 0
    (said,) = warned(caplog)
    assert said.endswith("; and 1 more like this")
    assert ask([*DIGITS, "sparsity=0.6"]).status == 0  # with the dense network, which is not vouched for afterwards
    assert only("outputs/**/fingerprint.json").parent == only("outputs/mnist-*/*-0.6-*")


def test_a_damaged_fingerprint_is_named() -> None:
    digits("data", 0)
    assert ask(DIGITS).status == 0
    kept = only("outputs/mnist-*/*/fingerprint.json")
    for text in ("{", "[]", '{"data_dir": 5}', '{"data_dir": {"value": "a", "place": "a"}}'):
        kept.write_text(text)
        answer = ask(DIGITS)
        assert answer.refuses_in_one_line and str(kept) in answer.err


METHOD = "from pruner.methods.one_shot import OneShot\nfrom {0} import VALUE\n\n\nclass Mine(OneShot):\n    pass\n"
MODEL = """\
from torch import nn


class Mine(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""


def own_folder(name: str) -> list[str]:
    """A --config-dir with a method and a model in modules that no other test has imported; the words that use both."""
    for group in ("method", "model"):
        (Path("own") / group).mkdir(parents=True)
        Path("own", group, "mine.yaml").write_text(f"name: {name}_{group}:Mine\n")
    Path("own", f"{name}_method.py").write_text(METHOD.format(f"{name}_value"))
    Path("own", f"{name}_value.py").write_text("VALUE = 1\n")
    Path("own", f"{name}_model.py").write_text(MODEL)
    return ["--config-dir", "own", "dataset=synthetic", "model=mine", "method=mine", *SMALL[2:]]


def asked(words: list[str]) -> Answer:
    """As `ask`, in a process that has imported nothing of the user's."""
    for name in [name for name, module in sys.modules.items() if "/own/" in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]
    return ask(words)


def test_another_code_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    words = own_folder("changing")
    with monkeypatch.context() as patch:
        patch.setattr(phases, "finetune", interrupt)
        assert ask(words).status == 130
    folder = only("outputs/synthetic-mine/*")
    assert (folder / "checkpoint").exists()
    for name, key in (("value", "method"), ("model", "model")):
        before = contents(Path("outputs"))
        file = Path("own", f"changing_{name}.py").absolute()
        text = file.read_text()
        file.write_text(text + "# changed\n")
        refused(asked(words), f"{key}.name=changing_{key}:Mine: {file} is not what {folder} was made with; give")
        assert contents(Path("outputs")) == before
        file.write_text(text)
    assert ask(words).status == 0  # all is as it was: the run goes on
    assert "already done" in asked(words).out
    Path("own/changing_value.py").write_text("VALUE = 2\n")
    refused(asked(words), "method.name=changing_method:Mine", str(folder))
    kept = json.loads((only("outputs/dense/*/") / "fingerprint.json").read_text())
    assert list(kept) == ["model.name"]  # no method has a part in the dense network


def interrupt(*anything: object) -> None:
    raise KeyboardInterrupt


def test_an_own_class_that_failed_and_was_mended_is_tried_again() -> None:
    words = own_folder("failing")
    file = Path("own/failing_method.py")
    right = file.read_text()
    file.write_text(right + "\n    def mask(self, step):\n        raise RuntimeError('not yet')\n")
    assert ask(words).status == 1
    file.write_text(right)
    assert asked(words).status == 0
    assert "already done" in ask(words).out


def test_a_config_has_absolute_paths(tmp_path: Path) -> None:
    assert ask(["dataset=synthetic", *SMALL, "output_dir=out", "data_dir='~/sets'"]).status == 0
    written = yaml.safe_load(only("out/synthetic-*/*/config.yaml").read_text())
    assert (written["output_dir"], written["data_dir"]) == (str(tmp_path / "out"), str(Path.home() / "sets"))


def test_a_file_of_weights(composed: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["dataset=synthetic", "model=resnet18", "model.weights=w.pth"]
    config = composed(*words)
    assert config.model.options["weights"] == str(tmp_path / "w.pth")
    assert fingerprint.of(config)["model.weights"].files == {}
    found = []
    for content in (b"one", b"two"):
        Path("w.pth").write_bytes(content)
        found.append(fingerprint.of(config)["model.weights"].files["w.pth"])
    assert len(set(found)) == 2
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert composed(*words).dense_id != config.dense_id
    assert composed(*words[:2], "model.weights=default").model.options["weights"] == "default"
    assert composed(*words[:2], "model.weights='~/w.pth'").model.options["weights"] == str(Path.home() / "w.pth")


def test_what_needs_a_fingerprint(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    """The published sets do, by the name of the file that they read; the embedded ones need none."""
    published = {value.name for value in vars(sources).values() if isinstance(value, Published)}
    for name in BUILTIN.keys() - {"imagefolder"}:
        digests = fingerprint.of(tiny_config(dataset={"label": "x", "name": name}, data_dir=str(tmp_path)))
        assert list(digests) == (["data_dir"] if name in published else []), name
        Path(f"{name}.safetensors").touch()
        digests = fingerprint.of(tiny_config(dataset={"label": "x", "name": name}, data_dir=str(tmp_path)))
        assert all(list(part.files) == [f"{name}.safetensors"] for part in digests.values())


def test_files_that_options_of_own_classes_name(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("spectra.npz").write_bytes(b"1")
    options = {"file": "spectra.npz", "root": str(tmp_path), "none": None, "gone": "/gone", "no": ""}
    config = tiny_config(dataset={"label": "x", "name": "nowhere:Own", "options": options})
    assert set(fingerprint.of(config)) == {"dataset.file", "dataset.name"}
    one = fingerprint.of(config)["dataset.file"].files
    Path("spectra.npz").write_bytes(b"2")
    two = fingerprint.of(config)["dataset.file"].files
    monkeypatch.setattr(fingerprint, "MOST_BYTES", 0)  # a large one is not read
    assert one != two and fingerprint.of(config)["dataset.file"].files == {"spectra.npz": "1 bytes"}
    score = tiny_config("gmp", options={"score": {"name": "tests.store.test_fingerprint:Score"}})
    assert next(iter(fingerprint.of(score)["method.score.name"].files)) == "tests/store/test_fingerprint.py"
    assert list(fingerprint.of(tiny_config(model=vars(Choice("x", "nowhere:Net"))))) == ["model.name"]


def test_it_is_told_without_torch() -> None:
    code = "import sys, pruner.store.fingerprint; print({'torch', 'numpy'} & set(sys.modules))"
    environment = {"PYTHONPATH": str(Path(phases.__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
