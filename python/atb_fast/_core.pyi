"""Data preparation in Rust: merging, rolling features, scaling and windows.

A `frame` is any object with the Arrow PyCapsule interface, such as a Polars, pyarrow or pandas
(2.2 or newer) frame. In a frame:

- The columns of features are float64. They are read in place, not converted.
- Null is a missing value. Rows that depend on one are left out of the feature matrix. pandas
  exports its NaN as null.
- NaN and infinities raise a DataError that names the column and the row.
- A `timestamp` column is strictly ascending and has no nulls. It holds timestamps of any unit,
  or int64 numbers of seconds, milliseconds, microseconds or nanoseconds since 1970; see
  `epoch_ms`.

Arrays have no nulls. In `sma`, `rsi`, `triple_barrier` and `MinMaxScaler`, NaN is a missing
value.

An argument that is out of range or of the wrong type raises an ArgumentError that names the
argument, what was received and what was expected. Integers may be NumPy's, but not floats or
bools. A frame that cannot be used raises a DataError.
"""

from collections.abc import Iterable, Sequence
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
    "epoch_ms",
    "merge",
    "read_archive",
    "rsi",
    "sma",
    "triple_barrier",
]

class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

#: Operator, arguments (indices of earlier nodes), parameters.
_Node = tuple[str, tuple[int, ...], tuple[float | str, ...]]

class _Nulls(TypedDict):
    warmup: int
    input: int
    undefined: int

class _BuildInfo(TypedDict):
    version: str
    profile: Literal["release", "debug"]

def build_info() -> _BuildInfo:
    """Return the version and the Cargo profile of this extension.

    Benchmarks refuse to run with a debug build.

    Returns:
        A dict with `version`, and `profile`, which is `release` or `debug`.
    """

def epoch_ms(times: ArrayLike) -> NDArray[np.int64]:
    """Return whole numbers since 1970 as milliseconds, whichever unit they are in.

    Numbers below 1e11 are seconds, below 1e14 milliseconds, below 1e17 microseconds, and larger
    ones nanoseconds. So each unit is recognized from 1973 on.

    Args:
        times: Shape (n,), integers.

    Returns:
        Shape (n,), int64.

    Raises:
        ArgumentError: `times` is not a one-dimensional array of integers.
    """

def read_archive(
    files: Sequence[tuple[int, bytes]],
    *,
    max_rows: int,
    day_ms: int,
    threads: int | None = None,
) -> tuple[_ArrowStream, list[tuple[int, str]]]:
    """Read daily files of Binance's bulk archive into one Arrow table.

    The table has the columns timestamp (milliseconds, UTC) and open, high, low, close, volume
    (float64, each the nearest to the decimal in the file), file after file. Open times in
    microseconds, as in files from 2025 on, are recognized. Threads share the files.

    Args:
        files: For each file, the start of its day, milliseconds since 1970, and the content of the
            zip, which contains one headerless CSV of twelve columns.
        max_rows: Largest number of rows in a file, at least 1. A CSV that is larger than so many
            rows can be is rejected.
        day_ms: Length of a day, milliseconds, at least 1.
        threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable cores.

    Returns:
        The table, and (index, reason) for each file that was rejected: the zip is corrupt or too
        large, or a row does not have twelve columns with plain numbers, did not open on the day and
        after the row before it, or is an impossible candle.

    Raises:
        ArgumentError: `max_rows`, `day_ms`, `threads` or a day is out of range.
        TypeError: `files` is not a sequence of (int, bytes).
    """

