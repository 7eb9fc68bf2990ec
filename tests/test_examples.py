"""The scripts in examples/ run as documented; the backtest neither looks ahead nor miscounts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from atb_fast import TrainingConfig, walk_forward
from atb_fast.ingestion import sample

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def backtest() -> ModuleType:
    """`examples/backtest.py` as a module."""
    spec = importlib.util.spec_from_file_location("backtest", EXAMPLES / "backtest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "backtest.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(output: str) -> dict[str, list[str]]:
    """Return the figures of each row of the table that is printed."""
    rows = output.partition("position\n")[2].partition("\n\n")[0].splitlines()
    return {row[:18].strip(): row[18:].split() for row in rows}


def test_backtest_runs_on_the_sample_market_and_on_candles_of_a_file(tmp_path: Path) -> None:
    of_sample = run()
    assert of_sample.returncode == 0, of_sample.stderr
    shown = table(of_sample.stdout)
    assert list(shown) == ["buy and hold", "same volatility", "sized by HAR", "sized by the model"]
    assert {len(cells) for cells in shown.values()} == {6}
    volatility = {name: float(cells[1].strip("%")) for name, cells in shown.items()}
    assert volatility["same volatility"] == pytest.approx(volatility["sized by the model"], abs=0.5)
    assert "of 27 variants" in of_sample.stdout
    assert "synthetic sample market" in of_sample.stdout

    sample.candles("BTCUSDT", "1d").write_parquet(tmp_path / "candles.parquet")
    of_file = run("--candles", tmp_path / "candles.parquet")
    assert of_file.returncode == 0, of_file.stderr
    assert of_file.stdout.splitlines()[1:] == of_sample.stdout.splitlines()[1:]


def test_backtest_reports_a_file_that_does_not_exist_in_one_line(tmp_path: Path) -> None:
    done = run("--candles", tmp_path / "missing.parquet")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def candles(daily: pl.DataFrame) -> pl.DataFrame:
    """300 bars, of which two are missing, and whose opens differ from the last close."""
    rng = np.random.default_rng(1)
    jumps = pl.Series(np.exp(rng.normal(0, 0.01, 300)))
    return (
        daily.tail(300)
        .with_columns(pl.col("open") * jumps)
        .filter(~pl.int_range(pl.len()).is_in([100, 101]))
    )


@pytest.fixture
def forecasts(candles: pl.DataFrame) -> pl.DataFrame:
    """Forecasts for the bars from the 21st on; five are missing, among them the last."""
    rng = np.random.default_rng(2)
    made = candles["timestamp"][20:]
    frame = pl.DataFrame({"made_at": made, "target_time": made + timedelta(days=1)}).with_columns(
        prediction=pl.Series(rng.lognormal(-3.5, 0.5, len(made)))
    )
    return frame.filter(~pl.int_range(pl.len()).is_in([7, 60, 61, 200, len(made) - 1]))


def by_hand(
    candles: pl.DataFrame, forecasts: pl.DataFrame, *, target: float, cap: float, cost: float
) -> list[float]:
    """Return the equity at the end of each bar, counted in coins and cash, bar by bar."""
    known = dict(forecasts.select("made_at", "prediction").iter_rows())
    bars = candles.filter(pl.col("timestamp") >= min(known)).to_dicts()
    cash, coins, share = 1.0, 0.0, 0.0
    equities = []
    for number, bar in enumerate(bars):
        if (sigma := known.get(bar["timestamp"])) is not None:
            share = min(target / (sigma * 365.25**0.5), cap)
        equity = cash + coins * bar["open"]
        equity -= cost * abs(share * equity - coins * bar["open"])
        coins = share * equity / bar["open"]
        cash = equity - coins * bar["open"]
        end = bars[number + 1]["open"] if number + 1 < len(bars) else bar["close"]
        equities.append(cash + coins * end)
    return equities


@pytest.mark.parametrize("cost", [0.0, 0.001, 0.05])
@pytest.mark.parametrize("cap", [1.0, 2.5])
def test_backtest_equals_a_loop_that_counts_coins_and_cash(
    backtest: ModuleType,
    candles: pl.DataFrame,
    forecasts: pl.DataFrame,
    cost: float,
    cap: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backtest, "CAP", cap)
    decided = backtest.positions(forecasts, "prediction", 0.8)
    assert decided["position"].min() < cap == decided["position"].max()
    bars = backtest.backtest(candles, decided, cost)
    expected = by_hand(candles, forecasts, target=0.8, cap=cap, cost=cost)
    np.testing.assert_allclose((1 + bars["net"]).cum_prod(), expected, rtol=1e-12)


def test_positions_have_the_target_volatility_whatever_the_horizon(backtest: ModuleType) -> None:
    made = datetime(2024, 1, 1, tzinfo=UTC)
    hours = [1, 24, 96]
    sigma = [0.8 * (each / (365.25 * 24)) ** 0.5 for each in hours]  # 80% a year
    forecasts = pl.DataFrame(
        {
            "made_at": [made] * 3,
            "target_time": [made + timedelta(hours=each) for each in hours],
            "prediction": sigma,
        }
    )
    decided = backtest.positions(forecasts, "prediction", 0.4)
    assert decided["position"].to_list() == pytest.approx([0.5] * 3)
    assert backtest.positions(forecasts, "prediction", 0.9)["position"].to_list() == [1.0] * 3
    rounded = backtest.positions(forecasts, "prediction", 0.29, 0.25)
    assert rounded["position"].to_list() == [0.25] * 3


def test_a_constant_position_is_bought_once_and_has_no_timing(
    backtest: ModuleType, candles: pl.DataFrame
) -> None:
    hold = candles[20:].select(made_at="timestamp", position=1.0)
    bars = backtest.backtest(candles, hold, 0.01)
    assert bars["turnover"].to_list() == pytest.approx([1.0] + [0.0] * (len(bars) - 1), abs=1e-12)
    half = backtest.backtest(candles, hold.with_columns(position=0.5), 0.0)
    assert half["turnover"][1:].min() > 0  # prices change what is held
    assert np.abs(backtest.hedged(half)).max() < 1e-12
    assert backtest.figures(half)["volatility"] == pytest.approx(
        0.5 * bars["market"].std() * 365.25**0.5
    )


def test_figures_are_those_of_the_equity(backtest: ModuleType) -> None:
    days = pl.datetime_range(
        datetime(2024, 1, 1), datetime(2024, 1, 4), "1d", eager=True, time_zone="UTC"
    )
    net = pl.Series([-0.2, 0.5, -0.5, 1.0])  # 0.8, 1.2, 0.6, 1.2
    bars = pl.DataFrame({"timestamp": days, "net": net, "turnover": [1.0, 0, 0, 0]})
    found = backtest.figures(bars.with_columns(position=0.5))
    assert found["drawdown"] == pytest.approx(-0.5)
    assert found["return"] == pytest.approx(1.2 ** (365.25 / 4) - 1)
    assert found["turnover"] == pytest.approx(365.25 / 4)
    assert found["sharpe"] == pytest.approx(net.mean() / net.std() * 365.25**0.5)  # type: ignore[operator]


def test_later_candles_change_no_earlier_position(backtest: ModuleType, tmp_path: Path) -> None:
    candles = sample.candles("BTCUSDT", "1d").tail(1_000)
    cut = candles["timestamp"][800]  # in the middle of a test period
    factor = pl.Series(np.random.default_rng(3).lognormal(0, 0.2, len(candles)))
    changed = candles.with_columns(
        pl.when(pl.col("timestamp") < cut).then(pl.col(name)).otherwise(pl.col(name) * factor)
        for name in ("open", "high", "low", "close")
    )
    made = []
    for number, frame in enumerate((candles, changed)):
        path = tmp_path / f"BTCUSDT_{number}.parquet"
        frame.write_parquet(path)
        config = TrainingConfig(
            symbol="BTCUSDT",
            candles=path,
            recipe="volatility",
            timeframe="1d",
            end_date=date(2024, 12, 31),
        )
        predictions = walk_forward(config, folds=2).predictions
        sized = backtest.positions(predictions, "prediction", backtest.TARGET)
        made.append(backtest.backtest(frame, sized))
    before, after = (bars.filter(pl.col("timestamp") <= cut) for bars in made)
    assert len(before) > 250
    # The position at the cut is decided when the bar before it closes.
    decided = pl.col("timestamp", "position")
    assert_frame_equal(before.select(decided), after.select(decided), check_exact=True)
    assert_frame_equal(before[:-2], after[:-2], check_exact=True)
    assert not made[0].equals(made[1])
