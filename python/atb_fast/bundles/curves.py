"""curves.json: the losses by epoch and the newest forecasts of a training, to compare runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.config import LARGEST_FIGURE
from atb_fast.errors import BundleError
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import ClassProbabilities
from atb_fast.serving import registry
from atb_fast.storage import write_atomic

NAME = "curves.json"
#: Number of newest test windows whose forecasts are written.
_MOST_TESTED = 2000


def write_curves(record: RunRecord, path: Path) -> None:
    """Write the losses by epoch and the forecasts for the newest test windows.

    `history` has a list for each loss, as in `FitResult.history`. `tested` has `times` (ISO 8601,
    UTC), and `actual` and `forecast` in the unit of the error, `unit`. For classes, `class` is the
    name of the last one, `actual` is 1 if it occurred, else 0, and `forecast` is its probability.
    Numbers have six significant digits. Values that are not finite are null.
    """
    tested, scoring = record.evaluation.tested, record.evaluation.scoring
    actual, forecast = tested.actual, tested.forecasts
    if forecast.ndim > 1:
        actual = (actual == forecast.shape[1] - 1).astype(np.float64)
        forecast = forecast[:, -1]
    newest = slice(-_MOST_TESTED, None)
    document = {
        "history": {name: _rounded(values) for name, values in record.fitted.history.items()},
        "tested": {
            "unit": scoring.unit or "probability",
            "class": scoring.names[-1] if isinstance(scoring, ClassProbabilities) else None,
            "times": [time.isoformat() for time in tested.times[newest]],
            "actual": _rounded(actual[newest]),
            "forecast": _rounded(forecast[newest]),
        },
    }
    write_atomic(path, (json.dumps(document, allow_nan=False) + "\n").encode())


def _rounded(values: Iterable[Any] | NDArray[np.float64]) -> list[float | None]:
    numbers = (float(value) for value in values)
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in numbers]


def read_curves(
    bundle: Path,
) -> tuple[dict[str, list[float | None]] | None, dict[str, Any] | None]:
    """Return the contents of the curves.json of a bundle: losses and forecasts.

    Returns:
        The losses `training` and `validation` by epoch, and a dictionary of the forecasts. It has
        their `unit`; the `class` whose probability they are, empty for other forecasts; and a
        `frame` with the columns `timestamp` (UTC), `actual` and `forecast` (float64). Missing parts
        are None.

    Raises:
        BundleError: The file is missing or damaged.
    """
    path = bundle / NAME
    document = registry.read_json(path)
    history, tested = document.get("history"), document.get("tested")
    try:
        losses = None
        if history:
            losses = {
                "training": [_number(value) for value in history["loss"]],
                "validation": [_number(value) for value in history["val_loss"]],
            }
        if not tested:
            return losses, None
        frame = pl.DataFrame(
            {
                "timestamp": pl.Series(tested["times"], dtype=pl.String).str.to_datetime(
                    time_zone="UTC"
                ),
                "actual": [_number(value) for value in tested["actual"]],
                "forecast": [_number(value) for value in tested["forecast"]],
            },
            schema_overrides={"actual": pl.Float64, "forecast": pl.Float64},
        )
        words = {"unit": tested["unit"], "class": tested.get("class") or ""}
        return losses, {**{name: str(word)[:80] for name, word in words.items()}, "frame": frame}
    except (KeyError, TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"{path} cannot be used: {type(error).__name__} {error}") from error


def _number(value: Any) -> float | None:
    return float(value) if value is not None and abs(value) <= LARGEST_FIGURE else None
