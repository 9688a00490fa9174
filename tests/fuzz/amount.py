"""How much is tried: a share of seconds with the suite, the same each time; all of it, fresh, with scripts/fuzz.sh."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings

WHOLE = "FUZZ_ALL" in os.environ


def tries(few: int, many: int) -> Callable[..., Callable[..., None]]:
    """Settings for `few` examples with the suite, for `many` with the script."""
    return settings(
        max_examples=many if WHOLE else few,
        derandomize=not WHOLE,
        database=None,  # what was found belongs into an @example
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
