"""Scores bundles: candles in, predicted prices out, with onnxruntime alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from atb_fast.config import TIMEFRAMES
from atb_fast.errors import BundleError, DataError
from atb_fast.features.frames import epoch_ms
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
from atb_fast.serving.schema import extra_columns, read_documents, train_end
from atb_fast.serving.sentiment import Sentiment

if TYPE_CHECKING:
    import polars as pl

    from atb_fast.features.frames import ArrowFrame

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
    """A trained model that predicts prices from candles.

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
            self.path / "model.onnx", schema.length, len(schema.names), hashes=hashes
        )
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
    def horizon(self) -> int:
        """Number of bars from the last bar of a window to the predicted bar."""
        return self.output.horizon

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
        """The time at which the last training target closed, UTC.

        The model was not fitted to any later price. The validation windows, on which the best epoch
        was selected, may come after it. None if the bundle does not say, as for bundles of early
        versions of atb-fast and of other trainers.
        """
        return train_end(self.metadata, self.path)

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
    def predict(self, frame: ArrowFrame, sentiment: Sentiment = None) -> Any: ...

    def predict(self, frame: ArrowFrame, sentiment: Sentiment = None) -> Any:
        """Return the price predicted for each bar of `frame` from the bars before it.

        Args:
            frame: See `features`.
            sentiment: See `features`.

        Returns:
            A frame with one row for each bar: `timestamp` as in `frame`, and `prediction`, float64,
            quote currency, null where the window before the bar is not complete. For a pandas
            frame, it is a pandas frame with the same index, NaN instead of null, and no column
            `timestamp` if that is the index. Otherwise, it is a Polars frame.

        Raises:
            DataError: See `features`; or the bars have another timeframe.
            BundleError: The model returned values that are not finite.
        """
        table = to_polars(frame)
        if "timestamp" not in table.columns:
            raise DataError(
                f"column 'timestamp' is missing; the frame has: {', '.join(table.columns)}"
            )
        matrix = self.features(table, sentiment)
        self._check_timeframe(table, len(table))
        length = self.sequence_length
        bars, starts = self._input.windows(matrix, length, self.horizon, len(table))
        last = table["close"].to_numpy()[bars - self.horizon]
        predictions = np.full(len(table), np.nan)
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
                predictions[bars[part]] = self._prices(matrix, starts[part], batch, last[part])

        self._run_in_threads(score, waiting)
        return with_predictions(frame, table["timestamp"], predictions)

    def predict_last(self, frame: ArrowFrame, sentiment: Sentiment = None) -> float:
        """Return the price predicted for the bar after the last one of `frame`.

        If the horizon of the model is n bars, it is the price n bars after the last one.

        Args:
            frame: See `features`; `timestamp` may be missing. Only the bars that the price depends
                on are read and checked: those of the window, and those before it from which its
                features are computed. If one of them is incomplete, all are.
            sentiment: See `features`.

        Raises:
            DataError: See `predict`; or the window that ends with the last bar is not complete.
            BundleError: The model returned values that are not finite.
        """
        needed = self.lookback + self.sequence_length
        table = newest_rows(frame, needed)
        if len(table) == needed:
            with suppress(DataError):
                return self._price_after(table, sentiment, self.lookback)
            # A window that skips incomplete rows begins earlier. If that is not the reason, the
            # error message has the row number in `frame`.
            table = to_polars(frame)
        return self._price_after(table, sentiment)

    def _columns(self, table: pl.DataFrame, sentiment: Sentiment) -> pl.DataFrame:
        missing = [name for name in self.extra_columns if name not in table.columns]
        if missing:
            raise DataError(
                f"the frame lacks {', '.join(missing)}, which the model reads (found: "
                f"{', '.join(table.columns)}). Add it as of each candle's open, for example with "
                f"atb_fast.merge(..., how='asof', lag_ms={self.extra_columns[missing[0]]})"
            )
        return self._input.columns(table, sentiment, self.timeframe)

    def _price_after(self, table: pl.DataFrame, sentiment: Sentiment, lookback: int = 0) -> float:
        """Return the price predicted for the bar after the last one of `table`.

        Raises:
            DataError: See `predict_last`; or fewer than `lookback` rows precede the window.
        """
        columns = self._columns(table, sentiment)
        matrix = self._input.matrix(columns)
        length = self.sequence_length
        self._check_timeframe(table, length)
        start = self._input.last_window(matrix, columns, length)
        if lookback and matrix.rows[start] < lookback:
            raise DataError(f"the window begins at row {matrix.rows[start]}, expected {lookback}")
        starts = np.array([start])
        windows = matrix.gather(starts, length)
        last = table.get_column("close").to_numpy()[-1:]
        return float(self._prices(matrix, starts, windows, last)[0])

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outputs of model.onnx, (n, 1), for windows of shape (n, length, columns)."""
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

    def _prices(
        self,
        matrix: Matrix,
        starts: NDArray[np.int64],
        windows: NDArray[np.float32],
        last: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the predicted prices for the windows at `starts`, whose last closes are `last`."""
        outputs = self._model.run(windows)
        prices = outputs.reshape(-1).astype(np.float64)
        if len(prices) == len(starts):
            prices = self.output.forecasts(prices, matrix, starts, last)
        if len(prices) != len(starts) or not np.isfinite(prices).all():
            raise BundleError(
                f"{self.path}: the model returned shape {outputs.shape} for {len(starts)} windows, "
                "or values that are not finite; run atb-fast models verify"
            )
        return prices

    def _check_timeframe(self, table: pl.DataFrame, rows: int) -> None:
        """Raise DataError unless the newest `rows` bars have the timeframe of the model."""
        times = table.get_column("timestamp", default=None)
        if times is None or len(times) < 2:
            return
        expected = TIMEFRAMES[self.timeframe]
        newest = times.to_numpy()[-rows:]
        ticks = expected * _TICKS.get(newest.dtype.str, 0)
        if ticks:
            # Without a gap, as usual, this is enough, and it takes a fifth of the time of the rest.
            numbers = newest.view(np.int64)
            if (numbers[1:] - numbers[:-1] == ticks).all():
                return
        steps = np.diff(epoch_ms(times[-rows:]))
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
