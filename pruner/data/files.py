"""The published sets, each kept as one `<data_dir>/<name>.safetensors` of uint8 tensors.

The tensors are `train_images` [N, C, H, W], `train_labels` [N], `test_images` [M, C, H, W] and `test_labels` [M].
A file that is there is used as it is, or refused; it is never overwritten.
"""

from __future__ import annotations

import http.client
import io
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pruner.checks import ConfigError
from pruner.data.paths import data_file

log = logging.getLogger(__name__)

NAMES = ("train_images", "train_labels", "test_images", "test_labels")
NETWORK_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Published:
    """A set that torchvision can download.

    `source` is its class in torchvision.datasets, `archives` are the official files, and `landing` is where below
    its root that class looks for them.
    """

    name: str
    source: str
    archives: tuple[str, ...]
    landing: str
    shape: tuple[int, int, int]
    labels: tuple[str, ...]


def read_or_download(published: Published, data_dir: Path) -> dict[str, Tensor]:
    """The four tensors of a set, from its file in `data_dir`, which is downloaded first when it is not there.

    Raises ConfigError when the file is wrong, and when there is neither a file nor a network.
    """
    path = data_file(published.name, data_dir)
    try:
        there = path.exists()
    except OSError as error:
        raise ConfigError(f"data_dir={data_dir}: {error.strerror}") from error
    if not there:
        _make(published, path)
    return _read(published, path)


def _read(published: Published, path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        path.open("rb").close()  # of a file that it may not open, safetensors says that it is not there
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in NAMES if name in stored}
        problem = _problem(published, tensors)
    except (SafetensorError, OSError) as error:
        problem = f"cannot be read ({error})"
    if problem:
        remedy = "put the right file there, or remove it to download the set again"
        raise ConfigError(f"dataset={published.name}: {path}: {problem}; {remedy}")
    return tensors


def _problem(published: Published, tensors: dict[str, Tensor]) -> str | None:
    """What is wrong with the tensors of a file, if anything."""
    for name in NAMES:
        if name not in tensors:
            return f"no tensor {name} in it"
        if tensors[name].dtype != torch.uint8:
            return f"{name} is {str(tensors[name].dtype).removeprefix('torch.')}, expected uint8"
    for part in ("train", "test"):
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        if images.ndim != 4 or images.shape[1:] != published.shape or len(images) == 0:
            return f"{part}_images is {list(images.shape)}, expected [N, {', '.join(map(str, published.shape))}]"
        if labels.shape != images.shape[:1]:
            return f"{part}_labels is {list(labels.shape)}, expected one label for each of {len(images)} images"
        if int(labels.max()) >= len(published.labels):
            return f"{part}_labels has {int(labels.max())}, labels run from 0 to {len(published.labels) - 1}"
    return None


def _make(published: Published, path: Path) -> None:
    """Downloads and converts a set; the file appears whole or not at all, and the download is removed."""
    data_dir = path.parent
    lock = data_dir / f".{published.name}.lock"
    new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # The lock only saves runs that start together from downloading twice; os.replace keeps the file whole.
        with FileLock(lock):
            try:
                if not path.exists():
                    _write(published, path)
            finally:
                lock.unlink()
    except ConfigError:
        if new and not any(data_dir.iterdir()):
            data_dir.rmdir()
        raise
    except OSError as error:
        raise ConfigError(f"data_dir={data_dir}: cannot write there ({error})") from error


def _write(published: Published, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{published.name}-") as scratch:
        partial = Path(scratch) / path.name
        partial.write_bytes(save(_download(published, path, Path(scratch))))
        os.replace(partial, path)


def _download(published: Published, path: Path, scratch: Path) -> dict[str, Tensor]:
    """The four tensors from torchvision, which works in `scratch`, given the official archives if they are there."""
    by_hand = path.parent / published.name
    for archive in published.archives:
        if (by_hand / archive).is_file():
            (scratch / published.landing).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(by_hand / archive, scratch / published.landing / archive)
    log.info("no file %s, downloading %s", path, published.name)
    try:
        with _quiet_network():
            from torchvision import datasets

            source = getattr(datasets, published.source)
            train, test = (source(str(scratch), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"dataset={published.name}: no file {path} and the download failed ({reason}); put that file there, "
            f"or the official {', '.join(published.archives)} into {by_hand}"
        ) from error
    return {
        "train_images": _images(train.data),
        "train_labels": torch.as_tensor(train.targets).to(torch.uint8),
        "test_images": _images(test.data),
        "test_labels": torch.as_tensor(test.targets).to(torch.uint8),
    }


def _images(pixels: object) -> Tensor:
    """torchvision's [N, H, W] or [N, H, W, C] as [N, C, H, W]."""
    images = torch.as_tensor(pixels)
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)).contiguous()


@contextmanager
def _quiet_network() -> Iterator[None]:
    """Nothing on stdout, a progress bar on a terminal only, and an end to waiting for a dead network."""
    timeout = socket.getdefaulttimeout()
    with ExitStack() as stack:
        stack.callback(socket.setdefaulttimeout, timeout)
        socket.setdefaulttimeout(NETWORK_TIMEOUT)
        if sys.stderr.isatty():
            stack.enter_context(redirect_stdout(sys.stderr))
        else:
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield
