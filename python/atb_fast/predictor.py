"""Scoring bundles: candles in, predicted prices out. Needs onnxruntime, and no TensorFlow."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from atb_fast import registry
from atb_fast._core import CandleMatrix, Feature, FeatureMatrix, FeaturePipeline, MinMaxScaler
from atb_fast.errors import BundleError, DataError, MissingExtraError

if TYPE_CHECKING:
    import polars as pl

_CANDLES = ("open", "high", "low", "close", "volume")
_SENTIMENT = "sentiment_momentum"
#: Windows scored at once: where onnxruntime is fastest on one thread.
_BATCH = 64

Frame = Any
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
            self.sequence_length, self.feature_names, make = _read_schema(schema)
            self._low_high, self._mean, self._std = _read_normalization(
                self.metadata, self.sequence_length
            )
        except BundleError as error:
            raise BundleError(f"{self.path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{self.path}: feature_schema.json or metadata.json is not as expected "
                f"({type(error).__name__}: {error})"
            ) from error
        self._make = make
        if self._low_high and isinstance(make, FeaturePipeline):
            raise BundleError(f"{self.path}: price_normalization goes by window, its features not")
        self._open()
        self.uses_sentiment = "optional" if self._with_momentum else "no"
        if isinstance(make, FeaturePipeline) and _SENTIMENT in (f.source for f in make.features):
            self.uses_sentiment = "required"

    def _open(self) -> None:
        self._session = _session(registry.regular_file(self.path / "model.onnx"))
        self._process = os.getpid()
        feed = self._session.get_inputs()[0]
        shape = (self.sequence_length, len(self.feature_names))
        fixed = isinstance(feed.shape[0], int) if feed.shape else True
        if fixed or feed.type != "tensor(float)" or tuple(feed.shape[1:]) != shape:
            raise BundleError(
                f"{self.path}: model.onnx takes {feed.type} {feed.shape}, expected float32 "
                f"[batch, {shape[0]}, {shape[1]}] as feature_schema.json says"
            )
        self._input = feed.name
        optional = {value.name for value in self._session.get_overridable_initializers()}
        self._with_momentum = None
        if _SENTIMENT in optional and isinstance(self._make, FeaturePipeline):
            self._with_momentum = FeaturePipeline(
                [*self._make.features, Feature(_SENTIMENT, _SENTIMENT)],
                scalers=[*self._make.scalers, MinMaxScaler(0.0, 1.0)],
            )

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
                changes. Not needed if `frame` has a column sentiment_momentum.

        Raises:
            DataError: A column is missing or has values that cannot be, or there is no sentiment.
        """
        if not isinstance(self._make, FeaturePipeline):
            return CandleMatrix(frame, self._make)
        given = sentiment is not None and not isinstance(sentiment, str)
        if self.uses_sentiment == "required" or (self._with_momentum and given):
            frame = self._with_sentiment(frame, sentiment)
        make = self._with_momentum if self._with_momentum and given else self._make
        return make.transform(frame)

    def predict(self, frame: Frame, sentiment: Sentiment = None) -> pl.DataFrame:
        """Return the price predicted for every bar of `frame` from the bars before it.

        Args:
            frame: As in `features`.
            sentiment: As in `features`.

        Returns:
            A Polars frame with the `timestamp` of each bar of `frame` and `prediction`: its close,
            quote currency, float64; null where the window before it is not complete. The bar behind
            the last one is not in it: that is `predict_last`.

        Raises:
            DataError: As `features`.
        """
        import polars as pl

        table = _polars(frame)
        if "timestamp" not in table.columns:
            raise DataError(
                f"column 'timestamp' is missing; the frame has: {', '.join(table.columns)}"
            )
        matrix = self.features(table, sentiment)
        bars, starts = self._windows(matrix, len(table))
        predictions = np.full(len(table), np.nan)
        windows = np.empty((_BATCH, self.sequence_length, matrix.shape[1]), np.float32)
        for first in range(0, len(starts), _BATCH):
            part = starts[first : first + _BATCH]
            matrix.gather(part, self.sequence_length, out=windows[: len(part)])
            predictions[bars[first : first + _BATCH]] = self._prices(
                matrix, part, windows[: len(part)]
            )
        return table.select(
            "timestamp", prediction=pl.Series(predictions, dtype=pl.Float64).fill_nan(None)
        )

    def predict_last(self, frame: Frame, sentiment: Sentiment = None) -> float:
        """Return the price predicted for the bar behind the last one of `frame`.

        As much of `frame` is used as a window needs, at its end.

        Args:
            frame: As in `features`.
            sentiment: As in `features`.

        Raises:
            DataError: As `features`, or there is no complete window before that bar.
        """
        matrix = self.features(frame, sentiment)
        start = len(matrix) - self.sequence_length
        if start < 0:
            raise DataError(
                f"a window has {self.sequence_length} complete rows, got {len(matrix)}; give more "
                "candles (averages need some before their first value)"
            )
        starts = np.array([start])
        windows = matrix.gather(starts, self.sequence_length)
        return float(self._prices(matrix, starts, windows)[0])

    def run(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the ONNX model gives for windows, shapes (n, length, columns) and (n, 1)."""
        return self._run({self._input: windows})

    def _run(self, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        if self._process != os.getpid():
            self._open()  # a session is not made to survive a fork
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
        # Candles without every feature are in no window, but the bar behind them has one.
        every = np.arange(bars)
        starts = np.searchsorted(matrix.rows, every) - self.sequence_length
        return every[starts >= 0], starts[starts >= 0]

    def _prices(
        self,
        matrix: FeatureMatrix | CandleMatrix,
        starts: NDArray[np.int64],
        windows: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Return the prices predicted for the windows at `starts`."""
        columns = len(self.feature_names)
        if windows.shape[2] > columns:
            outputs = self._run(
                {self._input: windows[:, :, :columns], _SENTIMENT: windows[:, :, columns:]}
            )
        else:
            outputs = self._run({self._input: windows})
        prices = outputs[:, 0].astype(np.float64)
        if not self._low_high:
            return prices * self._std + self._mean
        assert isinstance(matrix, CandleMatrix)
        low, high = matrix.ranges("close", starts, self.sequence_length)
        return low + prices * (high - low)

    def _with_sentiment(self, frame: Frame, sentiment: Sentiment) -> Frame:
        import polars as pl

        table = _polars(frame)
        if isinstance(sentiment, str) and sentiment == "neutral":
            return table.with_columns(pl.lit(0.0).alias(_SENTIMENT))
        if _SENTIMENT in table.columns:
            return table
        if sentiment is None or isinstance(sentiment, str):
            raise DataError(
                f"{self!r} was trained with sentiment; give the Fear & Greed index as sentiment= "
                "(timestamp and value), or sentiment='neutral'"
            )
        from atb_fast.features import merge_sentiment, sentiment_features

        index = _polars(sentiment)
        momentum = sentiment_features(index.with_columns(pl.col("value").cast(pl.Float64)))
        return merge_sentiment(table, momentum, str(self.metadata.get("timeframe")))


def _polars(frame: Frame) -> pl.DataFrame:
    import polars as pl

    if isinstance(frame, pl.DataFrame):
        return frame
    if not hasattr(frame, "__arrow_c_stream__"):
        raise DataError(
            f"found {type(frame).__name__}, expected a Polars, pyarrow or pandas (2.2 or newer, "
            "with pyarrow) frame"
        )
    # As Arrow hands it over: `pl.DataFrame` would leave out the index of a pandas frame.
    return pl.Series(frame).struct.unnest()


def _session(path: Path) -> Any:
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
        # From memory, a graph cannot read weights from other registry.
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no common base class
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: onnxruntime cannot load it: {reason}") from error


def _read_schema(
    schema: dict[str, Any],
) -> tuple[int, list[str], FeaturePipeline | list[str]]:
    """Return rows in a window, names of its columns, and how they are made.

    The latter is a pipeline, or the raw columns if each window is scaled by its own values.
    """
    length = schema["sequence_length"]
    if not isinstance(length, int) or not 1 <= length <= 1 << 20:
        raise BundleError(f"sequence_length is {length!r}, expected a whole number from 1 on")
    names = [str(feature["name"]) for feature in schema["features"]]
    if not names:
        raise BundleError("feature_schema.json has no features")
    by_window = [_scaled_by_window(feature) for feature in schema["features"]]
    if all(by_window):
        return length, names, [str(column) for column in by_window]
    features, scalers = [], []
    for feature in schema["features"]:
        made, scaler = _feature(feature)
        features.append(made)
        scalers.append(scaler)
    return length, names, FeaturePipeline(features, scalers=scalers)


def _scaled_by_window(feature: dict[str, Any]) -> str | None:
    source = feature.get("source")
    if source:
        return source["column"] if source.get("transform") == "expanding_minmax" else None
    # The contract defines these by their names.
    column = str(feature["name"]).removesuffix("_normalized")
    return column if column in _CANDLES and column != feature["name"] else None


def _feature(feature: dict[str, Any]) -> tuple[Feature, MinMaxScaler]:
    name, source = str(feature["name"]), feature.get("source")
    if source is None:
        if name not in _CANDLES:
            raise BundleError(
                f"feature_schema.json does not say how {name} is computed and scaled, so this "
                "bundle cannot be scored; train it anew"
            )
        source = {"column": name}
    transform, window = source.get("transform"), source.get("window")
    known = {None: {}, "sma": {"sma": window}, "rsi_simple_mean": {"rsi": window}}
    if transform not in known:
        raise BundleError(f"feature {name} has the transform {transform!r}, which is not known")
    made = Feature(
        name,
        source["column"],
        null_as=0.0 if source["column"] == _SENTIMENT else None,
        **known[transform],
    )
    if "scaler" in feature:
        ends = (feature["scaler"]["data_min"], feature["scaler"]["data_max"])
    else:
        # `(x - mean) / std` is a min-max scaler from mean to mean + std; 0 to 1 changes nothing.
        normalization = feature.get("normalization") or {"mean": 0.0, "std": 1.0}
        ends = (normalization["mean"], normalization["mean"] + normalization["std"])
    return made, MinMaxScaler(*ends)


def _read_normalization(metadata: dict[str, Any], length: int) -> tuple[bool, float, float]:
    """Return whether outputs are in the range of the window's closes, else mean and std."""
    given = metadata.get("price_normalization")
    if not given:
        raise BundleError(
            "metadata.json has no price_normalization: nobody knows what price an output stands for"
        )
    if given.get("method") == "rolling_minmax":
        if (given.get("window"), given.get("target_feature")) != (length, "close"):
            raise BundleError(
                f"price_normalization is {given}, expected the window of {length} rows and close"
            )
        return True, 0.0, 1.0
    mean, std = float(given["mean"]), float(given["std"])
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise BundleError(f"price_normalization is {given}, expected finite numbers")
    return False, mean, std
