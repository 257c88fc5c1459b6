"""How many inputs the fuzzing tests try: MAMDR_FUZZ_EXAMPLES each, and a few where it is not set."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def examples(default: int) -> Callable:
    """Settings of a test: so many examples, the same ones on every run unless more are asked for."""
    asked = os.environ.get("MAMDR_FUZZ_EXAMPLES")
    return settings(
        max_examples=int(asked or default),
        deadline=None,
        derandomize=not asked,
        suppress_health_check=SLOW,
        database=None,
        report_multiple_bugs=False,
    )
