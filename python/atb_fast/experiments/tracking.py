"""Logs finished runs to MLflow, with whatever version of it is installed."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from atb_fast.bundles.curves import read_curves
from atb_fast.errors import BundleError, MissingExtraError, StorageError, chain, counted
from atb_fast.runs.facts import facts, seed_of

#: Name of the experiment in MLflow.
EXPERIMENT = "atb-fast"
#: The tag that contains the id of a run.
_TAG = "atb_fast.id"
#: MLflow accepts at most this many metrics at once, and characters in a parameter.
_MOST_METRICS, _MOST_TEXT = 1000, 500
#: By default, MLflow retries for minutes and sends usage statistics to its vendor.
_VARIABLES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def check_installed() -> None:
    """Raise MissingExtraError if MLflow is not installed. Imports nothing."""
    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtraError(
            "mlflow is not installed; install it with pip install mlflow-skinny, or omit --mlflow"
        )


def log_runs(uri: str, registry: Path, records: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Log runs of a ledger to MLflow: parameters, metrics and losses by epoch.

    Args:
        uri: A tracking URI, for example http://127.0.0.1:5000 or sqlite:///mlflow.db.
        registry: The registry of the ledger.
        records: See `runs.ledger`.

    Returns:
        The number of runs that were logged, and of those that MLflow already had.

    Raises:
        MissingExtraError: MLflow is not installed.
        StorageError: The server cannot be reached, or rejects a run.
    """
    check_installed()
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    # Warnings of MLflow and its dependencies do not concern the user.
    with warnings.catch_warnings(action="ignore"):
        from mlflow import MlflowClient

        logged = present = 0
        try:
            client = MlflowClient(tracking_uri=uri)
            known = client.get_experiment_by_name(EXPERIMENT)
            experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
            for record in records:
                same = f"tags.`{_TAG}` = '{record['id']}' and attributes.status = 'FINISHED'"
                if client.search_runs([experiment], same, max_results=1):
                    present += 1
                    continue
                _log(client, experiment, registry, record)
                logged += 1
        except Exception as error:  # MLflow and its many stores can raise any exception
            done = f" ({counted(logged, 'run')} logged)" if logged else ""
            raise StorageError(f"MLflow at {uri} cannot be used{done}: {_reason(error)}") from error
    return logged, present


def _reason(error: Exception) -> str:
    """Return briefly why a request failed; messages of MLflow repeat all failed attempts."""
    cause = list(chain(error))[-1]
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return shorten(str(error), 200, placeholder=" ...") or type(error).__name__


def _log(client: Any, experiment: str, registry: Path, record: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param

    end = int(datetime.fromisoformat(record["created"]).timestamp() * 1000)
    start = end - int(1000 * (record["seconds"] or 0))
    run = client.create_run(experiment, start_time=start, tags=_tags(record)).info.run_id
    parameters = facts(record) | {"seed": seed_of(record)}
    client.log_batch(
        run, params=[Param(name, str(value)[:_MOST_TEXT]) for name, value in parameters.items()]
    )
    metrics = [Metric(*point[:2], end, point[2]) for point in _points(registry, record)]
    for first in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run, metrics=metrics[first : first + _MOST_METRICS])
    client.set_terminated(run, end_time=end)


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    name = f"{', '.join(record['symbols'])} {record['timeframe']} {record['recipe']}"
    found = {
        "mlflow.runName": f"{name} {record['id'][:6]}",
        _TAG: record["id"],
        "atb_fast.bundle": record["bundle"],
        "atb_fast.study": record["study"],
        "mlflow.source.git.commit": (record["git"] or {}).get("commit"),
    }
    return {name: str(value) for name, value in found.items() if value}


def _points(registry: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield the name, the value and the step of each metric."""
    for name, value in record["metrics"].items():
        yield name, float(value), 0
    if record["seconds"] is not None:
        yield "seconds", float(record["seconds"]), 0
    if record["bundle"]:
        with suppress(BundleError):
            losses, _ = read_curves(registry / record["bundle"])
            for part, values in (losses or {}).items():
                for step, value in enumerate(values, 1):
                    if value is not None:
                        yield f"{part}_loss", value, step
