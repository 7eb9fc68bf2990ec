"""Maintenance of the store: fetch, list, verify, repair, prune and clear many series at once.

Functions return rows: a dictionary of JSON values for each series.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import ArgumentError, AtbFastError, DataError, FetchError, StorageError
from atb_fast.ingestion.fetch import Fetcher, NoReplacementError
from atb_fast.ingestion.files import is_sentiment, read_candles, read_sentiment
from atb_fast.ingestion.quality import bar_length, impossible, inspect, suspicious
from atb_fast.ingestion.spans import Span, iso
from atb_fast.ingestion.store.candles import CandleStore
from atb_fast.ingestion.store.disk import Finding, flag
from atb_fast.ingestion.store.sentiment import SentimentStore
from atb_fast.storage import CACHED, remove_unused

log = logging.getLogger(__name__)

#: Folders of the cache directory that hold files rather than series.
_FOLDERS = ("features", "checkpoints", "compiled")

Row = dict[str, Any]
Store = CandleStore | SentimentStore


class Outcome(NamedTuple):
    """Rows for the series that succeeded, and the errors of those that failed."""

    rows: list[Row]
    errors: list[AtbFastError]


def fetch(
    fetcher: Fetcher,
    symbols: Sequence[str],
    timeframes: Sequence[str],
    first: date | None,
    last: date | None,
    *,
    sentiment: bool = True,
) -> Outcome:
    """Download candles of each symbol and timeframe, and sentiment, that are not stored yet.

    A failed series does not stop the others, unless the exchange cannot be reached at all.

    Args:
        fetcher: Downloads and stores the data.
        symbols: For example BTCUSDT.
        timeframes: Keys of `TIMEFRAMES`.
        first: First day, UTC. Default: the first day available.
        last: Last day, UTC, inclusive. Default: the last day available.
        sentiment: Whether to download the Fear & Greed index as well.

    Returns:
        Rows with `series`, the number of `rows`, and the times of the `first` and `last` one.
    """
    outcome = Outcome([], [])
    for symbol, timeframe in itertools.product(symbols, timeframes):
        if _unreachable(outcome) and not fetcher.offline:
            break
        with _collected(outcome):
            candles = fetcher.candles(symbol, timeframe, first, last)
            if candles.is_empty():
                raise DataError(
                    f"{symbol} {timeframe} has no closed candle from {first or 'its listing'} to "
                    f"{last or 'now'}; pass days between its listing and yesterday"
                )
            outcome.rows.append({"series": f"{symbol} {timeframe}"} | _extent(candles))
    if sentiment and (fetcher.offline or not _unreachable(outcome)):
        with _collected(outcome):
            outcome.rows.append({"series": "sentiment"} | _extent(fetcher.sentiment(last)))
    return outcome


def stored(root: Path) -> list[Row]:
    """Return the contents of the cache directory `root`; an unreadable series is `damaged`."""
    rows: list[Row] = []
    for store in _stores(root):
        try:
            row = _candle_row(store) if isinstance(store, CandleStore) else _sentiment_row(store)
        except StorageError as error:
            row = {"series": store.name, "state": "damaged"}
            log.warning("%s", error)
        rows += [row] if row else []
    for name in _FOLDERS:
        found = [path for pattern in CACHED for path in (root / name).glob(pattern)]
        rows += _files_row(name, [(path, path.stat().st_size) for path in found])
    return rows


def verify(root: Path) -> list[Finding]:
    """Check the hashes and the candles of every series in the cache directory `root`."""
    return [store.verify() for store in _stores(root)]


def verify_file(path: Path) -> Finding:
    """Return the problems of a file of candles or of the Fear & Greed index.

    For candles, the quality too. The columns tell which of the two it is.
    """
    try:
        if is_sentiment(path):
            read_sentiment(path)
            log.info("%s: checked as the Fear & Greed index, because of its columns", path)
            return Finding(path.name)
        candles = read_candles(path)
    except DataError as error:
        return Finding(path.name, (str(error),))
    quality = inspect(candles, bar_length(candles))
    problem, doubt = impossible(candles), suspicious(candles)
    if doubt:
        log.warning("%s: %s", path, doubt)
    problems = (f"{path}: {problem}",) if problem else ()
    return Finding(path.name, problems, quality)


def repair(root: Path, fetcher: Fetcher | None) -> Outcome:
    """Repair the cache directory `root`; nothing is removed before its replacement is stored.

    Damaged and missing manifests are rebuilt from the files, without a download. Damaged
    files are downloaded again, and stay where they are if that fails.

    Args:
        root: The cache directory.
        fetcher: Downloads the data again; None to download nothing.

    Returns:
        Rows with `series`, the start (`from`) and end (`to`) of the candles, UTC, and the `result`:
        "rebuilt", "replaced" or "not replaced".
    """
    outcome = Outcome([], [])
    for store in _stores(root):
        with _collected(outcome), store.lock():
            if store.rebuild():
                span = store.span if isinstance(store, CandleStore) else None
                outcome.rows.append(_repaired(store, span, "rebuilt"))
            finding = store.verify()
            spans = finding.damaged if isinstance(store, CandleStore) else (None,)
            for span in spans if finding.problems else ():
                result = "not replaced"
                if fetcher and not _unreachable(outcome):
                    with _collected(outcome):
                        fetcher.replace(store, span)
                        result = "replaced"
                outcome.rows.append(_repaired(store, span, result))
    left = [row for row in outcome.rows if row["result"] == "not replaced"]
    if left:
        names = ", ".join(dict.fromkeys(row["series"] for row in left))
        reason = "" if fetcher else " because --offline forbids a download"
        # First, so that the reason of a failed download comes last.
        outcome.errors.insert(
            0,
            FetchError(
                f"damaged data was not replaced{reason}, and stays where it is: {names}; run "
                f"atb-fast data repair{flag(root)} again later, or remove the series with "
                "atb-fast data clear"
            ),
        )
    return outcome


def prune(root: Path, older_than: float, *, dry_run: bool = False) -> list[Row]:
    """Remove series and files that have not been used for `older_than` days, and return them.

    Args:
        root: The cache directory.
        older_than: Days, finite and at least 0.
        dry_run: Only return what would be removed.

    Raises:
        ArgumentError: `older_than` is negative or not finite.
    """
    if not 0 <= older_than < math.inf:
        raise ArgumentError(
            f"--older-than is {older_than:g}, expected a finite number of days, at least 0"
        )
    deadline = time.time() - older_than * 86_400

    def unused(store: Store) -> bool:
        manifest = store.directory / "manifest.json"
        return manifest.exists() and manifest.stat().st_mtime <= deadline

    rows = [
        row
        for store in _stores(root)
        if unused(store) and (row := _remove(store, dry_run=dry_run, only_if=unused))
    ]
    for name in _FOLDERS:
        rows += _files_row(name, remove_unused(root / name, older_than, dry_run=dry_run))
    return rows


def clear(
    root: Path,
    *,
    symbols: Collection[str] = (),
    timeframes: Collection[str] = (),
    sentiment: bool = False,
    features: bool = False,
    compiled: bool = False,
    everything: bool = False,
    dry_run: bool = False,
) -> list[Row]:
    """Remove the named data, and return it.

    Args:
        root: The cache directory.
        symbols: Remove the candles of these symbols.
        timeframes: Remove the candles of these timeframes. With `symbols`, both must match.
        sentiment: Remove the Fear & Greed index.
        features: Remove prepared features.
        compiled: Remove compiled programs.
        everything: Remove everything, checkpoints included.
        dry_run: Only return what would be removed.
    """
    chosen: list[Store] = [
        store
        for store in _series(root)
        if everything
        or (
            (symbols or timeframes)
            and (not symbols or store.symbol in symbols)
            and (not timeframes or store.timeframe in timeframes)
        )
    ]
    index = SentimentStore(root)
    if (sentiment or everything) and index.path.exists():
        chosen.append(index)
    rows = [row for store in chosen if (row := _remove(store, dry_run=dry_run))]
    named = [name for name, given in (("features", features), ("compiled", compiled)) if given]
    for name in _FOLDERS:
        if everything or name in named:
            rows += _files_row(name, remove_unused(root / name, 0, dry_run=dry_run))
    return rows


@contextmanager
def _collected(outcome: Outcome) -> Iterator[None]:
    """Add an error of one series to `outcome`, so that the next series can continue."""
    try:
        yield
    except AtbFastError as error:
        outcome.errors.append(error)


def _unreachable(outcome: Outcome) -> bool:
    """Return whether the exchange could not be reached, so further series would fail too."""
    return any(
        isinstance(error, FetchError) and not isinstance(error, NoReplacementError)
        for error in outcome.errors
    )


def _series(root: Path) -> list[CandleStore]:
    folders = (path for path in (root / "candles").glob("*/*") if path.name in TIMEFRAMES)
    stores = [CandleStore(root, path.parent.name, path.name) for path in sorted(folders)]
    # Without a manifest, there may be files whose manifest was deleted.
    return [
        store for store in stores if (store.directory / "manifest.json").exists() or store.files()
    ]


def _stores(root: Path) -> list[Store]:
    """Return the stores that exist."""
    index = SentimentStore(root)
    exists = index.path.exists() or (index.directory / "manifest.json").exists()
    return [*_series(root), *([index] if exists else [])]


def _candle_row(store: CandleStore) -> Row:
    manifest = store.manifest()
    files = [store.directory / item.file for item in manifest.ranges]
    known = [(i.first, i.last) for i in manifest.ranges if i.first is not None and i.last]
    state = "unlisted files" if store.unlisted(manifest) else "ok"
    return {
        "series": store.name,
        "rows": sum(item.rows for item in manifest.ranges),
        "first": _minute(min(first for first, _ in known)) if known else None,
        "last": _minute(max(last for _, last in known)) if known else None,
        "files": len(files),
        "outages": len(manifest.outages),
        "bytes": sum(path.stat().st_size for path in files if path.exists()),
        "state": state if all(path.exists() for path in files) else "damaged",
        "fetched": max((i.fetched_at for i in manifest.ranges), default=None),
        "source": ", ".join(dict.fromkeys(i.source for i in manifest.ranges)),
    }


def _sentiment_row(store: SentimentStore) -> Row | None:
    entry = store.entry()
    return entry and {
        "series": store.name,
        "rows": entry["rows"],
        "first": entry["first"],
        "last": entry["last"],
        "files": 1,
        "bytes": store.path.stat().st_size,
        "state": "ok",
        "fetched": entry["fetched_at"],
        "source": entry["source"],
    }


def _files_row(name: str, paths: list[tuple[Path, int]]) -> list[Row]:
    if not paths:
        return []
    return [{"series": name, "files": len(paths), "bytes": sum(size for _, size in paths)}]


def _remove(
    store: Store, *, dry_run: bool, only_if: Callable[[Store], bool] = lambda _: True
) -> Row | None:
    """Remove a series and return what it was; None if `only_if` has become false."""
    with nullcontext() if dry_run else store.lock():
        if not only_if(store):
            return None
        sizes = [path.stat().st_size for path in store.directory.glob("*.parquet")]
        if not dry_run:
            store.remove()
    return {"series": store.name, "files": len(sizes), "bytes": sum(sizes)}


def _repaired(store: Store, span: Span | None, result: str) -> Row:
    start, end = (None, None) if span is None else (iso(ms)[:16] for ms in span)
    return {"series": store.name, "from": start, "to": end, "result": result}


def _extent(frame: pl.DataFrame) -> Row:
    if frame.is_empty():
        return {"rows": 0, "first": None, "last": None}
    first, last = (f"{frame['timestamp'][end]:%Y-%m-%d %H:%M}" for end in (0, -1))
    return {"rows": len(frame), "first": first, "last": last}


def _minute(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
