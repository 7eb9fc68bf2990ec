"""Makes the records of the ledger; `ledger` lists their keys."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from atb_fast.config import LARGEST_FIGURE, OPTIONS, RECIPES
from atb_fast.errors import AtbFastError
from atb_fast.evaluation.record import portable
from atb_fast.recipes import library
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import from_document, to_document
from atb_fast.runs.result import TrainingResult
from atb_fast.serving import registry as layout
from atb_fast.training.environment import git_state, versions

#: Options that are in other keys of a record; `_PARTS` are parts of the recipe.
_ELSEWHERE = ("timeframe", "recipe")
_PARTS = ("target", "network", "horizon")


def of_config(
    kind: str,
    config: TrainingConfig,
    *,
    data: Mapping[str, str] | Mapping[str, Mapping[str, str]],
    metrics: Mapping[str, Any],
    seconds: float | None,
    machine: Mapping[str, Any],
    symbols: Sequence[str] | None = None,
    study: str | None = None,
    identity: str | None = None,
    **further: Any,
) -> dict[str, Any]:
    """Return the record of a run without a bundle: an evaluation, a trial or a holdout.

    Args:
        kind: One of `ledger.KINDS`.
        config: What was trained. Paths become relative to the working directory.
        data: sha256 by input, or by symbol and input.
        metrics: Figures by name. Only numbers up to `LARGEST_FIGURE` are kept. `rmse` and
            `log_loss` become `test_rmse` and `test_log_loss`, their names in records of trainings.
        seconds: Duration of the run.
        machine: See `training.environment.environment`.
        symbols: The symbols, if there are several. Default: that of `config`.
        study: The id of the study.
        identity: The id, for a run that counts only once even if it is repeated. Default: a new
            random id.
        further: Options that `config` does not have, such as the number of folds.
    """
    return _record(
        kind,
        identity or uuid.uuid4().hex[:16],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        symbols=list(symbols or [config.symbol]),
        timeframe=config.timeframe,
        recipe=config.recipe,
        document=to_document(config.definition),
        options=portable(config).to_dict(),
        further=further,
        data=data,
        metrics=renamed(metrics),
        seconds=seconds,
        environment={**machine} | _git(Path.cwd()),
        versions=versions(),
        bundle=None,
        study=study,
    )


@cache
def _git(_directory: Path) -> dict[str, Any]:
    """Return the commit; cached, because a study has many runs."""
    return git_state()


def of_bundle(
    metadata: Mapping[str, Any], *, name: str, published: bool, seconds: float | None = None
) -> dict[str, Any]:
    """Return the record of a training from the metadata of its bundle.

    Args:
        metadata: The metadata. Metadata of other trainers may lack any key.
        name: SYMBOL/TYPE/VERSION, from which the id is computed.
        published: Whether the bundle is in the registry, at the path `name`.
        seconds: Duration of the run; None if unknown.
    """
    dataset, params = _part(metadata, "dataset"), _part(metadata, "training_params")
    trained = layout.trained_at(dict(metadata))
    document = _part(metadata, "recipe_document")
    # Figures of the fit are as useful for sorting and comparing as those of the evaluation.
    fit = {key: params[key] for key in ("epochs", "best_epoch", "shrinkage") if key in params}
    return _record(
        "train",
        hashlib.sha256(name.encode()).hexdigest()[:16],
        created=(trained or datetime.fromtimestamp(0, UTC)).isoformat(timespec="seconds"),
        symbols=[_text(metadata.get("symbol")) or name.partition("/")[0]],
        timeframe=_text(metadata.get("timeframe")),
        recipe=_text(metadata.get("recipe")),
        document=document,
        options=_part(metadata, "config"),
        further={},
        data=_part(dataset, "sha256"),
        metrics=_part(metadata, "evaluation_results") | fit,
        seconds=seconds,
        environment=_part(metadata, "environment"),
        versions=_part(metadata, "versions"),
        bundle=name if published else None,
        study=None,
    )


def of_result(result: TrainingResult) -> dict[str, Any]:
    """Return the record of a training that has just ended, from its bundle.

    Raises:
        BundleError: The bundle cannot be read.
    """
    return of_bundle(
        layout.read_json(Path(result.paths["metadata.json"])),
        name=f"{result.symbol}/{result.model_type}/{result.version_id}",
        published=result.published,
        seconds=result.total_seconds,
    )


def _record(
    kind: str,
    identity: str,
    *,
    document: Mapping[str, Any],
    options: Mapping[str, Any],
    further: Mapping[str, Any],
    metrics: Mapping[str, Any],
    environment: Mapping[str, Any],
    versions: Mapping[str, Any],
    seconds: float | None,
    **plain: Any,
) -> dict[str, Any]:
    machine = {
        key: environment[key]
        for key in ("platform", "cpu", "cores", "intra_op_threads", "gpus")
        if key in environment
    }
    return {
        "id": identity,
        "kind": kind,
        "created": plain["created"],
        "symbols": plain["symbols"],
        "timeframe": plain["timeframe"],
        "recipe": plain["recipe"],
        "recipe_sha256": _hash(document) if document else None,
        "target": _part(document, "target"),
        "network": _part(document, "network"),
        "options": _changed(options, document) | dict(further),
        "data": dict(plain["data"]),
        "metrics": {name: value for name, value in metrics.items() if is_figure(value)},
        "seconds": None if seconds is None else round(seconds, 2),
        "machine": machine,
        "git": environment.get("git"),
        "versions": dict(versions),
        "bundle": plain["bundle"],
        "study": plain["study"],
    }


def _hash(document: Mapping[str, Any]) -> str:
    """Return the hash of a recipe without its target and network, which a record has as well."""
    rest = {key: value for key, value in document.items() if key not in ("target", "network")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _changed(options: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from the defaults of a recipe."""
    traits = _traits(document)
    elsewhere = (*_ELSEWHERE, *(_PARTS if "target" in document else ()))
    found = {}
    for name, value in options.items():
        item = OPTIONS.get(name)
        if item is None or item.machine or name.startswith(elsewhere):
            continue
        if item.ignored and traits is not None and item.needs not in traits:  # the recipe sets it
            continue
        default = document.get(name, item.default) if item.from_recipe else item.default
        if value != ("binance" if name == "source" else default):
            found[name] = value
    return found


def _traits(document: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the capabilities of a recipe; None if they cannot be known without running code."""
    with suppress(AtbFastError):
        name = document.get("name")
        built_in = isinstance(name, str) and name in RECIPES
        made = library.get(name) if built_in else from_document(dict(document))
        return made.traits
    return None


def renamed(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures of an evaluation by their names in records of trainings."""
    names = {"rmse": "test_rmse", "log_loss": "test_log_loss"}
    return {names.get(name, name): value for name, value in figures.items()}


def is_number(value: Any) -> bool:
    """Return whether a value is a number, and finite as a float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a huge integer
        return False


def is_figure(value: Any) -> bool:
    """Return whether a value is a number up to `LARGEST_FIGURE`, which can be computed with."""
    return is_number(value) and abs(value) <= LARGEST_FIGURE


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
