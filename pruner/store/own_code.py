"""Users' own classes, `package.module:Class`: where their code lies and what it is, told without importing it."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import resolve_name
from pathlib import Path

from pruner.checks import ConfigError

Sources = tuple[str, dict[str, str]]  # the folder that modules are found in, and sha256 of files by their names there
NOTHING: Sources = ("", {})

_used: dict[tuple[str, str], dict[str, str]] = {}  # by place and module, what this process has imported or will


def sources(name: str, places: Iterable[str]) -> Sources:
    """The code of `package.module:Class` in the first of the `places` that has the module; NOTHING where none has.

    It is the module's file and those that it imports from the same place, by whatever statement, and these in turn. Not
    seen are modules that are imported by a computed name, and files that are no Python source. Of an installed package
    its own files count alone; pruner's never do: its version and commit are in the row.
    """
    module = name.partition(":")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        return NOTHING
    for place in places:
        if _file(Path(place), module) is not None:
            return str(Path(place).absolute()), _followed(Path(place), module)
    return NOTHING


def in_use(key: str, name: str) -> Sources:
    """The code of the class that `key` names, as this process runs it.

    Raises ConfigError where it was changed after this process imported it: what is run is then no longer what is read.
    """
    place, files = sources(name, sys.path)
    module = name.partition(":")[0]
    if module not in sys.modules:
        _used[place, module] = files
    before = _used.setdefault((place, module), files)
    if before != files:
        file = min(file for file in {**before, **files} if before.get(file) != files.get(file))
        raise ConfigError(f"{key}={name}: {file} was changed while this process works with what it was; start it again")
    return place, files


def _followed(root: Path, module: str) -> dict[str, str]:
    installed = str(root.absolute()) in sysconfig.get_paths().values()
    found: dict[str, str] = {}
    left = [module]
    while left:
        packages = left.pop().split(".")
        if packages[0] == "pruner" or (installed and packages[0] != module.partition(".")[0]):
            continue
        for depth in range(1, len(packages) + 1):  # with a module its packages are imported
            inner = ".".join(packages[:depth])
            path = _file(root, inner)
            if path is None or (name := path.relative_to(root).as_posix()) in found:
                continue
            try:
                text = path.read_bytes()
            except OSError:  # it cannot be imported either
                continue
            found[name] = hashlib.sha256(text).hexdigest()
            left += _imported(text, inner if path.name == "__init__.py" else inner.rpartition(".")[0])
    return found


def _file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    files = base / "__init__.py", base.with_name(f"{base.name}.py")
    return next((path for path in files if os.path.isfile(path)), None)


def _imported(text: bytes, package: str) -> Iterator[str]:
    """The names of what the source `text` of a module in `package` imports: modules, and what may be one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are said when it is run
            nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError):  # whoever imports it says so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                name = resolve_name("." * node.level + (node.module or ""), package or None)
            except ImportError:  # beyond the outermost package: likewise
                continue
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)