def merge(
    candles: _ArrowStream,
    other: _ArrowStream,
    columns: str | Iterable[str],
    *,
    how: Literal["exact", "resampled", "asof"],
    step_ms: int | None = None,
    lag_ms: int | None = None,
) -> _ArrowStream:
    """Join float64 columns of a slower series onto candles by their `timestamp` columns.

    Args:
        candles: The left frame. The result has one row for each of its rows.
        other: The right frame.
        columns: Columns of `other` to join; one name, or a list.
        how: `exact` takes the row with the same time. `resampled` first repeats `other` forward on
            a grid of `step_ms` milliseconds that starts at midnight UTC of its first row and ends
            with its last row, then joins exactly (as pandas' `resample().ffill()` and a left
            join). `asof` takes the newest row that was at least `lag_ms` old when the candle
            opened.
        step_ms: Time between two candles, milliseconds, at least 1. Only with `resampled`, which
            requires it.
        lag_ms: Minimum age of a row, milliseconds, at least 0 (the default). Only with `asof`.

    Returns:
        An Arrow table of `columns`, float64, null where a candle has no row.

    Raises:
        ArgumentError: `columns` is empty, `how` is unknown or does not go with `step_ms` and
            `lag_ms`, or one of these is out of range.
        DataError: `candles` or `other` is not an Arrow frame, a column is missing or not float64, a
            value is NaN or infinite, or the times are not strictly ascending.
    """

def sma(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the simple moving average: the mean of the last `window` values.

    NaN for the first `window - 1` rows and where the window contains a NaN. Each sum is computed
    from the values of its window alone, so rounding errors do not accumulate over the rows.

    Args:
        values: Shape (n,), converted to float64.
        window: Rows in the mean, at least 1.

    Returns:
        Shape (n,), float64, in the unit of `values`.

    Raises:
        ArgumentError: `window` is out of range, or `values` is not a one-dimensional array of
            numbers.
    """

def rsi(
    values: ArrayLike, window: int = 14, *, method: Literal["simple", "wilder"] = "simple"
) -> NDArray[np.float64]:
    """Return the relative strength index, from 0 (only losses) to 100 (only gains).

    The formula is `100 - 100 / (1 + mean(gains) / mean(losses))`, where a gain is a positive
    difference between consecutive values and a loss a negative one without its sign.

    `simple` takes the means over the last `window` differences (Cutler's RSI). The first value has
    no difference; it counts as 0. NaN for the first `window - 1` rows, where the window contains a
    NaN, and where there is neither gain nor loss.

    `wilder` starts with the means of the first `window` differences and continues with
    `(mean * (window - 1) + x) / window` (J. W. Wilder, New Concepts in Technical Trading Systems,
    1978). NaN for the first `window` rows, 50 where there is neither gain nor loss. After a NaN it
    starts again.

    Args:
        values: Shape (n,), converted to float64.
        window: Differences in the mean, at least 1.
        method: Which mean.

    Returns:
        Shape (n,), float64.

    Raises:
        ArgumentError: `window` is out of range, `method` is unknown, or `values` is not a
            one-dimensional array of numbers.
    """

def triple_barrier(
    timestamps: ArrayLike,
    high: ArrayLike,
    low: ArrayLike,
    close: ArrayLike,
    *,
    bar_ms: int,
    horizon: int,
    take_profit: float,
    stop_loss: float,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return which barrier around the close of each bar the next `horizon` bars reach first.

    1 if it is the upper one: a bar has `high >= close * (1 + take_profit)`. -1 if it is the lower
    one: a bar has `low <= close * (1 - stop_loss)`. If one bar reaches both, the lower one counts.
    0 if no bar reaches either (M. Lopez de Prado, Advances in Financial Machine Learning, 2018,
    chapter 3).

    NaN where the label is not known: fewer than `horizon` bars follow; there is a gap before one of
    these bars, in which the price may have reached a barrier; the high or low of one of them is
    missing, infinite, zero or negative; or the close of the row itself is. This does not depend on
    how early a barrier is reached. Otherwise, rows near the end and near gaps would have a label
    only if it is not 0.

    Args:
        timestamps: Open times in milliseconds since 1970, shape (n,), strictly ascending.
        high: Shape (n,), converted to float64.
        low: Shape (n,), converted to float64.
        close: Shape (n,), converted to float64.
        bar_ms: Length of a bar, milliseconds, at least 1. A bar that does not open `bar_ms` after
            the one before it follows a gap.
        horizon: Bars to look at after each bar, at least 1.
        take_profit: Distance of the upper barrier as a share of the close, above 0; 0.04 is 4%.
        stop_loss: Distance of the lower barrier as a share of the close, above 0 and below 1.
        threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable cores.
            The result does not depend on it.

    Returns:
        Shape (n,), float64: -1, 0, 1 or NaN.

    Raises:
        ArgumentError: An argument is out of range or has the wrong type, or the arrays differ in
            length.
        DataError: The timestamps are not strictly ascending.
    """

@final
class Feature:
    """One column of the feature matrix: an expression and its name. Immutable; can be pickled.

    An expression is a list of nodes. A node is a tuple of the name of an operator, the indices of
    earlier nodes that are its arguments, and its parameters. The last node is the value of the
    feature. `[("column", (), ("close",)), ("mean", (0,), (7,))]` is the mean of the last 7 closes.

    A null argument gives null, except in `where` and `fill`. A window that contains a null gives
    null, and so does a result that is not finite.

    Args:
        name: Its name in the matrix.
        nodes: 1 to 10,000 nodes.
        null_as: The value that replaces a missing one when the scaler is fitted. By default,
            missing values are skipped. Either way their rows are left out of the matrix.

    Raises:
        ArgumentError: An operator is unknown, has the wrong number of arguments or parameters, or
            has an argument that is not an earlier node; a parameter is out of range; or an argument
            has the wrong type.
    """

    def __new__(
        cls,
        name: str,
        nodes: Sequence[_Node],
        *,
        null_as: float | None = None,
    ) -> Feature: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str, list[_Node]], dict[str, float | None]]: ...
    @property
    def name(self) -> str:
        """Its name in the matrix."""

    @property
    def nodes(self) -> list[_Node]:
        """Operator, arguments and parameters of each node. The last node is its value."""

    @property
    def columns(self) -> list[str]:
        """The columns that it is computed from, in the order of their first use."""

    @property
    def lookback(self) -> int:
        """Number of earlier rows that a value depends on."""

    @property
    def warmup(self) -> int:
        """Number of rows at the start of a frame without a value."""

    @property
    def null_as(self) -> float | None:
        """The value that replaces a missing one when the scaler is fitted, None to skip it."""

