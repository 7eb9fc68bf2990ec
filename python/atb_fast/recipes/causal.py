"""A recipe that knows nothing of the future, and aims at returns rather than at prices.

Features are returns, ratios and ranges, so they keep their range as prices grow. They are
standardized by the rows of the training windows; the target is the log return over the horizon, in
root mean squares of the training windows' returns. Windows that choose the epoch and windows that
are tested share no row with those before them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import _core
from atb_fast.config import TIMEFRAMES, TrainingConfig
from atb_fast.errors import DataError
from atb_fast.evaluation.diagnostics import predict_outputs
from atb_fast.features.cache import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.sentiment import assess, epoch_ms, index_features, neutral_value
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Recipe, before, embargo
from atb_fast.training.tf_data import Parts, WindowedData

log = logging.getLogger(__name__)

PRICE_COLUMNS = (
    *("return_1", "open_to_close", "high_to_close", "low_to_close"),
    *("close_to_sma_7", "close_to_sma_14", "close_to_sma_30", "volume_to_sma_30", "rsi_14"),
)
SENTIMENT_COLUMNS = (
    *("sentiment_primary", "sentiment_momentum", "sentiment_volatility"),
    *("sentiment_ma_3", "sentiment_ma_7", "sentiment_ma_14"),
    *("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing"),
)
#: Rows before the longest average has a value.
_WARMUP = 29
#: Rows after which Wilder's average, of 14, has forgotten where the candles began: (13/14)^400 is
#: 1e-13. Before that a row depends on it, and is not scored.
SETTLED = 400
#: 0 or 1, and not scaled: one day in years would be dozens of deviations.
_FLAGS = ("sentiment_extreme_positive", "sentiment_extreme_negative", "sentiment_missing")

#: Of the windows, newest ones, that are tested.
_TEST_SHARE = 0.2
#: Columns without a scaler yet.
_UNSCALED = _core.MinMaxScaler(0.0, 1.0)


class CausalRecipe(Recipe):
    """Returns, ratios and ranges; the target is the log return over the horizon."""

    def prepare(
        self,
        market: Market,
        config: TrainingConfig,
        *,
        now: datetime | None = None,
        cache: Path | None = None,
    ) -> PreparedData:
        """Return features that are not scaled yet. No candle behind the warm-up is left out."""
        candles = market.candles
        least = SETTLED + config.sequence_length + config.horizon
        if len(candles) < least:
            raise DataError(
                f"{len(candles)} candles are in the range, expected at least {least}: "
                f"{SETTLED} until an RSI has settled, a window of {config.sequence_length} and the "
                f"horizon of {config.horizon}; use a longer range"
            )
        index = None if config.force_price_only else market.sentiment
        assessment = None
        sha256 = {"candles": content_hash(candles)}
        if index is not None:
            last = candles["timestamp"][-1]
            end = config.end or last.replace(hour=23, minute=59, second=59)
            # No feature sees a later day, which may be there today and was not yesterday.
            known = index.filter(pl.col("timestamp") <= min(last, end))
            assessment = assess(candles, known, force=config.force_sentiment, now=end)
            if assessment.recommendation == "price_only":
                log.warning(
                    "sentiment covers little of the candles (score %.2f): most of its columns are "
                    "filled; --force-price-only leaves them out",
                    assessment.score,
                )
            sha256["sentiment"] = content_hash(known)
        frame = columns(candles, index, lag_days=config.sentiment_lag_days)
        names = [*PRICE_COLUMNS] if index is None else [*PRICE_COLUMNS, *SENTIMENT_COLUMNS]
        if index is not None:
            _report_missing(frame)
        pipeline = _core.FeaturePipeline(
            [_core.Feature(name, name) for name in names], scalers=[_UNSCALED] * len(names)
        )
        matrix = pipeline.transform(frame)
        source = {"recipe": "causal", "sentiment_lag_days": config.sentiment_lag_days}
        return PreparedData(
            model_type="causal",
            matrix=matrix,
            close=candles["close"].to_numpy()[matrix.rows],
            timestamps=candles["timestamp"].gather(matrix.rows),
            frame=frame,
            index=index,
            pipeline=pipeline,
            sources={name: {"column": name} | source for name in names},
            lookback=SETTLED,
            assessment=assessment,
            candles=len(candles),
            gaps=len(gaps(candles["timestamp"], config.bar_ms)),
            sha256=sha256,
        )

    def parts(self, prepared: PreparedData, config: TrainingConfig) -> Parts:
        """Split in time, without a row in common and with an embargo between the parts."""
        starts = self.starts(prepared, config)
        first, rows = len(starts) - int(len(starts) * _TEST_SHARE), embargo(prepared, config)
        parts = before(starts[:first], starts[first:], config, rows)
        if not parts.complete:
            raise DataError(
                f"{len(prepared.matrix)} complete rows give {len(parts.train)} windows of "
                f"{config.sequence_length} bars to train, {len(parts.validation)} to validate and "
                f"{len(parts.test)} to test; between the parts a window, the horizon and an "
                f"embargo of {rows} bars are left out; use a longer range, or a shorter "
                "--sequence-length"
            )
        return parts

    def windows(self, prepared: PreparedData, config: TrainingConfig, parts: Parts) -> WindowedData:
        """Scale by what the training windows have, and give each row the return up to it."""
        assert prepared.pipeline is not None  # prepare saw to it
        length, horizon = config.sequence_length, config.horizon
        first, last = self.fitted_rows(parts, config)
        values = prepared.pipeline.transform_float64(prepared.frame)[first : last + 1]
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        # `(x - mean) / deviation` is a min-max scaler from the mean to a deviation above it.
        scalers = [
            _UNSCALED if name in _FLAGS else _core.MinMaxScaler(m, m + (d or 1.0))
            for name, m, d in zip(prepared.pipeline.names, mean, deviation, strict=True)
        ]
        pipeline = _core.FeaturePipeline(prepared.pipeline.features, scalers=scalers)
        scaled = replace(prepared, matrix=pipeline.transform(prepared.frame), pipeline=pipeline)
        returns = np.full(len(prepared.close), np.nan)
        logs = np.log(prepared.close)
        # Under the row behind a window: what happens from the window's last close on.
        reach = len(logs) - horizon
        returns[1 : reach + 1] = logs[horizon:] - logs[:reach]
        scale = float(np.sqrt(np.mean(np.square(returns[parts.train + length])))) or 1.0
        return WindowedData(
            scaled, length, parts, returns / scale, return_scale=scale, horizon=horizon
        )

    def fitted_rows(self, parts: Parts, config: TrainingConfig) -> tuple[int, int]:
        """Return the first and the last row that scalers are fitted on."""
        return int(parts.train[0]), int(parts.train[-1]) + config.sequence_length - 1

    def build(self, length: int, features: int, *, dtype_policy: str = "float32") -> Any:
        """Return the legacy network, which starts with the forecast "no change"."""
        from atb_fast.recipes.networks import build_model

        return build_model(length, features, dtype_policy=dtype_policy, start_at_zero=True)

    def shrink(self, model: Any, data: WindowedData) -> float:
        """Keep of the predicted returns what the validation windows bear out; see `shrinkage`."""
        outputs = predict_outputs(model, data, data.validation)
        factor = shrinkage(outputs, data.labels[data.validation + data.length], data.horizon)
        last = model.layers[-1]
        last.set_weights([weights * np.float32(factor) for weights in last.get_weights()])
        return factor


def shrinkage(outputs: NDArray[np.float64], returns: NDArray[np.float64], horizon: int) -> float:
    """Return the factor for predicted returns that windows which were not fitted bear out.

    It is the slope of least squares of returns on predictions, less two standard errors, within
    0..1. Returns are mostly noise, and a network that has learned noise is worse than "no change",
    which is the factor 0. One error (L. Breiman et al., Classification and Regression Trees, 1984,
    section 3.4.3) is not enough: the same windows have chosen the epoch.

    Args:
        outputs: Predicted, shape (windows,).
        returns: What came, in the same unit.
        horizon: Bars that a return goes over: so many neighbours know what one does.
    """
    power = float(np.sum(np.square(outputs)))
    if power == 0.0:
        return 0.0
    slope = float(np.sum(outputs * returns)) / power
    rest = returns - slope * outputs
    variance = float(np.sum(np.square(rest))) / max(1, len(rest) - 1) * horizon
    return float(min(1.0, max(0.0, slope - 2.0 * np.sqrt(variance / power))))


def columns(
    candles: pl.DataFrame, index: pl.DataFrame | Literal["neutral"] | None, *, lag_days: int
) -> pl.DataFrame:
    """Return `candles` with the causal columns, null where a row has too few before it.

    `return_1` is the log return; `open_to_close`, `high_to_close`, `low_to_close` are logs of the
    close over each; `close_to_sma_n` is the close over its mean of n rows, less 1;
    `volume_to_sma_30` is log(1 + volume over its mean), 0 if there is no volume; `rsi_14` is
    Wilder's, over 100. Sentiment is the newest row of the index that was `lag_days` old when the
    candle opened; `sentiment_missing` is 1 if that is a day or more older than it should be, or if
    there is none, where the other columns are those of a neutral index.

    Nothing here starts Polars' threads: scoring must work in a forked process, which lacks them.

    Args:
        candles: Ascending; open, high, low, close, volume, prices above 0.
        index: The Fear & Greed index of all history, timestamp and value; or `neutral`; None
            leaves its columns out.
        lag_days: Least age of a row of the index.
    """
    opened, high, low, close, volume = (
        candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(close)
        share = volume / _core.sma(volume, 30)
        made = {
            "return_1": np.diff(logs, prepend=np.nan),
            "open_to_close": logs - np.log(opened),
            "high_to_close": logs - np.log(high),
            "low_to_close": logs - np.log(low),
            **{f"close_to_sma_{n}": close / _core.sma(close, n) - 1.0 for n in (7, 14, 30)},
            # 0 / 0: nothing was traded for 30 bars.
            "volume_to_sma_30": np.log1p(
                np.where(np.isinf(1.0 / _core.sma(volume, 30)), 0.0, share)
            ),
            "rsi_14": _core.rsi(close, 14, method="wilder") / 100.0,
        }
    added = [pl.Series(name, made[name], nan_to_null=True) for name in PRICE_COLUMNS]
    if index is not None:
        added += _sentiment(candles, index, lag_days)
    return candles.hstack(added)


def _sentiment(
    candles: pl.DataFrame, index: pl.DataFrame | Literal["neutral"], lag_days: int
) -> list[pl.Series]:
    day = TIMEFRAMES["1d"]
    neutral = {name: neutral_value(name) for name in SENTIMENT_COLUMNS}
    if isinstance(index, str) or index.is_empty():
        neutral["sentiment_missing"] = 0.0 if isinstance(index, str) else 1.0
        return [pl.Series(name, np.full(len(candles), neutral[name])) for name in SENTIMENT_COLUMNS]
    rows = index_features(index)
    stamps = epoch_ms(rows["timestamp"])
    rows = rows.hstack([pl.Series("stamp", stamps.astype(np.float64))])
    names = [name for name in rows.columns if name != "timestamp"]
    merged = pl.DataFrame(_core.merge(candles, rows, names, how="asof", lag_ms=lag_days * day))
    # As of the midnight that the lag reaches back to; what is older was filled forward.
    due = epoch_ms(candles["timestamp"]) - lag_days * day
    age = due - due % day - merged["stamp"].to_numpy()
    filled = {"sentiment_missing": np.where(age <= 0, 0.0, 1.0)}  # NaN is missing, too
    for name in SENTIMENT_COLUMNS[:-1]:
        values = merged[name].to_numpy()
        filled[name] = np.where(np.isnan(values), neutral[name], values)
    return [pl.Series(name, filled[name]) for name in SENTIMENT_COLUMNS]


def _report_missing(frame: pl.DataFrame) -> None:
    missing = frame["sentiment_missing"].to_numpy()
    if missing.all():
        raise DataError(
            "the sentiment has no day of the candles; give the index of their range, or "
            "--force-price-only for a model without it"
        )
    if missing.any():
        log.info(
            "%d of %d candles lack the index of their day: it is filled forward and flagged",
            int(missing.sum()),
            len(missing),
        )
