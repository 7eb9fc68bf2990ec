"""Loads candles and sentiment from any source."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import MarketOptions, check_cache_dir
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


def load_market(options: MarketOptions, *, listener: Listener = SILENT) -> Market:
    """Return the candles and sentiment selected by `options`.

    Args:
        options: Symbol, timeframe, range and source, for example a `TrainingConfig`.
        listener: Receives the progress of downloads.

    Raises:
        ArgumentError: The exchange does not list the symbol, or the cache directory is a file.
        DataError: A source cannot be read, or has no candle in the range.
        FetchError: Data is not stored and cannot be downloaded.
        StorageError: The store is damaged or cannot be written.
    """
    check_cache_dir(options.cache_dir)
    sentiment = None
    if options.source == "binance":
        fetcher = Fetcher(
            cache_dir=options.cache_dir,
            offline=options.offline,
            force_refresh=options.force_refresh,
            freshness_days=options.freshness_days,
            listener=listener,
        )
        candles = fetcher.candles(
            options.symbol, options.timeframe, options.start_date, options.end_date
        )
        if not options.force_price_only:
            sentiment = fetcher.sentiment(options.end_date)
    elif options.source == "sample":
        log.info("source: the sample market, whose prices are synthetic")
        candles = sample.candles(options.symbol, options.timeframe)
        if not options.force_price_only:
            sentiment = sample.sentiment()
    else:
        assert options.candles is not None  # checked by MarketOptions
        candles = files.read_candles(options.candles)
        if options.force_price_only:
            if options.sentiment is not None:
                log.info("--force-price-only: ignoring %s", options.sentiment)
        elif options.sentiment is not None:
            sentiment = files.read_sentiment(options.sentiment)
    return Market(_cut(candles, options), sentiment)


def _cut(candles: pl.DataFrame, options: MarketOptions) -> pl.DataFrame:
    times = candles["timestamp"]
    wanted = pl.Series([True] * len(candles))
    if options.start:
        wanted &= times >= options.start
    if options.end:
        wanted &= times <= options.end
    inside = candles.filter(wanted)
    if candles.is_empty():
        raise DataError(
            f"{options.symbol} {options.timeframe} has no candles from "
            f"{options.start_date or 'the beginning'} to {options.end_date or 'the end'}; it may "
            "not have been listed yet. Choose later days"
        )
    if inside.is_empty():
        raise DataError(
            f"no candles between {options.start_date or 'the beginning'} and "
            f"{options.end_date or 'the end'}; {_span(times)}, choose days within it"
        )
    _check_bar_length(inside, options)
    missing = gaps(inside["timestamp"], options.bar_ms)
    if missing:
        log.info(
            "%d gaps in the candles, the longest %s; moving averages and windows span them",
            len(missing),
            max(missing),
        )
    if options.source == "files":  # the exchange clients and the store reject such bars
        _warn_of_impossible(inside)
    astray = int(off_grid(inside, options.bar_ms).sum())
    if astray:
        log.info(
            "%d candles are off the %s grid",
            astray,
            options.timeframe,
        )
    return inside


def _warn_of_impossible(candles: pl.DataFrame) -> None:
    impossible = bad_bars(candles).arg_true()
    if len(impossible):
        log.warning(
            "%d candles are impossible (open or close outside low..high), the first at %s; check "
            "the file with atb-fast data verify",
            len(impossible),
            candles["timestamp"][impossible[0]],
        )


def gaps(times: pl.Series, bar_ms: int) -> list[timedelta]:
    """Return the gaps: every step between two candles that is longer than one bar."""
    steps = times.diff().drop_nulls()
    return steps.filter(steps > timedelta(milliseconds=bar_ms)).to_list()


def _check_bar_length(candles: pl.DataFrame, options: MarketOptions) -> None:
    """Raise DataError if the candles have another timeframe than `options`."""
    if len(candles) < 2:
        return
    step = bar_length(candles)
    if step != options.bar_ms:
        raise DataError(
            f"the candles are {step / 60_000:g} minutes apart, expected "
            f"{options.bar_ms / 60_000:g} for --timeframe {options.timeframe}; pass a file with "
            "that timeframe, or the matching --timeframe"
        )


def _span(times: pl.Series) -> str:
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return f"the source covers {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
