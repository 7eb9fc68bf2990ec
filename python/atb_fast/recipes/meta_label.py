"""The meta-label recipe: which signals of the basic model are worth acting on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.config import TIMEFRAMES, RecipeOptions
from atb_fast.errors import ArgumentError, DataError, counted
from atb_fast.features.frames import ArrowFrame, epoch_ms
from atb_fast.features.hashing import content_hash
from atb_fast.features.meta_label import FEATURES, NOT_PRICES, Fires, aligned, features, fires
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import compiled, unscaled
from atb_fast.ingestion.extras import Extra
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes.base import Context, check_moves
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets.meta_label import OUTCOME, MetaLabel
from atb_fast.serving.frames import check_candles, to_polars

log = logging.getLogger(__name__)

#: Name of the extra series with the predictions of the primary model.
_PRIMARY = "primary"
_PREDICTION, _FOLD = f"{_PRIMARY}_prediction", f"{_PRIMARY}_fold"
_WRITE = (
    "write them with atb-fast evaluate SYMBOL --recipe basic --timeframe 1h --predictions "
    f"{_PRIMARY}.parquet, and pass --extra {_PRIMARY}={_PRIMARY}.parquet"
)


class MetaLabelRecipe(Recipe):
    """Predicts whether following a signal of the basic model pays.

    Each row of its matrix is a signal. The predictions of the basic model are the extra series
    `primary`. They must be out of fold, because signals on bars that a model was trained on look
    more profitable than they are.
    """

    @property
    def traits(self) -> frozenset[str]:
        """The capabilities that options depend on: windows have one row, and no sentiment."""
        return super().traits & {"horizon", "purge", "extra"}

    @property
    def further_metadata(self) -> Mapping[str, Any]:
        """The model whose signals it judges."""
        return {"primary_model_type": "basic"}

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return the features of each signal, and its outcome as a column of the frame.

        Raises:
            ArgumentError: The predictions of the basic model are missing, or another series is
                given.
            DataError: The predictions are not out of fold or not prices, or no signal has every
                feature.
        """
        if not isinstance(self.target, MetaLabel):
            raise ArgumentError(
                f"the meta_label recipe has the target {self.target.kind}, expected meta_label",
                options=["target"],
            )
        check_moves(market)
        candles, bar_ms = market.candles, context.asked.bar_ms
        predictions = aligned(candles, _primary(market).values, _PREDICTION)
        if np.isnan(predictions).all():
            raise DataError(
                f"--extra {_PRIMARY}: no prediction has the timestamp of a candle, so there are no "
                f"signals; {_WRITE}, of the same symbol and timeframe"
            )
        found = fires(candles, predictions, self.target.exits, bar_ms)
        pipeline = unscaled(compiled(self.specs, bar_ms))
        frame = _frame(candles, found, bar_ms)
        matrix = pipeline.transform(frame)
        _report(found, predictions, len(matrix))
        return PreparedData(
            model_type=self.name,
            matrix=matrix,
            close=candles["close"].to_numpy()[matrix.rows],
            timestamps=candles["timestamp"].gather(matrix.rows),
            frame=frame,
            index=None,
            pipeline=pipeline,
            specs=self.specs,
            join=None,
            lookback=0,
            assessment=None,
            candles=len(candles),
            gaps=len(gaps(candles["timestamp"], bar_ms)),
            sha256={"candles": content_hash(candles)},
        )


def _frame(candles: pl.DataFrame, found: Fires, bar_ms: int) -> pl.DataFrame:
    """Return the candles with the features and the outcome of each signal, null in other rows."""
    fired = pl.Series(found.sides != 0)
    values = features(candles, found, bar_ms).select(pl.when(fired).then(pl.col(*FEATURES)))
    return candles.hstack(values).hstack([pl.Series(OUTCOME, found.outcomes)])


def _report(found: Fires, predictions: NDArray[np.float64], rows: int) -> None:
    """Log the number of signals.

    Raises:
        DataError: No signal has every feature.
    """
    long, short = int((found.sides > 0).sum()), int((found.sides < 0).sum())
    counts = (
        f"signals of the basic model on {counted(int((~np.isnan(predictions)).sum()), 'candle')} "
        f"with a prediction: {long + short:,}, {long:,} long and {short:,} short; with every "
        f"feature: {rows:,}; with an outcome: {int((found.ends >= 0).sum()):,}"
    )
    if not rows:
        raise DataError(f"{counts}; use a longer range, or another primary model")
    log.info("%s", counts)


