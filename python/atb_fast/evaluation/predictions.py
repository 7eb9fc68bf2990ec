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
from atb_fast.features.outputs import Classes, LogSigma
from atb_fast.features.windows import WindowedData
from atb_fast.storage import check_writable, write_atomic

_WRITERS: dict[str, Callable[[pl.DataFrame, io.BytesIO], Any]] = {
    ".parquet": lambda frame, file: frame.write_parquet(file),
    ".feather": lambda frame, file: frame.write_ipc(file),
    ".csv": lambda frame, file: frame.write_csv(file),
}


def out_of_fold(
    data: WindowedData, forecasts: NDArray[np.float64], fold: int, bar_ms: int
) -> pl.DataFrame:
    """Return the forecasts of a fold for its test windows.

    Args:
        data: The windows of the fold.
        forecasts: Those of its test windows, see `Output.forecasts`.
        fold: Number of the fold.
        bar_ms: Length of a bar, milliseconds.

    Returns:
        A frame with one row for each test window. `timestamp`: open of the bar at which the
        forecast is listed, see `Output.offset`. `made_at`: close of the last bar of the window.
        `target_time`: close of the last bar that the label depends on. These times are UTC. `fold`:
        int64. The other columns are float64, null where a value is not known: `last_close`, quote
        currency; `actual`, in the unit of the forecast as `Output.columns` has it (a price, a
        return, the label of a class, or a volatility, not its logarithm); and those of
        `Output.columns`.
    """
    starts, bar = data.test, timedelta(milliseconds=bar_ms)
    actual, last = data.targets(starts), data.last_close(starts)
    if isinstance(data.output, Classes):
        actual = np.array(data.output.labels, np.float64)[actual.astype(np.int64)]
    elif isinstance(data.output, LogSigma):
        # Without the variance factor, which corrects only forecasts.
        actual = np.exp(actual)
    values = {"last_close": last, "actual": actual, **data.output.columns(forecasts, last)}
    return pl.DataFrame(
        [
            data.times(starts).alias("timestamp"),
            (data.prepared.timestamps.gather(starts + data.length - 1) + bar).alias("made_at"),
            (data.ends(starts) + bar).alias("target_time"),
            pl.Series("fold", np.full(len(starts), fold)),
            *(pl.Series(name, column, nan_to_null=True) for name, column in values.items()),
        ]
    )


def check_path(path: Path) -> None:
    """Raise ArgumentError unless predictions can be written to `path`.

    A file is created in its directory and removed again: permissions alone do not tell whether a
    file can be written, for example on a file system that is mounted read-only.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ArgumentError(
            f"--predictions is {str(path)!r:.200}, expected a name that ends with "
            f"{', '.join(_WRITERS)}, for example {path.stem[:40] or 'predictions'}.parquet",
            options=["predictions"],
        )
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
        f"--predictions {str(path)!r:.200} {problem}; pass the name of a file that can be written",
        options=["predictions"],
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
    try:
        write_atomic(path, file.getvalue())
    except OSError as error:  # it names a temporary file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error