@final
class MinMaxScaler:
    """A fitted min-max scaler: `x * scale + min` maps `data_min` to 0 and `data_max` to 1.

    `scale` is `1 / (data_max - data_min)`, or 1 for a constant feature, and `min` is
    `-data_min * scale`. Results are bit-equal to those of scikit-learn's `MinMaxScaler`. Immutable.

    Args:
        data_min: Smallest value of the feature.
        data_max: Largest value of the feature.

    Raises:
        ArgumentError: The two are not finite numbers, or `data_min` is greater than `data_max`.
    """

    def __new__(cls, data_min: float, data_max: float) -> MinMaxScaler: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __getnewargs__(self) -> tuple[float, float]: ...
    @property
    def data_min(self) -> float:
        """Smallest value of the feature."""

    @property
    def data_max(self) -> float:
        """Largest value of the feature."""

    @property
    def scale(self) -> float:
        """Factor: `1 / (data_max - data_min)`, or 1 for a constant feature."""

    @property
    def min(self) -> float:
        """Offset: `-data_min * scale`."""

    def transform(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the scaled values. NaN stays NaN.

        Args:
            values: Shape (n,), converted to float64.

        Returns:
            Shape (n,), float64.

        Raises:
            ArgumentError: `values` is not a one-dimensional array of numbers.
        """

    def inverse_transform(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the values whose scaled values are `values`. NaN stays NaN.

        Args:
            values: Shape (n,), converted to float64.

        Returns:
            Shape (n,), float64, in the unit of the feature.

        Raises:
            ArgumentError: `values` is not a one-dimensional array of numbers.
        """

@final
class FeaturePipeline:
    """Features in channel order, and their scalers once fitted.

    Only `fit` changes a pipeline. It can be pickled; the scalers of the copy are the same bit for
    bit. Threads can share it: each `transform` uses the scalers of one fit.

    Args:
        features: At least one, with unique names.
        scalers: One for each feature. With them, the pipeline is already fitted.

    Raises:
        ArgumentError: There is no feature, a name is not unique, a `null_as` is not finite, the
            number of scalers is wrong, or an argument has the wrong type.
    """

    def __new__(
        cls, features: Sequence[Feature], *, scalers: Sequence[MinMaxScaler] | None = None
    ) -> FeaturePipeline: ...
    def __getnewargs_ex__(
        self,
    ) -> tuple[tuple[list[Feature]], dict[str, list[MinMaxScaler] | None]]: ...
    @property
    def features(self) -> list[Feature]:
        """The features in channel order."""

    @property
    def names(self) -> list[str]:
        """The name of each feature."""

    @property
    def columns(self) -> list[str]:
        """The columns that the features are computed from, in the order of their first use."""

    @property
    def lookback(self) -> int:
        """Number of earlier rows that a value of any feature depends on."""

    @property
    def warmup(self) -> int:
        """Number of rows at the start of a frame in which a feature has no value."""

    @property
    def scalers(self) -> list[MinMaxScaler]:
        """The scaler of each feature; empty before `fit`."""

    def fit(
        self,
        frame: _ArrowStream,
        *,
        rows: tuple[int, int] | None = None,
        threads: int | None = None,
    ) -> FeaturePipeline:
        """Fit the scalers on rows of `frame`, and return this pipeline.

        Each scaler sees every value that its feature has on these rows, including rows that are
        left out of the matrix because another feature is missing. Fitting again replaces the
        scalers. After an error, they are those from before.

        Args:
            frame: Has the columns of the features, float64.
            rows: Start and end (exclusive) of the rows to fit on. Default: all.
            threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable
                cores. The result does not depend on it.

        Returns:
            This pipeline, as in scikit-learn.

        Raises:
            ArgumentError: `rows` is not within the frame, or `threads` is out of range.
            DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is
                NaN or infinite, timestamps are not strictly ascending, or a feature has no value to
                fit on or too large ones.
        """

    def transform(self, frame: _ArrowStream, *, threads: int | None = None) -> FeatureMatrix:
        """Return the scaled features of every row of `frame` that has all of them.

        Args:
            frame: Has the columns of the features, float64.
            threads: Number of threads, 1 to 1024. Default: `ATB_FAST_THREADS`, else the usable
                cores. The result does not depend on it.

        Returns:
            A matrix of shape (rows, features), float32. It is empty if the frame has fewer rows
            than the longest window.

        Raises:
            ArgumentError: The pipeline is not fitted, or `threads` is out of range.
            DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is
                NaN or infinite, or timestamps are not strictly ascending.
        """

    def transform_float64(
        self, frame: _ArrowStream, *, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Return the features that `transform` gives, before they are rounded to float32.

        Args:
            frame: As in `transform`.
            threads: As in `transform`.

        Returns:
            Shape (rows, features), float64.

        Raises:
            ArgumentError: As `transform`.
            DataError: As `transform`.
        """

    def evaluate(self, frame: _ArrowStream, *, threads: int | None = None) -> NDArray[np.float64]:
        """Return the unscaled features of every row of `frame`. The pipeline need not be fitted.

        Args:
            frame: As in `transform`.
            threads: As in `transform`.

        Returns:
            Shape (rows, features), float64, NaN where a feature has no value.

        Raises:
            ArgumentError: `threads` is out of range.
            DataError: As `transform`.
        """

    def nulls(self, frame: _ArrowStream, *, threads: int | None = None) -> list[_Nulls]:
        """Return how many rows of `frame` have no value, by feature and reason.

        Args:
            frame: As in `transform`.
            threads: As in `transform`.

        Returns:
            A dict for each feature. `warmup` counts rows at the start of the frame that do not have
            enough rows before them. `input` counts other rows for which a column of the feature has
            a null, in that row or in an earlier one that the value depends on. `undefined` counts
            the rest, such as 0/0.

        Raises:
            ArgumentError: `threads` is out of range.
            DataError: As `transform`.
        """

@final
class FeatureMatrix:
    """The row-major float32 feature matrix, shape (rows, features). Immutable; can be pickled.

    Args:
        values: Shape (rows, features), float32, at least one feature. They are copied.
        names: One for each feature.
        rows: The number of each row in its frame, strictly ascending, shape (rows,), int64.
            Default: 0, 1, 2 and so on.

    Raises:
        ArgumentError: `values` is not a two-dimensional float32 array, the number of names or rows
            is wrong, or rows are not ascending from 0 on.
    """

    def __new__(
        cls,
        values: NDArray[np.float32],
        names: str | Iterable[str],
        *,
        rows: ArrayLike | None = None,
    ) -> FeatureMatrix: ...
    def __getnewargs_ex__(
        self,
    ) -> tuple[tuple[NDArray[np.float32], list[str]], dict[str, NDArray[np.int64]]]: ...
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of features."""

    @property
    def names(self) -> list[str]:
        """The name of each feature."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """The number of each row in the frame, ascending, shape (rows,), int64.

        Read-only, and the same array on each access.
        """

    @property
    def values(self) -> NDArray[np.float32]:
        """The matrix itself, shape (rows, features), float32.

        A read-only view: nothing is copied, and it keeps the matrix alive.
        """

    def windows(self, length: int) -> NDArray[np.float32]:
        """Return every window as a read-only view, shape (rows - length + 1, length, features).

        Window `i` is rows `i` to `i + length - 1`. Nothing is copied: consecutive windows share
        their memory with each other and with `values`. No row follows the last window, so a model
        that predicts the next row uses all but the last.

        Args:
            length: Rows in a window, at least 1.

        Returns:
            Shape (rows - length + 1, length, features), float32.

        Raises:
            ArgumentError: `length` is out of range.
            DataError: The matrix has fewer rows than a window.
        """

    def gather(
        self, starts: ArrayLike, length: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Copy the windows at `starts` into one contiguous array, without the GIL.

        Args:
            starts: First row of each window, in any order, shape (batch,), int64.
            length: Rows in a window, at least 1.
            out: Where to write instead of into a new array: C-contiguous float32 of shape (batch,
                length, features). Reusing it avoids the page faults of new memory. No other thread
                may use it during the call.

        Returns:
            `out`, or a new array of shape (batch, length, features), float32.

        Raises:
            ArgumentError: A window does not fit into the matrix, `length` is out of range,
                `starts` is not a one-dimensional array of integers, or `out` is read-only or not
                as described.
            DataError: The matrix has fewer rows than a window.
            MemoryError: The windows do not fit into memory.
        """

    def batches(
        self,
        targets: NDArray[np.float32],
        length: int,
        batch_size: int,
        *,
        starts: ArrayLike | None = None,
        seed: int | None = None,
        epoch: int = 0,
    ) -> WindowBatches:
        """Return an iterator over the batches of one epoch.

        Args:
            targets: The target of each row, shape (rows,), float32. A window that starts at row `s`
                has the target of row `s + length`, the row after its last one.
            length: Rows in a window, at least 1.
            batch_size: Windows in a batch, at least 1. The last batch may be smaller.
            starts: First row of each window, shape (windows,), int64. Default: every window that
                another row follows.
            seed: Seed of the shuffle, 0 to 2**64 - 1. If None, the windows come in order.
            epoch: Number of the epoch, 0 to 2**64 - 1. The order depends on `seed` and `epoch`
                alone.

        Returns:
            An iterator over (windows, targets), float32, shapes (batch, length, features) and
            (batch,).

        Raises:
            ArgumentError: `targets` is not a one-dimensional float32 array with one target for each
                row, `starts` is not a one-dimensional array of integers, a window does not fit, or
                a number is out of range.
            DataError: The matrix has too few rows for one window and its target.
        """

@final
class CandleMatrix:
    """Raw candles whose windows are scaled one by one, each by its own values. Immutable.

    Args:
        frame: Candles with these columns, float64. They are copied. Null is a missing value.
        columns: Names of the columns, in the order of the matrix, at least one; or one name.

    Raises:
        ArgumentError: `columns` is empty.
        DataError: `frame` is not an Arrow frame, a column is missing or not float64, a value is NaN
            or infinite, or timestamps are not strictly ascending.
    """

    def __new__(cls, frame: _ArrowStream, columns: str | Iterable[str]) -> CandleMatrix: ...
    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""

    @property
    def names(self) -> list[str]:
        """The name of each column."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """The number of each row in the frame: 0, 1, 2 and so on, int64.

        Read-only, and the same array on each access.
        """

    @property
    def values(self) -> NDArray[np.float64]:
        """The unscaled values, shape (rows, columns), float64, NaN where one is missing.

        A read-only view: nothing is copied, and it keeps the matrix alive.
        """

    def __len__(self) -> int: ...
    def usable(self, length: int) -> NDArray[np.int64]:
        """Return the start of each window in which no value is missing, zero or negative.

        Args:
            length: Rows in a window, at least 1.

        Returns:
            First row of each window, ascending, shape (windows,), int64.

        Raises:
            ArgumentError: `length` is out of range.
        """

    def ranges(self, column: str, starts: ArrayLike, length: int) -> list[NDArray[np.float64]]:
        """Return the lowest and the highest value of one column in each window.

        Args:
            column: Name of the column.
            starts: First row of each window, in any order, shape (windows,), int64.
            length: Rows in a window, at least 1.

        Returns:
            The lowest and the highest values, shape (windows,) each, float64. Missing values are
            skipped.

        Raises:
            ArgumentError: There is no such column, a window does not fit into the matrix, `length`
                is out of range, or `starts` is not a one-dimensional array of integers.
            DataError: The matrix has fewer rows than a window.
        """

    def gather(
        self, starts: ArrayLike, length: int, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the windows at `starts`, each scaled by its own values, without the GIL.

        Each column of a window becomes `(x - min) / (max - min)`, computed in float64, where min
        and max are those of the rows of the window up to this one. Where they are equal, as on the
        first row, the result is 0.5.

        Args:
            starts: First row of each window, in any order, shape (batch,), int64.
            length: Rows in a window, at least 1.
            out: As in `FeatureMatrix.gather`.

        Returns:
            `out`, or a new array of shape (batch, length, columns), float32.

        Raises:
            ArgumentError: A window does not fit into the matrix, `length` is out of range,
                `starts` is not a one-dimensional array of integers, or `out` is read-only or not
                as described.
            DataError: A window has a value that is missing, zero or negative, or the matrix has
                fewer rows than a window.
            MemoryError: The windows do not fit into memory.
        """

@final
class WindowBatches:
    """The batches of one epoch, as `FeatureMatrix.batches` returns them.

    Iterating yields (windows, targets), float32, shapes (batch, length, features) and (batch,).
    `len` is the number of batches of the whole epoch. Threads can share the iterator: each batch
    goes to one of them.
    """

    def __iter__(self) -> WindowBatches: ...
    def __next__(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def __len__(self) -> int: ...