def _primary(market: Market) -> Extra:
    """Return the predictions of the basic model after checking them.

    Raises:
        ArgumentError: They are missing, have a lag, or another series is given.
        DataError: They are not out of fold, as far as that can be known.
    """
    others = [extra.name for extra in market.extras if extra.name != _PRIMARY]
    if others:
        raise ArgumentError(
            f"--extra {others[0]} has no effect: the meta_label recipe reads only {_PRIMARY}; "
            "remove it",
            options=["extra"],
        )
    if not market.extras:
        raise ArgumentError(
            f"the meta_label recipe needs the predictions of the basic model; {_WRITE}",
            options=["extra"],
        )
    (extra,) = market.extras
    if extra.lag_ms:
        raise ArgumentError(
            f"--extra-lag {_PRIMARY} does not apply: the prediction for a bar is known when the "
            "bar opens; remove it",
            options=["extra_lag"],
        )
    missing = [name for name in (_PREDICTION, _FOLD) if name not in extra.columns]
    if missing:
        found = ", ".join(name.removeprefix(f"{_PRIMARY}_") for name in extra.columns)
        raise DataError(
            f"--extra {_PRIMARY} has no column {missing[0].removeprefix(f'{_PRIMARY}_')} (found: "
            f"{found}). The predictions of a model for the bars that it was trained on are too "
            f"good, so the fold of each prediction must be known; {_WRITE}"
        )
    if others := [name for name in NOT_PRICES if f"{_PRIMARY}_{name}" in extra.columns]:
        raise DataError(
            f"--extra {_PRIMARY} has a column {others[0]}, so its model does not predict prices; "
            f"{_WRITE}"
        )
    predicted = extra.values.drop_nulls(_PREDICTION)
    folds = predicted[_FOLD]
    if folds.null_count() or not folds.is_sorted():
        raise DataError(
            f"--extra {_PRIMARY}: column fold must have a number in every row and never decrease, "
            "because the model of a fold is trained on the bars before it; otherwise predictions "
            f"are not out of sample. To repair it, {_WRITE}"
        )
    if len(predicted) and folds.n_unique() == 1:
        raise DataError(
            f"--extra {_PRIMARY}: column fold is {folds[0]:g} in every row, expected at least two "
            "folds, because a number that never changes does not show that predictions are out of "
            f"sample; {_WRITE}"
        )
    return extra


def meta_label_features(
    candles: ArrowFrame,
    predictions: ArrowFrame,
    *,
    timeframe: str = "1h",
    target: MetaLabel | None = None,
) -> pl.DataFrame:
    """Return `candles` with the columns that a meta-label bundle reads.

    They are known at the close of a bar, and `Bundle.predict` lists the probability at the next
    one. The hit rate depends on all earlier signals, so pass the whole history, not only its
    newest bars.

    Args:
        candles: timestamp, ascending, and the float64 columns open, high, low, close, volume.
        predictions: What the basic model predicted for each bar, quote currency, above 0, null or
            NaN for none: timestamp and prediction, for example what `Bundle.predict` of the basic
            model returns.
        timeframe: Length of the bars.
        target: When a trade ends, and what it costs. Default: as in training.

    Returns:
        The candles, `primary_side` (int8: 1 for a long signal, -1 for a short one, 0 for none), and
        the eight features, float64, null where one is not known.

    Raises:
        ArgumentError: `timeframe` is unknown.
        DataError: A frame lacks a column or has invalid values, a timestamp has two predictions,
            no candle has a prediction, or the candles have another timeframe.
    """
    if timeframe not in TIMEFRAMES:
        raise ArgumentError(
            f"timeframe is {timeframe!r:.80}, expected one of {', '.join(TIMEFRAMES)}",
            ["timeframe"],
        )
    bar_ms = TIMEFRAMES[timeframe]
    table, given = check_candles(to_polars(candles), timed=True), to_polars(predictions)
    for name in ("timestamp", "prediction"):
        if name not in given.columns:
            raise DataError(
                f"the predictions have no column {name} (found: {', '.join(given.columns)}); pass "
                "timestamp and prediction"
            )
    if others := [name for name in NOT_PRICES if name in given.columns]:
        raise DataError(
            f"the predictions have a column {others[0]}, so their model does not predict prices; "
            "pass those of the basic model"
        )
    if given["timestamp"].is_duplicated().any():
        raise DataError("a timestamp has two predictions; pass one for each bar")
    steps = np.diff(epoch_ms(table["timestamp"]))
    if len(steps) and not (steps >= bar_ms).all():
        raise DataError(
            f"the candles are not at least {timeframe} apart; sort them by timestamp, remove "
            "duplicates, or pass their timeframe"
        )
    predicted = aligned(table, given)
    if np.isnan(predicted).all():
        raise DataError(
            f"column prediction: found no number in a row with the timestamp of a candle, among "
            f"{counted(len(given), 'row')} of predictions and {counted(len(table), 'candle')}; "
            "expected at least one. Pass predictions of the same symbol and timeframe, made from "
            "enough candles"
        )
    found = fires(table, predicted, (target or MetaLabel()).exits, bar_ms)
    sides = pl.Series(f"{_PRIMARY}_side", found.sides)
    return table.hstack([sides]).hstack(features(table, found, bar_ms))
