"""What is shipped: a wheel that carries conf/ and works from any folder, and pins for all that it asks for."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_carries_every_choice(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    choices = {f"pruner/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pruner").rglob("*.py")}
    assert choices | sources <= names
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
