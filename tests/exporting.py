"""What the tests of `pruner-export` share."""

from __future__ import annotations

import pytest

from pruner.cli.export import main


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line in which the command refuses `words`."""
    capsys.readouterr()  # what was said before
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("pruner-export: ")
    return said.err
