"""Whatever a reader may copy from README and docs works: Python is executed, commands are composed and checked."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from pruner.cli import compare, export
from pruner.compose import cells
from pruner.compose.choices import conf_folder
from pruner.compose.composing import checked, composer
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.fuzz.answers import Answer, ask

WITH_CODE = [page for page in PAGES if blocks(page)]
LANGUAGES = {"python", "sh", "console", "yaml", "text"}
ANSWERED = {"--plan", "--help", "--cfg", "--version"}  # words after which nothing is trained
PARSERS = {"pruner-compare": compare._parser, "pruner-export": export._parser}
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"pruner-compare": compare.main, "pruner-export": export.main}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with what pages take as given: examples/, images in DIR/; imports are taken back."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "DIR" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "DIR" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("pruner.sweep.plan.rehearsed", lambda left: [])  # which builds and traces large networks
    monkeypatch.setattr(cells, "product", partial(covering, cells.product))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def covering(
    product: Callable[..., list[list[str]]], hydra: Any, params: Any, grids: Any, words: Sequence[str]
) -> list[list[str]]:
    """So many cells of a sweep that each value in its `words` is in one of them; one of an experiment's own.

    All cells of all experiments are composed in tests of their own.
    """
    keys = {word.partition("=")[0] for word in words}
    chosen: list[list[str]] = []
    seen: set[str] = set()
    for cell in product(hydra, params, grids, words):
        asked = {word for word in cell if word.partition("=")[0] in keys}
        if not chosen or not asked <= seen:
            seen |= asked
            chosen.append(cell)
    return chosen


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_do_works(page: Path, desk: Path) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}  # of all the Python of a page
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page}:{block.line}: say what it is: {', '.join(sorted(LANGUAGES))}"
        if block.left_alone:
            continue
        if block.title:
            file = desk / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            # Empty lines before it, so that a traceback has the lines of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with warnings.catch_warnings():
                if block.others:
                    warnings.simplefilter("ignore")  # it is not ours to mend
                exec(code, namespace)
        if block.language == "yaml":
            yaml.safe_load(block.text)
        if block.language in ("sh", "console"):
            for words in block.commands():
                try_out(words, block, page)


def try_out(words: list[str], block: Block, page: Path) -> None:
    """Runs a command of ours, where the page says so; otherwise has it composed and checked. Others are left alone."""
    program, *words = words
    if program == "torchrun":
        program, words = "pruner", words[words.index("pruner") + 1 :]
    where = f"{page}:{block.line}: {program} {' '.join(words)}"
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if program == "pruner" and (block.run or (ANSWERED - {"--plan"}) & {*words}):
        answer = ask([*words, *block.more])
    elif program == "pruner" and "--config-dir" in words:  # where each page has files of its own
        answer = ask([*words, "--plan"])
    elif program == "pruner":
        answer = planned(tuple(word for word in words if word != "--plan"))
    elif program in COMMANDS and block.run:
        answer = ask(words, COMMANDS[program])
    elif program in PARSERS:
        PARSERS[program]().parse_args(words)
        return
    else:
        return
    assert answer.status == 0, f"{where}\n{answer.err}"


@cache
def planned(words: tuple[str, ...]) -> Answer:
    """What `pruner` answers that only composes and checks; once for a command that several pages have."""
    if any(word.startswith(("-", "experiment=")) for word in words):
        return ask([*words, "--plan"])
    with composer([conf_folder()], "config") as hydra:  # as the command does, in half of the time
        checked(hydra.compose(words))
    return Answer(0, "", "")


def test_the_own_method_that_the_pages_show_is_the_example() -> None:
    shown = [(block.title, block.text) for page in WITH_CODE for block in blocks(page) if block.title]
    for name in ("movement.py", "method/movement.yaml"):
        example = (ROOT / "examples" / "own_method" / name).read_text(encoding="utf-8")
        assert [text for title, text in shown if title == f"mine/{name}"] == [example, example]  # tutorial and guide


def test_blocks_are_told_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run with seed=1 -->\n```sh\npruner a=1 \\\n  b=2  # said\nmake x\n```\n"
        '- item\n\n  ```python title="a/b.py"\n  if x:\n      y\n  ```\n'
        "<!-- not run: it is refused -->\n```console\n$ pruner 'c=[1, 2]'\npruner was here\n```\n"
        "<!-- needs torch -->\n```python\n1\n```\n<!-- needs no_such_module -->\n```python\n2\n```\n"
    )
    shell, python, console, *needy = blocks(page)
    assert list(shell.commands()) == [["pruner", "a=1", "b=2"], ["make", "x"]]
    assert (shell.line, shell.run, shell.more) == (3, True, ("seed=1",))
    assert (python.language, python.title, python.text) == ("python", "a/b.py", "if x:\n    y\n")
    assert list(console.commands()) == [["pruner", "c=[1, 2]"]]
    assert [block.left_alone for block in (shell, python, console)] == [False, False, True]
    assert [block.left_alone for block in needy] == [False, True]
    page.write_text("````python\n1\n````\n")
    with pytest.raises(ValueError, match=r"page.md:1"):
        blocks(page)
