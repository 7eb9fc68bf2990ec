"""The out-of-fold predictions of a walk-forward evaluation, for backtests."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.errors import ArgumentError
from atb_fast.evaluation.scoring import Tested
from atb_fast.features.outputs import Classes, LogSigma
from atb_fast.features.windows import WindowedData
from atb_fast.storage import check_writable, write_atomic

_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], Any]] = {
    ".parquet": lambda frame, file: frame.write_parquet(file),
    ".feather": lambda frame, file: frame.write_ipc(file),
    ".csv": lambda frame, file: frame.write_csv(file),
}


def out_of_fold(
    data: WindowedData,
    tested: Tested,
    forecasts: NDArray[np.float64],
    of_network: NDArray[np.float64] | None = None,
    *,
    reference: str,
    symbol: str,
    fold: int,
    bar_ms: int,
) -> pl.DataFrame:
    """Return the forecasts of a fold for its test windows.

    Args:
        data: The windows of the fold.
        tested: What the baselines forecast for its test windows.
        forecasts: The forecasts of the model for them, see `Output.forecasts`.
        of_network: Forecasts of its network before shrinkage; None if the model is not shrunk.
        reference: Name of the baseline that the model has to beat.
        symbol: Symbol of the market.
        fold: Number of the fold.
        bar_ms: Length of a bar, milliseconds.

    Returns:
        A frame with one row for each test window.

        - `symbol`.
        - `timestamp`: open of the bar at which the forecast is listed, see `Output.offset`.
          `made_at`: close of the last bar of the window. `target_time`: close of the last bar that
          the label depends on. All are UTC.
        - `fold`: int64.
        - `prediction`, `raw`, `baseline` and `actual`: the forecasts of the model, of its network
          before shrinkage, and of the reference, and what happened; float64, in the same unit. For
          prices it is quote currency, for returns 0.01 is 1%, for classes it is the label, and for
          volatility the standard deviation of the log return. The volatility of the model and that
          of the network include the variance factor of the model; that of the reference includes
          its own, and `actual` none. `raw` is null where it is not finite.
        - `last_close`: last close of the window, quote currency.
        - The other columns of `Output.columns`. For classes, also the probabilities of the
          reference, with the prefix `baseline_`.
    """
    starts, bar, output = data.test, timedelta(milliseconds=bar_ms), data.output
    last, actual, baseline = data.last_close(starts), tested.actual, tested.baselines[reference]
    columns = output.columns(forecasts, last)
    name = next(iter(columns))
    further = {}
    if isinstance(output, Classes):
        labels, name = np.array(output.labels, np.float64), "direction"
        further = {f"baseline_{key}": each for key, each in output.columns(baseline, last).items()}
        del further["baseline_direction"]  # with class weights, all are equally probable
        actual = labels[actual.astype(np.int64)]
        baseline = labels[np.argmax(tested.further["shares"], axis=1)]
    elif isinstance(output, LogSigma):
        actual, baseline = np.exp(actual), np.exp(tested.further[f"{reference}_scaled"])
    raw = columns[name]
    if of_network is not None:
        with np.errstate(over="ignore"):
            raw = output.columns(of_network, last)[name]
        raw = np.where(np.isfinite(raw), raw, np.nan)
    values = {
        "prediction": columns[name],
        "raw": raw,
        "baseline": baseline,
        "actual": actual,
        "last_close": last,
        **columns,
        **further,
    }
    return pl.DataFrame(
        [
            pl.Series("symbol", [symbol] * len(starts), pl.String),
            data.times(starts).alias("timestamp"),
            (data.prepared.timestamps.gather(starts + data.length - 1) + bar).alias("made_at"),
            (data.ends(starts) + bar).alias("target_time"),
            pl.Series("fold", np.full(len(starts), fold)),
            *(pl.Series(name, column, nan_to_null=True) for name, column in values.items()),
        ]
    )


def check_path(path: Path) -> None:
    """Raise ArgumentError unless predictions can be written to `path`."""
    if path.suffix.lower() not in _WRITERS:
        raise ArgumentError(
            f"--predictions is {str(path)!r:.200}, expected a name that ends with "
            f"{', '.join(_WRITERS)}, for example {path.stem[:40] or 'predictions'}.parquet",
            options=["predictions"],
        )
    check_creatable(path, "predictions")


def check_creatable(path: Path, option: str) -> None:
    """Raise ArgumentError unless a file can be written to `path`, the value of `option`.

    To check this, a file is created in its directory and removed again: permissions alone do not
    show whether a file can be written, for example on a file system that is mounted read-only.
    """
    try:
        if path.is_dir():
            problem = "is a directory"
        elif not path.parent.is_dir():
            problem = "is in a directory that does not exist"
        else:
            check_writable(path)
            return
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
    raise ArgumentError(
        f"--{option} {str(path)!r:.200} {problem}; pass the name of a file that can be written",
        options=[option],
    )


def check_not_read(path: Path, inputs: Mapping[str, Path]) -> None:
    """Raise ArgumentError if `path` is one of the files that are read, also through links.

    Args:
        path: Where predictions are to be written.
        inputs: The files by the option that names them, for example `--candles`.
    """
    target = os.path.realpath(path)  # unlike Path.resolve, does not fail for a loop of links
    for name, file in inputs.items():
        if os.path.realpath(file) == target:
            raise ArgumentError(
                f"--predictions {str(path)!r:.200} is the file that {name} reads, and would "
                "replace it; pass the name of another file",
                options=["predictions"],
            )


def write(path: Path, predictions: pl.DataFrame) -> None:
    """Write predictions to a Parquet, Feather or CSV file, by its suffix.

    Raises:
        ArgumentError: See `check_path`.
        OSError: The file cannot be written; names `path`.
    """
    check_path(path)
    file = io.BytesIO()
    _WRITERS[path.suffix.lower()](predictions, file)
    write_atomic(path, file.getvalue())
