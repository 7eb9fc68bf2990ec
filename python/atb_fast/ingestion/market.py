"""Loads candles, sentiment and extra series from any source."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES, MarketOptions, check_cache_dir
from atb_fast.errors import DataError, counted
from atb_fast.ingestion import files, sample
from atb_fast.ingestion.exchange.errors import UnreachableError
from atb_fast.ingestion.extras import Extra, check_coverage, read_extras, with_extras
from atb_fast.ingestion.fetch import Fetcher
from atb_fast.ingestion.quality import bar_length, impossible, off_grid, step_text, suspicious
from atb_fast.options import check_type

log = logging.getLogger(__name__)

#: A longer range without candles at either end is reported. Weekly bars can miss up to a week.
_REPORTED = timedelta(days=7)
#: A symbol in the name of a file: ETHUSDT, ethusdt, ETH-USDT or ETH_USDT.
_SYMBOL_IN_NAME = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z0-9]{2,10}[-_]?(?:USDT|USDC|FDUSD|BUSD|TUSD|BTC|ETH|BNB|EUR|TRY)"
    r"|[a-z0-9]{2,10}(?:usdt|usdc|fdusd|busd|tusd))(?![A-Za-z0-9])"
)


@dataclass(frozen=True)
class Market:
    """Candles of the requested range and the full sentiment history, both ascending, in UTC.

    `candles` has timestamp (ms, open time), open, high, low, close (quote currency) and volume
    (base currency), all float64. `sentiment` has timestamp (ms, midnight) and value (0..100,
    float64), or is None for a model without sentiment. `extras` are extra series, not yet joined;
    see `frame`.

    Raises:
        ArgumentError: One of them has the wrong type.
        DataError: There are no candles, or a column is missing, has another type, or exists twice.
    """

    candles: pl.DataFrame
    sentiment: pl.DataFrame | None
    extras: tuple[Extra, ...] = ()

    def __post_init__(self) -> None:
        """Check the types."""
        check_type("candles", self.candles, pl.DataFrame)
        _check_columns("candles", self.candles, CANDLE_COLUMNS)
        if self.candles.is_empty():
            raise DataError("candles has no rows, expected at least one")
        if self.sentiment is not None:
            check_type("sentiment", self.sentiment, pl.DataFrame)
            _check_columns("sentiment", self.sentiment, ["value"])
        check_type("extras", self.extras, tuple)
        names = list(self.candles.columns)
        for extra in self.extras:
            check_type("extras", extra, Extra)
            twice = next((name for name in extra.columns if name in names), None)
            if twice:
                raise DataError(
                    f"column {twice} of extra {extra.name} already exists; rename one of the "
                    "columns"
                )
            names += extra.columns

    @property
    def frame(self) -> pl.DataFrame:
        """The candles with the columns of `extras`, as they were known when each candle opened."""
        return with_extras(self.candles, self.extras)


def _check_columns(frame: str, given: pl.DataFrame, numbers: Iterable[str]) -> None:
    kinds = {"timestamp": ("a Datetime", pl.Datetime)} | dict.fromkeys(
        numbers, ("Float64", pl.Float64)
    )
    for name, (expected, kind) in kinds.items():
        if name not in given.columns:
            raise DataError(
                f"{frame} has no column {name} (found: {', '.join(given.columns)}); expected "
                f"{', '.join(kinds)}"
            )
        if given[name].dtype != kind:
            raise DataError(
                f"column {name} of {frame} has dtype {given[name].dtype}, expected {expected}; "
                "cast it first"
            )


def load_market(options: MarketOptions, *, listener: Listener = SILENT) -> Market:
    """Return the candles, sentiment and extra series selected by `options`.

    Args:
        options: Symbol, timeframe, range and source, for example a `TrainingConfig`.
        listener: Receives the progress of downloads.

    Raises:
        ArgumentError: The exchange does not list the symbol, the cache directory is a file, or an
            argument has the wrong type.
        DataError: A source cannot be read or has no candle in the range, a file has impossible bars
            and `allow_bad_candles` is not set, or an extra has no row in the range.
        FetchError: Data is not stored and cannot be downloaded.
        StorageError: The store is damaged or cannot be written.
    """
    check_type("options", options, MarketOptions, "atb_fast.TrainingConfig")
    check_type("listener", listener, Listener)
    check_cache_dir(options.cache_dir)
    extras = read_extras(options)
    sentiment = None
    if options.source == "binance":
        fetcher = Fetcher(
            cache_dir=options.cache_dir,
            offline=options.offline,
            force_refresh=options.force_refresh,
            freshness_days=options.freshness_days,
            listener=listener,
        )
        try:
            candles = fetcher.candles(
                options.symbol, options.timeframe, options.start_date, options.end_date
            )
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}. To avoid the download, pass --candles FILE, or --source sample for "
                "synthetic prices"
            ) from error
        if not options.force_price_only:
            sentiment = fetcher.sentiment(options.end_date)
    elif options.source == "sample":
        log.info("source: the sample market, whose prices are synthetic")
        candles = sample.candles(options.symbol, options.timeframe)
        if not options.force_price_only:
            sentiment = sample.sentiment()
    else:
        assert options.candles is not None  # checked by MarketOptions
        _warn_of_another_symbol(options.candles, options.symbol)
        candles = files.read_candles(options.candles)
        if options.force_price_only:
            if options.sentiment is not None:
                log.info("--force-price-only: ignoring %s", options.sentiment)
        elif options.sentiment is not None:
            sentiment = files.read_sentiment(options.sentiment)
    candles = _cut(candles, options)
    check_coverage(extras, candles, options)
    return Market(candles, sentiment, extras)


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
    check_bar_length(inside, options, source=str(options.candles or "the source"))
    _warn_of_missing_ends(inside["timestamp"], options)
    missing = gaps(inside["timestamp"], options.bar_ms)
    if missing:
        log.info(
            "%s in the candles, the longest %s; moving averages and windows span them",
            counted(len(missing), "gap"),
            step_text(max(missing) // timedelta(milliseconds=1)),
        )
    if options.source == "files":  # the exchange clients and the store reject such bars
        _check_bars(inside, options)
    astray = int(off_grid(inside, options.bar_ms).sum())
    if astray:
        log.info(
            "%s off the %s grid",
            "1 candle is" if astray == 1 else f"{astray:,} candles are",
            options.timeframe,
        )
    return inside


def _check_bars(candles: pl.DataFrame, options: MarketOptions) -> None:
    """Raise DataError if `data verify` would reject the file, unless such bars are allowed."""
    if problem := impossible(candles):
        if not options.allow_bad_candles:
            raise DataError(
                f"{options.candles}: {problem}. Correct the file, or pass --allow-bad-candles to "
                "use it as it is"
            )
        log.warning("%s: %s", options.candles, problem)
    if doubt := suspicious(candles):
        log.warning("%s: %s", options.candles, doubt)


def _warn_of_another_symbol(path: Path, symbol: str) -> None:
    """Warn if the name of the file has a symbol, but not this one."""
    found = _SYMBOL_IN_NAME.search(path.stem)
    if found and symbol not in re.sub(r"[-_]", "", path.stem).upper():
        log.warning(
            "%s is named after %s, but the symbol is %s; check that it is the right file",
            path,
            found[0],
            symbol,
        )


def _warn_of_missing_ends(times: pl.Series, options: MarketOptions) -> None:
    """Warn if the candles begin long after the requested start, or end long before the end."""
    first, last = times[0], times[-1] + timedelta(milliseconds=options.bar_ms)
    if options.start and first - options.start > _REPORTED:
        log.warning(
            "the candles begin on %s, %s after --start-date %s",
            first.date(),
            counted((first - options.start).days, "day"),
            options.start_date,
        )
    if options.end and options.end - last > _REPORTED:
        log.warning(
            "the candles end on %s, %s before --end-date %s",
            times[-1].date(),
            counted((options.end - last).days, "day"),
            options.end_date,
        )


def gaps(times: pl.Series, bar_ms: int) -> list[timedelta]:
    """Return the gaps: every step between two candles that is longer than one bar."""
    steps = times.diff().drop_nulls()
    return steps.filter(steps > timedelta(milliseconds=bar_ms)).to_list()


def check_bar_length(
    candles: pl.DataFrame, options: MarketOptions, *, source: str | None = None
) -> None:
    """Raise DataError if the candles have another timeframe than `options`.

    The most common step between two candles counts, so gaps are allowed.

    Args:
        candles: Candles, ascending.
        options: The options with the expected timeframe.
        source: Where the candles were read; None if they are those of a `Market`.
    """
    if len(candles) < 2:
        return
    step = bar_length(candles)
    if step == options.bar_ms:
        return
    found = next((name for name, bar_ms in TIMEFRAMES.items() if bar_ms == step), None)
    bars, expected = f"{found or f'{step / 60_000:g}-minute'} bars", f"{options.timeframe} bars"
    remedy = f"pass a file with {expected}" if source else f"pass a Market with {expected}"
    if found:
        remedy += f", or --timeframe {found}" if source else f', or timeframe="{found}"'
    raise DataError(
        f"{source or 'the market'} has {bars}, but the timeframe is {options.timeframe}; {remedy}"
    )


def _span(times: pl.Series) -> str:
    first, last = times.min(), times.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return f"the source covers {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
