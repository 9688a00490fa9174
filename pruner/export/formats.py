"""The files that a network ships as. Each writer reads back what it wrote, and gives it as a function to predict with.

safetensors   model.safetensors and model.json: for `pruner.export.networks.load_model`, in the fewest bytes
torch         model.pt2: a program of torch.export, which runs where pruner is not installed (torch.export.load)
onnx          model.onnx: for onnxruntime and other engines

All take a batch of any size of float32 images [batch, channels, height, width], normalised with the mean and the
deviation that the file itself tells, and give float32 logits [batch, classes].
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruner.checks import ConfigError, one_line
from pruner.export.networks import load_model, save_model
from pruner.export.packing import pack, payload_bytes
from pruner.export.shipped import Shipped
from pruner.models.ties import ties_of
from pruner.models.versions import versions_of
from pruner.store.row import write_atomically

ABOUT = "pruner.json"  # what a program or an ONNX file says of itself goes by this name
OPSET = 20  # of ONNX: what torch's exporter writes without a conversion, and onnxruntime runs since 1.17
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Written:
    """Files of one format, in the order in which they were written; what they hold as a function from images to
    logits; and a line on their size."""

    paths: tuple[Path, ...]
    predict: Predict
    size: str


def write_safetensors(network: Shipped, folder: Path) -> Written:
    """Weights without zeros: values and an index, integer codes where the run quantised. Raises ConfigError."""
    # A float weight without holes is stored as it is, for any reader of safetensors.
    tiles = {name: tile for name, tile in network.tiles.items() if tile is not None or network.bits}
    tensors, packing = pack(network.model.state_dict(), tiles, network.bits)
    stored = {"widths": network.widths, "packing": packing if tiles else None}
    modules = {"versions": versions_of(network.model), "ties": ties_of(network.model)}
    save_model(folder, tensors, {**network.provenance(), **stored, **modules})
    loaded, _ = load_model(folder, own_code=True)  # its code has run already
    expected = network.model.state_dict()
    for name, tensor in loaded.state_dict().items():
        if not torch.equal(tensor, expected[name]):
            raise ConfigError(f"{folder / 'model.safetensors'}: {name} was not read back as it was written")
    paths = folder / "model.safetensors", folder / "model.json"
    sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
    payload = payload_bytes(packing, sum(size for name, size in sizes.items() if name not in tiles))
    return Written(paths, loaded, f"{_bytes(paths[0])}, of which {payload:,} are weights and what places them")


def write_torch(network: Shipped, folder: Path) -> Written:
    """A program of torch.export. Raises ConfigError when torch cannot make one of this network."""
    path = folder / "model.pt2"
    stream = io.BytesIO()
    with _quiet():
        torch.export.save(_program(network, "torch"), stream, extra_files={ABOUT: json.dumps(network.provenance())})
        write_atomically(path, stream.getvalue())
        loaded = torch.export.load(path).module()
    return Written((path,), loaded, _bytes(path))


def write_onnx(network: Shipped, folder: Path) -> Written:
    """ONNX with a batch of any size, `images` to `logits`, run once by onnxruntime. Raises ConfigError."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it, and says so only half-way)
    except ImportError as error:
        raise ConfigError(f"--format onnx: needs {error.name}: pip install 'pruner[onnx]'") from error
    path = folder / "model.onnx"
    program = _program(network, "onnx")
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert exported is not None  # it is, where dynamo is
    exported.model.metadata_props[ABOUT] = json.dumps(network.provenance())
    write_atomically(path, exported.model_proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.cpu().contiguous().numpy()})[0])

    return Written((path,), predict, f"{_bytes(path)}, opset {OPSET}")


FORMATS: dict[str, Callable[[Shipped, Path], Written]] = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "onnx": write_onnx,
}


def _program(network: Shipped, form: str) -> torch.export.ExportedProgram:
    """The network for a batch of any size. Raises ConfigError where torch cannot make one.

    Running it is how torch follows most code. Python makes a number of `len(images)` there, so that the batch would
    have one size: reading its bytecode (strict) it does not.
    """
    batch = torch.export.Dim("batch")
    for strict in (False, True):
        try:
            with _quiet():
                return torch.export.export(
                    network.model, (network.probes(),), dynamic_shapes=({0: batch},), strict=strict
                )
        except Exception as error:  # it has no type of its own for a network that cannot be traced
            failure = error
    said = one_line(str(failure).partition("\n")[0])
    if said.startswith("Constraints violated (batch)"):  # in words of torch's own code
        said = "its code needs a batch of one size, as a loop over the images does"
    raise ConfigError(f"--format {form}: torch.export cannot follow this network ({said})") from failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on its own insides: what was written is checked afterwards."""
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # what fails is raised as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch").setLevel(level)


def _bytes(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
