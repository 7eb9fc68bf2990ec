"""`atb-fast data`: what is stored, and what to do about it."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli.options import as_json
from atb_fast.config import TIMEFRAMES, check_cache_dir, check_symbol, default_cache_dir
from atb_fast.errors import ArgumentError, AtbFastError, DataError, FetchError, StorageError

if TYPE_CHECKING:
    from atb_fast.ingestion.store.candles import CandleStore
    from atb_fast.ingestion.store.disk import Finding
    from atb_fast.ingestion.store.sentiment import SentimentStore

log = logging.getLogger(__name__)


def _root(_context: click.Context, _parameter: click.Parameter, given: Path | None) -> Path:
    """Return the cache directory; one that was named must not be a file."""
    root = given.expanduser() if given else default_cache_dir()
    check_cache_dir(root)
    return root


_cache_dir = click.option(
    "--cache-dir",
    "root",
    type=click.Path(path_type=Path),
    callback=_root,
    help="Where the store is. Default: $ATB_FAST_CACHE, else the platform's cache directory.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
_timeframes = click.option(
    "--timeframe",
    "timeframes",
    type=click.Choice(tuple(TIMEFRAMES)),
    multiple=True,
    help="Length of a bar; may be given several times.",
)


#: Of a finding; JSON has them, the table only says whether it is sound.
_DETAILS = ("problems", "duplicates", "out_of_order", "bad_bars")


#: Headers that are shorter than the names, so that a table fits 80 columns.
_HEADERS = {
    "hole_runs": "holes",
    "off_grid": "off grid",
    "zero_volume": "no trade",
    "longest_step": "longest",
}


def _day(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.DateTime(["%Y-%m-%d"]), help=help_text)


def _offline(help_text: str) -> Callable[[Any], Any]:
    return click.option("--offline", is_flag=True, envvar="ATB_FAST_OFFLINE", help=help_text)


@click.group()
def data() -> None:
    """Fetch, list, check and remove stored candles and sentiment."""


@data.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@_timeframes
@_day("--start-date", "First day, UTC, inclusive. Default: the listing.")
@_day("--end-date", "Last day, UTC, inclusive. Default: the last closed candle.")
@click.option("--skip-sentiment", is_flag=True, help="Leave the Fear & Greed index out.")
@click.option("--force-refresh", is_flag=True, help="Fetch anew what is stored, too.")
@_offline("Open no connection: is all of it stored?")
@click.option(
    "--freshness-days",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="Days that the newest stored sentiment may be older than the end date.",
)
@_cache_dir
@as_json
def fetch(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    start_date: datetime | None,
    end_date: datetime | None,
    skip_sentiment: bool,
    force_refresh: bool,
    offline: bool,
    freshness_days: int,
    root: Path,
    as_json: bool,
) -> None:
    """Fetch what is missing of the candles of SYMBOL..., and of the sentiment.

    Timeframe 1d unless others are given. One series that cannot be had does not stop the others.
    """
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.ingestion.fetch import Fetcher

    names = [symbol.upper() for symbol in symbols]
    for symbol in names:
        check_symbol(symbol)
    first, last = (day.date() if day else None for day in (start_date, end_date))
    if first and last and first > last:
        raise ArgumentError(f"start_date {first} is after end_date {last}; swap them")
    if offline and force_refresh:
        raise ArgumentError("--offline contradicts --force-refresh; give one")
    rows: list[dict[str, Any]] = []
    problems: list[AtbFastError] = []
    with bars(Console(stderr=True, highlight=False)) as shown:
        fetcher = Fetcher(
            cache_dir=root,
            offline=offline,
            force_refresh=force_refresh,
            freshness_days=freshness_days,
            listener=shown,
        )
        for symbol, timeframe in itertools.product(names, timeframes or ("1d",)):
            if _no_use(problems) and not offline:
                break
            with _collected(problems):
                candles = fetcher.candles(symbol, timeframe, first, last)
                if candles.is_empty():
                    raise DataError(
                        f"{symbol} {timeframe} has no closed candle from {first or 'its listing'} "
                        f"to {last or 'now'}; give days between its listing and yesterday"
                    )
                rows.append({"series": f"{symbol} {timeframe}"} | _extent(candles))
        if not skip_sentiment and (offline or not _no_use(problems)):
            with _collected(problems):
                rows.append({"series": "sentiment"} | _extent(fetcher.sentiment(last)))
    _show(rows, as_json, "stored")
    _raise(problems)


@data.command("ls")
@_cache_dir
@as_json
def list_stored(root: Path, as_json: bool) -> None:
    """List what is stored."""
    from atb_fast.ingestion.store.candles import CandleStore

    rows = []
    for store in _stores(root):
        try:
            row = _candle_row(store) if isinstance(store, CandleStore) else _index_row(store)
        except StorageError as error:
            row = {"series": store.name, "state": "damaged"}
            log.warning("%s", error)
        rows += [row] if row else []
    for name in ("features", "checkpoints"):
        found = (root / name).glob("*.npz")
        rows += _files_row(name, [(path, path.stat().st_size) for path in found])
    _show(rows, as_json, str(root), hide=("fetched", "source"))


@data.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_cache_dir
@as_json
def verify(files: tuple[Path, ...], root: Path, as_json: bool) -> None:
    """Check all that is stored, or FILES of candles: hashes, grid, holes, doubled and bad bars.

    Exit code 3 if anything is damaged. Holes and bars off the grid are reported; if the exchange
    has them so, they are no damage.
    """
    if files:
        findings = [_verify_file(path) for path in files]
    else:
        findings = [store.verify() for store in _stores(root)]
    rows = [_report(finding, stored=not files) for finding in findings]
    _show(rows, as_json, "checked", hide=_DETAILS)
    problems = [text for finding in findings for text in finding.problems]
    if problems and not as_json:
        click.echo("\n".join(problems))
    if problems:
        what = "the files" if files else "the store"
        raise DataError(f"{what} must be repaired; problems: {len(problems)}")


@data.command()
@_offline("Only drop what is damaged, fetch nothing.")
@_cache_dir
@as_json
def repair(offline: bool, root: Path, as_json: bool) -> None:
    """Drop what is damaged, and fetch it again."""
    from atb_fast.ingestion.fetch import Fetcher
    from atb_fast.ingestion.spans import iso
    from atb_fast.ingestion.store.candles import CandleStore

    fetcher = Fetcher(cache_dir=root)
    rows: list[dict[str, Any]] = []
    problems: list[AtbFastError] = []
    for store in _stores(root):
        if _no_use(problems):
            break
        with _collected(problems):
            if isinstance(store, CandleStore):
                with store.lock():
                    lost = store.repair()
                    rows += [
                        {"series": store.name, "from": iso(start)[:16], "to": iso(end)[:16]}
                        for start, end in lost
                    ]
                    for span in lost if not offline else []:
                        fetcher.complete(store, span)
            else:
                with store.lock():
                    gone = store.repair()
                rows += [{"series": store.name, "from": None, "to": None}] if gone else []
                if gone and not offline:
                    fetcher.sentiment(None)
    _show(rows, as_json, "dropped" + ("" if offline else " and fetched again"))
    _raise(problems)


@data.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    required=True,
    metavar="DAYS",
    help="Remove what was not used for so many days.",
)
@_dry_run
@_cache_dir
@as_json
def prune(older_than: float, dry_run: bool, root: Path, as_json: bool) -> None:
    """Remove what was not used for some time."""
    from atb_fast.storage import remove_unused

    deadline = datetime.now(UTC).timestamp() - older_than * 86_400

    def unused(store: CandleStore | SentimentStore) -> bool:
        manifest = store.directory / "manifest.json"
        return manifest.exists() and manifest.stat().st_mtime <= deadline

    rows = [
        row
        for store in _stores(root)
        if unused(store) and (row := _remove(store, dry_run=dry_run, only_if=unused))
    ]
    for name in ("features", "checkpoints"):
        removed = remove_unused(root / name, older_than, dry_run=dry_run)
        rows += _files_row(name, removed)
    _show(rows, as_json, "would be removed" if dry_run else "removed")


@data.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@_timeframes
@click.option("--sentiment", is_flag=True, help="The Fear & Greed index.")
@click.option("--features", is_flag=True, help="Prepared features.")
@click.option("--all", "everything", is_flag=True, help="All of it.")
@_dry_run
@_cache_dir
@as_json
def clear(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    sentiment: bool,
    features: bool,
    everything: bool,
    dry_run: bool,
    root: Path,
    as_json: bool,
) -> None:
    """Remove what is named: candles of SYMBOL, of --timeframe, or of both; and what flags say."""
    from atb_fast.storage import remove_unused

    if not (symbols or timeframes or sentiment or features or everything):
        raise ArgumentError(
            "nothing is named; give SYMBOL, --timeframe, --sentiment, --features or --all"
        )
    names = {symbol.upper() for symbol in symbols}
    chosen: list[CandleStore | SentimentStore] = [
        store
        for store in _series(root)
        if everything
        or (
            (symbols or timeframes)
            and (not symbols or store.symbol in names)
            and (not timeframes or store.timeframe in timeframes)
        )
    ]
    stored = _sentiment(root)
    if (sentiment or everything) and stored.path.exists():
        chosen.append(stored)
    rows = [row for store in chosen if (row := _remove(store, dry_run=dry_run))]
    for name, wanted in (("features", features), ("checkpoints", False)):
        if wanted or everything:
            removed = remove_unused(root / name, 0, dry_run=dry_run)
            rows += _files_row(name, removed)
    _show(rows, as_json, "would be removed" if dry_run else "removed")


@contextmanager
def _collected(problems: list[AtbFastError]) -> Iterator[None]:
    """Go on with the next series after an error that concerns only one."""
    try:
        yield
    except AtbFastError as error:
        problems.append(error)


def _no_use(problems: list[AtbFastError]) -> bool:
    """Return whether the exchange cannot be had for the next series either."""
    return any(isinstance(error, FetchError) for error in problems)


def _raise(problems: list[AtbFastError]) -> None:
    """Report all but the last error, and raise that."""
    for error in problems[:-1]:
        log.error("error: %s", error)
    if problems:
        raise problems[-1]


def _candle_row(store: CandleStore) -> dict[str, Any]:
    manifest = store.manifest()
    files = [store.directory / item.file for item in manifest.ranges]
    known = [(i.first, i.last) for i in manifest.ranges if i.first is not None and i.last]
    return {
        "series": store.name,
        "rows": sum(item.rows for item in manifest.ranges),
        "first": _minute(min(first for first, _ in known)) if known else None,
        "last": _minute(max(last for _, last in known)) if known else None,
        "files": len(files),
        "outages": len(manifest.outages),
        "bytes": sum(path.stat().st_size for path in files if path.exists()),
        "state": "ok" if all(path.exists() for path in files) else "damaged",
        "fetched": max((i.fetched_at for i in manifest.ranges), default=None),
        "source": ", ".join(dict.fromkeys(i.source for i in manifest.ranges)),
    }


def _index_row(store: SentimentStore) -> dict[str, Any] | None:
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


def _files_row(name: str, paths: list[tuple[Path, int]]) -> list[dict[str, Any]]:
    if not paths:
        return []
    size = sum(size for _, size in paths)
    return [{"series": name, "files": len(paths), "bytes": size}]


def _series(root: Path) -> list[CandleStore]:
    from atb_fast.ingestion.store.candles import CandleStore

    found = sorted((root / "candles").glob("*/*/manifest.json"))
    return [
        CandleStore(root, path.parts[-3], path.parts[-2])
        for path in found
        if path.parts[-2] in TIMEFRAMES
    ]


def _sentiment(root: Path) -> SentimentStore:
    from atb_fast.ingestion.store.sentiment import SentimentStore

    return SentimentStore(root)


def _stores(root: Path) -> list[CandleStore | SentimentStore]:
    """Return all that is stored."""
    sentiment = _sentiment(root)
    there = sentiment.path.exists() or (sentiment.directory / "manifest.json").exists()
    return [*_series(root), *([sentiment] if there else [])]


def _remove(
    store: CandleStore | SentimentStore,
    *,
    dry_run: bool,
    only_if: Callable[[CandleStore | SentimentStore], bool] = lambda _: True,
) -> dict[str, Any] | None:
    """Remove a series and return what it was, None if `only_if` has become false."""
    with nullcontext() if dry_run else store.lock():
        if not only_if(store):
            return None
        sizes = [path.stat().st_size for path in store.directory.glob("*.parquet")]
        if not dry_run:
            store.remove()
    return {"series": store.name, "files": len(sizes), "bytes": sum(sizes)}


def _verify_file(path: Path) -> Finding:
    from atb_fast.ingestion.files import read_candles
    from atb_fast.ingestion.quality import bar_length, inspect
    from atb_fast.ingestion.store.disk import Finding

    finding = Finding(path.name)
    try:
        candles = read_candles(path)
    except DataError as error:
        finding.problems.append(str(error))
        return finding
    finding.quality = inspect(candles, bar_length(candles))
    if finding.quality.bad_bars:
        finding.problems.append(f"{path}: {finding.quality.bad_bars} bars are impossible")
    return finding


def _report(finding: Finding, *, stored: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"series": finding.name, "sound": not finding.problems}
    if finding.quality:
        quality = finding.quality.to_dict()
        hours = quality.pop("longest_step_ms") / 3_600_000
        quality["longest_step"] = f"{hours:.4g} h" if hours >= 1 else f"{hours * 60:.4g} min"
        row |= quality
        if stored:
            row["outages"] = finding.outages
    return row | {"problems": finding.problems}


def _extent(frame: Any) -> dict[str, Any]:
    if frame.is_empty():
        return {"rows": 0, "first": None, "last": None}
    first, last = (f"{frame['timestamp'][end]:%Y-%m-%d %H:%M}" for end in (0, -1))
    return {"rows": len(frame), "first": first, "last": last}


def _minute(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _show(rows: list[dict[str, Any]], as_json: bool, title: str, hide: Iterable[str] = ()) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        click.echo(json.dumps({"rows": rows}, indent=2))
        return
    if not rows:
        click.echo(f"{title}: nothing")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in hide]
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for name in columns:
        number = any(isinstance(row.get(name), int) for row in rows)
        table.add_column(
            _HEADERS.get(name, name), justify="right" if number else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else str(value)
