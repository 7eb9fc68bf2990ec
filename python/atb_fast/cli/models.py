"""`atb-fast models`: what is in the registry, and which of it engines load."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli.options import as_json
from atb_fast.cli.tables import Column, print_table
from atb_fast.config import default_registry
from atb_fast.errors import ArgumentError, BundleError
from atb_fast.serving import registry

if TYPE_CHECKING:
    from atb_fast.serving.verification import Report

log = logging.getLogger(__name__)

_registry = click.option(
    "--registry",
    "root",
    type=click.Path(path_type=Path),
    default=None,
    help="Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else src/ml/models.",
)


@click.group()
def models() -> None:
    """List, check, promote and remove bundles.

    BUNDLE is a directory, or SYMBOL:TIMEFRAME:TYPE[:VERSION] as engines name it, for example
    BTCUSDT:1h:basic; without a version it is the one that `latest` names.
    """


@models.command("ls")
@_registry
@as_json
def list_models(root: Path | None, as_json: bool) -> None:
    """List the bundles of the registry; those that engines load are marked."""
    rows = [_row(path) for path in registry.versions(_root(root))]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(f"no bundles in {_root(root)}")
    else:
        _print_bundles(str(_root(root)), rows)
    kept = registry.unpublished(_root(root))
    if kept and not as_json:
        click.echo(f"{len(kept)} not published, without a checked model.onnx: {kept[0].parent}")


@models.command()
@click.argument("bundle")
@_registry
@as_json
def show(bundle: str, root: Path | None, as_json: bool) -> None:
    """Show what BUNDLE is, what it was trained on, and how good it is."""
    path = registry.find(bundle, root).resolve()
    metadata = registry.read_json(path / "metadata.json")
    if as_json:
        live = registry.live_version(path.parent) == path.name
        document = {"path": str(path), "live": live, "metadata": _finite(metadata)}
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    facts = _facts(path, metadata)
    width = max(map(len, facts))
    click.echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))


@models.command()
@click.argument("bundles", nargs=-1, metavar="BUNDLE...")
@click.option("--all", "every", is_flag=True, help="Every version of the registry.")
@_registry
@as_json
def verify(bundles: tuple[str, ...], every: bool, root: Path | None, as_json: bool) -> None:
    """Check BUNDLE...: the contract with the engines, a run of the model, train/serve skew.

    Skew is the largest difference between a feature in training and as it is made for scoring, bar
    by bar. Exit code 9 if a bundle must not be live.
    """
    from atb_fast.serving.verification import Report
    from atb_fast.serving.verification import verify as check

    if bool(bundles) == every:
        raise ArgumentError("give one BUNDLE or several, or --all")
    reports = []
    if every:
        for path in registry.versions(_root(root)):
            report = check(path)
            if path.is_dir():  # it may have been pruned meanwhile
                reports.append(report)
    for bundle in bundles:
        try:
            reports.append(check(registry.find(bundle, root)))
        except BundleError as error:
            reports.append(Report(bundle, (str(error),), ()))
    if as_json:
        documents = _finite([dataclasses.asdict(report) for report in reports])
        click.echo(json.dumps(documents, indent=2, allow_nan=False))
    else:
        for report in reports:
            _say(report)
        if not reports:
            click.echo(f"no bundles in {_root(root)}")
    bad = sum(bool(report.problems) for report in reports)
    if bad:
        raise BundleError(f"{bad} of {len(reports)} bundles must not be live")


@models.command()
@click.argument("bundle")
@click.option(
    "--force",
    is_flag=True,
    help="Also if `latest` is of another timeframe now, or something could not be checked.",
)
@_registry
@as_json
def promote(bundle: str, force: bool, root: Path | None, as_json: bool) -> None:
    """Let engines load BUNDLE: verify it, then point `latest` to it."""
    from atb_fast.serving.verification import verify as check

    path = _inside(registry.find(bundle, root), root)
    report = check(path)
    if report.problems:
        raise BundleError(f"{path} must not be live: {'; '.join(report.problems)}")
    if report.unchecked and not force:
        raise BundleError(
            f"{path} could not be checked: {'; '.join(report.unchecked)}; --force promotes it all "
            "the same"
        )
    timeframe = registry.timeframe(path)
    other = registry.other_live_timeframe(path.parent, timeframe)
    if other and not force:
        raise BundleError(
            f"{path} is of timeframe {timeframe}, and engines expect {other} of "
            f"{path.parent / 'latest'}; --force promotes it all the same"
        )
    _promote(path, as_json)


@models.command()
@click.argument("bundle")
@click.option("--force", is_flag=True, help="Also to one of which something could not be checked.")
@_registry
@as_json
def rollback(bundle: str, force: bool, root: Path | None, as_json: bool) -> None:
    """Let engines load the newest sound version before the live one.

    BUNDLE is SYMBOL:TIMEFRAME:TYPE; the live version may be damaged or gone.
    """
    from atb_fast.serving.verification import verify as check

    wanted = registry.Reference.parse(bundle)
    if wanted.version:
        raise ArgumentError(f"{bundle} names a version; name the one to load with models promote")
    home = _root(root) / wanted.symbol / wanted.model_type
    live = str((home / "latest").readlink()) if (home / "latest").is_symlink() else None
    if live is None:
        raise BundleError(f"no bundle {bundle} is live: there is no {home / 'latest'}")
    other = registry.other_live_timeframe(home, wanted.timeframe)
    if other:
        raise BundleError(
            f"{home / 'latest'} is of timeframe {other}, not {wanted.timeframe}; roll that "
            "back, or name the version to load with models promote --force"
        )
    older = [
        path
        for path in registry.versions(_root(root))
        if path.parent == home
        and _timeframe(path) == wanted.timeframe
        and (not registry.is_version(Path(live)) or _before(path, live))
    ]
    for path in reversed(older):
        report = check(path)
        if not report.problems and (force or not report.unchecked):
            _promote(_inside(path, root), as_json)
            return
        if report.problems:
            log.warning("%s must not be live: %s", path, "; ".join(report.problems))
        else:
            log.warning("%s could not be checked: %s", path, "; ".join(report.unchecked))
    raise BundleError(f"there is no sound version of {bundle} before {live}")


@models.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    help="Newest versions to keep of each symbol, type and timeframe.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_registry
@as_json
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


def _inside(path: Path, root: Path | None) -> Path:
    """Return `path` without links, if it is a version of the registry."""
    resolved, home = path.resolve(), _root(root).resolve()
    if resolved in registry.unpublished(home):
        raise BundleError(f"{path} was not published: it has no checked model.onnx")
    if resolved.parent.parent.parent != home or not registry.is_version(resolved):
        raise ArgumentError(f"{path} is no version in the registry {home}; name its --registry")
    return resolved


def _promote(path: Path, as_json: bool) -> None:
    before = registry.live_version(path.parent)
    registry.promote(path)
    if as_json:
        click.echo(json.dumps({"bundle": str(path), "before": before}, indent=2))
    else:
        click.echo(f"{path.parent / 'latest'} -> {path.name} (before: {before or 'none'})")


def _before(path: Path, live: str) -> bool:
    return registry.by_time(path) < registry.by_time(Path(live))


def _timeframe(path: Path) -> str | None:
    try:
        return registry.timeframe(path)
    except BundleError:
        return None


def _row(path: Path) -> dict[str, Any]:
    symbol, model_type, version = path.parts[-3:]
    row: dict[str, Any] = {
        "bundle": f"{symbol}:?:{model_type}:{version}",
        "path": str(path),
        "live": registry.live_version(path.parent) == version,
        "horizon": 1,
        "test_rmse": None,
        "persistence_rmse": None,
        "problem": None,
    }
    try:
        metadata = registry.read_json(path / "metadata.json")
        row["bundle"] = (
            f"{symbol}:{registry.check_timeframe(metadata, path)}:{model_type}:{version}"
        )
    except BundleError as error:
        return row | {"problem": str(error)}
    row["horizon"] = _horizon(metadata)
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
    names = metadata.get("feature_names")
    columns = ", ".join(map(str, names)) if isinstance(names, list) else names
    from_candles = results.get("test_rmse_from_candles")
    facts = {
        "bundle": path,
        "live": "yes" if live else "no",
        "symbol": f"{metadata.get('symbol')} {metadata.get('timeframe')}",
        "type": metadata.get("model_type"),
        "horizon": f"{_horizon(metadata)} bars",
        "input": f"{metadata.get('sequence_length')} rows of {columns}",
        "created": metadata.get("created_at"),
        "candles": f"{dataset.get('first')} to {dataset.get('last')}"
        + (", synthetic" if dataset.get("synthetic") else ""),
        "training": f"{params.get('epochs')} epochs, best {params.get('best_epoch')}, "
        f"seed {params.get('seed')}, {params.get('engine')}",
        "test RMSE": f"{_number(results.get('test_rmse'))} "
        f"(persistence {_number(results.get('persistence_rmse'))})",
    }
    if from_candles is not None:
        facts["... from candles"] = f"{_number(from_candles)}, as model.onnx computes features"
    return facts


def _horizon(metadata: dict[str, Any]) -> Any:
    """Return the bars from the last close to the predicted one; only causal models have several."""
    normalization = metadata.get("price_normalization")
    return normalization.get("horizon", 1) if isinstance(normalization, dict) else 1


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
    for what in report.unchecked:
        click.echo(f"  not checked: {what}")


def _print_bundles(title: str, rows: list[dict[str, Any]]) -> None:
    columns = [
        Column("bundle"),
        Column("live", optional=True),
        Column("horizon", optional=True),
        Column("test RMSE", right=True, optional=True),
        Column("persistence", right=True, optional=True),
        Column("problem", optional=True),
    ]
    cells = [
        (
            row["bundle"],
            "yes" if row["live"] else "",
            "" if row["horizon"] == 1 else f"{row['horizon']} bars",
            _number(row["test_rmse"]),
            _number(row["persistence_rmse"]),
            row["problem"],
        )
        for row in rows
    ]
    print_table(columns, cells, title)
