"""Data preparation in Rust: merging, rolling features, scaling, windows.

Every `frame` argument takes any object with the Arrow PyCapsule interface (a Polars, pyarrow or
pandas >= 2.2 frame); anything else is a TypeError. Nothing is converted: feature columns are
float64. In frames:

- null is a missing value: the rows that depend on it are left out of the matrix;
- NaN and infinities are a DataError that names column and row (pandas hands its NaN over as null);
- a `timestamp` column rises strictly: timestamps of any unit or int64 milliseconds, not null;
- a missing column, a wrong dtype, and too few rows to fit a scaler on are a DataError;
- `transform` of fewer rows than a window needs is an empty matrix.

Arrays (of `sma`, `rsi` and the scalers) have no nulls: a NaN in makes NaN out. A bad argument is an
ArgumentError, a negative number where a size is expected an OverflowError.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CandleMatrix",
    "Feature",
    "FeatureMatrix",
    "FeaturePipeline",
    "MinMaxScaler",
    "WindowBatches",
    "build_info",
    "merge",
    "read_archive",
    "rsi",
    "sma",
]

class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

class _BuildInfo(TypedDict):
    version: str
    profile: Literal["release", "debug"]

def build_info() -> _BuildInfo:
    """Return the version and the Cargo profile of this extension.

    Benchmarks refuse a debug build.
    """

def read_archive(
    files: Sequence[tuple[int, bytes]], *, max_rows: int, day_ms: int
) -> tuple[_ArrowStream, list[tuple[int, str]]]:
    """Return the candles of daily files of Binance's bulk archive, as an Arrow table.

    timestamp (ms, UTC; the archive's microseconds are recognised) and open, high, low, close,
    volume (float64, rounded to nearest), file after file. Cores share the files.

    Args:
        files: The first millisecond of the day, since 1970, and a zip that holds one headerless CSV
            of twelve columns.
        max_rows: Bars that a day can hold; a CSV that expands beyond what they need is refused.
        day_ms: Length of a day, milliseconds.

    Returns:
        The table, and (number, reason) of each file that gave it no rows: the zip is corrupt or too
        large, or a row is not twelve plain numbers, is not of the day, is not later than the one
        before it, or is a bar that cannot be.
    """

def merge(
    candles: _ArrowStream,
    other: _ArrowStream,
    columns: Sequence[str],
    *,
    how: Literal["exact", "resampled", "asof"],
    step_ms: int | None = None,
    lag_ms: int | None = None,
) -> _ArrowStream:
    """Join float64 columns of a slower series onto candles by their `timestamp` columns.

    Args:
        candles: The left frame; one row of the result for each of its rows.
        other: The right frame.
        columns: Columns of `other` to join.
        how: `exact` takes the row with the same time. `resampled` first repeats `other` forward on
            a grid of `step_ms` milliseconds that starts at midnight UTC of its first row and ends
            with its last row, then joins exactly (as pandas' `resample().ffill()` and a left
            join). `asof` takes the newest row that was at least `lag_ms` (default 0) old.
        step_ms: Grid of the candles, milliseconds; only with `resampled`.
        lag_ms: Minimal age of a row, milliseconds; only with `asof`.

    Returns:
        A table of `columns`, float64, null where a candle has no row.

    Raises:
        DataError: Times that do not rise, or a missing or wrong column.
        ArgumentError: A `how` without what it needs.
    """

def sma(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the simple moving average, NaN for the first `window - 1` rows.

    Sums are built pairwise inside each window, so errors do not add up over the rows and a NaN
    spoils only the windows that contain it.

    Args:
        values: Shape (n,), float64.
        window: Rows in the mean, at least 1.

    Returns:
        Shape (n,), float64, in the unit of `values`.
    """

def rsi(
    values: ArrayLike, window: int = 14, *, method: Literal["simple", "wilder"] = "simple"
) -> NDArray[np.float64]:
    """Return the relative strength index, 0..100.

    `simple` is `100 - 100 / (1 + mean(gain) / mean(loss))` over the last `window` differences
    (Cutler's RSI), the first difference counted as 0; NaN for the first `window - 1` rows and where
    there is neither gain nor loss. `wilder` smooths with `(average * (window - 1) + x) / window`
    from the mean of the first `window` differences on (J. W. Wilder, New Concepts in Technical
    Trading Systems, 1978); NaN for the first `window` rows, 50 without gain and loss.

    Args:
        values: Shape (n,), float64.
        window: Differences in the mean, at least 1.
        method: Which mean.

    Returns:
        Shape (n,), float64.
    """

@final
class Feature:
    """One column of the feature matrix and how it is computed."""

    def __new__(
        cls,
        name: str,
        source: str,
        *,
        sma: int | None = None,
        rsi: int | None = None,
        null_as: float | None = None,
    ) -> Feature:
        """Describe a feature.

        Args:
            name: Its name in the matrix.
            source: The float64 column it is computed from.
            sma: Simple moving average over so many rows, 1 to 1048576.
            rsi: Simple-mean relative strength index over so many rows, 1 to 1048576.
            null_as: What a missing value counts as when the scaler is fitted (default: it is passed
                over). The row is left out of the matrix either way.
        """

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def sma(self) -> int | None: ...
    @property
    def rsi(self) -> int | None: ...
    @property
    def null_as(self) -> float | None: ...

@final
class MinMaxScaler:
    """A fitted min-max scaler: `x * scale + min`, with scikit-learn's arithmetic.

    `scale = 1 / (data_max - data_min)`, 1 for a constant column; `min = -data_min * scale`.
    """

    def __new__(cls, data_min: float, data_max: float) -> MinMaxScaler: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    @property
    def data_min(self) -> float: ...
    @property
    def data_max(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def min(self) -> float: ...
    def transform(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the scaled values, shape (n,)."""

    def inverse_transform(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the values that were scaled to `values`, shape (n,)."""

@final
class FeaturePipeline:
    """Features in channel order, and their scalers once fitted. Immutable."""

    def __new__(
        cls, features: Sequence[Feature], *, scalers: Sequence[MinMaxScaler] | None = None
    ) -> FeaturePipeline:
        """Describe a pipeline; with `scalers`, one for each feature, it is fitted already."""

    @property
    def features(self) -> list[Feature]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def scalers(self) -> list[MinMaxScaler]:
        """The scaler of each feature; empty before `fit`."""

    def fit(self, frame: _ArrowStream, *, rows: tuple[int, int] | None = None) -> FeaturePipeline:
        """Return this pipeline with scalers fitted on `rows` (start, end) of `frame`, default all.

        Each scaler sees every value that its feature has there, also on rows that another
        feature's missing value keeps out of the matrix.
        """

    def transform(self, frame: _ArrowStream) -> FeatureMatrix:
        """Return the scaled float32 features of all rows of `frame` that have every feature."""

    def transform_float64(self, frame: _ArrowStream) -> NDArray[np.float64]:
        """Return what `transform` does before it rounds to float32, shape (rows, features)."""

@final
class FeatureMatrix:
    """The row-major float32 feature matrix, shape (rows, features). Immutable."""

    def __new__(
        cls,
        values: NDArray[np.float32],
        names: Sequence[str],
        *,
        rows: NDArray[np.int64] | None = None,
    ) -> FeatureMatrix:
        """Copy `values`, shape (rows, features).

        Args:
            values: C-contiguous or not.
            names: One for each column.
            rows: The row of a frame that each row was, ascending; default 0, 1, 2 and on.
        """

    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the frame that are in the matrix, ascending, shape (rows,)."""

    @property
    def values(self) -> NDArray[np.float32]:
        """The matrix itself as a read-only array: no copy, and it keeps the matrix alive."""

    def windows(self, length: int) -> NDArray[np.float32]:
        """Return every window as a read-only view, shape (rows - length + 1, length, features).

        Window `i` is rows `i` to `i + length - 1`. Nothing is copied: consecutive windows share
        their memory with each other and with `values`. The last window has no row behind it, so a
        model that predicts the next row uses all but the last.
        """

    def gather(
        self, starts: NDArray[np.int64], length: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Copy the windows at `starts` into one contiguous array, without the GIL.

        Args:
            starts: First row of each window, any order, shape (batch,).
            length: Rows in a window.
            out: Where to write instead of a new array: C-contiguous, shape
                (batch, length, features). Reusing it saves the page faults of fresh memory. No
                other thread may use it meanwhile.

        Returns:
            Shape (batch, length, features), float32.
        """

    def batches(
        self,
        targets: NDArray[np.float32],
        length: int,
        batch_size: int,
        *,
        starts: NDArray[np.int64] | None = None,
        seed: int | None = None,
        epoch: int = 0,
    ) -> WindowBatches:
        """Return an iterator over the batches of one epoch.

        Args:
            targets: The target of each row, float32, shape (rows,). A window from row `s` on has
                the target of row `s + length`, the row behind it.
            length: Rows in a window.
            batch_size: Windows in a batch; the last batch may be smaller.
            starts: First row of each window, default all that have a row behind them.
            seed: Shuffle the windows; in order if None.
            epoch: The order depends on `seed` and `epoch` alone.

        Returns:
            An iterator over (windows, targets), shapes (batch, length, features) and (batch,).
        """

@final
class CandleMatrix:
    """Raw candles, whose windows are scaled one by one. Immutable."""

    def __new__(cls, frame: _ArrowStream, columns: Sequence[str]) -> CandleMatrix:
        """Copy `columns` of `frame`, in this order; null is a missing value."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the frame that each row was: all of them, in order."""

    @property
    def values(self) -> NDArray[np.float64]:
        """The values as they are, shape (rows, columns), NaN where one is missing.

        A read-only view that keeps the matrix alive.
        """

    def __len__(self) -> int: ...
    def usable(self, length: int) -> NDArray[np.int64]:
        """Return the starts of the windows that have no value that is missing, 0 or negative."""

    def ranges(
        self, column: str, starts: NDArray[np.int64], length: int
    ) -> list[NDArray[np.float64]]:
        """Return the lowest and the highest value of `column` in each window, (windows,) each."""

    def gather(
        self, starts: NDArray[np.int64], length: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the windows at `starts`, each scaled by its own values, without the GIL.

        Each column of a window becomes `(x - min) / (max - min)` in float64, where min and max are
        those of its rows up to that one, and 0.5 while they are equal; so the first row is 0.5.

        Args:
            starts: First row of each window, any order, shape (batch,).
            length: Rows in a window.
            out: As in `FeatureMatrix.gather`.

        Returns:
            Shape (batch, length, columns), float32.

        Raises:
            DataError: A window that is not one of `usable`.
        """

@final
class WindowBatches:
    """The batches of one epoch; see `FeatureMatrix.batches`."""

    def __iter__(self) -> WindowBatches: ...
    def __next__(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def __len__(self) -> int:
        """Return the number of batches of the whole epoch."""
