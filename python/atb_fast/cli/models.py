"""`atb-fast models`: the bundles in the registry, and which of them are live."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import completion
from atb_fast.cli.options import as_json, print_json
from atb_fast.cli.tables import Column, print_table
from atb_fast.config import OPTIONS, default_registry
from atb_fast.errors import ArgumentError, BundleError
from atb_fast.serving.references import find
from atb_fast.serving.registry import is_foreign, live_version, read_json, unpublished, versions

if TYPE_CHECKING:
    from atb_fast.bundles.releases import Release
    from atb_fast.serving.verification import Report

_registry = click.option(
    "--registry",
    type=click.Path(),
    default=default_registry,
    callback=lambda _context, _option, given: OPTIONS["registry"].check(given),
    help="Directory of the model registry. Default: $MODEL_REGISTRY_PATH, else src/ml/models.",
)


_bundle = click.argument("bundle", shell_complete=completion.bundles)


@click.group()
def models() -> None:
    """List, verify, promote and delete bundles.

    BUNDLE is a directory, or SYMBOL:TIMEFRAME:TYPE[:VERSION], for example BTCUSDT:1h:basic. Without
    a version, it is the live bundle, which `latest` points to. The symbol is not case-sensitive.
    """


@models.command("ls")
@_registry
@as_json
def list_models(registry: Path, as_json: bool) -> None:
    """List the bundles in the registry, and mark the live ones.

    For bundles of other trainers, the list says what cannot be verified.
    """
    from atb_fast.bundles.releases import releases

    rows = [_row(release) for release in releases(registry)]
    if as_json:
        print_json(_finite(rows))
    elif not rows:
        click.echo(f"no bundles in {registry}")
    else:
        _print_bundles(str(registry), rows)
    kept = unpublished(registry)
    if kept and not as_json:
        click.echo(f"{len(kept)} unpublished, without a checked model.onnx: {kept[0].parent}")


@models.command()
@_bundle
@_registry
@as_json
def show(bundle: str, registry: Path, as_json: bool) -> None:
    """Show what BUNDLE is, what it was trained on, and how good it is."""
    path = find(bundle, registry).resolve()
    metadata = read_json(path / "metadata.json")
    if as_json:
        live = live_version(path.parent) == path.name
        document = {"path": str(path), "live": live, "metadata": _finite(metadata)}
        print_json(document)
        return
    facts = _facts(path, metadata)
    width = max(map(len, facts))
    click.echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))


@models.command()
@click.argument("bundles", nargs=-1, metavar="BUNDLE...", shell_complete=completion.bundles)
@click.option("--all", "every", is_flag=True, help="Verify every version in the registry.")
@_registry
@as_json
def verify(bundles: tuple[str, ...], every: bool, registry: Path, as_json: bool) -> None:
    """Verify BUNDLE...: the contract with the engines, a run of the model, train/serve skew.

    Skew is the largest difference between a feature in training and the same feature in scoring.
    The exit code is 9 if a bundle must not go live. For bundles of other trainers, verify only
    checks whether engines can load them.
    """
    from atb_fast.bundles.releases import check
    from atb_fast.serving.verification import Report

    if bool(bundles) == every:
        raise ArgumentError("pass one or more BUNDLE arguments, or --all")
    reports = []
    if every:
        for path in versions(registry):
            report = check(path)
            if path.is_dir():  # otherwise another process has deleted it in the meantime
                reports.append(report)
    for bundle in bundles:
        try:
            reports.append(check(find(bundle, registry)))
        except BundleError as error:
            reports.append(Report(bundle, (str(error),), ()))
    if as_json:
        print_json(_finite([dataclasses.asdict(report) for report in reports]))
    else:
        for report in reports:
            _say(report)
        if not reports:
            click.echo(f"no bundles in {registry}")
    bad = sum(bool(report.problems) for report in reports)
    if bad:
        raise BundleError(
            f"{bad} of {len(reports)} bundles must not go live; see the problems above"
        )


@models.command()
@_bundle
@click.option(
    "--force",
    is_flag=True,
    help="Promote it even if the live bundle has another timeframe, or if something could not be "
    "checked, as for bundles of other trainers.",
)
@_registry
@as_json
def promote(bundle: str, force: bool, registry: Path, as_json: bool) -> None:
    """Verify BUNDLE and make it live: `latest` then points to it."""
    from atb_fast.bundles.releases import promote as make_live

    _say_live(*make_live(find(bundle, registry), registry, force=force), as_json)


@models.command()
@_bundle
@click.option(
    "--force", is_flag=True, help="Accept a version that could not be checked completely."
)
@_registry
@as_json
def rollback(bundle: str, force: bool, registry: Path, as_json: bool) -> None:
    """Make the newest older version that passes verification live.

    BUNDLE is SYMBOL:TIMEFRAME:TYPE. The live version may be damaged or missing. Bundles of other
    trainers are accepted if engines can load them.
    """
    from atb_fast.bundles.releases import rollback as roll_back

    _say_live(*roll_back(bundle, registry, force=force), as_json)


@models.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    help="Number of newest versions to keep for each symbol, type and timeframe.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@_registry
@as_json
def prune(keep: int, dry_run: bool, registry: Path, as_json: bool) -> None:
    """Delete old versions, but never a live one, nor one of another trainer."""
    from atb_fast.bundles.releases import prune as delete_old

    removed = [str(path) for path in delete_old(registry, keep, dry_run=dry_run)]
    if as_json:
        print_json({"removed": removed, "dry_run": dry_run})
        return
    for path_name in removed:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {path_name}")
    click.echo(f"{len(removed)} versions {'would be ' if dry_run else ''}deleted")


def _say_live(path: Path, before: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"bundle": str(path), "before": before})
    else:
        click.echo(f"{path.parent / 'latest'} -> {path.name} (before: {before or 'none'})")


def _row(release: Release) -> dict[str, Any]:
    results = release.metadata.get("evaluation_results")
    figures = results if isinstance(results, dict) else {}
    row: dict[str, Any] = {
        "bundle": release.reference,
        "path": str(release.path),
        "live": release.live,
        "foreign": release.foreign,
        "horizon": _horizon(release.metadata),
    }
    for name in ("test_rmse", "persistence_rmse"):
        value = figures.get(name)
        row[name] = _finite(value) if isinstance(value, int | float) else None
    return row | {"unverified": release.unverified, "problem": release.problem}


def _facts(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    def part(name: str) -> dict[str, Any]:
        value = metadata.get(name)
        return value if isinstance(value, dict) else {}

    dataset, results, params = (
        part(name) for name in ("dataset", "evaluation_results", "training_params")
    )

    def listed(part: dict[str, Any], **texts: str) -> str:
        return ", ".join(
            text.format(part[key]) for key, text in texts.items() if part.get(key) is not None
        )

    names = metadata.get("feature_names")
    rows = listed(metadata, sequence_length="{} rows")
    columns = ", ".join(map(str, names)) if isinstance(names, list) else ""
    ends = [str(dataset[key]) for key in ("first", "last") if dataset.get(key)]
    rmse, persistence, from_candles = (
        _number(results.get(key))
        for key in ("test_rmse", "persistence_rmse", "test_rmse_from_candles")
    )
    facts = {
        "bundle": path,
        "live": "yes" if live_version(path.parent) == path.name else "no",
        "trainer": "other" if is_foreign(metadata) else None,
        "symbol": listed(metadata, symbol="{}", timeframe="{}").replace(",", ""),
        "type": metadata.get("model_type"),
        "horizon": f"{_horizon(metadata)} bars",
        "input": " of ".join(filter(None, (rows, columns))),
        "created": metadata.get("created_at") or metadata.get("training_date"),
        "candles": " to ".join(ends) + (", synthetic" if dataset.get("synthetic") else ""),
        "training": listed(
            params, epochs="{} epochs", best_epoch="best {}", seed="seed {}", engine="{}"
        ),
        "test RMSE": rmse + (f" (persistence {persistence})" if persistence else ""),
        "... from candles": from_candles and f"{from_candles}, as model.onnx computes features",
    }
    # Bundles of other trainers lack many of these facts.
    return {name: value for name, value in facts.items() if value}


def _horizon(metadata: dict[str, Any]) -> Any:
    """Return the horizon of a bundle; only causal models have more than one bar."""
    normalization = metadata.get("price_normalization")
    return normalization.get("horizon", 1) if isinstance(normalization, dict) else 1


def _finite(value: Any) -> Any:
    """Return `value` with null for NaN and infinities: old bundles have some, JSON cannot."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, int | float) else ""


