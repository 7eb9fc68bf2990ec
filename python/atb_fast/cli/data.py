"""`atb-fast data`: fetch, list, check and remove stored candles and sentiment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli.options import Day, Whole, as_json, print_json
from atb_fast.cli.tables import Column, echo, print_table
from atb_fast.config import OPTIONS, TIMEFRAMES, check_cache_dir, check_symbol, default_cache_dir
from atb_fast.errors import ArgumentError, AtbFastError, DataError, counted

if TYPE_CHECKING:
    from atb_fast.ingestion.store.disk import Finding

log = logging.getLogger(__name__)


def _root(_context: click.Context, _parameter: click.Parameter, given: str | None) -> Path:
    """Return the cache directory; raise ArgumentError if it is a file."""
    root = default_cache_dir() if given is None else OPTIONS["cache_dir"].check(given)
    check_cache_dir(root)
    return root


_cache_dir = click.option(
    "--cache-dir",
    "root",
    type=click.Path(),
    callback=_root,
    help="Cache directory. Default: $ATB_FAST_CACHE, else that of the platform.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
_timeframes = click.option(
    "--timeframe",
    "timeframes",
    type=click.Choice(tuple(TIMEFRAMES)),
    multiple=True,
    help="Length of a bar; can be repeated.",
)

#: Details that only JSON has; the table shows whether the series is sound.
_DETAILS = ("problems", "duplicates", "out_of_order", "bad_bars", "unlisted")
#: Short headers, so that a table fits 80 columns.
_HEADERS = {
    "hole_runs": "gaps",
    "off_grid": "off grid",
    "zero_volume": "no trade",
    "longest_step": "longest",
}
#: Columns of numbers, which are aligned right.
_NUMBERS = (
    *("rows", "files", "outages", "bytes", "missing", "hole_runs", "off_grid", "zero_volume"),
)


def _day(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, type=Day(), help=help_text)


def _offline(help_text: str) -> Callable[[Any], Any]:
    return click.option("--offline", is_flag=True, envvar="ATB_FAST_OFFLINE", help=help_text)


@click.group()
def data() -> None:
    """Fetch, list, check and remove stored candles and sentiment."""


@data.command()
@click.argument("symbols", nargs=-1, required=True, metavar="SYMBOL...")
@_timeframes
@_day("--start-date", "First day, UTC, inclusive. Default: the first day available.")
@_day("--end-date", "Last day, UTC, inclusive. Default: the last day available.")
@click.option("--skip-sentiment", is_flag=True, help="Do not download the Fear & Greed index.")
@click.option("--force-refresh", is_flag=True, help="Download the range again.")
@_offline("Open no connection; data that is not stored is an error.")
@click.option(
    "--freshness-days",
    type=Whole(min=0),
    default=7,
    show_default=True,
    help="Days by which stored sentiment may be older than the end date before it is downloaded "
    "again.",
)
@_cache_dir
@as_json
def fetch(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    start_date: date | None,
    end_date: date | None,
    skip_sentiment: bool,
    force_refresh: bool,
    offline: bool,
    freshness_days: int,
    root: Path,
    as_json: bool,
) -> None:
    """Download candles of SYMBOL... and sentiment that are not stored yet.

    The default timeframe is 1d. A failed series does not stop the others.
    """
    from rich.console import Console

    from atb_fast.cli.progress import bars
    from atb_fast.ingestion import maintenance
    from atb_fast.ingestion.fetch import Fetcher

    names = [symbol.upper() for symbol in symbols]
    for symbol in names:
        check_symbol(symbol)
    if start_date and end_date and start_date > end_date:
        raise ArgumentError(f"--start-date {start_date} is after --end-date {end_date}; swap them")
    if offline and force_refresh:
        raise ArgumentError(
            "--offline and --force-refresh contradict each other; pass only one of them"
        )
    with bars(Console(stderr=True, highlight=False)) as shown:
        fetcher = Fetcher(
            cache_dir=root,
            offline=offline,
            force_refresh=force_refresh,
            freshness_days=freshness_days,
            listener=shown,
            without_sentiment="--skip-sentiment",
        )
        rows, errors = maintenance.fetch(
            fetcher,
            names,
            timeframes or ("1d",),
            start_date,
            end_date,
            sentiment=not skip_sentiment,
        )
    _show(rows, as_json, "stored")
    _raise(errors)


@data.command("ls")
@_cache_dir
@as_json
def list_stored(root: Path, as_json: bool) -> None:
    """List stored candles and sentiment, and cached files."""
    from atb_fast.ingestion import maintenance

    _show(maintenance.stored(root), as_json, str(root), hide=("fetched", "source"))


@data.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_cache_dir
@as_json
def verify(files: tuple[Path, ...], root: Path, as_json: bool) -> None:
    """Check the whole store, or FILES of candles or of the Fear & Greed index.

    Checks hashes, the time grid, gaps, duplicates and impossible bars or values. The exit code is 3
    if anything is damaged. Gaps and bars off the grid are reported but are not damage: the exchange
    itself may have them.
    """
    from atb_fast.ingestion import maintenance
    from atb_fast.ingestion.store.disk import flag

    if files:
        findings = [maintenance.verify_file(path) for path in files]
    else:
        findings = maintenance.verify(root)
    rows = [_report(finding, stored=not files) for finding in findings]
    _show(rows, as_json, "checked", hide=_DETAILS)
    problems = [text for finding in findings for text in finding.problems]
    if not as_json:
        notes = [_unlisted(finding, flag(root)) for finding in findings if finding.unlisted]
        echo("".join(f"{line}\n" for line in [*problems, *notes]), nl=False)
    if problems:
        repair = f"run: atb-fast data repair{flag(root)}"
        where, fix = ("files", "fix them") if files else ("store", repair)
        raise DataError(f"problems found in the {where}: {len(problems)}; {fix}")


@data.command()
@_offline("Open no connection; damaged data that needs a download is an error.")
@_cache_dir
@as_json
def repair(offline: bool, root: Path, as_json: bool) -> None:
    """Repair the store.

    Damaged and missing manifests are rebuilt from the stored files. Damaged files are downloaded
    again. They stay in place until the download is complete.
    """
    from atb_fast.ingestion import maintenance
    from atb_fast.ingestion.fetch import Fetcher

    rows, errors = maintenance.repair(root, None if offline else Fetcher(cache_dir=root))
    if rows or as_json:
        _show(rows, as_json, "repair")
    elif not errors:
        echo("nothing to repair")
    _raise(errors)


@data.command()
@click.option(
    "--older-than",
    type=float,
    required=True,
    metavar="DAYS",
    help="Remove data that was last used this many days ago or earlier.",
)
@_dry_run
@_cache_dir
@as_json
def prune(older_than: float, dry_run: bool, root: Path, as_json: bool) -> None:
    """Remove data that has not been used for some time."""
    from atb_fast.ingestion import maintenance

    rows = maintenance.prune(root, older_than, dry_run=dry_run)
    _show(rows, as_json, "would be removed" if dry_run else "removed")


@data.command()
@click.argument("symbols", nargs=-1, metavar="[SYMBOL]...")
@_timeframes
@click.option("--sentiment", is_flag=True, help="Remove the Fear & Greed index.")
@click.option("--features", is_flag=True, help="Remove prepared features.")
@click.option("--compiled", is_flag=True, help="Remove compiled programs.")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@_dry_run
@_cache_dir
@as_json
def clear(
    *,
    symbols: tuple[str, ...],
    timeframes: tuple[str, ...],
    sentiment: bool,
    features: bool,
    compiled: bool,
    everything: bool,
    dry_run: bool,
    root: Path,
    as_json: bool,
) -> None:
    """Remove stored data by name.

    SYMBOL and --timeframe select candles; everything else has a flag of its own.
    """
    from atb_fast.ingestion import maintenance

    if not (symbols or timeframes or sentiment or features or compiled or everything):
        raise ArgumentError(
            "nothing to remove; pass SYMBOL, --timeframe, --sentiment, --features, --compiled or "
            "--all"
        )
    rows = maintenance.clear(
        root,
        symbols={symbol.upper() for symbol in symbols},
        timeframes=timeframes,
        sentiment=sentiment,
        features=features,
        compiled=compiled,
        everything=everything,
        dry_run=dry_run,
    )
    _show(rows, as_json, "would be removed" if dry_run else "removed")


def _raise(errors: list[AtbFastError]) -> None:
    """Log all errors but the last, and raise the last one."""
    for error in errors[:-1]:
        log.error("error: %s", error)
    if errors:
        raise errors[-1]


def _report(finding: Finding, *, stored: bool) -> dict[str, Any]:
    from atb_fast.ingestion.quality import step_text

    row: dict[str, Any] = {"series": finding.name, "sound": not finding.problems}
    if finding.quality:
        quality = finding.quality.to_dict()
        quality["longest_step"] = step_text(quality.pop("longest_step_ms"))
        row |= quality
        if stored:
            row["outages"] = finding.outages
            row["unlisted"] = finding.unlisted
    return row | {"problems": finding.problems}


def _unlisted(finding: Finding, cache_dir: str) -> str:
    return (
        f"{finding.name}: intact, but not listed in the manifest: "
        f"{counted(finding.unlisted, 'file')}; to rebuild it, run: atb-fast data repair{cache_dir}"
    )


def _show(
    rows: list[dict[str, Any]], as_json: bool, title: str, hide: Collection[str] = ()
) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print_json({"rows": rows})
        return
    if not rows:
        echo(f"{title}: nothing")
        return
    names = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in hide]
    columns = [Column(_HEADERS.get(name, name), right=name in _NUMBERS) for name in names]
    print_table(columns, [[row.get(name) for name in names] for row in rows], title)
