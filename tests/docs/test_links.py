"""Links lead somewhere, and what the pages name is there: files, modules, options; each method has its card."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, anchors, links

TABLES = ROOT / "outputs" / "tables" / "README.md"
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]  # one of what was, one of names that stand for others
SOURCES = sorted((ROOT / "pruner").rglob("*.py"))
PLACES = re.compile(r"(?<![\w/.])(?:pruner|conf|scripts|tests|examples|docs|outputs/tables)/[\w/.-]*\w")
MODULES = re.compile(r"(?<![\w/.-])pruner(?:\.[A-Za-z_]\w*)+")
NO_MODULE = {"pruner.json"}  # an entry of exported files
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, TABLES, *OTHERS], ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if not target.startswith(("https://", "http://")):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def places_named(text: str) -> set[str]:
    """The files and folders of the repository that a text names."""
    return set(PLACES.findall(text))


@pytest.mark.parametrize("page", [*PAGES, TABLES], ids=named)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = {name for name in places_named(text) if not (ROOT / name).exists() and not any(ROOT.glob(f"{name}*"))}
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    for name in set(MODULES.findall(page.read_text(encoding="utf-8"))) - NO_MODULE:
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether `name` is a module of ours, or what can be got of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # what is before the last dot is no package
            continue
        if spec is not None:
            found = importlib.import_module(module) if end < len(parts) else None
            for attribute in parts[end:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def test_what_is_not_there_is_found_out() -> None:
    assert exists("pruner.sparsity.budget.soft_mask") and exists("pruner.methods")
    assert not exists("pruner.sparsity.budget.soft") and not exists("pruner.nothing.here")
    assert places_named("see pruner/none.py and `docs/methods/dtp.md`, not my/pruner/x") == {
        "pruner/none.py",
        "docs/methods/dtp.md",
    }


def test_the_code_points_to_pages_that_are_there() -> None:
    for source in SOURCES:
        for name in re.findall(r"docs/[\w/.-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{source}: {name}"


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_card_with_its_settings(method: str) -> None:
    card = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    options = yaml.safe_load((ROOT / "conf" / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    score = options.pop("score", None) or {}
    for key in [*options, *(f"score.{key}" for key in score if key != "name")]:
        assert key == "name" or f"`method.{key}`" in card or f"`{key}`" in card, key
    headings = ["What it does", "When to take it", "Settings, and what they cost when wrong", "Limits"]
    found = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert [heading for heading in found if heading in headings] == headings
    assert found[-1] == "What we measured"


def test_every_page_is_in_the_site() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(listed) == [str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]]


def test_the_front_door_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
