"""Scores bundles: candles in, forecasts out, with onnxruntime alone."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import BundleError, DataError, InSampleWarning
from atb_fast.features.frames import epoch_ms
from atb_fast.features.outputs import Classes
from atb_fast.features.price import PriceScale
from atb_fast.options import check_count
from atb_fast.serving import checksums
from atb_fast.serving.frames import newest_rows, to_polars, with_predictions
from atb_fast.serving.inputs import (
    CandlesAndSentiment,
    FeatureWindows,
    Matrix,
    SentimentUse,
)
from atb_fast.serving.model import OnnxModel
from atb_fast.serving.references import find
from atb_fast.serving.registry import check_timeframe
from atb_fast.serving.schema import extra_columns, read_documents, trained_until
from atb_fast.serving.sentiment import Sentiment

if TYPE_CHECKING:
    import polars as pl

    from atb_fast.features.frames import ArrowFrame, PandasFrame

    Pandas = TypeVar("Pandas", bound=PandasFrame)

#: Windows in a batch. Larger ones are slower in onnxruntime, see docs/benchmarks.md. Predictions do
#: not depend on it.
_BATCH = 16
#: For each dtype of timestamps, the number of units in a millisecond.
_TICKS = {"<M8[ms]": 1, "<M8[us]": 1000, "<M8[ns]": 1_000_000}


def load_bundle(
    reference: str | Path, *, registry: Path | str | None = None, threads: int = 1
) -> Bundle:
    """Return a bundle that can be scored.

    Args:
        reference: The bundle's directory, or `SYMBOL:TIMEFRAME:TYPE[:VERSION]`, for example
            `BTCUSDT:1h:basic`. Without a version, it is the live one.
        registry: Directory of the registry. Default: `MODEL_REGISTRY_PATH`, else `src/ml/models`.
        threads: Number of threads that `Bundle.predict` uses. Predictions do not depend on it.

    Raises:
        ArgumentError: `threads` is not an integer of at least 1, or `registry` is not a path.
        BundleError: There is no such bundle, or it cannot be scored; or a file that is read was
            damaged or changed since the bundle was published.
        MissingExtraError: onnxruntime is not installed.
    """
    return Bundle(find(reference, registry), threads)


class Bundle:
    """A trained model that predicts prices, classes, returns or volatility from candles.

    Threads can share a bundle, and forked workers can use it. It can be pickled: the copy loads the
    same version from the same directory.

    Attributes:
        path: The bundle's directory, absolute.
        metadata: Contents of metadata.json.
        feature_names: Columns of the ONNX input, in channel order.
        extra_columns: Columns that frames must have besides candles, by name, with the lag in
            milliseconds: a value must be the newest that was at least this old when the candle
            opened.
        sequence_length: Rows in a window.
        output: How the outputs of the model are read.
        threads: Number of threads that `predict` uses.
    """

    #: When the first out-of-sample prediction is made, milliseconds since 1970; 0 if this is
    #: unknown, or after the warning.
    _in_sample_before = 0

    def __init__(
        self, path: Path, threads: int = 1, *, metadata: dict[str, Any] | None = None
    ) -> None:
        self.threads = check_count("threads", threads)
        self.path = path.resolve()
        # Verification passes the metadata, because it compares all files before.
        hashes = checksums.read(self.path) if metadata is None else None
        schema = read_documents(self.path, metadata, hashes=hashes)
        self.metadata, self.output = schema.metadata, schema.output
        self.sequence_length, self.feature_names = schema.length, list(schema.names)
        self.extra_columns = extra_columns(self.metadata, self.path)
        self._model = OnnxModel(
            self.path / "model.onnx",
            schema.length,
            len(schema.names),
            units=self.output.head.units,
            hashes=hashes,
        )
        with suppress(BundleError):  # reading the property raises it
            if (until := self.trained_until) is not None:
                self._in_sample_before = round(until.timestamp() * 1000)
        self._input = made = schema.input
        if self._model.takes_sentiment and type(made) is FeatureWindows:
            self._input = CandlesAndSentiment(made.pipeline)

    @property
    def symbol(self) -> str:
        """The symbol that the model was trained on, for example BTCUSDT."""
        return self._text("symbol")

    @property
    def timeframe(self) -> str:
        """Length of the bars that the model was trained on, for example 1h."""
        return check_timeframe(self.metadata, self.path)

    @property
    def model_type(self) -> str:
        """The type of the model: `basic`, `causal`, `price`, `sentiment`, or a user's recipe."""
        return self._text("model_type")

    @property
    def task_type(self) -> str:
        """`regression`, `binary_classification` or `ternary_classification`."""
        return str(self.output.to_metadata()["task_type"])

    @property
    def class_labels(self) -> tuple[int, ...] | None:
        """What the classes mean, such as (-1, 0, 1) for down, flat and up; None for regression."""
        return self.output.labels if isinstance(self.output, Classes) else None

    @property
    def horizon(self) -> int:
        """Number of bars that a forecast covers, after the `lag`.

        For a price, it is the number of bars from the last bar of a window to the predicted one.
        """
        return self.output.horizon

    @property
    def lag(self) -> int:
        """Number of bars from the last bar of a window to the one at whose close a forecast starts.

        It is 1 for strategies that act at the close of the bar after a window, otherwise 0.
        """
        return self.output.lag

    @property
    def uses_sentiment(self) -> SentimentUse:
        """`required`, `optional` (neutral if it is not given) or `no`."""
        return self._input.uses_sentiment

    @property
    def lookback(self) -> int:
        """Number of candles before a window that its features depend on."""
        return self._input.lookback

    @property
    def trained_until(self) -> datetime | None:
        """Predictions made at or after this time, UTC, are out of sample.

        It is the close of the last bar that a label of the training or validation part depends on,
        or that scalers were fitted on. The model was neither fitted nor selected on a later price.
        None if the bundle does not record it, like those of early versions of atb-fast and of other
        trainers.
        """
        return trained_until(self.metadata, self.path)

    def _text(self, key: str) -> str:
        found = self.metadata.get(key)
        if not isinstance(found, str):
            raise BundleError(
                f"{self.path}: metadata.json has {key} {found!r:.80}, expected a string"
            )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Bundle, (self.path, self.threads)

    def __repr__(self) -> str:
        key = (self.metadata.get(part) for part in ("symbol", "timeframe", "model_type"))
        return f"Bundle({':'.join(map(str, key))}, {self.path})"

    def features(self, frame: ArrowFrame, sentiment: Sentiment = None) -> Matrix:
        """Return the matrix that the windows of the model are cut from.

        `features(frame).gather(starts, length)` returns windows.

        Args:
            frame: Candles, with a strictly ascending `timestamp` and the float64 columns open,
                high, low, close, volume, and those in `extra_columns`. Timestamps that are
                integers may be in any unit; see `_core.epoch_ms`. In a pandas frame, the timestamp
                may be the index.
            sentiment: The Fear & Greed index, if the model uses it: a frame with timestamp and
                value (0..100) and all known days; or `neutral` for a constant index. Not needed if
                `frame` has a column sentiment_momentum, which takes precedence over the index.

        Raises:
            DataError: `frame` is not a frame, a column is missing or has invalid values, or there
                is no sentiment.
        """
        return self._input.matrix(self._columns(to_polars(frame), sentiment))

    @overload
    def predict(self, frame: pl.DataFrame, sentiment: Sentiment = None) -> pl.DataFrame: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # a pandas frame is an ArrowFrame, too
        self, frame: Pandas, sentiment: Sentiment = None
    ) -> Pandas: ...

    @overload
    def predict(self, frame: ArrowFrame, sentiment: Sentiment = None) -> pl.DataFrame: ...

    def predict(self, frame: ArrowFrame, sentiment: Sentiment = None) -> Any:
        """Return the forecast for each bar of `frame` from the bars before it.

        Args:
            frame: See `features`.
            sentiment: See `features`.

        Returns:
            A frame with one row for each bar: `timestamp` as in `frame`, and float64 columns, null
            where the window before the bar is not complete. A price is `prediction`, quote
            currency. Two classes are `probability`, that of the second label, and `direction`, the
            most probable label. Three are `probability_down`, `probability_flat`,
            `probability_up` and `direction`. A return is `predicted_return`, 0.01 for 1%.
            Volatility is `sigma`, and the prices of its bands. For a pandas frame, it is a pandas
            frame with the same index, NaN instead of null, and no column `timestamp` if that is the
            index. Otherwise, it is a Polars frame.

        Raises:
            DataError: See `features`; or the bars have another timeframe.
            BundleError: The model returned values that are not finite or are not probabilities.

        Warns:
            InSampleWarning: A prediction is made before `trained_until`. Each bundle warns once.
        """
        table = to_polars(frame)
        bars, forecasts, last = self._scored(table, sentiment)
        if self._in_sample_before and len(bars):
            opened = table["timestamp"][int(bars[0]) - self.output.offset :].head(1)
            self._warn_if_in_sample(float(epoch_ms(opened)[0]) + TIMEFRAMES[self.timeframe])
        columns = self._columns_of(forecasts, last)
        return with_predictions(frame, table["timestamp"], bars, columns)

    def forecasts(self, frame: ArrowFrame, sentiment: Sentiment = None) -> NDArray[np.float64]:
        """Return the forecasts of `predict` as an array, float64, (bars,) or (bars, classes).

        See `Output.forecasts` for the unit. They are NaN where the window is not complete.
        """
        table = to_polars(frame)
        bars, forecasts, _ = self._scored(table, sentiment)
        every = np.full((len(table), *forecasts.shape[1:]), np.nan)
        every[bars] = forecasts
        return every

    def _scored(
        self, table: pl.DataFrame, sentiment: Sentiment
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the bars that can be predicted, their forecasts, and the closes before them."""
        if "timestamp" not in table.columns:
            raise DataError(
                f"column 'timestamp' is missing; the frame has: {', '.join(table.columns)}"
            )
        matrix = self.features(table, sentiment)
        self._check_timeframe(table, len(table))
        length, offset = self.sequence_length, self.output.offset
        bars, starts = self._input.windows(matrix, length, offset, len(table))
        last = table["close"].to_numpy()[bars - offset]
        units = self.output.head.units
        forecasts = np.empty((len(starts), units) if units > 1 else len(starts))
        waiting = deque(range(0, len(starts), _BATCH))

        def score() -> None:
            """Score batches until none are left."""
            windows = np.empty((_BATCH, length, matrix.shape[1]), np.float32)
            while waiting:
                try:
                    first = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                part = slice(first, first + _BATCH)
                batch = windows[: len(starts[part])]
                matrix.gather(starts[part], length, out=batch)
                forecasts[part] = self._forecasts(matrix, starts[part], batch, last[part])

        self._run_in_threads(score, waiting)
        return bars, forecasts, last

    def predict_last(self, frame: ArrowFrame, sentiment: Sentiment = None) -> Any:
        """Return the forecast for the bar after the last one of `frame`.

        It is a float for a price: that of the next bar or, if the horizon of the model is n bars,
        n bars after the last one. Otherwise, it is a dict with the columns of `predict`, such as
        `{"probability": 0.53, "direction": 1.0}`.

        Args:
            frame: See `features`; `timestamp` may be missing. Only the bars that the price depends
                on are read and checked: those of the window, and those before it from which its
                features are computed. If one of them is incomplete, all are.
            sentiment: See `features`.

        Raises:
            DataError: See `predict`; or the window that ends with the last bar is not complete.
            BundleError: See `predict`.

        Warns:
            InSampleWarning: See `predict`.
        """
        forecasts, last, closed = self._forecast_newest(frame, sentiment)
        if closed < self._in_sample_before:
            self._warn_if_in_sample(closed)
        found = {name: float(value[0]) for name, value in self._columns_of(forecasts, last).items()}
        return found["prediction"] if isinstance(self.output, PriceScale) else found

    def forecast_last(
        self, frame: ArrowFrame, sentiment: Sentiment = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the forecast of `predict_last` as `output` has it, and the last close.

        Both are arrays for a single window: see `Output.forecasts`.
        """
        return self._forecast_newest(frame, sentiment)[:2]

    def _forecast_newest(
        self, frame: ArrowFrame, sentiment: Sentiment
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return the forecast for the bar after the last one; see `_forecast_after`."""
        needed = self.lookback + self.sequence_length
        table = newest_rows(frame, needed)
        if len(table) == needed:
            with suppress(DataError):
                return self._forecast_after(table, sentiment, self.lookback)
            # A window that skips incomplete rows begins earlier. If that is not the reason, the
            # error message has the row number in `frame`.
            table = to_polars(frame)
        return self._forecast_after(table, sentiment)

    def _columns(self, table: pl.DataFrame, sentiment: Sentiment) -> pl.DataFrame:
        missing = [name for name in self.extra_columns if name not in table.columns]
        if missing:
            raise DataError(
                f"the frame lacks {', '.join(missing)}, which the model reads (found: "
                f"{', '.join(table.columns)}). Add it as of each candle's open, for example with "
                f"atb_fast.merge(..., how='asof', lag_ms={self.extra_columns[missing[0]]})"
            )
        return self._input.columns(table, sentiment, self.timeframe)

    def _forecast_after(
        self, table: pl.DataFrame, sentiment: Sentiment, lookback: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return the forecast for the bar after the last one of `table`, and the last close.

        Also returns the time of that close, milliseconds since 1970; infinite if it is unknown.

        Raises:
            DataError: See `predict_last`; or fewer than `lookback` rows precede the window.
        """
        columns = self._columns(table, sentiment)
        matrix = self._input.matrix(columns)
        length = self.sequence_length
        closed = self._check_timeframe(table, length)
        start = self._input.last_window(matrix, columns, length)
        if lookback and matrix.rows[start] < lookback:
            raise DataError(f"the window begins at row {matrix.rows[start]}, expected {lookback}")
        starts = np.array([start])
        windows = matrix.gather(starts, length)
        last = table.get_column("close").to_numpy()[-1:]
        return self._forecasts(matrix, starts, windows, last), last, closed

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs of model.onnx for windows of shape (n, length, columns).

        The shape is (n, 1), or (n, classes) if there are more than two.
        """
        return self._model.run(windows)

    def _run_in_threads(self, score: Callable[[], None], waiting: deque[int]) -> None:
        """Call `score` in as many threads as there is work for."""
        threads = min(self.threads, len(waiting))
        if threads <= 1:
            score()
            return
        # A new pool for each call, because a pool does not survive a fork.
        with ThreadPoolExecutor(threads) as pool:
            try:
                for done in [pool.submit(score) for _ in range(threads)]:
                    done.result()
            finally:
                waiting.clear()  # so that after an error or Ctrl-C, the other threads stop too

    def _forecasts(
        self,
        matrix: Matrix,
        starts: NDArray[np.int64],
        windows: NDArray[np.float32],
        last: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the forecasts for the windows at `starts`, whose last closes are `last`."""
        outputs, units = self._model.run(windows), self.output.head.units
        if outputs.size != len(starts) * units:
            raise self._unusable(
                f"shape {outputs.shape} for {len(starts)} windows, expected {(len(starts), units)}"
            )
        outputs = outputs.reshape(len(starts), units)
        if problem := self.output.problem(outputs):
            raise self._unusable(problem)
        values = (outputs if units > 1 else outputs[:, 0]).astype(np.float64)
        forecasts = self.output.forecasts(values, matrix, starts, last)
        self._check_finite(forecasts)
        return forecasts

    def _columns_of(
        self, forecasts: NDArray[np.float64], last: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the columns of forecasts; see `Output.columns`."""
        with np.errstate(over="ignore"):
            columns = self.output.columns(forecasts, last)
        self._check_finite(*columns.values())
        return columns

    def _check_finite(self, *arrays: NDArray[np.float64]) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise self._unusable("values too large for a forecast")

    def _unusable(self, problem: str) -> BundleError:
        return BundleError(f"{self.path}: the model returned {problem}; run atb-fast models verify")

    def _warn_if_in_sample(self, made_at: float) -> None:
        """Issue InSampleWarning, for the caller of the public method, if needed."""
        if not made_at < self._in_sample_before:  # not >=: a missing time is NaN
            return
        until = datetime.fromtimestamp(self._in_sample_before / 1000, UTC)
        self._in_sample_before = 0
        warnings.warn(
            f"{self!r} was fitted and selected on prices until {until:%Y-%m-%d %H:%M} UTC, so "
            "earlier predictions are in sample and look too good in a backtest; pass later bars "
            f"and the {self.lookback + self.sequence_length:,} before them that a forecast depends "
            "on, or use the out-of-sample predictions of atb-fast evaluate --predictions FILE",
            InSampleWarning,
            stacklevel=3,
        )

    def _check_timeframe(self, table: pl.DataFrame, rows: int) -> float:
        """Return when the last bar closes, milliseconds since 1970; infinite if it is unknown.

        Raises:
            DataError: The newest `rows` bars have another timeframe than the model.
        """
        times = table.get_column("timestamp", default=None)
        if times is None or not len(times):
            return math.inf
        expected = TIMEFRAMES[self.timeframe]
        if len(times) < 2:
            return float(epoch_ms(times)[0]) + expected
        newest = times.to_numpy()[-rows:]
        ticks = expected * _TICKS.get(newest.dtype.str, 0)
        if ticks:
            # Without a gap, as usual, this is enough, and it takes a fifth of the time of the rest.
            numbers = newest.view(np.int64)
            if (numbers[1:] - numbers[:-1] == ticks).all():
                return int(numbers[-1]) * expected // ticks + expected
        milliseconds = epoch_ms(times[-rows:])
        steps = np.diff(milliseconds)
        late = np.flatnonzero(steps <= 0)
        if len(late):
            raise DataError(
                f"row {late[0] + 1} is not later than the row before it; sort the candles by "
                "timestamp and remove duplicates"
            )
        step = float(np.median(steps))
        if step != expected:
            raise DataError(
                f"the bars are {step / 60_000:g} minutes apart, expected {expected / 60_000:g}, as "
                "in training; pass candles of that timeframe"
            )
        return float(milliseconds[-1]) + expected
