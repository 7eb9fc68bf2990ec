"""Recipes that are declared: features as expressions, a target, a network and a split."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import CandleMatrix, FeatureMatrix, FeaturePipeline
from atb_fast.config import LONGEST_LAG_DAYS, MIN_SEQUENCE_LENGTH, TIMEFRAMES, RecipeOptions
from atb_fast.errors import ArgumentError, DataError, counted
from atb_fast.features import cache as feature_cache
from atb_fast.features import sentiment as sentiment_code
from atb_fast.features.cache import Features
from atb_fast.features.expressions import Expr
from atb_fast.features.hashing import content_hash
from atb_fast.features.prepared import PreparedData
from atb_fast.features.specs import (
    INDEX_COLUMNS,
    SCALERS,
    FeatureSpec,
    Scaler,
    Specs,
    compiled,
    fit_scalers,
    unscaled,
)
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, gaps
from atb_fast.recipes import checks
from atb_fast.recipes.base import BaseRecipe, Context, check_moves
from atb_fast.recipes.joining import JOINS, Joined, joined_as_of
from atb_fast.recipes.networks import CnnLstm, Network
from atb_fast.recipes.shrinkage import shrinkage_factor
from atb_fast.recipes.split import SPLITS
from atb_fast.recipes.targets import LogReturn, MetaLabel, Predict, Target
from atb_fast.recipes.targets.meta_label import without_signals

log = logging.getLogger(__name__)

#: The rows that scalers can be fitted on.
FIT_SCALERS_ON = ("training", "all")


@dataclass(frozen=True, kw_only=True)
class Recipe(BaseRecipe):
    """A declared recipe. Warm-up, lookback and purging follow from its expressions.

    Attributes:
        name: The name, which is also the directory in the registry.
        features: The features by name, in channel order. An expression, or its text, is scaled by
            `scaler`; a `FeatureSpec`, or a table with its fields, can have another one.
        target: What its models predict.
        network: The network that learns it.
        description: What it does, in a few words.
        scaler: How features are scaled by default; see `specs.Scaler`.
        fit_scalers_on: The rows that scalers are fitted on: those of the `training` windows, or
            `all`, which is look-ahead bias.
        split: How windows are divided into parts; one of `SPLITS`.
        sentiment_join: How the Fear & Greed index is joined to the candles; one of `JOINS`.
        extra: Further columns of the candles that features read.
        lag: 1 if the label of a window starts at the close of the bar after it, as for strategies
            of the trading bot; 0 if it starts at the last close of the window.
        timeframe: Default timeframe.
        sequence_length: Default number of bars in a window.
        sentiment_lag_days: Default minimum age of the index in days.

    Raises:
        ArgumentError: A part is invalid, or the parts contradict each other.
    """

    name: str
    features: Mapping[str, FeatureSpec | Mapping[str, Any] | Expr | str]
    target: Target = LogReturn()
    network: Network = CnnLstm()
    description: str = ""
    scaler: Scaler = "standard"
    fit_scalers_on: str = "training"
    split: str = "purged"
    sentiment_join: str = "as_of"
    extra: tuple[str, ...] = ()
    lag: int = 0
    timeframe: str | None = None
    sequence_length: int | None = None
    sentiment_lag_days: int | None = None

    def __post_init__(self) -> None:
        """Check the parts, and read the features."""
        checks.check_name(self.name)
        checks.check_description(self.description)
        for key, known in (
            ("scaler", SCALERS),
            ("fit_scalers_on", FIT_SCALERS_ON),
            ("split", SPLITS),
            ("sentiment_join", JOINS),
        ):
            checks.check_choice(key, getattr(self, key), known)
        if self.timeframe is not None:
            checks.check_choice("timeframe", self.timeframe, TIMEFRAMES)
        if self.sequence_length is not None:
            least = MIN_SEQUENCE_LENGTH if type(self) is Recipe else 1  # for any network
            checks.check_whole("sequence_length", self.sequence_length, least)
        if (days := self.sentiment_lag_days) is not None:
            checks.check_whole("sentiment_lag_days", days, 0, LONGEST_LAG_DAYS)
        for key, kind in (("target", Target), ("network", Network)):
            if not isinstance(getattr(self, key), kind):
                raise checks.wrong(key, getattr(self, key), f"a {kind.__name__}")
        extra = checks.check_extra(self.extra)
        features = checks.read_features(
            self.features, scaler=self.scaler, extra=extra, sentiment_join=self.sentiment_join
        )
        checks.check_scaled_by_window(features, self.target)
        checks.check_lag(self.lag, self.target)
        self.target.check_features(features)
        if type(self) is Recipe:  # another class may use an extra in `prepare`
            checks.check_read(extra, features)
            if isinstance(self.target, MetaLabel):
                raise without_signals()
        object.__setattr__(self, "extra", extra)
        object.__setattr__(self, "features", features)

    @property
    def specs(self) -> Specs:
        """The features by name, in channel order."""
        return cast(Specs, self.features)

    @property
    def traits(self) -> frozenset[str]:
        """The capabilities that options depend on; see `Option.needs`."""
        specs = self.specs.values()
        columns = not self.scaled_by_window
        index = any(spec.uses_index for spec in specs)
        found = {
            "length": columns,
            "index": index,
            "lag": index and self.sentiment_join == "as_of",
            "horizon": "horizon" in self.target.values,
            "purge": self.split == "purged",
            "extra": columns,
            "candle graph": columns
            and self.target.price
            and not self.extra
            and self.sentiment_join == "resampled"
            and all(_in_graph(part) for spec in specs for part in spec.expression.walk()),
        }
        return frozenset(name for name, has in found.items() if has)

    @property
    def scaled_by_window(self) -> bool:
        """Whether each window is scaled by its own values."""
        return any(spec.scaler == "window" for spec in self.specs.values())

    @property
    def local(self) -> bool:
        """Whether an unscaled feature depends on nothing but the rows within its lookback."""
        return (
            self.fit_scalers_on == "training"
            and self.sentiment_join == "as_of"
            and not self.scaled_by_window
        )

    def prepare(self, market: Market, options: RecipeOptions, context: Context) -> PreparedData:
        """Return the features: scaled if the scalers see all rows, else unscaled."""
        check_moves(market)
        self._check_extra(market)
        candles, asked = market.candles, context.asked
        sha256 = {"candles": content_hash(candles)}
        if "index" in self.traits and not asked.force_price_only:
            joined = JOINS[self.sentiment_join](market, options, context)
        else:
            joined = Joined(market.frame)
        if joined.sha256 is not None:
            sha256["sentiment"] = joined.sha256
        specs = self.used(index=joined.used)
        frame = joined.frame
        matrix: FeatureMatrix | CandleMatrix
        if self.scaled_by_window:
            pipeline, matrix = None, CandleMatrix(frame, [_column(each) for each in specs.values()])
        else:
            matrix, pipeline = self._features(frame, specs, sha256, context)
            _report_dropped(frame, matrix.rows, pipeline)
        prepared = PreparedData(
            model_type=self._model_type(index=joined.used),
            matrix=matrix,
            close=frame["close"].to_numpy()[matrix.rows],
            timestamps=frame["timestamp"].gather(matrix.rows),
            frame=frame,
            index=market.sentiment if joined.used else None,
            pipeline=pipeline,
            specs=specs,
            join=joined.join,
            lookback=pipeline.lookback if pipeline else 0,
            history=self.target.history(options),
            assessment=joined.assessment,
            candles=len(candles),
            gaps=len(gaps(candles["timestamp"], asked.bar_ms)),
            sha256=sha256,
        )
        if len(matrix) < options.sequence_length + self.reach(options):
            self.parts(prepared, options)  # raises, and says how many candles are needed
        return prepared

    def _check_extra(self, market: Market) -> None:
        """Raise DataError if an extra column that a feature reads is missing."""
        found = {name for extra in market.extras for name in extra.columns}
        read = {name for spec in self.specs.values() for name in spec.expression.columns}
        missing = [name for name in self.extra if name in read - found - {*market.candles.columns}]
        if missing:
            got = f" (--extra gave {', '.join(sorted(found))})" if found else ""
            raise DataError(
                f"the {self.name} recipe reads the column {missing[0]}, which the market lacks; "
                f"pass --extra {missing[0]}=FILE with one column of values, or --extra NAME=FILE "
                f"with several, which are read as NAME_COLUMN{got}"
            )

    def used(self, *, index: bool) -> Specs:
        """Return the features, without those of the index unless it is used.

        Raises:
            ArgumentError: None are left.
        """
        specs = {name: spec for name, spec in self.specs.items() if index or not spec.uses_index}
        if not specs:
            raise ArgumentError(
                f"every feature of the {self.name} recipe uses the Fear & Greed index, so "
                "--force-price-only leaves none; remove the flag",
                options=["force_price_only"],
            )
        return specs

    def columns(
        self, market: Market, prepared: PreparedData, options: RecipeOptions
    ) -> pl.DataFrame:
        """Return the columns that the features of `prepared` read, for another market."""
        return joined_as_of(market, options) if prepared.has_sentiment else market.frame

    def parts(self, prepared: PreparedData, options: RecipeOptions) -> Parts:
        """Divide the windows as `split` says."""
        starts, reach = self.starts(prepared, options), self.reach(options)
        return SPLITS[self.split](starts, prepared, options, reach)

    def windows(self, prepared: PreparedData, options: RecipeOptions, parts: Parts) -> WindowedData:
        """Return the windows of `parts`, scaled, with their targets."""
        if self.fit_scalers_on == "training" and not self.scaled_by_window:
            prepared = self._scaled(prepared, *self.fitted_rows(parts, options))
        return super().windows(prepared, options, parts)

    def fitted_rows(self, parts: Parts, options: RecipeOptions) -> tuple[int, int]:
        """Return the first and the last row of the matrix that the scalers are fitted on."""
        return int(parts.train[0]), int(parts.train[-1]) + options.sequence_length - 1

    def shrinkage(self, data: WindowedData, predict: Predict) -> float:
        """Return the factor estimated on the validation windows; see `shrinkage_factor`."""
        if not self.target.relative:
            return 1.0
        starts = data.validation
        base = data.base(starts)
        return shrinkage_factor(predict(starts) - base, data.fitted(starts) - base, data.horizon)

    def _model_type(self, *, index: bool) -> str:
        """Return the directory in the registry."""
        if self.name == "legacy":  # its bundles have the types of the trainer that it reproduces
            return "sentiment" if index else "price"
        if self.name == "engine":  # the type that live strategies load
            return "price"
        return self.name

    def _features(
        self, frame: pl.DataFrame, specs: Specs, sha256: dict[str, str], context: Context
    ) -> tuple[FeatureMatrix, FeaturePipeline]:
        """Return the features of the rows that have all of them, and the pipeline."""
        features = compiled(specs, context.asked.bar_ms)
        warming = len(frame) <= max(feature.warmup for feature in features)
        if self.fit_scalers_on == "training" or warming:  # without rows, nothing can be fitted
            # Not cached: they are computed again anyway once the scalers are fitted.
            pipeline = unscaled(features)
            return pipeline.transform(frame), pipeline
        extra = frame.select([name for name in self.extra if name in frame.columns])
        name = feature_cache.key(
            (sentiment_code.__file__,),
            features=[(f.name, f.nodes, f.null_as, specs[f.name].scaler) for f in features],
            join=self.sentiment_join,
            timeframe=context.asked.timeframe,
            data=sha256 | {"extra": content_hash(extra)},
        )
        if context.cache and not context.asked.force_refresh:
            found = feature_cache.load(context.cache, name, features)
            if found:
                log.info("features: loaded from the cache")
                return found.matrix, found.pipeline
        pipeline = FeaturePipeline(features, scalers=fit_scalers(specs, features, frame))
        made = Features(pipeline.transform(frame), pipeline)
        if context.cache:
            feature_cache.save(context.cache, name, made)
        return made.matrix, pipeline

    def _scaled(self, prepared: PreparedData, first: int, last: int) -> PreparedData:
        """Return `prepared` with scalers fitted on the rows `first` to `last` of its matrix."""
        assert prepared.pipeline is not None  # made by prepare
        features = prepared.pipeline.features
        rows = prepared.matrix.rows[first : last + 1]
        scalers = fit_scalers(prepared.specs, features, prepared.frame, rows)
        pipeline = FeaturePipeline(features, scalers=scalers)
        return replace(prepared, matrix=pipeline.transform(prepared.frame), pipeline=pipeline)


def _in_graph(part: Expr) -> bool:
    """Return whether `bundles.candle_graph` can compute a part of an expression."""
    return part.op in ("column", "mean") or (part.op == "rsi" and part.params[1] == "simple")


def _column(spec: FeatureSpec) -> str:
    (name,) = spec.expression.columns
    return name


def _report_dropped(
    frame: pl.DataFrame, rows: NDArray[np.int64], pipeline: FeaturePipeline
) -> None:
    """Log how many candles lack a feature, and why.

    Raises:
        DataError: All of them do, and not only because of the warm-up.
    """
    dropped, warmup = len(frame) - len(rows), min(len(frame), pipeline.warmup)
    if not dropped:
        return
    text = f"{dropped:,} of {counted(len(frame), 'candle')} left out: {warmup:,} in the warm-up"
    if dropped > warmup:
        nulls = dict(zip(pipeline.names, pipeline.nulls(frame), strict=True))
        lacking = [f"{name} in {n['input']:,}" for name, n in nulls.items() if n["input"]]
        undefined = [f"{name} in {n['undefined']:,}" for name, n in nulls.items() if n["undefined"]]
        text += f", {dropped - warmup:,} after it; by feature, after its own warm-up: "
        reasons = {"missing input": lacking, "undefined": undefined}
        text += "; ".join(f"{why}: {', '.join(each)}" for why, each in reasons.items() if each)
    if not len(rows) and dropped > warmup:
        index = not set(pipeline.columns).isdisjoint(INDEX_COLUMNS)
        flag = " (--force-price-only removes those of the Fear & Greed index)" if index else ""
        raise DataError(
            f"no candle has a value for every feature: {text}; use a longer range, or remove the "
            f"features without values{flag}"
        )
    log.info("%s", text)
