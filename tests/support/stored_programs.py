"""Where compiled programs can be stored for the next process."""

from __future__ import annotations

import pytest

from atb_fast.training.environment import versions

_FOUND = next((v for name, v in versions().items() if name.startswith("tensorflow")), "0.0")

#: Skips tests of programs that the next process finds.
needs_stored_programs = pytest.mark.skipif(
    [int(part) for part in _FOUND.split(".")[:2]] < [2, 20],
    reason=f"TensorFlow {_FOUND} names programs differently in every process; needs 2.20 or newer",
)
