"""Loads candles and sentiment from any source."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from atb_fast.callbacks import OnProgress, quiet
from atb_fast.config import TrainingConfig, check_cache_dir
from atb_fast.errors import DataError
from atb_fast.ingestion import files, sample
from atb_fast.ingestion.fetch import Fetcher
from atb_fast.ingestion.quality import bad_bars, bar_length, off_grid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Market:
    """Candles of the requested range and the full sentiment history, both ascending, in UTC.

    `candles` has timestamp (ms, open time), open, high, low, close (quote currency) and volume
    (base currency), all float64. `sentiment` has timestamp (ms, midnight) and value (0..100,
    float64), or is None for a model without sentiment.
    """

    candles: pl.DataFrame
    sentiment: pl.DataFrame | None


def load_market(config: TrainingConfig, *, on_progress: OnProgress = quiet) -> Market:
    """Return the candles and sentiment selected by `config`.

    Args:
        config: Symbol, timeframe, range and source.
        on_progress: Called while candles are fetched; see `Fetcher`.

    Raises:
        ArgumentError: The exchange does not list the symbol, or the cache directory is a file.
        DataError: A source cannot be read, or has no candle in the range.
        FetchError: Data is not stored and cannot be fetched.
        StorageError: The store is damaged or not writable.
    """
    check_cache_dir(config.cache_dir)
    sentiment = None
    if config.source == "binance":
        fetcher = Fetcher(
            cache_dir=config.cache_dir,
            offline=config.offline,
            force_refresh=config.force_refresh,
            freshness_days=config.freshness_days,
            on_progress=on_progress,
        )
        candles = fetcher.candles(
            config.symbol, config.timeframe, config.start_date, config.end_date
        )
        if not config.force_price_only:
            sentiment = fetcher.sentiment(config.end_date)
    elif config.source == "sample":
        log.info("source: the sample market; its prices are synthetic")
        candles = sample.candles(config.symbol, config.timeframe)
        if not config.force_price_only:
            sentiment = sample.sentiment()
    else:
        assert config.candles is not None  # checked by TrainingConfig
        candles = files.read_candles(config.candles)
        if config.force_price_only:
            if config.sentiment is not None:
                log.info("--force-price-only: ignoring %s", config.sentiment)
        elif config.sentiment is not None:
            sentiment = files.read_sentiment(config.sentiment)
    return Market(_cut(candles, config), sentiment)


def _cut(candles: pl.DataFrame, config: TrainingConfig) -> pl.DataFrame:
    times = candles["timestamp"]
    wanted = pl.Series([True] * len(candles))
    if config.start:
        wanted &= times >= config.start
    if config.end:
        wanted &= times <= config.end
    inside = candles.filter(wanted)
    if candles.is_empty():
        raise DataError(
            f"{config.symbol} {config.timeframe} has no candles from "
            f"{config.start_date or 'the beginning'} to {config.end_date or 'the end'}; it may not "
            "have been listed yet. Choose a later range"
        )
    if inside.is_empty():
        raise DataError(
            f"no candles between {config.start_date or 'the beginning'} and "
            f"{config.end_date or 'the end'}; {_span(times)}"
        )
    _check_bar_length(inside, config)
    missing = gaps(inside["timestamp"], config.bar_ms)
    if missing:
        log.info(
            "%d gaps in the candles, the longest %s; moving averages and windows span them",
            len(missing),
            max(missing),
        )
    if config.source == "files":  # the exchange clients and the store reject such bars
        _warn_of_impossible(inside)
    astray = int(off_grid(inside, config.bar_ms).sum())
    if astray:
        log.info(
            "%d candles do not open on the %s grid, so no sentiment is joined to them",
            astray,
            config.timeframe,
        )
    return inside


def _warn_of_impossible(candles: pl.DataFrame) -> None:
    impossible = bad_bars(candles).arg_true()
    if len(impossible):
        log.warning(
            "%d candles are impossible (open or close outside low..high), the first at %s",
            len(impossible),
            candles["timestamp"][impossible[0]],
        )


def gaps(times: pl.Series, bar_ms: int) -> list[timedelta]:
    """Return the length of every step between two candles that is longer than one bar."""
    steps = times.diff().drop_nulls()
    return steps.filter(steps > timedelta(milliseconds=bar_ms)).to_list()


def _check_bar_length(candles: pl.DataFrame, config: TrainingConfig) -> None:
    """Raise DataError for candles of another timeframe: they would train a different model."""
    if len(candles) < 2:
        return
    step = bar_length(candles)
    if step != config.bar_ms:
        raise DataError(
            f"the candles are {step / 60_000:g} minutes apart, expected "
            f"{config.bar_ms / 60_000:g} for timeframe {config.timeframe}; pass a file of that "
            "timeframe, or the matching --timeframe"
        )


def _span(times: pl.Series) -> str:
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return f"the source covers {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
