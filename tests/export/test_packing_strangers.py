"""Packed files of strangers: one line about what does not fit, and never a network of another shape."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruner.checks import ConfigError
from pruner.export.indexing import Tile
from pruner.export.packing import pack, unpack
from tests.packed import BESIDES, State, Tiles, packed_weights

INDEXED = torch.zeros(2, 10)
INDEXED[0, 1] = INDEXED[1, 4] = 1.0
EXAMPLE: State = {"w": INDEXED, **BESIDES}


def change(place: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        place = place[key]
    place[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bits", 9, "^bits=9: from 1 to 8"),
        ("bits", 10**18, "^bits=1000.*: from 1 to 8"),
        ("bits", "1", "^packing.bits=1: expected a whole number"),
        ("bits", 0, "^w=.1. of torch.uint8: expected .2. of torch.float32"),
        ("weights", [], "^packing.weights=.*: expected a mapping"),
        ("weights/v", {"shape": [1], "kept": 1}, "^packing.weights=v: not a tensor of the network"),
        ("weights/w", None, "^packing.weights.w=None: expected a mapping"),
        ("weights/w/code", "import os", "^packing.weights.w.code=import os: no such key"),
        ("weights/w/shape", [10, 2], "^w.shape=.10, 2.: the network has .2, 10. of torch.float32"),
        ("weights/w/shape", [10**12, 10**12], "^w.shape=.*: the network has"),
        ("weights/w/kept", 3, "^w.kept=3: the index leaves 2"),
        ("weights/w/kept", 10**18, "^w.kept=1.*: the index leaves 2"),
        ("weights/w/kept", -2, "^w.kept=-2: the index leaves 2"),
        ("weights/w/tile", None, "^w.index_bits=12: the index has 0"),
        ("weights/w/tile/shape", [1], "^w.tile=.1.: does not fit a weight of .2, 10."),
        ("weights/w/tile/shape", [0, 1], "tile.shape=.0, 1.: 1 or more each"),
        ("weights/w/tile/shape", [1, 10**18], "^w.index_bits=12: the index has 1"),
        ("weights/w/tile/group", -1, "tile.group=-1: 0 or more"),
        ("weights/w/tile/group", 4, "^w: index=.*: expected 2"),
        ("weights/w/index", [], "^w: index=..: expected 1"),
        ("weights/w/index", ["zip"], "^w: index=zip: choose one of none, bitmap, equal rows, rows"),
        ("weights/w/index", ["bitmap"], "^w: 16 bits, which is too short for the 20"),
        ("weights/w/index", ["none"], "^w.index_bits=12: the index has 0"),
        ("weights/w/index_bits", 13, "^w.index_bits=13: the index has 12"),
        ("weights/w/index_bits", 10**18, "^w:index=.2. of torch.uint8: expected .1250000.*. of torch.uint8"),
        ("weights/w/index_bits", -1, "^w:index=.2. of torch.uint8: expected .0. of torch.uint8"),
        ("weights/w/index_bits", 0, "^w: 0 bits, which is too short"),
    ],
)
def test_a_description_that_does_not_fit(path: str, value: Any, message: str) -> None:
    tensors, description = pack(EXAMPLE, {"w": Tile((1, 1))}, bits=1)
    assert description["weights"]["w"]["index"] == ("equal rows",) and tensors["w"].tolist() == [0b11_000000]
    change(description, path, value)
    with pytest.raises(ConfigError, match=message):
        unpack(tensors, description, EXAMPLE)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bias", None, "^bias: missing"),
        ("bias", torch.zeros(3), "^bias=.3. of torch.float32: expected .2. of torch.float32"),
        ("bias", torch.zeros(2, dtype=torch.int32), "^bias=.2. of torch.int32: expected"),
        ("more", torch.zeros(3), "^more: belongs to nothing in the network"),
        ("w", None, "^w: missing"),
        ("w", torch.zeros(2, dtype=torch.uint8), "^w=.2. of torch.uint8: expected .1. of torch.uint8"),
        ("w", torch.zeros(1, 1, dtype=torch.uint8), "^w=.1, 1. of torch.uint8: expected .1. of torch.uint8"),
        ("w", torch.zeros(1), "^w=.1. of torch.float32: expected .1. of torch.uint8"),
        ("w:limit", None, "^w:limit: missing"),
        ("w:limit", torch.ones(1), "^w:limit=.1. of torch.float32: expected .. of torch.float32"),
        ("w:limit", torch.tensor(-1.0), "^w:limit=-1.0: not the outermost"),
        ("w:limit", torch.tensor(0.0), "^w:limit=0.0: not the outermost"),
        ("w:limit", torch.tensor(float("inf")), "^w:limit=inf: not the outermost"),
        ("w:limit", torch.tensor(float("nan")), "^w:limit=nan: not the outermost"),
        ("w:index", None, "^w:index: missing"),
        ("w:index", torch.zeros(1, dtype=torch.uint8), "^w:index=.1. of torch.uint8: expected .2."),
        # k in 4 bits, then k places in 4 bits for both rows
        ("w:index", torch.tensor([0b0001_0001, 0b1010_0000], dtype=torch.uint8), "^w: the index has the place 10 in"),
        ("w:index", torch.tensor([0b1011_0000, 0], dtype=torch.uint8), "^w: the index has 11 places in a row of 10"),
        ("w:index", torch.tensor([0b0010_0000, 0], dtype=torch.uint8), "^w: 16 bits, which is too short"),
        ("w:index", torch.tensor([0b0000_0000, 0], dtype=torch.uint8), "^w.index_bits=12: the index has 4"),
    ],
)
def test_tensors_that_do_not_fit(name: str, tensor: Tensor | None, message: str) -> None:
    tensors, description = pack(EXAMPLE, {"w": Tile((1, 1))}, bits=1)
    tensors.pop(name, None)
    with pytest.raises(ConfigError, match=message):
        unpack(tensors if tensor is None else {**tensors, name: tensor}, description, EXAMPLE)


def test_places_out_of_order() -> None:
    """Twice the same place, or falling: two masks must not have two indices, and none may leave less than it says."""
    weight = torch.zeros(1, 16)
    weight[0, 2] = weight[0, 5] = 1.0
    tensors, description = pack({"w": weight}, {"w": Tile((1, 1))})
    assert tensors["w:index"].tolist() == [0b00010_001, 0b0_0101_000]
    for second in ([0b00010_001, 0b0_0010_000], [0b00010_001, 0b0_0001_000]):
        tensors["w:index"] = torch.tensor(second, dtype=torch.uint8)
        with pytest.raises(ConfigError, match=r"^w: the index has places out of order"):
            unpack(tensors, description, {"w": weight})


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, 10**18, -(10**18), 10**300]),
    st.floats(),
    st.text(max_size=3) | st.sampled_from(["rows\nrows", "bitmap", "none", "rows", "equal rows"]),
    st.lists(st.integers(-1, 10**18) | st.sampled_from(["bitmap", "none", "rows"]), max_size=4),
    st.dictionaries(st.sampled_from(["shape", "kept", "tile", "w0", "a\nb"]), st.integers(0, 5), max_size=2),
)
TYPES = [torch.uint8, torch.float32, torch.float64, torch.int64, torch.bool, torch.float16]


def places(values: Any) -> list[tuple[Any, Any]]:
    """Every container and key in nested dictionaries and lists."""
    found = []
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        found.append((values, key))
        if isinstance(values[key], dict | list):
            found += places(values[key])
    return found


def spoil_description(data: st.DataObject, description: dict[str, Any]) -> None:
    container, key = data.draw(st.sampled_from(places(description) or [(description, "bits")]))
    what = data.draw(st.sampled_from(["replace", "replace", "delete", "add"]))
    if what == "replace":
        container[key] = data.draw(ODD)
    elif what == "delete":
        del container[key]
    elif isinstance(container, dict):
        container[data.draw(st.text(max_size=3))] = data.draw(ODD)


def spoil_tensors(data: st.DataObject, tensors: State) -> None:
    name = data.draw(st.sampled_from(sorted(tensors)))
    what = data.draw(st.sampled_from(["flip", "flip", "cut", "other", "delete", "rename"]))
    tensor = tensors.pop(name)
    if what == "flip" and tensor.numel():
        raw = tensor.reshape(-1).clone().view(torch.uint8)
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        tensors[name] = raw.view(tensor.dtype).view(tensor.shape)
    elif what == "cut":
        tensors[name] = tensor.flatten()[:-1]
    elif what == "other":
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        tensors[name] = torch.ones(shape, dtype=data.draw(st.sampled_from(TYPES)))
    elif what == "rename":
        tensors[data.draw(st.sampled_from(["w0", "w1:index", "w0:limit", "bias", "x\ny"]))] = tensor


@settings(deadline=None, max_examples=400)
@given(packed_weights(), st.data())
def test_spoilt_files_are_refused_or_give_a_network_of_the_right_shapes(
    packed: tuple[State, Tiles, int], data: st.DataObject
) -> None:
    state, tiles, bits = packed
    tensors, written = pack(state, tiles, bits)
    description = json.loads(json.dumps(written))
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            spoil_description(data, description)
        elif tensors:
            spoil_tensors(data, tensors)
    before = copy.deepcopy(description)
    try:
        found = unpack(tensors, description, state)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert {name: (t.shape, t.dtype) for name, t in found.items()} == {
            name: (t.shape, t.dtype) for name, t in state.items()
        }
    assert repr(description) == repr(before)
