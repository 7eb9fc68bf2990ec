"""Train/serve skew: how features and predictions in scoring differ from those in training.

It is measured on the training windows in samples.npz: the scoring code computes each window again,
from only the candles that it needs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.config import CANDLE_COLUMNS
from atb_fast.errors import BundleError
from atb_fast.features.heads import Output
from atb_fast.features.outputs import Return
from atb_fast.features.price import PriceScale
from atb_fast.serving.predictor import Bundle

#: Largest accepted difference between a feature in training and in scoring; features are about 1.
SKEW = 1e-6
#: Largest accepted difference between predictions of the bundle and of Keras; see `relative_to`.
_PREDICTION = 1e-5
#: The same for a graph that computes features from float32 candles: its RSI is less exact.
_PREDICTION_FROM_CANDLES = 1e-4
#: Limit of what differences between predicted returns are relative to.
_LARGEST_RETURN = 1.0
#: Largest unpacked size of samples.npz that is read, in bytes.
_MOST_BYTES = 64 << 20


def differences(bundle: Bundle, path: Path) -> tuple[float, float]:
    """Return the largest difference of a feature and of a prediction between scoring and training.

    Both are NaN if any value is.

    Args:
        bundle: The bundle.
        path: Its samples.npz.

    Raises:
        BundleError: The samples cannot be used.
    """
    import polars as pl

    arrays = _arrays(path)
    times, candles, ends = (arrays[name] for name in ("timestamps", "candles", "ends"))
    if "extras" in arrays:
        candles = np.concatenate([candles, arrays["extras"]], axis=1)
    names = (*CANDLE_COLUMNS, *bundle.extra_columns)
    windows, predictions = arrays["windows"], arrays["predictions"].astype(np.float64)
    sentiment: Any = None
    if "index" in arrays:
        index = arrays["index"]
        sentiment = pl.DataFrame({"timestamp": index[0].astype(np.int64), "value": index[1]})
        if bundle.uses_sentiment == "optional":
            sentiment = "neutral"
    count = len(predictions)
    if not count == len(windows) == len(ends) > 0:
        raise BundleError(
            f"{path}: has {len(windows)} windows and {count} predictions, with {len(ends)} ends; "
            "expected the same number of each"
        )
    skew, difference = np.zeros(count), np.zeros(count)
    for i, rows in enumerate(np.split(np.arange(len(times)), ends[:-1])):
        values = (
            pl.Series(name, candles[rows, j], nan_to_null=True) for j, name in enumerate(names)
        )
        frame = pl.DataFrame([pl.Series("timestamp", times[rows]), *values])
        matrix = bundle.features(frame, sentiment)
        start = np.array([len(matrix) - bundle.sequence_length])
        seen = matrix.gather(start, bundle.sequence_length)[0, :, : windows.shape[2]]
        # Relative for large values, because a float32 has only seven digits.
        skew[i] = (np.abs(seen - windows[i]) / np.maximum(1.0, np.abs(windows[i]))).max()
        forecasts, _ = bundle.forecast_last(frame, sentiment)
        if forecasts.shape[1:] != predictions.shape[1:]:
            raise BundleError(
                f"{path}: has predictions of shape {predictions.shape}, expected the number of "
                f"classes in metadata.json, {bundle.output.head.units}"
            )
        difference[i] = np.abs(forecasts[0] - predictions[i]).max()
    scale = _scale(bundle.output, predictions, arrays.get("scale"), path)
    return float(skew.max()), float(difference.max() / scale)


def _scale(output: Output, predictions: Any, stored: Any, path: Path) -> float:
    """Return the number that differences between predictions are divided by.

    Only that of returns cannot be derived: a shrunk model predicts far less than the largest one.
    It is limited, so that a bundle cannot choose what passes.
    """
    if isinstance(output, PriceScale):
        return float(np.abs(predictions).max())
    if not isinstance(output, Return):
        return 1.0
    known = stored is not None and stored.shape == () and stored.dtype.kind in "fiu"
    if not (known and np.isfinite(stored) and stored > 0):
        raise BundleError(f"{path}: scale is {stored!r:.80}, expected a finite number above 0")
    return min(float(stored), _LARGEST_RETURN)


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size <= _MOST_BYTES:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, zlib and NumPy have no common base class
        raise BundleError(f"{path}: cannot be read: {error}") from error
    raise BundleError(f"{path}: has {size} bytes unpacked, expected at most {_MOST_BYTES}")


def too_different(bundle: Bundle, skew: float, difference: float) -> Iterator[str]:
    """Yield which of the `differences` of a bundle are larger than accepted."""
    limit = prediction_limit(bundle.metadata.get("onnx_input"))
    if not skew <= SKEW:  # also if it is NaN
        yield (
            f"train/serve skew: a feature differs by {skew:.1e} between training and serving, "
            f"expected at most {SKEW:.0e}"
        )
    if not difference <= limit:
        yield (
            f"a prediction differs from that of Keras by {difference:.1e}"
            f"{relative_to(bundle.output)}, expected at most {limit:.0e}"
        )


def relative_to(output: Output) -> str:
    """Return what differences from Keras are relative to, as a part of a sentence."""
    if isinstance(output, PriceScale):
        return " of the largest price"
    return " of the largest return" if isinstance(output, Return) else ""


def prediction_limit(onnx_input: str | None) -> float:
    """Return the largest accepted difference from Keras; see `relative_to`."""
    return _PREDICTION_FROM_CANDLES if onnx_input == "ohlcv" else _PREDICTION
