"""Numbers as the terminal and the pages show them."""

from __future__ import annotations

import math

import pytest

from atb_fast.cli import figures
from atb_fast.reports.rows import number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.50000"),
        (0.4873, "0.48730"),
        (-0.01234567, "-0.012346"),
        (1.0, "1.0000"),
        (99.9, "99.900"),
        (99.9999, "100.00"),
        (1680.5, "1,680.50"),
        (0.0, "0.0000"),
        (12, "12"),
        (12000, "12,000"),
        (math.inf, "inf"),
    ],
)
def test_numbers_of_a_column_are_equally_precise(value: float, text: str) -> None:
    assert number(value) == figures.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00151, "0.0015"), (0.1, "0.10"), (12.3, "12"), (99.7, "99.70"), (1234.5, "1,234.50")],
)
def test_intervals_need_fewer_digits(value: float, text: str) -> None:
    assert number(value, 2) == text


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], 10**400])
def test_what_is_no_number_is_empty(value: object) -> None:
    assert figures.number(value) == ""
