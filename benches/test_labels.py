"""Triple-barrier labels, and how they are usually computed, with equal results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from incumbents import Case, barriers_by_bar, barriers_by_row

from atb_fast import _core

BAR_MS = {"1d": 86_400_000, "1h": 3_600_000, "1m": 60_000}
BARRIERS: dict[str, Any] = {"horizon": 336, "take_profit": 0.04, "stop_loss": 0.05}


@pytest.mark.parametrize("way", ["atb_fast", "one_thread", "numpy", "numpy_loop"])
def test_triple_barrier(benchmark: Any, case: Case, way: str) -> None:
    """Label every candle: 4% up or 5% down within 336 bars.

    `numpy` looks one bar ahead of all rows at once, then two bars, and so on. `numpy_loop` takes
    one row after the other.
    """
    benchmark.group = f"triple barrier {case}"
    times = case.candles["timestamp"].dt.epoch("ms").to_numpy()
    prices: list[Any] = [case.candles[name].to_numpy() for name in ("high", "low", "close")]
    step = BAR_MS[case.timeframe]

    def ours(threads: int | None = None) -> Any:
        return _core.triple_barrier(times, *prices, bar_ms=step, threads=threads, **BARRIERS)

    ways: dict[str, Any] = {
        "atb_fast": ours,
        "one_thread": lambda: ours(1),
        "numpy": lambda: barriers_by_bar(times, *prices, step=step, **BARRIERS),
        "numpy_loop": lambda: barriers_by_row(times, *prices, step=step, **BARRIERS),
    }
    rounds = 15 if way in {"atb_fast", "one_thread"} else 1
    result = benchmark.pedantic(ways[way], rounds=rounds, warmup_rounds=min(rounds - 1, 2))
    np.testing.assert_array_equal(result, ours())
