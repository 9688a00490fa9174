"""The command line: words in, a checked Config or a sweep out, and one line on stderr for whatever is wrong.

It uses the class below `hydra.main`, because that decorator keeps the jobs' return values to itself, and exit
statuses come from them. Nothing here imports torch before the config has been checked.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import NoReturn

from hydra.types import RunMode

from pruner import __version__
from pruner.checks import ConfigError
from pruner.cli.help import render as help_text
from pruner.compose.cells import Cell, check_folders, general
from pruner.compose.choices import conf_folder, user_folder
from pruner.compose.composing import Composer, checked, composer, torchvision_choices
from pruner.compose.hydra_internals import get_args_parser
from pruner.run import job
from pruner.runtime import streams
from pruner.runtime.distributed import joined, leads, world
from pruner.sweep import plan, sweep

REFUSED_FLAGS = ("config_path", "experimental_rerun")  # a second conf folder, and unpickling


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: sys.argv) and gives its exit status: 0, 1 or 2 as its help says."""
    with streams.lenient("pruner"), joined():
        try:
            return _answer(sys.argv[1:] if argv is None else list(argv))
        except ConfigError as error:
            _complain(f"pruner: {' '.join(str(error).split())}")
            return 2
        except KeyboardInterrupt:
            _complain("pruner: interrupted")
            return 130


def _complain(line: str) -> None:
    if leads():
        print(line, file=sys.stderr, flush=True)


def _answer(argv: list[str]) -> int:
    if "--version" in argv:
        print(f"pruner {__version__}")
        return streams.status()
    parser = get_args_parser()
    parser.add_argument("--plan", action="store_true", help="Say what a run or sweep would do and take; start nothing")
    flags = _parse_flags(parser, argv)
    folders = [conf_folder()]
    if flags.config_dir is not None:
        folders.append(user_folder(flags.config_dir))
    if flags.help:
        print(help_text(folders, torchvision_choices(folders)), end="")
        return streams.status()
    words = flags.overrides
    with composer(folders, flags.config_name or "config") as hydra:
        if flags.shell_completion:
            with hydra.translated([]):
                hydra.engine.shell_completion(hydra.name, words)
        elif flags.hydra_help:
            hydra.engine.hydra_help(hydra.name, parser, flags)
        elif flags.info or flags.cfg:
            hydra.compose(words)
            if flags.info:
                hydra.engine.show_info(flags.info, hydra.name, words)
            else:
                _show(hydra, words, flags)
        else:
            return _start(hydra, words, flags)
    return streams.status()


def _show(hydra: Composer, words: list[str], flags: argparse.Namespace) -> None:
    """Hydra's --cfg. Raises ConfigError for a package that is not there and an interpolation that leads nowhere."""
    said = io.StringIO()
    try:
        with hydra.translated(words), redirect_stderr(said):
            hydra.engine.show_cfg(hydra.name, words, flags.cfg, flags.package, flags.resolve)
    except SystemExit as ended:  # how Hydra answers a wrong package
        raise ConfigError(said.getvalue()) from ended


def _parse_flags(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Hydra's flags and the key=value words, in any order."""

    def refuse(message: str) -> NoReturn:
        dashes = "keys take no dashes, as in seed=1; " if message.startswith("unrecognized") else ""
        raise ConfigError(f"{message}; {dashes}see pruner --help")

    parser.error = refuse  # type: ignore[method-assign]  # how argparse is told not to exit by itself
    flags = parser.parse_intermixed_args(argv)
    for flag in REFUSED_FLAGS:
        if getattr(flags, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')}: not supported; add choices of your own with --config-dir")
    if flags.multirun and (flags.cfg or flags.info):
        raise ConfigError("--multirun: runs a sweep; leave out --cfg and --info, or leave out -m")
    return flags


def _start(hydra: Composer, words: list[str], flags: argparse.Namespace) -> int:
    """One run, or a sweep: with -m, or where the config says hydra.mode=MULTIRUN, as experiments do."""
    if flags.multirun or hydra.master(general(hydra, words)).hydra.mode is RunMode.MULTIRUN:
        if world() > 1:
            raise ConfigError("torchrun: its processes share one run; start a sweep without it (hydra/launcher=cores)")
        return sweep.start(hydra, words, flags.config_dir, flags.plan)
    config = checked(hydra.compose(words))
    if flags.plan:
        cells = [Cell(1, 1, tuple(words), (), config)]
        check_folders(cells)
        print(plan.text(cells))
        return streams.status()
    return job.execute(config)
