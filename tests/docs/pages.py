"""What the pages of the documentation hold: blocks of code, links, anchors.

A page says what a test does with a block. ```python is executed, ```yaml has to be YAML, and the commands of ours in
```sh and ```console are composed and checked. A block with a title, as in ```python title="mine/net.py", is written
to a file of that name. In a comment above the block, which no reader sees:

    <!-- not run: REASON -->    the block is left alone
    <!-- needs MODULE -->       so it is where that module is not installed
    <!-- run -->                its commands are run
    <!-- run with WORDS -->     its commands are run, each `pruner` with these words added
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_COMMENT = re.compile(r"<!-- (?:(?P<not_run>not run: \S.*)|needs (?P<module>\w+)|run(?: with (?P<words>.+))?) -->")
_FENCE = re.compile(r"( *)```(\w*)(?: title=\"(.+)\")?$")
_LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """`line` is the number of the block's first line in its page, from 1. What the comment above it says: `left_alone`;
    `others`, that it needs a module of others; `run`, and `more`, the words that are added.
    """

    line: int
    language: str
    title: str | None
    text: str
    left_alone: bool = False
    others: bool = False
    run: bool = False
    more: tuple[str, ...] = ()

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line; of ```console, those after `$ `."""
        for line in self.text.replace("\\\n", " ").splitlines():
            prompt = "$ " if self.language == "console" else ""
            if line.startswith(prompt) and (words := shlex.split(line.removeprefix(prompt), comments=True)):
                yield words


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. Raises ValueError for a fence that is opened in a way not known here."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, number = [], 0
    while number < len(lines):
        opened = _FENCE.fullmatch(lines[number])
        if not opened:
            if "```" in lines[number]:
                raise ValueError(f"{page}:{number + 1}: {lines[number]}")
            number += 1
            continue
        indent, language, title = opened.groups()
        end = lines.index(f"{indent}```", number + 1)
        comment = _COMMENT.fullmatch(lines[number - 1].strip())
        text = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end]) + "\n"
        said: dict[str, Any] = {}
        if comment:
            missing = comment["module"] and importlib.util.find_spec(comment["module"]) is None
            said["left_alone"] = bool(comment["not_run"] or missing)
            said["others"] = comment["module"] is not None
            said["run"] = not comment["not_run"] and not comment["module"]
            said["more"] = tuple((comment["words"] or "").split())
        found.append(Block(number + 2, language, title, text, **said))
        number = end + 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead, but for what is code."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What a link into a page may end with: its headings, as they are made into anchors, and anchors by name."""
    text = prose(page)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)"></a>', text))
