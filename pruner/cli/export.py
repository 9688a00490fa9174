"""`pruner-export`: a run's network without its dead parts, in files that were read back and compared with the run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.checks import ConfigError, one_line, printable
from pruner.compose.choices import user_folder
from pruner.export.placing import moved, place, staged
from pruner.runtime.streams import lenient

if TYPE_CHECKING:
    from pruner.data import ImageSet
    from pruner.export.formats import Predict
    from pruner.export.shipped import Shipped

NAMES = ("safetensors", "torch", "onnx")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status: 0; 1 when what was written predicts the test images unlike the run; 2 on anything that
    cannot be exported, in one line.
    """
    with lenient("pruner-export"):
        given = _parser().parse_args(arguments)
        try:
            return _export(given)
        except (ConfigError, OSError) as error:
            print(f"pruner-export: {one_line(error)}", file=sys.stderr)
            return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pruner-export",
        description="Write a finished run's network to ship: dead channels and heads are taken out, and what was "
        "written is read back and compared with the run's network.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder")
    add("--format", choices=NAMES, default="safetensors", help="safetensors (model.safetensors and model.json, "
        "in few bytes), torch (a torch.export program, model.pt2) or onnx (default: safetensors)")  # fmt: skip
    add("--output", metavar="FOLDER", help="where to write (default: RUN/export)")
    add("--test", action="store_true", help="also predict the run's test images with what was written, and compare "
        "with the accuracy in the run's row")  # fmt: skip
    add("--data-dir", metavar="DIR", help="where the image sets are kept (default: as in the run's config.yaml)")
    add("--own-code", action="store_true", help="import and run the classes of your own that the run names, from where "
        "it found them")  # fmt: skip
    add("--config-dir", metavar="DIR", help="look for classes of your own here first")
    return parser


def _export(given: argparse.Namespace) -> int:
    from pruner.export.formats import FORMATS  # here, so that --help is answered without torch
    from pruner.export.shipped import shipped

    if given.config_dir is not None:
        user_folder(given.config_dir)
    network = shipped(given.run, given.own_code)
    folder = place(Path(given.run), given.output)
    test = _test_images(given) if given.test else None
    with staged(folder) as stage:
        written = FORMATS[given.format](network, stage)
        difference = network.difference(written.predict)
        paths = moved(written.paths, folder)
    for kind, name in (("params", "parameters"), ("macs", "multiply-adds")):
        total, kept = network.row[f"{kind}_total"], network.provenance()[kind]
        print(f"{name + ':':15} {total:,} before, {kept:,} in the file ({total / kept:.2f}x fewer)")
    print(f"{'largest error:':15} {difference:.1e} of the largest output, on images of noise")
    print(f"{'size:':15} {written.size}")
    as_good = test is None or _same_accuracy(network, written.predict, test)
    for path in paths:
        print(f"wrote {printable(path)}")
    return 0 if as_good else 1


def _test_images(given: argparse.Namespace) -> ImageSet:
    """The images that the run was tested on. Raises ConfigError."""
    from pruner.config import from_dict
    from pruner.data import load
    from pruner.store.fingerprint import make_importable
    from pruner.store.folders import RunFolder

    config = from_dict(RunFolder(given.run).read_config())
    if ":" in (name := config.dataset.name):
        if not given.own_code:
            raise ConfigError(f"--test: the run's data set is {name}; say --own-code to run it")
        make_importable(Path(given.run), "dataset.name", name)
    return load(config.dataset, given.data_dir or config.data_dir, "cpu").test


def _same_accuracy(network: Shipped, predict: Predict, test: ImageSet) -> bool:
    """Whether as many test images are right as in the run, to the last one; says how many."""
    from pruner.export.accuracy import right

    count, expected = right(predict, test), round(network.row["accuracy"] / 100 * len(test))
    print(f"{'test images:':15} {count} of {len(test)} right, in the run {expected}")
    return bool(count == expected)
