"""What is read wrongly is also not compared."""

from __future__ import annotations

from tests.compare.conftest import outputs

__all__ = ["outputs"]
