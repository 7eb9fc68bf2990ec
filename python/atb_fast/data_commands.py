"""`atb-fast data`: what is stored, and what to do about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.config import TIMEFRAMES, check_symbol, default_cache_dir
from atb_fast.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from atb_fast.ingestion.store import CandleStore, Finding, SentimentStore

log = logging.getLogger(__name__)

_cache_dir = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Where the store is. Default: $ATB_FAST_CACHE, else the platform's cache directory.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
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


def _day(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.DateTime(["%Y-%m-%d"]), help=help_text)


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
@click.option("--freshness-days", type=click.IntRange(min=0), default=7, show_default=True)
@_cache_dir
@_json
def fetch(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    start_date: datetime | None,
    end_date: datetime | None,
    skip_sentiment: bool,
    force_refresh: bool,
    freshness_days: int,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Fetch what is missing of the candles of SYMBOL... (default: 1d), and of the sentiment."""
    from rich.console import Console

    from atb_fast.ingestion.fetch import Fetcher
    from atb_fast.progress import bars

    names = [symbol.upper() for symbol in symbols]
    for symbol in names:
        check_symbol(symbol)
    first, last = (day.date() if day else None for day in (start_date, end_date))
    if first and last and first > last:
        raise ArgumentError(f"start_date {first} is after end_date {last}; swap them")
    rows = []
    with bars(Console(stderr=True, highlight=False)) as shown:
        fetcher = Fetcher(
            cache_dir=cache_dir or default_cache_dir(),
            force_refresh=force_refresh,
            freshness_days=freshness_days,
            on_progress=shown.rows,
        )
        for symbol in names:
            for timeframe in timeframes or ("1d",):
                candles = fetcher.candles(symbol, timeframe, first, last)
                rows.append({"series": f"{symbol} {timeframe}"} | _extent(candles))
        if not skip_sentiment:
            rows.append({"series": "sentiment"} | _extent(fetcher.sentiment(last)))
    _show(rows, as_json, "fetched and stored")


@data.command("ls")
@_cache_dir
@_json
def list_stored(cache_dir: Path | None, as_json: bool) -> None:
    """List what is stored."""
    root = cache_dir or default_cache_dir()
    rows = []
    for store in _series(root):
        manifest = store.manifest()
        files = [store.directory / item.file for item in manifest.ranges]
        known = [(i.first, i.last) for i in manifest.ranges if i.first and i.last]
        rows.append(
            {
                "series": store.name,
                "candles": sum(item.rows for item in manifest.ranges),
                "first": _minute(min(first for first, _ in known)) if known else None,
                "last": _minute(max(last for _, last in known)) if known else None,
                "files": len(files),
                "outages": len(manifest.outages),
                "bytes": sum(path.stat().st_size for path in files if path.exists()),
                "fetched": max((i.fetched_at for i in manifest.ranges), default=None),
                "source": ", ".join(dict.fromkeys(i.source for i in manifest.ranges)),
            }
        )
    sentiment = _sentiment(root)
    if entry := sentiment.entry():
        rows.append(
            {
                "series": "sentiment",
                "candles": entry["rows"],
                "first": entry["first"],
                "last": entry["last"],
                "files": 1,
                "outages": None,
                "bytes": sentiment.path.stat().st_size,
                "fetched": entry["fetched_at"],
                "source": entry["source"],
            }
        )
    features = list((root / "features").glob("*.npz"))
    if features:
        size = sum(path.stat().st_size for path in features)
        rows.append({"series": "features", "files": len(features), "bytes": size})
    _show(rows, as_json, str(root), hide=("fetched", "source"))


@data.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_cache_dir
@_json
def verify(files: tuple[Path, ...], cache_dir: Path | None, as_json: bool) -> None:
    """Check all that is stored, or FILES of candles: hashes, grid, holes, doubled and bad bars.

    Exit code 3 if anything is damaged. Holes and bars off the grid are reported; if the exchange
    has them so, they are no damage.
    """
    root = cache_dir or default_cache_dir()
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
        raise DataError(f"{len(problems)} problems in {what}")


