"""Scoring bundles: candles in, predicted prices out. Needs onnxruntime, and no TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, Feature, FeatureMatrix, FeaturePipeline, MinMaxScaler
from atb_fast.config import TIMEFRAMES
from atb_fast.errors import BundleError, DataError, MissingExtraError
from atb_fast.serving import registry
from atb_fast.serving.frames import Frame, check_candles, check_index, check_type, to_polars
from atb_fast.serving.schema import read_causal, read_normalization, read_schema

if TYPE_CHECKING:
    import polars as pl

_SENTIMENT = "sentiment_momentum"
#: Windows scored at once. onnxruntime is as fast with any number of them on one thread.
_BATCH = 64
#: Of model.onnx.
_MOST_BYTES = 256 << 20

Sentiment = Frame | Literal["neutral"] | None


def load_bundle(reference: str | Path, *, root: Path | str | None = None) -> Bundle:
    """Return a bundle that can be scored.

    Args:
        reference: Its directory, or `SYMBOL:TIMEFRAME:TYPE[:VERSION]`, for example
            `BTCUSDT:1h:basic`; without a version the one that `latest` names now.
        root: The registry; default `MODEL_REGISTRY_PATH`, else `src/ml/models`.

    Raises:
        BundleError: There is none, or it is damaged or cannot be scored.
        MissingExtraError: onnxruntime is not installed.
    """
    return Bundle(registry.find(reference, Path(root) if root else None))


class Bundle:
    """A trained model with what is needed to feed it.

    It may be used by several threads at once, in forked workers, and be pickled: the copy loads the
    same version from the same directory. Each has one thread of onnxruntime.

    Attributes:
        path: Its directory, absolute.
        metadata: metadata.json.
        feature_names: Columns of the ONNX input.
        sequence_length: Rows in a window.
        uses_sentiment: `required`, `optional` (it is neutral if it is not given) or `no`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.metadata = registry.read_json(self.path / "metadata.json")
        schema = registry.read_json(self.path / "feature_schema.json")
        try:
            self.sequence_length, self.feature_names, self._make = read_schema(schema)
            self._lag_days = read_causal(schema)
            self._price = read_normalization(self.metadata, self.sequence_length)
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise BundleError(
                f"{self.path}: feature_schema.json or metadata.json is not as expected "
                f"({type(error).__name__}: {error})"
            ) from error
        by_window = not isinstance(self._make, FeaturePipeline)
        fits = {"log_return": self._lag_days is not None, "rolling_minmax": by_window}
        if not fits.get(self._price.method, True):
            raise BundleError(
                f"{self.path}: price_normalization is {self._price.method}, which its features "
                "do not allow"
            )
        model = registry.regular_file(self.path / "model.onnx")
        if model.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{model}: has more than {_MOST_BYTES} bytes")
        # Kept, so that a forked process has the same model, whatever became of the file.
        self._content = model.read_bytes()
        self._sessions = {os.getpid(): _session(self._content, model)}
        self._input = self._check_input()
        optional = {value.name for value in self._session.get_overridable_initializers()}
        self._with_momentum = None
        self.uses_sentiment = "no"
        if isinstance(self._make, FeaturePipeline):
            sources = {feature.source for feature in self._make.features}
            if {_SENTIMENT, "sentiment_missing"} & sources:
                self.uses_sentiment = "required"
            elif _SENTIMENT in optional:
                self.uses_sentiment = "optional"
                self._with_momentum = FeaturePipeline(
                    [*self._make.features, Feature(_SENTIMENT, _SENTIMENT)],
                    scalers=[*self._make.scalers, MinMaxScaler(0.0, 1.0)],
                )

    @property
    def _session(self) -> Any:
        """The session of this process: one is not made to survive a fork."""
        session = self._sessions.get(os.getpid())
        if session is None:
            session = _session(self._content, self.path / "model.onnx")
            self._sessions = {os.getpid(): session}
        return session

    def _check_input(self) -> str:
        inputs = self._session.get_inputs()
        shape = (self.sequence_length, len(self.feature_names))
        given = list(inputs[0].shape) if inputs else []
        fits = given[1:] == list(shape) and not isinstance(given[0], int)
        if not fits or inputs[0].type != "tensor(float)":
            raise BundleError(
                f"{self.path}: model.onnx takes {inputs[0].type if inputs else 'nothing'} {given}, "
                f"expected float32 [batch, {shape[0]}, {shape[1]}] as feature_schema.json says"
            )
        return str(inputs[0].name)

    def __reduce__(self) -> tuple[Any, ...]:
        return load_bundle, (self.path,)

    def __repr__(self) -> str:
        key = (self.metadata.get(part) for part in ("symbol", "timeframe", "model_type"))
        return f"Bundle({':'.join(map(str, key))}, {self.path})"

    def features(self, frame: Frame, sentiment: Sentiment = None) -> FeatureMatrix | CandleMatrix:
        """Return what windows for the model are cut from: `features(frame).gather(starts, length)`.

        Args:
            frame: Candles: a Polars, pyarrow or pandas frame with a strictly ascending `timestamp`
                and the float64 columns open, high, low, close, volume.
            sentiment: The Fear & Greed index, if the model uses it: a frame with timestamp and
                value (0..100), all days that are known; or `neutral` for an index that never
                changes. Not needed if `frame` has a column sentiment_momentum, which counts
                unless `neutral` is asked for.

        Raises:
            DataError: A column is missing or has values that cannot be, or there is no sentiment.
        """
        check_type(frame)
        if not isinstance(self._make, FeaturePipeline):
            return CandleMatrix(frame, self._make)
        if self._lag_days is not None:
            return self._make.transform(self._causal_columns(to_polars(frame), sentiment))
        if self.uses_sentiment == "no":
            return self._make.transform(frame)
        table = self._with_sentiment(to_polars(frame), sentiment)
        if _SENTIMENT not in table.columns:
            return self._make.transform(table)  # the graph has its own neutral sentiment
        return (self._with_momentum or self._make).transform(table)

    def predict(self, frame: Frame, sentiment: Sentiment = None) -> pl.DataFrame:
        """Return the price predicted for every bar of `frame` from the bars before it.

        Args:
            frame: As in `features`.
            sentiment: As in `features`.

        Returns:
            A Polars frame with the `timestamp` of each bar of `frame` and `prediction`: its close,
            quote currency, float64. Null where the bars before it are too few, the one before it
            lacks a feature, or, where windows are scaled one by one, a value in the window is
            missing, 0 or negative. The bar behind the last one is not in it: that is
            `predict_last`. A model with a horizon of n predicts from the bars up to n before.

        Raises:
            DataError: As `features`.
            BundleError: The model gives something else than finite numbers.
        """
        import polars as pl

        table = to_polars(frame)
        if "timestamp" not in table.columns:
            raise DataError(
                f"column 'timestamp' is missing; the frame has: {', '.join(table.columns)}"
            )
        matrix = self.features(table, sentiment)
        self._check_timeframe(table)
        bars, starts = self._windows(matrix, len(table))
        close = table["close"].to_numpy()
        predictions = np.full(len(table), np.nan)
        windows = np.empty((_BATCH, self.sequence_length, matrix.shape[1]), np.float32)
        for first in range(0, len(starts), _BATCH):
            part = starts[first : first + _BATCH]
            matrix.gather(part, self.sequence_length, out=windows[: len(part)])
            last = close[bars[first : first + _BATCH] - self._price.horizon]
            prices = self._prices(matrix, part, windows[: len(part)], last)
            predictions[bars[first : first + _BATCH]] = prices
        # Not `select`: it needs Polars' threads, which a forked process lacks.
        prediction = pl.Series("prediction", predictions, nan_to_null=True)
        return pl.DataFrame([table["timestamp"], prediction])

    def predict_last(self, frame: Frame, sentiment: Sentiment = None) -> float:
        """Return the price predicted for the bar behind the last one of `frame`.

        A model with a horizon of n predicts the bar n behind it.

        All of `frame` is read; it is best to give a few more bars than a window has.

        Args:
            frame: As in `features`; the timestamps need not be there.
            sentiment: As in `features`.

        Raises:
            DataError: As `features`, the bars are of another timeframe, or the window before that
                bar is not complete.
            BundleError: The model gives something else than finite numbers.
        """
        table = to_polars(frame)
        bars = len(table)
        matrix = self.features(table, sentiment)
        self._check_timeframe(table[-self.sequence_length :])
        start = len(matrix) - self.sequence_length
        if start < 0 and self._lag_days is not None:
            from atb_fast.features.returns import SETTLED

            raise DataError(
                f"the last bar needs {SETTLED + self.sequence_length} candles up to it, none "
                f"missing, {SETTLED} of them until an RSI has settled; got {bars}"
            )
        if start < 0:
            raise DataError(
                f"a window has {self.sequence_length} complete rows, got {len(matrix)}; give more "
                "candles (averages need some before their first value)"
            )
        if isinstance(matrix, FeatureMatrix) and matrix.rows[-1] != bars - 1:
            raise DataError(
                f"the last bar, row {bars - 1}, lacks a feature, the last complete one is row "
                f"{matrix.rows[-1]}; give sentiment up to the last bar, and candles whose prices "
                "move"
            )
        if self._lag_days is not None and "sentiment_missing" in matrix.names:
            missing = matrix.values[start:, matrix.names.index("sentiment_missing")]
            if missing.all():
                raise DataError(
                    "no bar of the window has the index of its day; give sentiment up to the last "
                    "bar, or sentiment='neutral'"
                )
        starts = np.array([start])
        windows = matrix.gather(starts, self.sequence_length)
        last = table["close"][-1:].to_numpy()
        return float(self._prices(matrix, starts, windows, last)[0])

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the ONNX model gives for windows, shapes (n, length, columns) and (n, 1)."""
        return self._run({self._input: windows})

    def _run(self, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        try:
            return np.asarray(self._session.run(None, feeds)[0])
        except Exception as error:  # onnxruntime has no common base class
            reason = str(error).splitlines()[0]
            raise BundleError(f"{self.path}: onnxruntime cannot run the model: {reason}") from error

    def _windows(
        self, matrix: FeatureMatrix | CandleMatrix, bars: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bars that can be predicted, and the start of the window before each."""
        if isinstance(matrix, CandleMatrix):
            starts = matrix.usable(self.sequence_length)
            starts = starts[starts + self.sequence_length < bars]
            return starts + self.sequence_length, starts
        # A window ends with the bar before the predicted one. Candles further back that lack a
        # feature are left out of it, as in training.
        ends = np.arange(self.sequence_length, len(matrix) + 1)
        after = matrix.rows[ends - 1] + self._price.horizon
        inside = after < bars
        return after[inside], ends[inside] - self.sequence_length

    def _prices(
        self,
        matrix: FeatureMatrix | CandleMatrix,
        starts: NDArray[np.int64],
        windows: NDArray[np.float32],
        last: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the prices predicted for the windows at `starts`, whose last closes are `last`."""
        columns = len(self.feature_names)
        if windows.shape[2] > columns:
            outputs = self._run(
                {self._input: windows[:, :, :columns], _SENTIMENT: windows[:, :, columns:]}
            )
        else:
            outputs = self._run({self._input: windows})
        prices = outputs.reshape(-1).astype(np.float64)
        if len(prices) == len(starts):
            prices = self._as_prices(prices, matrix, starts, last)
        if len(prices) != len(starts) or not np.isfinite(prices).all():
            raise BundleError(
                f"{self.path}: the model gives {outputs.shape} for {len(starts)} windows, or "
                "numbers that are not finite; models verify says more"
            )
        return prices

    def _as_prices(
        self,
        outputs: NDArray[np.float64],
        matrix: FeatureMatrix | CandleMatrix,
        starts: NDArray[np.int64],
        last: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        if self._price.method == "rolling_minmax":
            assert isinstance(matrix, CandleMatrix)
            low, high = matrix.ranges("close", starts, self.sequence_length)
            return low + outputs * (high - low)
        if self._price.method == "log_return":
            with np.errstate(over="ignore"):
                return np.asarray(last * np.exp(outputs * self._price.std))
        return outputs * self._price.std + self._price.mean

    def _check_timeframe(self, table: pl.DataFrame) -> None:
        from atb_fast.features.sentiment import epoch_ms

        if len(table) < 2 or "timestamp" not in table.columns:
            return
        steps = np.diff(epoch_ms(table["timestamp"]))
        late = np.flatnonzero(steps <= 0)
        if len(late):
            raise DataError(
                f"row {late[0] + 1} does not come after the one before it; sort the candles by "
                "timestamp, each once"
            )
        expected = TIMEFRAMES[registry.check_timeframe(self.metadata, self.path)]
        step = float(np.median(steps))
        if step != expected:
            raise DataError(
                f"the bars are {step / 60_000:g} minutes apart, expected {expected / 60_000:g}, "
                "which the bundle was trained on; timestamps that are whole numbers count as "
                "milliseconds"
            )

    def _causal_columns(self, table: pl.DataFrame, sentiment: Sentiment) -> pl.DataFrame:
        """Return candles with the columns of the causal recipe, null until these have settled."""
        import polars as pl

        from atb_fast.features import returns

        assert self._lag_days is not None
        index: Any = None
        if self.uses_sentiment != "no":
            index = sentiment
            if sentiment is None or (isinstance(sentiment, str) and sentiment != "neutral"):
                raise DataError(self._no_sentiment(sentiment))
            if not isinstance(sentiment, str):
                index = check_index(to_polars(sentiment))
        candles = check_candles(table, timed=isinstance(index, pl.DataFrame))
        made = returns.columns(candles, index, lag_days=self._lag_days)
        if isinstance(index, pl.DataFrame) and len(made) and made["sentiment_missing"].min() == 1.0:
            raise DataError(
                f"the sentiment ({len(index)} days) has no day of the candles; give the days of "
                "their range; timestamps that are whole numbers count as milliseconds"
            )
        # Wilder's average begins anew behind a candle that is missing.
        number = np.arange(len(made))
        missing = np.isnan(candles["close"].to_numpy())
        begin = np.maximum.accumulate(np.where(missing, number + 1, 0))
        settled = number - begin >= returns.SETTLED
        rsi = np.where(settled, made["rsi_14"].to_numpy(), np.nan)
        others = [made[name] for name in made.columns if name != "rsi_14"]
        return pl.DataFrame([*others, pl.Series("rsi_14", rsi, nan_to_null=True)])

    def _no_sentiment(self, sentiment: Sentiment) -> str:
        return (
            f"{self!r} was trained with sentiment; give the Fear & Greed index as sentiment= "
            f"(timestamp and value), or sentiment='neutral'; got {sentiment!r}"
        )

    def _with_sentiment(self, table: pl.DataFrame, sentiment: Sentiment) -> pl.DataFrame:
        """Return `table` with the sentiment it is to be scored with, if there is one."""
        import polars as pl

        if isinstance(sentiment, str) and sentiment == "neutral":
            kept = [table[name] for name in table.columns if name != _SENTIMENT]
            return pl.DataFrame([*kept, pl.Series(_SENTIMENT, np.zeros(len(table)))])
        if _SENTIMENT in table.columns or (sentiment is None and self.uses_sentiment == "optional"):
            return table
        if sentiment is None or isinstance(sentiment, str):
            raise DataError(self._no_sentiment(sentiment))
        from atb_fast.features.sentiment import merge_sentiment, sentiment_features

        index = check_index(to_polars(sentiment))
        timeframe = registry.check_timeframe(self.metadata, self.path)
        merged = merge_sentiment(table, sentiment_features(index), timeframe, whole_last_day=True)
        if len(table) and merged[_SENTIMENT].null_count() == len(table):
            raise DataError(
                f"the sentiment ({len(index)} days) has no day of the candles; give the days of "
                f"their range, and candles of {timeframe}"
            )
        return merged


def _session(content: bytes, path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "scoring needs onnxruntime; install with pip install 'atb-fast[predict]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Backtests run many workers, and one window is too small to share.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        # From memory, a graph cannot read weights from other files.
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common base class
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: onnxruntime cannot load it: {reason}") from error