def _say(report: Report) -> None:
    click.echo(f"{report.path}: {'must not go live' if report.problems else 'ok'}")
    for problem in report.problems:
        click.echo(f"  {problem}")
    if report.skew is not None:
        click.echo(f"  train/serve skew, largest difference of a feature: {report.skew:.1e}")
    if report.prediction_difference is not None:
        difference = report.prediction_difference
        click.echo(f"  largest difference from Keras: {difference:.1e} of the price")
    for what in report.unchecked:
        click.echo(f"  not checked: {what}")


def _print_bundles(title: str, rows: list[dict[str, Any]]) -> None:
    columns = [
        Column("bundle"),
        Column("live", optional=True),
        Column("trainer", optional=True),
        Column("horizon", optional=True),
        Column("test RMSE", right=True, optional=True),
        Column("persistence", right=True, optional=True),
        Column("not verified", optional=True),
        Column("problem", optional=True),
    ]
    cells = [
        (
            row["bundle"],
            "yes" if row["live"] else "",
            "other" if row["foreign"] else "",
            "" if row["horizon"] == 1 else f"{row['horizon']} bars",
            _number(row["test_rmse"]),
            _number(row["persistence_rmse"]),
            # Shortened to fit; `models verify` prints everything.
            "; ".join(shorten(what, 56, placeholder=" ...") for what in row["unverified"]),
            row["problem"],
        )
        for row in rows
    ]
    print_table(columns, cells, title)