@data.command()
@click.option("--offline", is_flag=True, help="Only drop what is damaged, fetch nothing.")
@_cache_dir
@_json
def repair(offline: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Drop what is damaged, and fetch it again."""
    from atb_fast.ingestion.fetch import Fetcher
    from atb_fast.ingestion.store import CandleStore, SentimentStore, iso

    root = cache_dir or default_cache_dir()
    fetcher = Fetcher(cache_dir=root)
    rows = []
    for store in _stores(root):
        with store.lock():
            for start, end in store.repair():
                lost = {} if start == end else {"from": iso(start)[:16], "to": iso(end)[:16]}
                rows.append({"series": store.name} | lost)
                if isinstance(store, CandleStore) and not offline:
                    fetcher.complete(store, (start, end))
        if isinstance(store, SentimentStore) and not offline and not store.path.exists():
            fetcher.sentiment(None)
    _show(rows, as_json, "dropped" + ("" if offline else " and fetched again"))


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
@_json
def prune(older_than: float, dry_run: bool, cache_dir: Path | None, as_json: bool) -> None:
    """Remove what was not used for some time."""
    from atb_fast import feature_cache

    root = cache_dir or default_cache_dir()
    deadline = datetime.now(UTC).timestamp() - older_than * 86_400
    unused = [
        store
        for store in _stores(root)
        if (manifest := store.directory / "manifest.json").exists()
        and manifest.stat().st_mtime <= deadline
    ]
    rows = [_remove(store, dry_run=dry_run) for store in unused]
    removed = feature_cache.remove_unused(root / "features", older_than, dry_run=dry_run)
    rows += [{"series": f"features {path.name}"} for path in removed]
    _show(rows, as_json, "would be removed" if dry_run else "removed")


@data.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@_timeframes
@click.option("--sentiment", is_flag=True, help="The Fear & Greed index.")
@click.option("--features", is_flag=True, help="Prepared features.")
@click.option("--all", "everything", is_flag=True, help="All of it.")
@_dry_run
@_cache_dir
@_json
def clear(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    sentiment: bool,
    features: bool,
    everything: bool,
    dry_run: bool,
    cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove what is named: candles of SYMBOL, of --timeframe, or of both; and what flags say."""
    from atb_fast import feature_cache

    if not (symbols or timeframes or sentiment or features or everything):
        raise ArgumentError(
            "nothing is named; give SYMBOL, --timeframe, --sentiment, --features or --all"
        )
    root = cache_dir or default_cache_dir()
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
    rows = [_remove(store, dry_run=dry_run) for store in chosen]
    if features or everything:
        removed = feature_cache.remove_unused(root / "features", 0, dry_run=dry_run)
        rows += [{"series": f"features {path.name}"} for path in removed]
    _show(rows, as_json, "would be removed" if dry_run else "removed")


def _series(root: Path) -> list[CandleStore]:
    from atb_fast.ingestion.store import CandleStore

    found = sorted((root / "candles").glob("*/*/manifest.json"))
    return [
        CandleStore(root, path.parts[-3], path.parts[-2])
        for path in found
        if path.parts[-2] in TIMEFRAMES
    ]


def _sentiment(root: Path) -> SentimentStore:
    from atb_fast.ingestion.store import SentimentStore

    return SentimentStore(root)


def _stores(root: Path) -> list[CandleStore | SentimentStore]:
    """Return all that is stored."""
    sentiment = _sentiment(root)
    return [*_series(root), *([sentiment] if sentiment.directory.exists() else [])]


def _remove(store: CandleStore | SentimentStore, *, dry_run: bool) -> dict[str, Any]:
    files = [path for path in store.directory.iterdir() if path.name != ".lock"]
    size = sum(path.stat().st_size for path in files)
    if not dry_run:
        with store.lock():
            store.remove()
    return {"series": store.name, "files": len(files), "bytes": size}


def _verify_file(path: Path) -> Finding:
    from atb_fast.ingestion.files import read_candles
    from atb_fast.ingestion.quality import bar_length, inspect
    from atb_fast.ingestion.store import Finding

    finding = Finding(path.name)
    try:
        candles = read_candles(path)
    except DataError as error:
        finding.problems.append(str(error))
        return finding
    finding.quality = inspect(candles, bar_length(candles))
    if finding.quality.bad_bars:
        finding.problems.append(f"{path}: {finding.quality.bad_bars} bars cannot be")
    return finding


def _report(finding: Finding, *, stored: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"series": finding.name, "sound": not finding.problems}
    if finding.quality:
        quality = finding.quality.to_dict()
        quality["longest_step"] = f"{quality.pop('longest_step_ms') / 3_600_000:.4g} h"
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
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        number = any(isinstance(row.get(name), int) for row in rows)
        table.add_column(
            name.replace("_", " "),
            justify="right" if number else "left",
            no_wrap=name == "series",
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
