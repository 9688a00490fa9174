"""What can change a result but is no key: the content of the data and of a weights file, and a user's own code.

Folders of runs and of dense networks keep it beside their config, in `fingerprint.json`, and what was made with another
content than there is now is refused by name. It is no part of the run's id. A folder without one, as older versions
left them, is taken for what it says, with a warning; so is one whose data are not there any more. None of a user's
code is run to tell it, and torch is not imported.

Of a folder of images it has their names and sizes, of a file of many GB its size: nobody reads ImageNet to hear that a
run is done. Of what a user's own class reads it has the files whose paths are its options, and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pruner.checks import ConfigError, build, one_line
from pruner.config import OPEN_GROUPS, Choice, Config, absolute, expand, path_options
from pruner.data.paths import PARTS, downloaded_file
from pruner.runtime.distributed import of_first
from pruner.store import own_code
from pruner.store.folders import DenseStore, Folder, RunFolder
from pruner.store.reading import read_json
from pruner.store.tensors import write_json

log = logging.getLogger("pruner")

NAME = "fingerprint.json"
MOST_BYTES = 2**32  # of a file that is read


@dataclass(frozen=True)
class Part:
    """One thing: the `value` of its key, and the sha256 of its `files` by their names in `place`; none: not there."""

    value: str
    place: str
    files: dict[str, str]


Fingerprint = Mapping[str, Part]  # by key, as in data_dir, dataset.root, model.weights, method.name


@of_first
def of(config: Config, read: dict[Path, dict[str, str]] | None = None) -> Fingerprint:
    """As things are now; empty where the config says all. What `read` has already, by its path, is not read again.

    Raises ConfigError where own code was changed under this process (see `own_code.in_use`).
    """
    read = {} if read is None else read
    parts: dict[str, Part] = {}
    paths: dict[str, tuple[str, str]] = {}  # each with the value that its key has
    if file := downloaded_file(config.dataset.name, Path(config.data_dir)):
        paths["data_dir"] = config.data_dir, str(file)
    for group in OPEN_GROUPS:
        choice: Choice = getattr(config, group)
        options = _own_files(choice) if ":" in choice.name else path_options(group, choice)
        paths |= {f"{group}.{option}": (path, path) for option, path in options.items()}
    classes = {f"{group}.name": getattr(config, group).name for group in OPEN_GROUPS} | _score(config.method)
    for key, name in classes.items():
        if ":" in name:
            parts[key] = Part(name, *own_code.in_use(key, name))
    for key, (value, given) in paths.items():
        path = Path(absolute(given))
        if path not in read:
            read[path] = _of_folder(path) if os.path.isdir(path) else _of_file(path)
        place = path if os.path.isdir(path) else path.parent
        parts[key] = Part(value, str(place), read[path])
    return parts


def of_dense(fingerprint: Fingerprint) -> Fingerprint:
    """Of a run's, what its dense network depends on."""
    return {key: part for key, part in fingerprint.items() if not key.startswith("method.")}


@of_first
def alike(one: Config, other: Config) -> bool:
    """Whether two configs stand for the same data, weights and code, as things are now."""
    files, others = ({key: part.files for key, part in of(config).items()} for config in (one, other))
    return files == others


@of_first
def check(runs: Iterable[tuple[Config, bool]]) -> None:
    """Raises ConfigError where a folder that a run would answer from, or go on from, was made with something else.

    With each config comes whether its run is done; where not, its checkpoint and its dense network count. One warning
    says what could not be compared.
    """
    read: dict[Path, dict[str, str]] = {}
    unknown: dict[str, None] = {}
    for config, done in runs:
        outputs = Path(expand(config.output_dir))
        run, dense = RunFolder(outputs / config.run_id), DenseStore(outputs / config.dense_id)
        if done or run.begun():
            unknown |= dict.fromkeys(_compare(run, of(config, read)))
        if not done and dense.begun():
            unknown |= dict.fromkeys(_compare(dense, of_dense(of(config, read))))
    if unknown:
        more = f"; and {len(unknown) - 1} more like this" if len(unknown) > 1 else ""
        log.warning("%s%s", next(iter(unknown)), more)


