"""`atb-fast models`: the bundles in the registry, and which of them are live."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from atb_fast.cli import completion
from atb_fast.cli.figures import figure, number, sentences
from atb_fast.cli.options import Whole, as_json, print_json, registry_option
from atb_fast.cli.tables import Column, echo, print_facts, print_table
from atb_fast.errors import ArgumentError, BundleError, counted
from atb_fast.reports.rows import part_text
from atb_fast.runs.facts import error_name
from atb_fast.serving.references import find
from atb_fast.serving.registry import (
    is_foreign,
    is_synthetic,
    is_version,
    live_version,
    read_json,
    trained_at,
    unpublished,
    versions,
)

if TYPE_CHECKING:
    from atb_fast.bundles.releases import Release
    from atb_fast.serving.verification import Report

#: Figures of `evaluation_results` that `ls --json` prints.
_FIGURES = (
    "test_rmse",
    "persistence_rmse",
    "directional_accuracy",
    "directional_accuracy_low",
    "directional_accuracy_high",
    "directional_bars",
    "directional_up_share",
    "test_log_loss",
    "class_shares_log_loss",
    "accuracy",
    "majority_accuracy",
    "contrarian_accuracy",
    "har_rmse",
)
#: The errors that `ls` prints, each with the baselines to beat in order of preference.
_ERRORS = {
    "test_log_loss": ("class_shares_log_loss",),
    "test_rmse": ("har_rmse", "persistence_rmse"),
}
#: Heads of their columns.
_HEADS = {
    "test_log_loss": "test log loss",
    "class_shares_log_loss": "class shares",
    "test_rmse": "test RMSE",
    "har_rmse": "HAR",
    "persistence_rmse": "persistence",
}
_bundle = click.argument("bundle", shell_complete=completion.bundles)


@click.group()
def models() -> None:
    """List, verify, promote and delete bundles.

    BUNDLE is a directory, or SYMBOL:TIMEFRAME:TYPE[:VERSION], for example BTCUSDT:1h:basic. Without
    a version, it is the live bundle, which `latest` points to. The symbol is not case-sensitive.
    """


@models.command("ls")
@registry_option
@as_json
def list_models(registry: Path, as_json: bool) -> None:
    """List the bundles in the registry, and mark the live ones.

    Compare the test error with that of the baseline, such as the RMSE of persistence, the forecast
    that nothing changes. A version is named after the time of its training, UTC. Models of the
    market "sample" were trained on synthetic prices. For bundles of other trainers, the list says
    what cannot be verified.
    """
    from atb_fast.bundles.releases import releases

    rows = [_row(release) for release in releases(registry)]
    if as_json:
        print_json(_finite(rows))
    elif not rows:
        echo(f"no bundles in {registry}")
    else:
        _print_bundles(str(registry), rows)
    kept = unpublished(registry)
    if kept and not as_json:
        echo(f"{len(kept)} unpublished, without a checked model.onnx: {kept[0].parent}")


@models.command()
@_bundle
@registry_option
@as_json
def show(bundle: str, registry: Path, as_json: bool) -> None:
    """Show what BUNDLE is, what it was trained on, and how good it is."""
    path = find(bundle, registry).resolve()
    metadata = read_json(path / "metadata.json")
    if as_json:
        live = live_version(path.parent) == path.name
        document = {"path": str(path), "live": live, "synthetic": is_synthetic(metadata)}
        print_json(document | {"metadata": _finite(metadata)})
        return
    print_facts(_facts(path, metadata))


@models.command()
@click.argument("bundles", nargs=-1, metavar="BUNDLE...", shell_complete=completion.bundles)
@click.option("--all", "every", is_flag=True, help="Verify every version in the registry.")
@registry_option
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
            echo(f"no bundles in {registry}")
    bad = sum(bool(report.problems) for report in reports)
    if bad:
        raise BundleError(
            f"{bad} of {counted(len(reports), 'bundle')} must not go live; see the problems above"
        )


@models.command()
@_bundle
@click.option(
    "--force",
    is_flag=True,
    help="Promote it even if the live bundle has another timeframe or predicts something else, or "
    "if something could not be checked, as for bundles of other trainers.",
)
@registry_option
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
@registry_option
@as_json
def rollback(bundle: str, force: bool, registry: Path, as_json: bool) -> None:
    """Make the newest older version that passes verification live.

    BUNDLE is SYMBOL:TIMEFRAME:TYPE. The live version may be damaged or missing. Versions that
    predict something else than the live one are skipped. Bundles of other trainers are accepted if
    engines can load them.
    """
    from atb_fast.bundles.releases import rollback as roll_back

    _say_live(*roll_back(bundle, registry, force=force), as_json)


@models.command()
@click.option(
    "--keep",
    type=Whole(min=1),
    required=True,
    help="Number of newest versions to keep for each symbol, type and timeframe.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@registry_option
@as_json
def prune(keep: int, dry_run: bool, registry: Path, as_json: bool) -> None:
    """Delete old versions, but never a live one, nor one of another trainer."""
    from atb_fast.bundles.releases import prune as delete_old

    removed = [str(path) for path in delete_old(registry, keep, dry_run=dry_run)]
    if as_json:
        print_json({"removed": removed, "dry_run": dry_run})
        return
    for path_name in removed:
        echo(f"{'would delete' if dry_run else 'deleted'} {path_name}")
    echo(f"{counted(len(removed), 'version')} {'would be ' if dry_run else ''}deleted")


def _say_live(path: Path, before: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"bundle": str(path), "before": before})
    else:
        echo(f"{path.parent / 'latest'} -> {path.name} (before: {before or 'none'})")


def _row(release: Release) -> dict[str, Any]:
    metadata = release.metadata
    trained = trained_at(metadata)
    results, params = _part(metadata, "evaluation_results"), _part(metadata, "training_params")
    row: dict[str, Any] = {
        "bundle": release.reference,
        "path": str(release.path),
        "live": release.live,
        "foreign": release.foreign,
        "synthetic": is_synthetic(metadata),
        "recipe": _text(metadata.get("recipe")),
        "trained": trained.isoformat() if trained else None,
        # A model that was solved exactly has no epochs.
        "epochs": epochs
        if type(epochs := params.get("epochs")) is int and params.get("engine") != "exact"
        else None,
        "task_type": _text(metadata.get("task_type")),
        "class_labels": _classes(metadata),
        "horizon": _horizon(metadata),
    }
    row |= {name: figure(results.get(name)) for name in _FIGURES}
    return row | {"unverified": release.unverified, "problem": release.problem}


def _part(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    value = metadata.get(name)
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _facts(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    dataset, results, params = (
        _part(metadata, name) for name in ("dataset", "evaluation_results", "training_params")
    )

    def listed(part: dict[str, Any], **texts: str) -> str:
        return ", ".join(
            text.format(part[key]) for key, text in texts.items() if part.get(key) is not None
        )

    names = metadata.get("feature_names")
    rows = listed(metadata, sequence_length="{} rows")
    columns = ", ".join(map(str, names)) if isinstance(names, list) else ""
    ends = [str(dataset[key]) for key in ("candles_first", "candles_last") if dataset.get(key)]
    from_candles = number(results.get("test_rmse_from_candles"))
    horizon, recipe = _horizon(metadata), _part(metadata, "recipe_document")
    facts = {
        "bundle": path,
        "live": "yes" if live_version(path.parent) == path.name else "no",
        "promotion": _text(_part(metadata, "promotion").get("reason")),
        "trainer": "other" if is_foreign(metadata) else None,
        "market": _market(is_synthetic(metadata)),
        "symbol": listed(metadata, symbol="{}", timeframe="{}").replace(",", ""),
        "type": metadata.get("model_type"),
        "recipe": metadata.get("recipe"),
        "target": part_text(recipe.get("target")),
        "network": part_text(recipe.get("network")),
        "task": (_text(metadata.get("task_type")) or "").replace("_", " "),
        "classes": ", ".join(map(str, _classes(metadata) or ())),
        "horizon": f"{horizon} bar{'s' * (horizon != 1)}",
        "input": " of ".join(filter(None, (rows, columns))),
        "created": metadata.get("created_at") or metadata.get("training_date"),
        "candles": " to ".join(ends),
        "training": "solved exactly"
        if params.get("engine") == "exact"
        else listed(params, epochs="{} epochs", best_epoch="best {}", seed="seed {}", engine="{}"),
        "test RMSE": _error(results, "test_rmse", har_rmse="HAR", persistence_rmse="persistence"),
        f"test {error_name('test_log_loss', _part(recipe, 'target'))}": _error(
            results, "test_log_loss", class_shares_log_loss="class shares"
        ),
        "... from candles": from_candles and f"{from_candles}, as model.onnx computes features",
        **sentences(results),
    }
    # Bundles of other trainers lack many of these facts.
    return {name: value for name, value in facts.items() if value}


def _error(results: dict[str, Any], key: str, **others: str) -> str:
    """Return an error next to those of baselines; empty if it is unknown."""
    found = {name: number(results.get(other)) for other, name in others.items()}
    beside = ", ".join(f"{name}: {error}" for name, error in found.items() if error)
    return number(results.get(key)) + (f" ({beside})" if beside else "")


def _market(synthetic: bool | None) -> str | None:
    """Return what kind of prices a model was trained on; None if unknown."""
    texts: dict[bool | None, str] = {True: "sample (synthetic prices)", False: "real"}
    return texts.get(synthetic)


def _horizon(metadata: dict[str, Any]) -> Any:
    """Return the horizon of a bundle in bars."""
    described = _part(metadata, "output") or _part(metadata, "price_normalization")
    return described.get("horizon", 1)


def _classes(metadata: dict[str, Any]) -> list[Any] | None:
    """Return the labels of the classes of a bundle; None for other models."""
    labels = metadata.get("class_labels")
    return labels if isinstance(labels, list) else None


def _finite(value: Any) -> Any:
    """Return `value` with null for NaN and infinities: old bundles have some, JSON cannot."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _say(report: Report) -> None:
    echo(f"{report.path}: {'must not go live' if report.problems else 'ok'}")
    if report.synthetic:
        echo("  trained on the sample market, whose prices are synthetic")
    for problem in report.problems:
        echo(f"  {problem}")
    if report.skew is not None:
        echo(f"  train/serve skew, largest difference of a feature: {report.skew:.1e}")
    if report.prediction_difference is not None:
        found = "largest difference of a prediction from that of Keras, for prices and returns"
        echo(f"  {found} relative to the largest: {report.prediction_difference:.1e}")
    for what in report.unchecked:
        echo(f"  not checked: {what}")


