"""What is shipped: a wheel that carries conf/ and works from any folder, its source, and pins of what they ask for."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def built(kind: str, source: Path, folder: Path) -> Path:
    """The `kind` of package, sdist or wheel, made of the files in `source`."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], cwd=source, check=True)
    (package,) = folder.iterdir()
    return package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("dist"))


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_carries_every_choice(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    choices = {f"pruner/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pruner").rglob("*.py")}
    assert choices | sources | {"pruner/py.typed"} <= names
    strangers = {name for name in names if not name.startswith("pruner")}
    assert strangers == set()
    assert any(name.endswith("LICENSE") for name in names)


def test_the_installed_command_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """Installed without its dependencies, which this environment has; they are not fetched for a test."""
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True)

    def pruner(*words: str) -> subprocess.CompletedProcess[str]:
        script = target / "bin" / "pruner"
        environment = {**os.environ, "PYTHONPATH": str(target), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [sys.executable, str(script), *words], cwd=elsewhere, env=environment, capture_output=True, text=True
        )

    assert str(target / "pruner" / "conf") in pruner("--info", "searchpath").stdout
    assert "sparsity: 0.75" in pruner("--cfg", "job", "sparsity=0.75").stdout
    assert "resnet110" in pruner("--help").stdout
    refused = pruner("method=dpt")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert list(elsewhere.iterdir()) == []


def test_the_source_package_makes_the_same_wheel_and_carries_what_its_tests_read(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("pruner-*")
    again = built("wheel", source, tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    left_out = {name for name in tracked if name and (ROOT / name).exists() and not (source / name).exists()}
    assert left_out == set()


def test_the_pythons_are_the_same_wherever_they_are_named(wheel: Path) -> None:
    said = metadata(wheel)
    fits = SpecifierSet(said["Requires-Python"])
    assert [f"3.{minor}" for minor in range(20) if fits.contains(f"3.{minor}")] == list(PYTHONS)
    labels = [text.removeprefix("Programming Language :: Python :: ") for text in said.get_all("Classifier", [])]
    assert [label for label in labels if label.startswith("3.")] == list(PYTHONS)
    assert f"FITS := {' '.join(PYTHONS)}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["quick"]["strategy"]["matrix"]["python"] == list(PYTHONS)


@pytest.mark.parametrize("goal", ["run", "test"])
def test_another_python_is_one_line_before_anything_is_installed(goal: str, tmp_path: Path) -> None:
    python, environment = tmp_path / "python", tmp_path / "venv"
    newer = "import sys; sys.version_info = (3, 14, 0); exec(sys.argv[2])"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{newer}' \"$@\"\n")
    python.chmod(0o755)
    words = ["make", "--no-print-directory", goal, f"PYTHON={python}", f"VENV={environment}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of an outer make
    told = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert f"{python} is Python 3.14, pruner runs on Python {' '.join(PYTHONS)}: PYTHON=python3" in told.stderr
    assert f"make {goal}" in told.stderr
    assert not environment.exists()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_pin(python: str, wheel: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    asked = [Requirement(text) for text in metadata(wheel).get_all("Requires-Dist", [])]
    assert {"torch", "hydra-core", "pytest", "ruff"} <= {canonicalize_name(requirement.name) for requirement in asked}
    for requirement in asked:
        mine = [
            pin
            for pin in pins
            if canonicalize_name(pin.name) == canonicalize_name(requirement.name)
            and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
        ]
        assert len(mine) == 1, f"{requirement.name} on Python {python}: {[str(pin) for pin in mine]}"
        (exact,) = mine[0].specifier
        assert exact.operator == "==" and "+" not in exact.version
        assert requirement.specifier.contains(exact.version)


@pytest.mark.parametrize("python", PYTHONS)
def test_no_package_is_pinned_twice(python: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [
        canonicalize_name(pin.name)
        for pin in pins
        if pin.marker is None or pin.marker.evaluate({"python_version": python})
    ]
    assert len(names) == len(set(names))
