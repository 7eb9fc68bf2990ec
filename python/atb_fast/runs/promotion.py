"""Whether a new model goes live: its test error, compared with no change and the live model."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast.bundles.publishing import sample_problem
from atb_fast.config import CANDLE_COLUMNS, TIMEFRAMES, default_registry
from atb_fast.errors import BundleError
from atb_fast.evaluation.metrics import rmse
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.significance import diebold_mariano, is_worse
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.config import TrainingConfig
from atb_fast.serving import registry
from atb_fast.serving.predictor import Bundle, load_bundle
from atb_fast.serving.schema import seen_end
from atb_fast.serving.verification import prediction_limit

#: A comparison with the live model needs this many test bars whose horizons do not overlap.
LEAST_BARS = 30


@dataclass(frozen=True)
class Comparison:
    """Test errors of a new model and of another forecast on the same bars.

    Attributes:
        other: `no change`, or `the live model` and its version.
        bars: Number of test bars.
        first: Open time of the first of them, UTC.
        last: Open time of the last of them.
        rmse: RMSE of the new model, quote currency.
        other_rmse: RMSE of the other forecast.
        diebold_mariano: See `significance.diebold_mariano`; negative if the new model is worse.
    """

    other: str
    bars: int
    first: datetime
    last: datetime
    rmse: float
    other_rmse: float
    diebold_mariano: float

    @property
    def worse(self) -> bool:
        """Whether the new model is worse by more than chance."""
        return is_worse(self.rmse, self.other_rmse, self.diebold_mariano)

    def __str__(self) -> str:
        return (
            f"{self.other} (RMSE {self.rmse:,.6g} against {self.other_rmse:,.6g} on {self.bars} "
            f"test bars, {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        times = {"first": self.first.isoformat(), "last": self.last.isoformat()}
        return asdict(self) | times


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


def decide(
    record: RunRecord, predictions: NDArray[np.float64], home: Path, policy: str
) -> Promotion:
    """Return whether a model that is about to be published goes live.

    Args:
        record: The run.
        predictions: Its predictions for the test windows, quote currency, shape (windows,).
        home: The directory of all versions of this symbol and type.
        policy: See `policy_of`.
    """
    config, live = record.config, registry.live_version(home)
    if config.source == "sample" and (problem := sample_problem(home)):
        return Promotion(policy, False, problem, live, by_hand=None)
    expected = registry.other_live_timeframe(home, config.timeframe)
    if expected:
        reason = f"engines expect the timeframe {expected}, but this model has {config.timeframe}"
        return Promotion(policy, False, reason, live, by_hand="--force")
    if policy == "never":
        reason = "--promote never was given"
        if config.promote is None:
            reason = "the model of a repeated run goes live only if --promote is given"
        return Promotion(policy, False, reason, live)

    compared, objections, note = [_with_no_change(record)], [], ""
    if live is None:
        note = ", and no model was live"
    elif registry.is_sample(home / live) and config.source != "sample":
        note = f", and the live model {live} was trained on the sample market"
    else:
        path = (home / live).resolve()
        try:
            compared.append(_with_live(record.data, predictions, path))
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
        if policy == "always":
            reason = f"promoted although {reason}"
    promoted = policy == "always" or not objections
    return Promotion(policy, promoted, reason, live, tuple(compared), refused=bool(objections))


def _with_no_change(record: RunRecord) -> Comparison:
    found, times = record.evaluation, record.data.times(record.data.test)
    return Comparison(
        "no change",
        len(times),
        times[0],
        times[-1],
        found.test_rmse,
        found.persistence_rmse,
        found.diebold_mariano,
    )


def _with_live(data: WindowedData, predictions: NDArray[np.float64], path: Path) -> Comparison:
    """Compare with the live model in `path` on the test bars that it has not seen.

    Raises:
        Exception: It cannot be compared; the message says why.
    """
    metadata = registry.read_json(path / "metadata.json")
    if registry.is_foreign(metadata):
        raise BundleError("another trainer made it, so it is unknown which bars it was trained on")
    bundle = load_bundle(path)
    if bundle.horizon != data.horizon:
        raise BundleError(
            f"its horizon is {bundle.horizon}, but that of the new model is {data.horizon}"
        )
    seen = seen_end(metadata, path)
    if seen is None:
        raise BundleError("its metadata does not say which bars it was trained on")
    # No price that the live model was fitted or selected on is within the horizon.
    bar = timedelta(milliseconds=TIMEFRAMES[bundle.timeframe])
    ends = data.prepared.timestamps.gather(data.test + data.length - 1) + bar
    unseen = data.test[(ends >= seen).to_numpy()]
    found = _scored(bundle, data, unseen) if len(unseen) else np.empty(0)
    known = np.isfinite(found)
    starts, old = unseen[known], found[known]
    least = LEAST_BARS * data.horizon
    if len(starts) < least:
        raise BundleError(
            f"{len(starts)} test bars are later than its training and validation, which end at "
            f"{seen:%Y-%m-%d %H:%M}, but at least {least} are needed"
        )
    new = predictions[np.isin(data.test, starts)]
    # Keras made the new predictions, and onnxruntime the old ones: their rounding is no difference.
    limit = prediction_limit(bundle.metadata.get("onnx_input"))
    if np.abs(new - old).max() <= limit * np.abs(new).max():
        old = new
    actual, times = data.targets(starts), data.times(starts)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = rmse(actual, new), rmse(actual, old)
        statistic = diebold_mariano(actual, new, old, data.horizon)
    if not np.isfinite([*errors, statistic]).all():
        raise BundleError("its predictions are so large that their errors are not finite")
    other = f"the live model {path.name}"
    return Comparison(other, len(times), times[0], times[-1], *errors, statistic)


def _scored(bundle: Bundle, data: WindowedData, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what `bundle` predicts for the bars that windows predict; NaN where it cannot."""
    prepared = data.prepared
    # Scoring all candles would take long, so the bars before the first window are left out, except
    # for those that its features depend on.
    row = int(starts[0]) + data.length - bundle.sequence_length
    first = prepared.frame["timestamp"].search_sorted(prepared.timestamps[max(0, row)])
    candles = prepared.frame[max(0, first - bundle.lookback) :]
    # The live model may read extra columns; if they are missing, it cannot be compared.
    further = [name for name in bundle.extra_columns if name in candles.columns]
    scored = bundle.predict(candles.select("timestamp", *CANDLE_COLUMNS, *further), prepared.index)
    wanted = pl.DataFrame({"timestamp": data.times(starts)})
    found = wanted.join(scored, on="timestamp", how="left", maintain_order="left")
    return found["prediction"].to_numpy()