def _named_errors(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the error of a model and its name, and the same of the baseline to beat."""
    for error, baselines in _ERRORS.items():
        if row[error] is not None:
            other = next((name for name in baselines if row[name] is not None), "")
            name = _HEADS[error].removeprefix("test ")
            return number(row[error]), name, number(row.get(other)), _HEADS.get(other, "")
    return "", "", "", ""


def _print_bundles(title: str, rows: list[dict[str, Any]]) -> None:
    mixed = all(any(row[name] is not None for row in rows) for name in _ERRORS)
    columns = [
        Column("bundle", whole=True, apart=True),
        Column("live", optional=True),
        Column("trainer", optional=True),
        Column("market", optional=True, minor=True),
        Column("recipe", optional=True, minor=True),
        Column("classes", optional=True, minor=True),
        Column("trained", optional=True, minor=True),
        Column("epochs", right=True, optional=True, minor=True),
        Column("horizon", optional=True, minor=True),
        *(
            (
                Column("test error", right=True),
                Column(""),
                Column("baseline", right=True),
                Column(""),
            )
            if mixed
            else (Column(head, right=True, optional=True) for head in _HEADS.values())
        ),
        Column("not verified", optional=True),
        Column("problem", optional=True),
    ]
    cells = [
        (
            row["bundle"],
            "yes" if row["live"] else "",
            "other" if row["foreign"] else "",
            {True: "sample", False: "real"}.get(row["synthetic"], ""),
            row["recipe"],
            ", ".join(map(str, row["class_labels"] or ())),
            # Versions of atb-fast are named after the time of their training.
            "" if is_version(Path(row["path"])) else (row["trained"] or "")[:10],
            row["epochs"],
            "" if row["horizon"] == 1 else f"{row['horizon']} bars",
            *(_named_errors(row) if mixed else (number(row[name]) for name in _HEADS)),
            # Shortened to fit; `models verify` prints everything.
            "; ".join(shorten(what, 56, placeholder=" ...") for what in row["unverified"]),
            row["problem"],
        )
        for row in rows
    ]
    print_table(columns, cells, title)
