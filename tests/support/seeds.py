"""Seeds for tests with random actions."""

from __future__ import annotations

import os
from datetime import date

#: Read before tests/conftest.py removes it from the environment.
_GIVEN = os.environ.get("ATB_FAST_FAULT_SEED")


def seed_of_today() -> int:
    """Return another seed every day, or $ATB_FAST_FAULT_SEED.

    pytest shows what it prints if the test fails.
    """
    seed = int(_GIVEN or date.today().toordinal())
    print(f"to repeat this run: ATB_FAST_FAULT_SEED={seed}")
    return seed
