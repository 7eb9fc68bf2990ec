"""Figures as text. Metadata of other trainers may have anything."""

from __future__ import annotations

from typing import Any

import pytest

from atb_fast.cli.figures import sentences

#: Confusion matrices that are none.
UNKNOWN: list[Any] = [None, 5, "", [], {}, [1], [["1"]], [[-10]], [[1e308, 1e308]], [[True] * 20]]
UNKNOWN += [[[0.5, 10**400]], [[9]]]


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        ([[3, 4], [2, 1]], "10 bars (95% interval 40.0% to 60.0%)"),
        (
            [[30, 14], [2, 4]],
            "50 bars (95% interval 40.0% to 60.0% from 10 bars whose horizons do not overlap)",
        ),
        *((each, "bars (95% interval 40.0% to 60.0%, n = 10)") for each in UNKNOWN),
    ],
)
def test_an_accuracy_has_the_number_of_its_bars_if_it_is_known(matrix: Any, text: str) -> None:
    found = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "accuracy_bars": 10}
    shown = sentences(found | {"confusion_matrix": matrix})
    assert shown == {"accuracy": f"right in 50.0% of {text}"}
