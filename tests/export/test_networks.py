"""A run's network is rebuilt from tensors and JSON alone, and a network that does not fit is named."""

import importlib
import json
import resource

import pytest
import torch
from safetensors.torch import load_file

from pruner.checks import ConfigError
from pruner.config import Choice
from pruner.export.networks import load_model, save_model
from pruner.models import build

SOURCE = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, shape, classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).mean(dim=(2, 3)))
"""
ARCHITECTURE = {
    "label": "tiny",
    "name": "a_users_network:Tiny",
    "options": {"width": 5},
    "shape": [1, 8, 8],
    "classes": 10,
    "mean": [0.3],
    "std": [0.4],
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A trained-looking user's network; its module is importable as `a_users_network`."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "a_users_network.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    torch.manual_seed(0)
    model = importlib.import_module("a_users_network").Tiny((1, 8, 8), 10, width=5)
    model(torch.randn(16, 1, 8, 8))  # moves the batch norm's statistics
    return model.eval()


def test_a_network_comes_back_with_the_same_outputs(tiny, tmp_path):
    save_model(tmp_path / "run", tiny.state_dict(), ARCHITECTURE)
    model, architecture = load_model(tmp_path / "run", own_code=True)
    assert architecture == ARCHITECTURE
    assert not model.training
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(images), tiny(images))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["model.json", "model.safetensors"]


def test_shared_and_strided_tensors_are_saved_as_they_look(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "tied": base, "part": base[1:], "turned": base.T, "parameter": torch.nn.Parameter(base)}
    save_model(tmp_path, state, {})
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)


def test_the_same_network_gives_the_same_bytes(tiny, tmp_path):
    for name in ("one", "two"):
        save_model(tmp_path / name, tiny.state_dict(), ARCHITECTURE)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def refusal(folder):
    with pytest.raises(ConfigError) as error:
        load_model(folder, own_code=True)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_named(tiny, tmp_path, name, damage):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-4])
    assert refusal(tmp_path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_flipped_bits_are_noticed(tiny, tmp_path, name):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    path, expected = tmp_path / name, tiny.state_dict()
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            model, architecture = load_model(tmp_path, own_code=True)
        except ConfigError as error:
            assert "model.json" in str(error) or "model.safetensors" in str(error)
        else:  # blanks between words, or the name of the seal
            assert name == "model.json" and architecture.items() >= ARCHITECTURE.items()
            assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_tensors_beside_an_older_description_are_noticed(tiny, tmp_path, monkeypatch):
    """As a writer leaves them that is killed between the two."""
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    with monkeypatch.context() as patch:
        patch.setattr("pruner.export.networks.write_sealed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_model(tmp_path, {name: tensor + 1 for name, tensor in tiny.state_dict().items()}, ARCHITECTURE)
    assert refusal(tmp_path).startswith(f"{tmp_path / 'model.safetensors'}: not the file that the JSON beside it was")


def test_a_network_of_before_there_were_digests_is_loaded_with_a_warning(tiny, tmp_path, caplog):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    (tmp_path / "model.json").write_text(json.dumps(ARCHITECTURE))
    model, architecture = load_model(tmp_path, own_code=True)
    assert architecture == ARCHITECTURE
    assert all(torch.equal(tensor, tiny.state_dict()[name]) for name, tensor in model.state_dict().items())
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'model.safetensors'}: has no SHA-256 digest")


def test_a_seal_that_is_none_is_named(tiny, tmp_path):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    (tmp_path / "model.json").write_text(json.dumps(ARCHITECTURE | {"sha256": ["model.json"]}))
    assert refusal(tmp_path).startswith(f"{tmp_path / 'model.json'}: not as it was written")


def test_tensors_that_do_not_fit_are_named(tiny, tmp_path):
    state = tiny.state_dict()
    save_model(tmp_path / "wide", state, ARCHITECTURE | {"options": {"width": 6}})
    assert "wide/model.safetensors: does not fit model.json" in refusal(tmp_path / "wide")
    del state["head.bias"]
    save_model(tmp_path / "less", state, ARCHITECTURE)
    assert "head.bias" in refusal(tmp_path / "less")


def test_a_description_that_lacks_something_is_named(tiny, tmp_path):
    save_model(tmp_path, tiny.state_dict(), {"label": "tiny", "name": "a_users_network:Tiny", "options": {}})
    assert refusal(tmp_path) == f"{tmp_path / 'model.json'}: lacks shape, classes"
    (tmp_path / "model.json").write_text(json.dumps([1]))
    assert refusal(tmp_path) == f"{tmp_path / 'model.json'}: not a JSON object"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("shape", [1, 8], "options, shape and classes are not"),
        ("shape", [1, 8, 0], "options, shape and classes are not"),
        ("shape", "188", "options, shape and classes are not"),
        ("classes", True, "options, shape and classes are not"),
        ("options", [5], "options, shape and classes are not"),
        ("options", {"depth": 3}, "model.depth"),
        ("name", "nothing", "model=nothing"),
        ("widths", [3], "widths=[3]"),
        ("widths", {"conv": {"outs": 6}}, "conv: has 5 outs"),
        ("widths", {"conv": {"outs": 2}}, "conv.weight: has [5, 1, 3, 3]"),  # a wrong width for these tensors
        ("packing", {"bits": 3}, "packing"),
        ("packing", 3, "packing"),
        ("ties", [3], "ties=[3]"),
        ("ties", {"norm.bias": "norm.weight"}, "ties.norm.bias=norm.weight"),  # which this network does not share
        ("ties", {"norm.bias": [3]}, "ties.norm.bias=[3]"),
    ],
)
def test_a_wrong_description_is_named(tiny, tmp_path, key, value, said):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE | {key: value})
    message = refusal(tmp_path)
    assert message.startswith((f"{tmp_path / 'model.json'}: ", f"{tmp_path / 'model.safetensors'}: "))
    assert said in message and len(message) < 300 + len(str(tmp_path))


def test_code_of_strangers_is_not_run(tiny, tmp_path):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    with pytest.raises(ConfigError, match="name=a_users_network:Tiny: a class outside of pruner"):
        load_model(tmp_path)


def test_a_pickle_that_calls_itself_safetensors_is_not_read(tiny, tmp_path):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE)
    torch.save(tiny.state_dict(), tmp_path / "model.safetensors")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'model.safetensors'}: cannot be read")


@pytest.mark.parametrize("weights", ["default", "nowhere.safetensors"])
def test_no_weights_are_looked_for_where_the_file_has_them_all(tmp_path, monkeypatch, weights):
    def look(*anything):
        raise AssertionError("weights were looked for")

    monkeypatch.setattr("pruner.models.torchvision._download", look)
    monkeypatch.setattr("pruner.models.torchvision._read", look)
    options = {"arch": "squeezenet1_1", "weights": weights}
    description = {"label": "x", "name": "torchvision", "options": options, "shape": [3, 64, 64], "classes": 5}
    trained = build(Choice("x", "torchvision", {"arch": "squeezenet1_1"}), (3, 64, 64), 5)
    save_model(tmp_path, trained.state_dict(), description)
    model, _ = load_model(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), trained.eval()(images))


def test_a_network_without_its_weights_feeds_images_as_with_them():
    """torchvision's weights of these were trained on inputs scaled in another way, which is a part of the network."""
    for weights in (None, "default"):
        with torch.device("meta"):
            choice = Choice("x", "torchvision", {"arch": "googlenet", "weights": weights})
            model = build(choice, (3, 224, 224), 10, trained=False)
        assert model.transform_input is (weights == "default")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [10**9, 8, 8]}, "images of more than"),
        ({"shape": [1, 10**9, 10**9]}, "images of more than"),
        ({"classes": 10**9}, "cannot be built"),
        ({"classes": 2**64}, "options, shape and classes are not"),
        ({"options": {"width": 10**9}}, "cannot be built"),
        ({"options": {"width": 8}, "classes": 2**27}, "numbers in 64 parameters"),  # 17 GB, if they were filled
        ({"widths": {"conv1": {"outs": 10**12}}}, "nothing in this network has more than 10"),
        ({"name": "vit", "options": {"depth": 10**9}}, "parameters, for so small a model.safetensors"),
        ({"name": "vit", "options": {"patch": 1, "dim": 2**20}, "shape": [1, 512, 512]}, "gives 262144 tokens"),
        ({"name": "vgg16", "options": {"width": 1e9}, "shape": [1, 32, 32]}, "cannot be built"),
    ],
)
def test_a_description_of_more_than_there_is_memory_for(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr("pruner.export.networks.MOST_PARAMETERS", 200)  # a tenth of a second in the place of ten
    description = {"label": "x", "name": "resnet20", "options": {"width": 1}, "shape": [1, 8, 8], "classes": 10}
    state = build(Choice("x", "resnet20", {"width": 1}), (1, 8, 8), 10).state_dict()
    save_model(tmp_path, state, description | changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as error:
        load_model(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'model.json'}: ") and said in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # kB


def test_what_bounds_a_network_of_a_file_leaves_others_alone(tiny, tmp_path):
    save_model(tmp_path, tiny.state_dict(), ARCHITECTURE | {"classes": 2**40})
    refusal(tmp_path)
    assert not torch.nn.modules.module._global_parameter_registration_hooks
