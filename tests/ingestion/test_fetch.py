"""The store and the exchange: what is downloaded, and what is not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from exchange import Answer, Exchange

from atb_fast.callbacks import Listener
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import DataError, FetchError
from atb_fast.ingestion.fetch import Fetcher
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.sentiment import SentimentStore

DAY = TIMEFRAMES["1d"]
FIRST, LAST = date(2019, 1, 1), date(2024, 12, 1)
Truth = Callable[[str, str], pl.DataFrame]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty working directory, where old files are looked for."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fetcher(tmp_path: Path, exchange: Exchange) -> Fetcher:
    return Fetcher(cache_dir=tmp_path / "store", now=lambda: exchange.now)


def offline(fetcher: Fetcher) -> Fetcher:
    return Fetcher(cache_dir=fetcher.cache_dir, offline=True, now=fetcher.now)


def refreshing(fetcher: Fetcher) -> Fetcher:
    return Fetcher(cache_dir=fetcher.cache_dir, force_refresh=True, now=fetcher.now)


def expected(frame: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    return frame.filter(pl.col("timestamp").dt.date().is_between(first, last))


def daily(fetcher: Fetcher, first: date | None = FIRST, last: date | None = LAST) -> pl.DataFrame:
    return fetcher.candles("BTCUSDT", "1d", first, last)


def test_candles_are_downloaded_once(fetcher: Fetcher, exchange: Exchange, truth: Truth) -> None:
    candles = expected(truth("BTCUSDT", "1d"), FIRST, LAST)
    assert daily(fetcher).equals(candles)
    index = fetcher.sentiment(LAST)
    assert exchange.counts() == {"/api/v3/klines": 3, "/fng/": 1}
    exchange.requests.clear()
    assert daily(fetcher).equals(candles)
    assert daily(offline(fetcher)).equals(candles)
    assert fetcher.sentiment(LAST).equals(index)
    assert offline(fetcher).sentiment(LAST).equals(index)
    assert exchange.requests == []


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (FIRST, date(2024, 12, 20)),
        (date(2018, 12, 1), LAST),
        (date(2018, 12, 1), date(2024, 12, 20)),
    ],
)
def test_only_missing_ends_are_downloaded(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, first: date, last: date
) -> None:
    daily(fetcher)
    exchange.requests.clear()
    assert daily(fetcher, first, last).equals(expected(truth("BTCUSDT", "1d"), first, last))
    assert len(exchange.requests) == (first < FIRST) + (last > LAST)
    assert len(CandleStore(fetcher.cache_dir, "BTCUSDT", "1d").manifest().ranges) == 1


def test_the_open_candle_is_never_stored(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    candles = truth("BTCUSDT", "1d")
    yesterday = expected(candles, FIRST, date(2024, 12, 30))
    assert daily(fetcher, FIRST, None).equals(yesterday)
    assert daily(fetcher, FIRST, date(2025, 6, 1)).equals(yesterday)
    exchange.requests.clear()
    assert daily(fetcher, FIRST, None).equals(yesterday)
    assert exchange.requests == []  # nothing new can have closed
    exchange.now += DAY // 2  # now it has
    assert daily(fetcher, FIRST, None).equals(expected(candles, FIRST, date(2024, 12, 31)))
    assert exchange.counts() == {"/api/v3/klines": 1}  # the clock was compared before


def test_a_clock_that_is_ahead_does_not_close_candles(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    ahead = Fetcher(cache_dir=fetcher.cache_dir, now=lambda: exchange.now + DAY // 2)
    got = daily(ahead, FIRST, None)
    assert got.equals(expected(truth("BTCUSDT", "1d"), FIRST, date(2024, 12, 30)))
    exchange.now += DAY // 2
    got = daily(fetcher, FIRST, None)
    assert got.equals(expected(truth("BTCUSDT", "1d"), FIRST, date(2024, 12, 31)))


def test_a_late_candle_is_requested_again(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    times, values = exchange.candles["BTCUSDT", "1d"]
    late = times.index(1735516800000)  # 2024-12-30, closed 12 hours ago
    exchange.candles["BTCUSDT", "1d"] = (times[:late], values[:late])
    candles = truth("BTCUSDT", "1d")
    assert daily(fetcher, FIRST, None).equals(expected(candles, FIRST, date(2024, 12, 29)))
    exchange.candles["BTCUSDT", "1d"] = (times, values)
    assert daily(fetcher, FIRST, None).equals(expected(candles, FIRST, date(2024, 12, 30)))


def test_nothing_before_the_listing_is_requested_twice(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    candles = daily(fetcher, None, LAST)
    assert candles.equals(expected(truth("BTCUSDT", "1d"), date(2000, 1, 1), LAST))
    exchange.requests.clear()
    daily(fetcher, None, LAST)
    daily(fetcher, date(2010, 1, 1), LAST)
    assert exchange.requests == []
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1d")
    assert store.manifest().outages == ()


def test_outages_are_recorded_and_not_requested_again(
    fetcher: Fetcher, exchange: Exchange, shared: Path
) -> None:
    got = fetcher.candles("BTCUSDT", "1h", None, LAST)
    assert len(got) == 64_523 - 24 * 30
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1h")
    assert len(store.manifest().outages) == 28
    hours = sum(behind - first for first, behind in store.manifest().outages) // TIMEFRAMES["1h"]
    assert hours == 129
    finding = store.verify()
    assert finding.problems == ()
    assert finding.quality
    assert (finding.quality.missing, finding.quality.hole_runs) == (129, 28)
    exchange.requests.clear()
    assert fetcher.candles("BTCUSDT", "1h", None, LAST).equals(got)
    assert exchange.requests == []


def test_an_outage_between_two_downloads(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    times, values = exchange.candles["BTCUSDT", "1d"]
    gone = {times.index(1733011200000) + day for day in range(-1, 3)}  # around 2024-12-01
    left = [number for number in range(len(times)) if number not in gone]
    exchange.candles["BTCUSDT", "1d"] = ([times[n] for n in left], [values[n] for n in left])
    daily(fetcher)
    daily(fetcher, FIRST, date(2024, 12, 20))
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1d")
    (outage,) = store.manifest().outages
    assert (outage[1] - outage[0]) == 4 * DAY
    assert store.verify().problems == ()


EMPTY = Answer(body=b"[]")


def test_one_empty_response_is_not_trusted(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    candles = truth("BTCUSDT", "1d")
    exchange.fault("klines", EMPTY)
    assert daily(fetcher).equals(expected(candles, FIRST, LAST))
    exchange.fault("klines", EMPTY)  # before what is stored
    first = date(2018, 3, 1)
    assert daily(fetcher, first, LAST).equals(expected(candles, first, LAST))
    exchange.fault("klines", EMPTY)  # in place of what is stored
    assert daily(refreshing(fetcher), first, LAST).equals(expected(candles, first, LAST))


def test_an_empty_range_is_not_recorded(fetcher: Fetcher, exchange: Exchange) -> None:
    exchange.fault("klines", EMPTY, times=9)
    assert daily(fetcher).is_empty()
    exchange._faults.clear()
    assert len(daily(fetcher)) == 2162


def test_a_refresh_does_not_lose_candles(fetcher: Fetcher, exchange: Exchange) -> None:
    before = daily(fetcher)
    times, values = exchange.candles["BTCUSDT", "1d"]
    exchange.candles["BTCUSDT", "1d"] = (times[:800] + times[810:], values[:800] + values[810:])
    with pytest.raises(FetchError, match="returned 2,152 candles, expected at least the 2,162"):
        daily(refreshing(fetcher))
    assert daily(offline(fetcher)).equals(before)


def cut(exchange: Exchange, timeframe: str, behind: date) -> None:
    """Remove the candles of the exchange from the day `behind` on."""
    times, values = exchange.candles["BTCUSDT", timeframe]
    moment = int(datetime(behind.year, behind.month, behind.day, tzinfo=UTC).timestamp()) * 1000
    left = sum(time < moment for time in times)
    exchange.candles["BTCUSDT", timeframe] = (times[:left], values[:left])


def test_missing_candles_at_the_end_are_not_an_outage(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole = exchange.candles["BTCUSDT", "1d"]
    cut(exchange, "1d", date(2024, 11, 20))
    candles = truth("BTCUSDT", "1d")
    assert daily(fetcher).equals(expected(candles, FIRST, date(2024, 11, 19)))
    assert "no candles after 2024-11-20T00:00 yet" in caplog.text
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1d")
    assert store.manifest().outages == ()
    exchange.candles["BTCUSDT", "1d"] = whole
    assert daily(fetcher).equals(expected(candles, FIRST, LAST))


@pytest.mark.parametrize("ahead", [3, 30])
def test_a_clock_that_is_days_ahead(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, ahead: int
) -> None:
    fast = Fetcher(cache_dir=fetcher.cache_dir, now=lambda: exchange.now + ahead * DAY)
    candles = truth("BTCUSDT", "1d")
    last = date(2025, 1, 10)
    assert daily(fast, FIRST, last).equals(expected(candles, FIRST, date(2024, 12, 30)))
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1d")
    assert store.manifest().outages == ()
    exchange.now += DAY // 2
    assert daily(fetcher, FIRST, last).equals(expected(candles, FIRST, date(2024, 12, 31)))


def with_clock(fetcher: Fetcher, exchange: Exchange, ahead: int) -> Fetcher:
    return Fetcher(cache_dir=fetcher.cache_dir, now=lambda: exchange.now + ahead)


@pytest.mark.parametrize("ahead", [-3 * DAY, -2000 * DAY, -20_000 * DAY])
@pytest.mark.parametrize("last", [None, LAST, date(2024, 12, 30), date(2025, 6, 1)])
def test_a_clock_that_is_behind_does_not_cut_the_range(
    fetcher: Fetcher,
    exchange: Exchange,
    truth: Truth,
    ahead: int,
    last: date | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """20,000 days ago was 1970."""
    candles = expected(truth("BTCUSDT", "1d"), FIRST, min(last or date.max, date(2024, 12, 30)))
    slow = with_clock(fetcher, exchange, ahead)
    assert daily(slow, FIRST, last).equals(candles)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert f"is {-ahead // DAY} days behind that of the exchange" in warning.getMessage()
    fetcher.sentiment(last)
    assert slow.sentiment(last).equals(fetcher.sentiment(last))
    # What is stored has closed, whatever the clock says.
    exchange.requests.clear()
    alone = Fetcher(cache_dir=fetcher.cache_dir, offline=True, now=slow.now)
    assert daily(alone, FIRST, min(last or LAST, LAST)).equals(
        expected(candles, FIRST, min(last or LAST, LAST))
    )
    assert daily(alone, None, None).equals(candles)
    assert exchange.requests == []


@pytest.mark.parametrize("ahead", [-3 * DAY, -20_000 * DAY, 3 * DAY, 500 * DAY])
def test_sentiment_does_not_depend_on_the_clock(
    fetcher: Fetcher, exchange: Exchange, ahead: int
) -> None:
    alone = with_clock(fetcher, exchange, ahead)
    got = alone.sentiment(None)
    assert got.equals(fetcher.sentiment(None))


def test_a_clock_that_is_behind_does_not_make_sentiment_fresh(
    fetcher: Fetcher, exchange: Exchange
) -> None:
    exchange.now -= 30 * DAY
    fetcher.sentiment(None)
    exchange.now += 30 * DAY
    slow = with_clock(fetcher, exchange, -1000 * DAY)
    assert slow.sentiment(date(2024, 12, 30))["timestamp"][-1] > datetime(2024, 12, 30, tzinfo=UTC)
    exchange.requests.clear()
    with_clock(fetcher, exchange, -1000 * DAY).sentiment(date(2024, 12, 30))
    assert exchange.requests == []


def test_one_candle_is_not_called_candles(
    fetcher: Fetcher, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    daily(fetcher, LAST, LAST)
    assert "downloaded 1 candle with 1 request in" in caplog.text
    daily(fetcher, LAST, LAST)
    assert "BTCUSDT 1d: 1 candle from the store" in caplog.text


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (0, None),
        (-59_000, None),
        (59_000, None),
        (-79_000, "7[0-9] seconds behind that of"),  # requests take time
        (7_200_000, "2 hours ahead of that of"),
        (-3 * DAY, "3 days behind that of"),
    ],
)
def test_clocks_that_differ_are_reported_once(
    fetcher: Fetcher,
    exchange: Exchange,
    ahead: int,
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = with_clock(fetcher, exchange, ahead)
    daily(other)  # ends in the past
    other.candles("BTCUSDT", "1h", date(2024, 12, 1), None)
    found = [text for text in caplog.messages if "the clock of this machine" in text]
    assert len(found) == (said is not None)
    assert all(re.search(said, text) for text in found if said)


def test_stored_candles_need_no_clock(fetcher: Fetcher, exchange: Exchange) -> None:
    candles = daily(fetcher)
    exchange.requests.clear()
    assert daily(with_clock(fetcher, exchange, -20_000 * DAY)).equals(candles)
    assert exchange.requests == []
    exchange.fault("^/api", Answer(403, b"<html>"), times=9)
    with pytest.raises(FetchError, match="firewall"):
        daily(with_clock(fetcher, exchange, -20_000 * DAY), FIRST, None)


def test_a_weekly_bar_that_is_missing_between_two_fetches(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    mondays = truth("BTCUSDT", "1d").filter(pl.col("timestamp").dt.weekday() == 1)
    gone = datetime(2024, 6, 10, tzinfo=UTC)
    left = mondays.filter(pl.col("timestamp") != gone)
    times = left["timestamp"].dt.epoch("ms").to_list()
    exchange.candles["BTCUSDT", "1w"] = (times, left.drop("timestamp").rows())
    first = date(2024, 1, 1)
    fetcher.candles("BTCUSDT", "1w", first, date(2024, 6, 12))  # a Wednesday
    got = fetcher.candles("BTCUSDT", "1w", first, date(2024, 9, 1))
    assert got.equals(expected(left, first, date(2024, 9, 1)))
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1w")
    assert [first for first, _ in store.manifest().outages] == [int(gone.timestamp()) * 1000]
    assert store.verify().problems == ()


def test_minutes_missing_in_the_first_file_are_requested(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    source = truth("BTCUSDT", "1h")[:2880]
    start = int(datetime(2024, 11, 1, tzinfo=UTC).timestamp()) * 1000
    times = list(range(start, start + 2880 * 60_000, 60_000))
    exchange.candles["BTCUSDT", "1m"] = (times, source.drop("timestamp").rows())
    exchange.archive_lacks = set(times[:7]) | set(times[1500:1510])
    got = fetcher.candles("BTCUSDT", "1m", date(2024, 11, 1), date(2024, 11, 2))
    assert got["timestamp"].dt.epoch("ms").to_list() == times
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1m")
    assert store.manifest().outages == ()
    assert store.manifest().ranges[0].source == exchange.url  # the archive and the REST API


def test_an_index_that_ends_too_early_is_logged(
    fetcher: Fetcher, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.index = exchange.index[:1000]
    fetcher.sentiment(LAST)
    assert "sentiment ends on " in caplog.text


def test_a_range_in_the_future(fetcher: Fetcher, exchange: Exchange) -> None:
    with pytest.raises(DataError, match="no candle from 2031-01-01 to now has closed yet"):
        daily(fetcher, date(2031, 1, 1), None)
    assert exchange.requests == ["/api/v3/time"]


def test_offline_names_what_is_missing_and_how_to_get_it(
    fetcher: Fetcher, exchange: Exchange
) -> None:
    alone = offline(fetcher)
    with pytest.raises(FetchError, match=r"does not reach 2024-11-24.*--force-price-only"):
        alone.sentiment(LAST)
    daily(fetcher)
    exchange.requests.clear()
    with pytest.raises(FetchError) as caught:
        daily(alone, date(2018, 11, 1), date(2024, 12, 20))
    assert str(caught.value) == (
        "BTCUSDT 1d is not stored for 2018-11-01T00:00 to 2019-01-01T00:00 UTC, 2024-12-02T00:00 "
        "to 2024-12-21T00:00 UTC, and --offline forbids a download; run: atb-fast data fetch "
        "BTCUSDT --timeframe 1d --start-date 2018-11-01 --end-date 2024-12-20 --cache-dir "
        f"{fetcher.cache_dir}"
    )
    assert len(daily(alone, None, None)) == 2162  # the first and the last that are stored
    assert exchange.requests == []


def test_offline_overrides_a_refresh(fetcher: Fetcher, exchange: Exchange) -> None:
    before, index = daily(fetcher), fetcher.sentiment(LAST)
    exchange.requests.clear()
    both = Fetcher(
        cache_dir=fetcher.cache_dir, offline=True, force_refresh=True, now=lambda: exchange.now
    )
    assert daily(both).equals(before)
    assert both.sentiment(LAST).equals(index)
    assert exchange.requests == []


def test_a_refresh_replaces_what_is_stored_once_it_is_complete(
    fetcher: Fetcher, exchange: Exchange, truth: Truth
) -> None:
    before = daily(fetcher)
    times, values = exchange.candles["BTCUSDT", "1d"]
    exchange.candles["BTCUSDT", "1d"] = (times, [tuple(2 * v for v in row) for row in values])
    assert daily(fetcher).equals(before)
    exchange.fault("klines", Answer(403), times=9)
    with pytest.raises(FetchError):
        daily(refreshing(fetcher))
    assert daily(offline(fetcher)).equals(before)
    exchange._faults.clear()
    doubled = before.with_columns(pl.col(pl.Float64) * 2)
    assert daily(refreshing(fetcher), date(2020, 1, 1), LAST)[0].equals(
        expected(doubled, date(2020, 1, 1), LAST)[0]
    )
    after = daily(offline(fetcher))
    assert expected(after, FIRST, date(2019, 12, 31)).equals(
        expected(before, FIRST, date(2019, 12, 31))
    )
    assert expected(after, date(2020, 1, 1), LAST).equals(expected(doubled, date(2020, 1, 1), LAST))


def test_long_downloads_are_stored_in_pieces(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atb_fast.ingestion.fetch.CHUNK_ROWS", 500)
    exchange.fault(f"startTime={1546300800000 + 500 * DAY}", Answer(403))
    with pytest.raises(FetchError):
        daily(fetcher)
    assert len(daily(offline(fetcher), FIRST, date(2020, 5, 14))) == 500
    assert daily(fetcher).equals(expected(truth("BTCUSDT", "1d"), FIRST, LAST))


def test_progress_reaches_the_total(fetcher: Fetcher, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    class Rows(Listener):
        def fetched(self, name: str, done: int, total: int) -> None:
            seen.append((name, done, total))

    watched = Fetcher(cache_dir=tmp_path, now=fetcher.now, listener=Rows())
    daily(watched)
    assert seen[-1] == ("BTCUSDT 1d", 2162, 2162)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@pytest.mark.parametrize(("days", "asks"), [(7, 0), (6, 1)])
def test_sentiment_is_fresh_for_some_days(
    fetcher: Fetcher, exchange: Exchange, true_index: pl.DataFrame, days: int, asks: int
) -> None:
    store = SentimentStore(fetcher.cache_dir)
    store.directory.mkdir(parents=True)
    known = true_index.filter(pl.col("timestamp") <= datetime(2024, 12, 24, tzinfo=UTC))
    store.replace(known, "there", "2024-12-24")
    patient = Fetcher(cache_dir=fetcher.cache_dir, freshness_days=days, now=fetcher.now)
    assert len(patient.sentiment(None)) == len(known) + 7 * asks
    patient.sentiment(date(2024, 12, 24))
    patient.sentiment(date(2019, 1, 1))  # a past range never goes stale
    assert len(exchange.requests) == asks


def test_an_index_that_shrank_is_rejected(fetcher: Fetcher, exchange: Exchange) -> None:
    exchange.now -= 30 * DAY
    before = fetcher.sentiment(None)
    exchange.now += 30 * DAY
    exchange.index = exchange.index[-500:]
    with pytest.raises(FetchError, match="may be truncated"):
        fetcher.sentiment(None)
    assert SentimentStore(fetcher.cache_dir).read().equals(before)
    assert len(refreshing(fetcher).sentiment(None)) <= 500


def test_no_network_is_an_error_not_another_model(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATB_FAST_FNG_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("atb_fast.ingestion.exchange.http.ATTEMPTS", 1)
    with pytest.raises(FetchError, match="Connection refused"):
        fetcher.sentiment(LAST)


@pytest.fixture(params=["csv", "feather"])
def old_file(request: pytest.FixtureRequest, tmp_path: Path, truth: Truth) -> Path:
    path = tmp_path / "data" / f"BTCUSDT_1d_2020-01-01_2023-12-31.{request.param}"
    path.parent.mkdir()
    write(path, expected(truth("BTCUSDT", "1d"), date(2020, 1, 1), date(2023, 12, 31)))
    return path


def write(path: Path, candles: pl.DataFrame) -> None:
    if path.suffix == ".csv":
        candles.write_csv(path)
    else:
        candles.write_ipc(path)


def test_old_files_are_reused(
    fetcher: Fetcher,
    exchange: Exchange,
    truth: Truth,
    old_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    got = daily(offline(fetcher), date(2021, 1, 1), date(2022, 1, 1))
    assert got.equals(expected(truth("BTCUSDT", "1d"), date(2021, 1, 1), date(2022, 1, 1)))
    assert f"imported 366 candles from data/{old_file.name}" in caplog.text
    assert daily(fetcher).equals(expected(truth("BTCUSDT", "1d"), FIRST, LAST))
    assert len(exchange.requests) == 2  # the years before and after the file
    sources = [i.source for i in CandleStore(fetcher.cache_dir, "BTCUSDT", "1d").manifest().ranges]
    assert "file data/" in sources[0]


def test_gaps_of_old_files_are_downloaded(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, old_file: Path
) -> None:
    candles = expected(truth("BTCUSDT", "1d"), date(2020, 1, 1), date(2023, 12, 31))
    write(old_file, pl.concat([candles[:100], candles[105:]]))
    got = daily(fetcher, date(2020, 1, 1), date(2023, 12, 31))
    assert got.equals(candles)
    assert len(exchange.requests) == 2  # the gap, and the last candle


def test_a_candle_that_had_not_closed_is_not_reused(
    fetcher: Fetcher, exchange: Exchange, old_file: Path
) -> None:
    written = datetime(2023, 12, 31, 12, tzinfo=UTC).timestamp()
    os.utime(old_file, (written, written))
    with pytest.raises(FetchError, match="2023-12-31T00:00 to 2024-01-01T00:00"):
        daily(offline(fetcher), date(2020, 1, 1), date(2023, 12, 31))


def test_the_last_candle_of_an_old_file_is_downloaded(
    fetcher: Fetcher, exchange: Exchange, truth: Truth, old_file: Path
) -> None:
    candles = expected(truth("BTCUSDT", "1d"), date(2020, 1, 1), date(2023, 12, 31))
    running = candles[-1:].with_columns(close=pl.col("open"), low=pl.col("open") * 0.5)
    write(old_file, pl.concat([candles[:-1], running]))
    assert daily(fetcher, date(2020, 1, 1), date(2023, 12, 31)).equals(candles)


@pytest.mark.parametrize("how", ["shifted", "text", "bad bar", "other timeframe", "doubled"])
def test_damaged_old_files_are_not_used(
    fetcher: Fetcher,
    exchange: Exchange,
    truth: Truth,
    old_file: Path,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    candles = expected(truth("BTCUSDT", "1d"), date(2020, 1, 1), date(2023, 12, 31))
    if how == "shifted":  # timestamps in another time zone
        write(old_file, candles.with_columns(pl.col("timestamp").dt.offset_by("5h")))
    elif how == "text":
        old_file.write_text("timestamp\nno candles")
    elif how == "bad bar":
        write(old_file, candles.with_columns(high=pl.col("low")))
    elif how == "other timeframe":
        write(old_file, candles[::2])
    else:
        write(old_file, pl.concat([candles, candles[:1]]))
    assert daily(fetcher, date(2020, 1, 1), date(2023, 12, 31)).equals(candles)
    assert exchange.counts() == {"/api/v3/klines": 2}
    assert "ignoring an old file: data/BTCUSDT_1d" in caplog.text


def test_files_with_other_names_are_ignored(
    fetcher: Fetcher, exchange: Exchange, old_file: Path
) -> None:
    old_file.rename(old_file.with_name("BTCUSDT_1d_latest.csv"))
    daily(fetcher, date(2020, 1, 1), date(2023, 12, 31))
    assert len(exchange.requests) == 2


def test_the_manifest_names_the_host(fetcher: Fetcher, exchange: Exchange) -> None:
    exchange.fault("^/api", Answer(451))
    daily(fetcher)
    store = CandleStore(fetcher.cache_dir, "BTCUSDT", "1d")
    document = json.loads((store.directory / "manifest.json").read_text())
    assert document["ranges"][0]["source"] == f"{exchange.url}/second"