@of_first
def keep(folder: Folder, now: Fingerprint, begun: bool) -> None:
    """Writes the fingerprint of what is about to be made in `folder`; where that has `begun`, compares.

    Needs the folder's lock. Raises ConfigError.
    """
    if begun:
        _compare(folder, now)
    elif now:
        write_json(folder.path / NAME, {key: asdict(part) for key, part in now.items()})


def make_importable(folder: Path, key: str, name: str) -> None:
    """Lets the own class `name` of the run in `folder` be imported from where the run found it, if it must be.

    For whoever may run it. Raises ConfigError where the code is gone, or another than the run's; where there is no
    fingerprint, nothing is done.
    """
    before = _kept(folder).get(key)
    if before is None or not before.files:
        return
    here, there = (Part(name, *own_code.sources(name, places)) for places in (sys.path, [before.place]))
    if here.files == before.files:
        return
    if there.files == before.files:
        sys.path.insert(0, before.place)
        return
    now = here if here.files else there
    wrong = _different(folder, key, before, now) if now.files else f"{key}={name}: not in {before.place} any more"
    raise ConfigError(f"{wrong}; give the folder with the code as it was as --config-dir")


def _compare(folder: Folder, now: Fingerprint) -> list[str]:
    """A line for each thing that cannot be compared. Raises ConfigError where one is another than it was."""
    unknown = []
    if now and not (folder.path / NAME).exists():
        return [f"{folder.path}: has no {NAME}, as of an older pruner; taken to be of the same data, weights and code"]
    for key, before in _kept(folder.path).items():
        part = now.get(key)
        if part is not None and part.files and before.files != part.files:
            remedy = f"give another output_dir, delete that folder to make it anew, or its {NAME} if this is no matter"
            raise ConfigError(one_line(f"{_different(folder.path, key, before, part)}; {remedy}"))
        if before.files and (part is None or not part.files):
            unknown.append(f"{key}={before.value}: not there any more, to be compared with what made {folder.path}")
    return unknown


def _different(folder: Path, key: str, before: Part, now: Part) -> str:
    names = sorted({**before.files, **now.files})
    name = next(name for name in names if before.files.get(name) != now.files.get(name))
    where = f" (then in {before.place})" if before.place != now.place else ""
    return f"{key}={now.value}: {Path(now.place) / name} is not what {folder} was made with{where}"


def _kept(folder: Path) -> Fingerprint:
    """What was kept in a folder, nothing where it has no fingerprint. Raises ConfigError for a damaged one."""
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        return {key: build(Part, values, key) for key, values in read_json(path).items()}
    except ConfigError as error:
        raise ConfigError(one_line(f"{error}; without {path} the folder is taken for what it says")) from error


def _score(choice: Choice) -> dict[str, str]:
    """The key and the name of a method's score, if it has one."""
    score = choice.options.get("score")
    name = score.get("name") if isinstance(score, Mapping) else score
    return {"method.score.name": name} if isinstance(name, str) else {}


def _own_files(choice: Choice) -> dict[str, str]:
    """The options of a user's own class that are paths of files which are there."""
    texts = {option: value for option, value in choice.options.items() if isinstance(value, str)}
    return {option: text for option, text in texts.items() if os.path.isfile(expand(text))}


def _of_file(path: Path) -> dict[str, str]:
    """sha256 of a file by its name, or its size where that is above MOST_BYTES; nothing where there is no file."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            return {path.name: f"{size} bytes"}
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError:
        return {}
    return {path.name: digest.hexdigest()}


def _of_folder(root: Path) -> dict[str, str]:
    """sha256 of each of the PARTS of a tree of class folders that are there."""
    return {part: _tree(root / part) for part in PARTS if (root / part).is_dir()}


def _tree(top: Path) -> str:
    """sha256 of the names below `top`, with the sizes, of all files."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(top, followlinks=True):
        folders.sort()
        digest.update(os.fsencode(f"{os.path.relpath(folder, top)}\n"))
        for name in sorted(files):
            digest.update(os.fsencode(f"{name}\0{_size(os.path.join(folder, name))}\n"))
    return digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a link that leads nowhere
        return -1
