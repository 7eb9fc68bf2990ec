"""`atb-fast models`: what is in the registry, and which of it engines load."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast import registry
from atb_fast.config import BASIC_TIMEFRAME, default_registry
from atb_fast.errors import ArgumentError, BundleError

if TYPE_CHECKING:
    from atb_fast.verification import Report

_registry = click.option(
    "--registry",
    "root",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else src/ml/models.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


@click.group()
def models() -> None:
    """List, check, promote and remove bundles.

    BUNDLE is a directory, or SYMBOL:TIMEFRAME:TYPE[:VERSION] as engines name it, for example
    BTCUSDT:1h:basic; without a version it is the one that `latest` names.
    """


@models.command("ls")
@_registry
@_json
def list_models(root: Path | None, as_json: bool) -> None:
    """List the bundles of the registry; those that engines load are marked."""
    rows = [_row(path) for path in registry.versions(_root(root))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(f"no bundles in {_root(root)}")
    else:
        _table(
            str(_root(root)),
            [
                {
                    "bundle": row["bundle"],
                    "live": "yes" if row["live"] else "",
                    "test RMSE": _number(row["test_rmse"]),
                    "persistence": _number(row["persistence_rmse"]),
                    "problem": row["problem"] or "",
                }
                for row in rows
            ],
        )


@models.command()
@click.argument("bundle")
@_registry
@_json
def show(bundle: str, root: Path | None, as_json: bool) -> None:
    """Show what BUNDLE is, what it was trained on, and how good it is."""
    path = registry.find(bundle, root)
    metadata = registry.read_json(path / "metadata.json")
    if as_json:
        click.echo(json.dumps(_finite(metadata), indent=2, allow_nan=False))
        return
    facts = _facts(path, metadata)
    width = max(map(len, facts))
    click.echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))


@models.command()
@click.argument("bundles", nargs=-1, metavar="BUNDLE...")
@click.option("--all", "every", is_flag=True, help="Every version of the registry.")
@_registry
@_json
def verify(bundles: tuple[str, ...], every: bool, root: Path | None, as_json: bool) -> None:
    """Check BUNDLE...: the contract with the engines, a run of the model, train/serve skew.

    Skew is the largest difference between a feature in training and as it is made for scoring, bar
    by bar. Exit code 9 if a bundle must not be live.
    """
    from atb_fast.verification import verify as check

    if bool(bundles) == every:
        raise ArgumentError("give one BUNDLE or several, or --all")
    paths = registry.versions(_root(root)) if every else [registry.find(b, root) for b in bundles]
    reports = [check(path) for path in paths]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(report) for report in reports], indent=2))
    else:
        for report in reports:
            _say(report)
    bad = sum(bool(report.problems) for report in reports)
    if bad:
        raise BundleError(f"{bad} of {len(reports)} bundles must not be live")


@models.command()
@click.argument("bundle")
@click.option("--force", is_flag=True, help="Also a basic bundle of another timeframe than 1h.")
@_registry
@_json
def promote(bundle: str, force: bool, root: Path | None, as_json: bool) -> None:
    """Let engines load BUNDLE: verify it, then point `latest` to it."""
    path = registry.find(bundle, root).absolute()
    _promote(path, root, as_json, force=force)


@models.command()
@click.argument("bundle")
@_registry
@_json
def rollback(bundle: str, root: Path | None, as_json: bool) -> None:
    """Let engines load the version before the live one of BUNDLE (SYMBOL:TIMEFRAME:TYPE)."""
    live = registry.find(bundle, root).absolute()
    timeframe = registry.read_json(live / "metadata.json").get("timeframe")
    older = [
        path
        for path in registry.versions(live.parent.parent.parent)
        if path.parent == live.parent and _timeframe(path) == timeframe
    ]
    before = older[: [path.name for path in older].index(live.name)]
    if not before:
        raise BundleError(f"{live.name} is the oldest version of {bundle}; there is none before it")
    _promote(before[-1], root, as_json, force=True)


@models.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    help="Newest versions to keep of each symbol, type and timeframe.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_registry
@_json
def prune(keep: int, dry_run: bool, root: Path | None, as_json: bool) -> None:
    """Remove old versions; never one that `latest` names."""
    groups: dict[tuple[Path, str | None], list[Path]] = {}
    for path in registry.versions(_root(root)):
        groups.setdefault((path.parent, _timeframe(path)), []).append(path)
    removed = []
    for paths in groups.values():
        for path in paths[:-keep]:
            live = registry.live_version(path.parent) == path.name
            if not live and (dry_run or registry.remove(path)):
                removed.append(str(path))
    if as_json:
        click.echo(json.dumps({"removed": removed, "dry_run": dry_run}, indent=2))
        return
    for path_name in removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {path_name}")
    click.echo(f"{len(removed)} versions {'would be ' if dry_run else ''}removed")


def _root(given: Path | None) -> Path:
    return given or default_registry()


def _promote(path: Path, root: Path | None, as_json: bool, *, force: bool) -> None:
    from atb_fast.verification import verify as check

    if not path.is_relative_to(_root(root).absolute()):
        raise ArgumentError(f"{path} is not in the registry {_root(root)}; name its --registry")
    report = check(path)
    if report.problems:
        raise BundleError(f"{path} must not be live: {'; '.join(report.problems)}")
    timeframe = _timeframe(path)
    if path.parent.name == "basic" and timeframe != BASIC_TIMEFRAME and not force:
        raise BundleError(
            f"{path} is of timeframe {timeframe}: as basic/latest it would stop strategies that "
            f"expect {BASIC_TIMEFRAME}; --force does it all the same"
        )
    before = registry.live_version(path.parent)
    registry.promote(path)
    if as_json:
        click.echo(json.dumps({"bundle": str(path), "before": before}, indent=2))
    else:
        click.echo(f"{path.parent / 'latest'} -> {path.name} (before: {before or 'none'})")


def _timeframe(path: Path) -> str | None:
    try:
        return registry.read_json(path / "metadata.json").get("timeframe")
    except BundleError:
        return None


def _row(path: Path) -> dict[str, Any]:
    symbol, model_type, version = path.parts[-3:]
    row: dict[str, Any] = {
        "bundle": f"{symbol}:?:{model_type}:{version}",
        "path": str(path),
        "live": registry.live_version(path.parent) == version,
        "test_rmse": None,
        "persistence_rmse": None,
        "problem": None,
    }
    try:
        metadata = registry.read_json(path / "metadata.json")
    except BundleError as error:
        return row | {"problem": str(error)}
    row["bundle"] = f"{symbol}:{metadata.get('timeframe')}:{model_type}:{version}"
    results = metadata.get("evaluation_results")
    for name in ("test_rmse", "persistence_rmse"):
        value = results.get(name) if isinstance(results, dict) else None
        row[name] = _finite(value) if isinstance(value, int | float) else None
    return row


def _facts(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    def part(name: str) -> dict[str, Any]:
        value = metadata.get(name)
        return value if isinstance(value, dict) else {}

    dataset, results, params = (
        part(name) for name in ("dataset", "evaluation_results", "training_params")
    )
    live = registry.live_version(path.parent) == path.name
    return {
        "bundle": path,
        "live": "yes" if live else "no",
        "symbol": f"{metadata.get('symbol')} {metadata.get('timeframe')}",
        "type": metadata.get("model_type"),
        "input": f"{metadata.get('sequence_length')} rows of "
        + ", ".join(map(str, metadata.get("feature_names") or ())),
        "created": metadata.get("created_at"),
        "candles": f"{dataset.get('first')} to {dataset.get('last')}"
        + (", synthetic" if dataset.get("synthetic") else ""),
        "training": f"{params.get('epochs')} epochs, best {params.get('best_epoch')}, "
        f"seed {params.get('seed')}, {params.get('engine')}",
        "test RMSE": f"{_number(results.get('test_rmse'))} "
        f"(persistence {_number(results.get('persistence_rmse'))})",
    }


def _finite(value: Any) -> Any:
    """Return `value` with null for NaN and infinities, which old bundles have and JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, int | float) else ""


def _say(report: Report) -> None:
    click.echo(f"{report.path}: {'must not be live' if report.problems else 'ok'}")
    for problem in report.problems:
        click.echo(f"  {problem}")
    if report.skew is not None:
        click.echo(f"  largest train/serve difference of a feature: {report.skew:.1e}")
    if report.prediction_difference is not None:
        difference = report.prediction_difference
        click.echo(f"  largest difference of a prediction to Keras: {difference:.1e} of the price")
    for note in report.notes:
        click.echo(f"  {note}")


def _table(title: str, rows: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        if any(row[name] for row in rows):
            table.add_column(
                name, justify="right" if "R" in name or name == "persistence" else "left"
            )
    for row in rows:
        table.add_row(*(value for name, value in row.items() if any(r[name] for r in rows)))
    Console(highlight=False).print(table)
