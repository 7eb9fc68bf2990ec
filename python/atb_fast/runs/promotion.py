"""Whether a new model goes live: its test error, compared with a baseline and the live model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast.bundles.publishing import sample_problem
from atb_fast.bundles.releases import other_live_forecast
from atb_fast.config import BASIC_TIMEFRAME, CANDLE_COLUMNS, TIMEFRAMES, default_registry
from atb_fast.errors import BundleError
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import Scoring, apart
from atb_fast.evaluation.significance import diebold_mariano, is_worse
from atb_fast.features import outputs
from atb_fast.features.outputs import describe, kind_of
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import to_document
from atb_fast.serving import registry
from atb_fast.serving.predictor import Bundle, load_bundle
from atb_fast.serving.schema import seen_end
from atb_fast.serving.skew import prediction_limit

#: Keys of a target that its labels do not depend on.
_NOT_OF_LABELS = ("class_weights", "quantiles")
#: A comparison with the live model needs this many test bars whose horizons do not overlap. A test
#: part of 20% of three years of hourly bars has 15 horizons of two weeks, so 30 would be out of
#: reach; of 10 independent bars, chance exceeds two standard errors in 8% of cases (5% of many).
LEAST_BARS, LEAST_HORIZONS = 30, 10


@dataclass(frozen=True)
class Comparison:
    """Test errors of a new model and of another forecast on the same bars.

    Attributes:
        scoring: How the forecasts are scored.
        other: `persistence`, `the class shares`, `HAR`, or `the live model` and its version.
        bars: Number of test bars.
        first: Open time of the first of them, UTC.
        last: Open time of the last of them.
        error: Error of the new model.
        other_error: Error of the other forecast.
        diebold_mariano: See `significance.diebold_mariano`; negative if the new model is worse.
    """

    scoring: Scoring
    other: str
    bars: int
    first: datetime
    last: datetime
    error: float
    other_error: float
    diebold_mariano: float

    @property
    def worse(self) -> bool:
        """Whether the new model is worse by more than chance."""
        return is_worse(self.error, self.other_error, self.diebold_mariano)

    def __str__(self) -> str:
        return (
            f"{self.other} ({self.scoring.name} {self.error:,.6g} against {self.other_error:,.6g} "
            f"on {self.bars:,} test bars, {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values; the error is called as in `Scoring.figures`."""
        return {
            "other": self.other,
            "bars": self.bars,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            self.scoring.key: self.error,
            f"other_{self.scoring.key}": self.other_error,
            "diebold_mariano": self.diebold_mariano,
        }


