"""What CONTRIBUTING.md sends its readers to is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_files_are_there() -> None:
    places = set(re.findall(r"`((?:pruner|tests|conf|docs|\.github)/[^`]*)`", TEXT))
    assert len(places) > 10
    assert {place for place in places if "NAME" not in place and not (ROOT / place).exists()} == set()


def test_what_is_in_a_file_is_in_it() -> None:
    named = re.findall(r"`(\w+)`\s(?:of|in)\s`((?:pruner|tests)/[\w/]+\.py)`", TEXT)
    assert len(named) > 4
    for name, place in named:
        assert re.search(rf"^{name}\b", (ROOT / place).read_text(encoding="utf-8"), re.MULTILINE), (name, place)


def test_goals_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    said = re.findall(r"(?:^|`)make ((?:[a-z]+ )*[a-z]+)(?:`|  | PYTHON)", TEXT, re.MULTILINE)
    goals = {goal for words in said for goal in words.split()}
    assert len(goals) > 5
    assert goals - known == set()
