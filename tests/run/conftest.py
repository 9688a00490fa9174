"""Processes that are soon there, for all tests of runs that meet others or are killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.killing import Nursery, nursery


@pytest.fixture(scope="session")
def processes() -> Iterator[Nursery]:
    with nursery() as found:
        yield found