@dataclass(frozen=True)
class Promotion:
    """Whether a new model goes live, and why.

    Attributes:
        policy: `always`, `gate` or `never`.
        promoted: Whether it goes live.
        reason: Why, in one sentence.
        live: The version that was live before; None if none was.
        compared: What the model was compared with.
        refused: Whether `gate` refuses it.
        published: Whether it is published at all.
        by_hand: Options of `models promote` that make it live anyway; None if nothing does.
    """

    policy: str
    promoted: bool
    reason: str
    live: str | None = None
    compared: tuple[Comparison, ...] = ()
    refused: bool = False
    published: bool = True
    by_hand: str | None = ""

    @property
    def replacing(self) -> str | EllipsisType | None:
        """See `publishing.Draft.publish`: `gate` replaces only what it has compared."""
        return self.live if self.policy == "gate" else ...

    def held(self, reason: str) -> Promotion:
        """Return the decision that the model does not go live after all."""
        return replace(self, promoted=False, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """Return `promotion` of metadata.json."""
        return {
            "policy": self.policy,
            "promoted": self.promoted,
            "reason": self.reason,
            "live_before": self.live,
            "compared": [comparison.to_dict() for comparison in self.compared],
        }

    def command(self, bundle: Path, timeframe: str) -> str:
        """Return the command that makes a published `bundle` live; empty if there is none."""
        if self.promoted or self.by_hand is None:
            return ""
        home, symbol, model_type, version = bundle.parents[2], *bundle.parts[-3:]
        elsewhere = [] if home == default_registry() else ["--registry", str(home)]
        name = f"{symbol}:{timeframe}:{model_type}:{version}"
        return shlex.join(
            ["atb-fast", "models", "promote", name, *self.by_hand.split(), *elsewhere]
        )


def policy_of(config: TrainingConfig, *, repeated: bool) -> str:
    """Return the policy of a run: `--promote`, else the default."""
    if config.promote:
        return config.promote
    if repeated:
        return "never"
    return "always" if config.recipe == "legacy" else "gate"


def unpublished(policy: str, *, skipped: bool) -> Promotion:
    """Return the decision about a model that is not published.

    Args:
        policy: See `policy_of`.
        skipped: Whether --skip-onnx was given.
    """
    why = "--skip-onnx was given" if skipped else "its model.onnx is missing or failed a check"
    reason = f"the model was not published, because {why}"
    return Promotion(policy, False, reason, published=False, by_hand=None)


def decide(record: RunRecord, forecasts: NDArray[np.float64], home: Path, policy: str) -> Promotion:
    """Return whether a model that is about to be published goes live.

    Args:
        record: The run.
        forecasts: Its forecasts for the test windows; see `WindowedData.forecasts`.
        home: The directory of all versions of this symbol and type.
        policy: See `policy_of`.
    """
    config, live = record.config, registry.live_version(home)
    if config.source == "sample" and (problem := sample_problem(home)):
        return Promotion(policy, False, problem, live, by_hand=None)
    expected = _other_timeframe(record, home)
    if expected:
        reason = f"engines expect the timeframe {expected}, but this model has {config.timeframe}"
        return Promotion(policy, False, reason, live, by_hand="--force")
    by_hand = "--force" if other_live_forecast(home, describe(record.data.output)) else ""
    if policy == "never":
        reason = "--promote never was given"
        if config.promote is None:
            reason = "the model of a repeated run goes live only if --promote is given"
        return Promotion(policy, False, reason, live, by_hand=by_hand)

    compared, objections, note = [_with_reference(record)], [], ""
    if live is None:
        note = ", and no model was live"
    elif registry.is_sample(home / live) and config.source != "sample":
        note = f", and the live model {live} was trained on the sample market"
    else:
        path = (home / live).resolve()
        try:
            compared.append(_with_live(record, forecasts, path))
        except Exception as error:  # a broken bundle can raise anything
            # The metadata must not name directories of this machine.
            why = str(error).replace(str(path), live).partition("\n")[0]
            objections.append(f"the live model {live} cannot be compared: {why}")
    worse = [str(comparison) for comparison in compared if comparison.worse]
    if worse:
        objections.insert(0, f"the model is significantly worse than {' and '.join(worse)}")
    reason = f"the model is not significantly worse than {' or '.join(map(str, compared))}{note}"
    if objections:
        reason = " and ".join(objections)
    promoted = not objections
    if objections and policy == "always":
        promoted = _may_replace(record, home, live)
        reason = (
            f"promoted although {reason}"
            if promoted
            else f"{reason}; pass --promote always to replace it"
        )
    return Promotion(
        policy, promoted, reason, live, tuple(compared), bool(objections), by_hand=by_hand
    )


def _with_reference(record: RunRecord) -> Comparison:
    found, times = record.evaluation, record.evaluation.tested.times
    return Comparison(
        found.scoring,
        found.reference,
        len(times),
        times[0],
        times[-1],
        found.error,
        found.reference_error,
        found.diebold_mariano,
    )


def _with_live(record: RunRecord, forecasts: NDArray[np.float64], path: Path) -> Comparison:
    """Compare with the live model in `path` on the test bars that it has not seen.

    Raises:
        Exception: It cannot be compared; the message says why.
    """
    data, scoring = record.data, record.evaluation.scoring
    metadata = registry.read_json(path / "metadata.json")
    if registry.is_foreign(metadata):
        raise BundleError("another trainer made it, so it is unknown which bars it was trained on")
    bundle = load_bundle(path)
    _check_comparable(bundle, record)
    seen = seen_end(metadata, path)
    if seen is None:
        raise BundleError("its metadata does not say which bars it was trained on")
    # No price that the live model was fitted or selected on is within the horizon.
    bar = timedelta(milliseconds=TIMEFRAMES[bundle.timeframe])
    ends = data.prepared.timestamps.gather(data.test + data.length - 1) + bar
    unseen = data.test[(ends >= seen).to_numpy()]
    found = _scored(bundle, data, unseen) if len(unseen) else np.empty((0, *forecasts.shape[1:]))
    known = np.isfinite(found).all(axis=tuple(range(1, found.ndim)))
    starts, old = unseen[known], found[known]
    count, least = int(apart(data, starts).sum()), LEAST_BARS
    bars = "test bars"
    if data.horizon > 1:
        least, bars = LEAST_HORIZONS, "test bars whose horizons do not overlap"
    if count < least:
        raise BundleError(
            f"{count:,} {bars} are later than its training and validation, which end at "
            f"{seen:%Y-%m-%d %H:%M}, but at least {least} are needed"
        )
    new = forecasts[np.isin(data.test, starts)]
    actual, times = data.targets(starts), data.times(starts)
    # Keras made the new forecasts and onnxruntime the old ones, so rounding does not count.
    limit = prediction_limit(bundle.metadata.get("onnx_input"))
    if np.abs(new - old).max() <= limit * max(np.abs(new).max(), np.abs(actual).max()):
        old = new
    with np.errstate(over="ignore", invalid="ignore"):
        own, other = (scoring.losses(actual, each) for each in (new, old))
        errors = float(scoring.mean(own)), float(scoring.mean(other))
        statistic = diebold_mariano(own, other, data.horizon)
    if not np.isfinite([*errors, statistic]).all():
        raise BundleError("its predictions are so large that their errors are not finite")
    name = f"the live model {path.name}"
    return Comparison(scoring, name, len(times), times[0], times[-1], *errors, statistic)


def _check_comparable(bundle: Bundle, record: RunRecord) -> None:
    """Raise BundleError unless the live model forecasts what the new one does."""
    own, live = record.data.output, bundle.output
    if (what := kind_of(live)) != kind_of(own):
        raise BundleError(f"it predicts {what}, but the new model predicts {kind_of(own)}")
    for name in ("horizon", "lag"):
        if getattr(live, name) != getattr(own, name):
            raise BundleError(
                f"its {name} is {getattr(live, name)}, but that of the new model is "
                f"{getattr(own, name)}"
            )
    if isinstance(own, PriceScale):
        return  # regardless of the target, both predict the same close
    documents = bundle.metadata.get("recipe_document"), to_document(record.config.definition)
    theirs, ours = map(target_of, documents)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise BundleError(
                f"its target has {key} {theirs.get(key)!r:.80}, but that of the new model has "
                f"{ours.get(key)!r:.80}"
            )


def _may_replace(record: RunRecord, home: Path, live: str | None) -> bool:
    """Return whether the policy `always` applies to the live model.

    Prices of the legacy recipe have the same type as the classes or returns that strategies load,
    so only if it was given may they replace each other.
    """
    if record.config.promote == "always" or live is None:
        return True
    try:
        other = outputs.read(registry.read_json(home / live / "metadata.json"))
    except BundleError:  # it is broken anyway
        return True
    return kind_of(other) == kind_of(record.data.output)


def _other_timeframe(record: RunRecord, home: Path) -> str | None:
    """Return the timeframe that the live model must have instead; None if that of the run."""
    given, data = record.config.timeframe, record.data
    strategic = data.prepared.model_type == "price" and not isinstance(data.output, PriceScale)
    if strategic and given != BASIC_TIMEFRAME:  # see `verification`
        return BASIC_TIMEFRAME
    return registry.other_live_timeframe(home, given)


def target_of(document: Any) -> dict[str, Any]:
    """Return what the labels of a recipe depend on, from its document, which is not trusted."""
    given = document if isinstance(document, dict) else {}
    target = given.get("target")
    if not isinstance(target, dict):  # a class in Python has none
        return {"python": given.get("python")}
    return {key: value for key, value in target.items() if key not in _NOT_OF_LABELS}


def _scored(bundle: Bundle, data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the forecasts of `bundle` for the bars of windows; NaN where there are none."""
    prepared = data.prepared
    # Scoring all candles would take long, so the bars before the first window are left out, except
    # for those that its features depend on.
    row = int(starts[0]) + data.length - bundle.sequence_length
    first = prepared.frame["timestamp"].search_sorted(prepared.timestamps[max(0, row)])
    candles = prepared.frame[max(0, first - bundle.lookback) :]
    # The live model may read extra columns; if they are missing, it cannot be compared.
    further = [name for name in bundle.extra_columns if name in candles.columns]
    scored = candles.select("timestamp", *CANDLE_COLUMNS, *further)
    stamps, times = candles["timestamp"], data.times(starts)
    bars = np.minimum(stamps.search_sorted(times).to_numpy(), len(stamps) - 1)
    found = np.asarray(bundle.forecasts(scored, prepared.index)[bars])
    found[(stamps.gather(bars) != times).to_numpy()] = np.nan  # the bar is missing
    return found
