"""Scores of every kind of forecast, compared with scikit-learn and pandas."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from relabelling import of_kind
from scipy import stats
from sklearn import metrics
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from atb_fast.evaluation import scoring as module
from atb_fast.evaluation.scoring import NAMES, WeightedClasses, scoring_of
from atb_fast.evaluation.volatility import baselines, qlike
from atb_fast.features.outputs import Classes, LogSigma
from atb_fast.features.windows import WindowedData
from atb_fast.recipes.shrinkage import shrinkage_factor

KINDS = ("prices", "returns", "two", "three", "volatility")


@pytest.fixture(scope="module")
def kinds(data: WindowedData) -> dict[str, WindowedData]:
    return {kind: of_kind(data, kind) for kind in KINDS}


def forecasts(data: WindowedData, seed: int = 5) -> Any:
    """Return noisy forecasts for the test windows."""
    rng = np.random.default_rng(seed)
    actual = data.targets(data.test)
    if isinstance(data.output, Classes):
        scores = rng.normal(0, 1, (len(actual), len(data.output.labels)))
        scores[np.arange(len(actual)), actual.astype(int)] += 0.4
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return shares if shares.shape[1] > 2 else shares[:, 1]
    unchanged = data.persistence(data.test)
    return unchanged + 0.3 * (actual - unchanged) * rng.normal(1, 1, len(actual))


def scored(data: WindowedData) -> tuple[module.Tested, dict[str, Any]]:
    scoring = scoring_of(data)
    tested = scoring.tested(data, forecasts(data))
    return tested, scoring.figures(tested)


def last_rows(data: WindowedData, starts: Any) -> Any:
    return data.prepared.matrix.values[starts + data.length - 1].astype(float)


def t_statistic(gain: Any) -> float:
    """Return mean over standard error, with the variance that divides by the number of bars."""
    return float(stats.ttest_1samp(gain, 0.0).statistic * np.sqrt(len(gain) / (len(gain) - 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_json_and_relative_to_no_change(
    kinds: dict[str, WindowedData], kind: str
) -> None:
    data = kinds[kind]
    scoring, (tested, found) = scoring_of(data), scored(data)
    json.dumps(found, allow_nan=False)
    key = scoring.key
    unchanged = found[f"{scoring.unchanged}_{key}"]
    assert found["ratio"] == found[key] / unchanged
    for name in tested.baselines.keys() - {scoring.unchanged}:
        assert found[f"{name}_ratio"] == found[f"{name}_{key}"] / unchanged
    assert tested.baselines.keys() <= NAMES.keys()
    assert list(tested.times) == list(data.times(data.test))


@pytest.mark.parametrize("kind", ["prices", "returns", "volatility"])
def test_errors_of_regressions_equal_sklearn(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    tested, found = scored(data)
    actual = data.targets(data.test)
    for prefix, values in {"": tested.forecasts, **tested.baselines}.items():
        name = f"{prefix}_rmse" if prefix else "rmse"
        expected = metrics.root_mean_squared_error(actual, values)
        assert found[name] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(tested.baselines["persistence"], data.persistence(data.test))


@pytest.mark.parametrize("kind", ["prices", "returns", "volatility"])
def test_the_linear_model_is_least_squares(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    model = LinearRegression().fit(last_rows(data, data.train), data.fitted(data.train))
    outputs = model.predict(last_rows(data, data.test))
    if kind != "volatility":  # returns are shrunk
        validation = model.predict(last_rows(data, data.validation))
        outputs *= shrinkage_factor(validation, data.fitted(data.validation), 1)
    expected = data.forecasts(data.test, outputs)
    tested, _ = scored(data)
    np.testing.assert_allclose(tested.baselines["linear"], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["prices", "returns"])
def test_directions_equal_pandas(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    tested, found = scored(data)
    closes = pd.Series(data.prepared.close)
    rows = data.test + data.length - 1
    moves = np.sign(closes.shift(-1) - closes)[rows].to_numpy()
    last = np.sign(closes.diff())[rows].to_numpy()
    assert (moves != 0).all()
    assert found["up_share"] == np.mean(moves > 0)
    assert found["contrarian_accuracy"] == np.mean(moves == -last)
    predicted = np.sign(tested.forecasts - tested.baselines["persistence"])
    assert found["directional_accuracy"] == np.mean(predicted == moves)
    assert found["directional_bars"] == len(moves)
    losses = [
        (each - data.targets(data.test)) ** 2
        for each in (tested.baselines["persistence"], tested.forecasts)
    ]
    expected = t_statistic(losses[0] - losses[1])
    assert found["diebold_mariano"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["prices", "returns"])
def test_no_change_has_no_direction(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    scoring = scoring_of(data)
    found = scoring.figures(scoring.tested(data, data.persistence(data.test)))
    assert found["directional_bars"] == 0
    assert not [name for name in found if name.startswith("directional_accuracy")]
    assert "directional_up_share" not in found
    assert found["diebold_mariano"] == 0.0


@pytest.mark.parametrize("kind", ["two", "three"])
def test_classes_equal_sklearn(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    tested, found = scored(data)
    actual, trained = data.targets(data.test).astype(int), data.fitted(data.train)
    assert isinstance(data.output, Classes)
    classes = list(range(len(data.output.labels)))

    def full(probabilities: Any) -> Any:
        if probabilities.ndim > 1:
            return probabilities
        return np.column_stack([1 - probabilities, probabilities])

    def brier(probabilities: Any) -> float:
        return float(metrics.brier_score_loss(actual, probabilities, labels=classes))

    given = full(tested.forecasts)
    chosen = given.argmax(axis=1)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(actual, given, labels=classes))
    assert found["brier_score"] == pytest.approx(brier(given))
    assert found["accuracy"] == metrics.accuracy_score(actual, chosen)
    assert found["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(actual, chosen)
    )
    assert found["confusion_matrix"] == metrics.confusion_matrix(actual, chosen).tolist()
    interval = stats.binomtest(int((chosen == actual).sum()), len(actual)).proportion_ci(
        method="wilson"
    )
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx(
        (interval.low, interval.high), abs=1e-12
    )

    x, unused = last_rows(data, data.train), last_rows(data, data.test)
    shares = DummyClassifier(strategy="prior").fit(x, trained).predict_proba(unused)
    np.testing.assert_allclose(full(tested.baselines["class_shares"]), shares)
    assert found["class_shares_log_loss"] == pytest.approx(metrics.log_loss(actual, shares))
    assert found["class_shares_brier_score"] == pytest.approx(brier(shares))
    majority = DummyClassifier(strategy="most_frequent").fit(x, trained)
    assert found["majority_accuracy"] == majority.score(unused, actual)
    linear = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, trained)
    probabilities = linear.predict_proba(unused)
    np.testing.assert_allclose(full(tested.baselines["linear"]), probabilities, atol=1e-5)
    assert found["linear_accuracy"] == linear.score(unused, actual)

    closes = pd.Series(data.prepared.close)
    reversal = -np.sign(closes.diff())[data.test + data.length - 1].to_numpy()
    opposite = np.where(reversal > 0, classes[-1], 0)
    assert found["contrarian_accuracy"] == metrics.accuracy_score(actual, opposite)
    rights = {"majority": majority.predict(unused) == actual, "contrarian": opposite == actual}
    best = max(rights, key=lambda name: rights[name].mean())
    better = int((~rights[best] & (chosen == actual)).sum())
    worse = int((rights[best] & (chosen != actual)).sum())
    p_value = stats.binomtest(better, better + worse).pvalue
    expected = {"other": best, "better": better, "worse": worse}
    assert found["mcnemar"] == expected | {"p_value": pytest.approx(p_value, rel=1e-9)}


def test_classes_that_are_no_directions_have_no_contrarian(kinds: dict[str, WindowedData]) -> None:
    data = kinds["two"]
    data = replace(data, labels=replace(data.labels, output=Classes((0, 1))))
    _, found = scored(data)
    assert "contrarian_accuracy" not in found
    assert found["mcnemar"]["other"] == "majority"


def test_overlapping_horizons_are_independent_bars_only_once(
    kinds: dict[str, WindowedData],
) -> None:
    near = kinds["three"]
    far = replace(near, labels=replace(near.labels, output=Classes((-1, 0, 1), horizon=7)))
    (_, one), (tested, other) = scored(near), scored(far)
    assert other["accuracy"] == one["accuracy"]
    assert other["accuracy_bars"] == -(-len(near.test) // 7) == tested.apart.sum()
    # At the ends of the interval, the share is 1.96 standard errors away.
    share, count = other["accuracy"], other["accuracy_bars"]
    for end in ("low", "high"):
        level = other[f"accuracy_{end}"]
        errors = abs(share - level) / np.sqrt(level * (1 - level) / count)
        assert errors == pytest.approx(stats.norm.ppf(0.975))
    assert other["mcnemar"]["better"] + other["mcnemar"]["worse"] <= other["accuracy_bars"]


def test_horizons_are_compared_in_time(kinds: dict[str, WindowedData]) -> None:
    """Windows may be far apart, as those of meta-labels are."""
    near = kinds["three"]
    rng = np.random.default_rng(4)
    for test in (np.sort(rng.choice(near.test, 40, replace=False)), near.test[::9]):
        output = Classes((-1, 0, 1), horizon=7)
        parts = replace(near.parts, test=test)
        far = replace(near, parts=parts, labels=replace(near.labels, output=output))
        expected, end = [], -math.inf
        for start in test:
            expected.append(start >= end)
            end = start + 7 if start >= end else end
        tested, _ = scored(far)
        assert list(tested.apart) == expected


@pytest.mark.parametrize("kind", ["two", "returns"])
def test_contrarian_knows_the_anchor(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    some = data.test[:-1]
    data = replace(data, parts=replace(data.parts, test=some, validation=some))
    labels = np.append(data.labels.values[1:], np.nan)  # those of the next anchor
    output = replace(data.output, lag=1)  # type: ignore[type-var]
    data = replace(data, labels=replace(data.labels, values=labels, actual=labels, output=output))
    _, found = scored(data)
    close = data.prepared.close
    anchors = data.test + data.length
    before, after = (np.sign(close[anchors + i] - close[anchors + i - 1]) for i in (0, 1))
    assert found["contrarian_accuracy"] == np.mean(before == -after)


@pytest.mark.parametrize("kind", ["two", "three"])
def test_class_weights_apply_to_the_loss_and_its_reference(
    kinds: dict[str, WindowedData], kind: str
) -> None:
    plain = kinds[kind]
    trained = plain.fitted(plain.train)
    weights = compute_sample_weight("balanced", trained)
    of_class = np.array([weights[trained == each][0] for each in np.unique(trained)])
    values = plain.labels.values
    by_row = np.where(np.isnan(values), np.nan, of_class[np.nan_to_num(values).astype(int)])
    data = replace(plain, labels=replace(plain.labels, weights=by_row))
    scoring, (tested, found), (_, unweighted) = scoring_of(data), scored(data), scored(plain)
    assert scoring.name == "weighted log loss"
    actual, classes = data.targets(data.test).astype(int), len(of_class)

    def loss(probabilities: Any) -> float:
        """Return the weighted sum over the number of windows, as Keras does."""
        each = metrics.log_loss(
            actual, probabilities, labels=range(classes), sample_weight=of_class[actual]
        )
        return float(each * of_class[actual].mean())

    uniform = np.full((len(actual), classes), 1 / classes)
    assert found["log_loss"] == pytest.approx(loss(tested.forecasts))
    assert found["class_shares_log_loss"] == pytest.approx(loss(uniform))
    assert found["ratio"] == pytest.approx(loss(tested.forecasts) / loss(uniform))
    assert found["log_loss"] == pytest.approx(
        scoring.error(data.targets(data.test), forecasts(data))
    )
    x = last_rows(data, data.train)
    linear = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000, class_weight="balanced")
    probabilities = linear.fit(x, trained).predict_proba(last_rows(data, data.test))
    assert found["linear_log_loss"] == pytest.approx(loss(probabilities), rel=1e-4)
    given = tested.forecasts
    if classes == 2:
        given = np.column_stack([1 - given, given])
    gain = np.log(given[np.arange(len(actual)), actual]) + np.log(classes)
    expected = t_statistic(of_class[actual] * gain)
    assert found["diebold_mariano"] == pytest.approx(expected, rel=1e-9)
    # A model that always forecasts the reference is equal to it.
    still = scoring.figures(scoring.tested(data, tested.baselines["class_shares"]))
    assert (still["ratio"], still["diebold_mariano"]) == (1.0, 0.0)
    for name in ("accuracy", "majority_accuracy", "brier_score", "class_shares_brier_score"):
        assert found[name] == unweighted[name]


@pytest.mark.parametrize("horizon", [1, 7])
@pytest.mark.parametrize("kind", ["two", "three"])
def test_figures_without_weights_contradict_a_verdict_if_they_are_significant(
    kinds: dict[str, WindowedData], kind: str, horizon: int
) -> None:
    near = kinds[kind]
    assert isinstance(near.output, Classes)
    output = Classes(near.output.labels, horizon=horizon)
    tested, _ = scored(replace(near, labels=replace(near.labels, output=output)))
    count, classes = tested.further["shares"].shape
    scoring = WeightedClasses(output.labels, (1.0,) * classes)
    actual, shares = tested.actual.astype(int), tested.further["shares"]
    happened, rng, seen = np.eye(classes)[actual], np.random.default_rng(8), set()
    # The last one is worse on the windows that McNemar's test counts, and better on most others.
    mixed = np.where(np.arange(count) % horizon, 9.0, -9.0)[:, None]
    for skill in (*np.linspace(-2.0, 2.0, 41), mixed):
        scores = rng.normal(0, 0.7, shares.shape) + np.log(shares) + skill * happened
        given = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        own, other = (np.sum((each - happened) ** 2, axis=1) / 2 for each in (given, shares))
        around = other - own - np.mean(other - own)
        lags = np.correlate(around, around, "full")[count - 1 :]
        lags = lags[:horizon] * np.append(1, np.full(horizon - 1, 2))
        variance = lags.sum() if lags.sum() > 0 else lags @ (1 - np.arange(horizon) / horizon)
        error = np.sqrt(variance) / count
        hit, base = (each.argmax(axis=1) == actual for each in (given, shares))
        only = [int(np.sum((x & ~y)[::horizon])) for x, y in ((hit, base), (base, hit))]
        p_value = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        half = 1 if kind == "two" else 2
        figures = {  # text: gain, whether it is significant
            f"Brier score {half * own.mean():.5f} (class shares {half * other.mean():.5f})": (
                np.mean(other - own),
                abs(np.mean(other - own)) >= 2 * error,
            ),
            f"accuracy {hit.mean():.1%} (majority class {base.mean():.1%})": (
                hit.mean() - base.mean(),
                p_value < 0.05 and (only[0] > only[1]) == (hit.mean() > base.mean()),
            ),
        }
        forecast = replace(tested, forecasts=given if classes > 2 else given[:, 1])
        for word, loss, sign in (("worse", 0.9, -1), ("better", 1.1, 1)):
            against = {"class_shares_log_loss": 1.0, "diebold_mariano": -5.0 * sign}
            found = [text for text, (gain, sure) in figures.items() if sure and gain * sign > 0]
            sentence = f"Without class weights, the model is significantly {word}: "
            expected = f"{sentence}{', '.join(found)}." if found else ""
            assert scoring.caveat(forecast, loss, against) == expected
            # Nothing contradicts a difference that can be due to chance.
            assert scoring.caveat(forecast, loss, against | {"diebold_mariano": 1.9 * sign}) == ""
        seen |= {(t[:5], gain > 0, bool(sure)) for t, (gain, sure) in figures.items()}
        # Without weights, all figures are those of the verdict.
        assert scoring_of(near).caveat(forecast, loss, against) == ""
    # Both figures, in both directions, significant or not. One of these can need more windows.
    assert len(seen) >= (8 if horizon == 1 else 7)


def test_figures_that_look_equal_contradict_nothing() -> None:
    """Of 200,000 windows, 40 are right with the class shares only: significant, but 0.02%."""
    count = 200_000
    actual = (np.arange(count) % 5 < 2).astype(np.float64)  # the majority class is 0
    shares = np.tile([0.5001, 0.4999], (count, 1))
    forecasts = shares[:, 1].copy()
    forecasts[np.flatnonzero(actual == 0)[:40]] = 0.5001
    times = pl.Series(np.arange(count) * 3_600_000).cast(pl.Datetime("ms", "UTC"))
    begins = np.arange(count)
    tested = module.Tested(
        times,
        1,
        begins,
        begins + 1,
        actual,
        forecasts,
        {"class_shares": shares[:, 1]},
        {"shares": shares},
    )
    scoring = WeightedClasses((-1, 1), (1.0, 1.0))
    figures = {"class_shares_log_loss": 1.0, "diebold_mariano": 5.0}
    assert scoring.caveat(tested, 0.9, figures) == ""


def test_each_fold_has_its_own_weights(kinds: dict[str, WindowedData]) -> None:
    data = kinds["two"]
    parts = []
    for weight in (1.0, 3.0):
        weights = np.full(len(data.labels.values), weight)
        some = replace(data, labels=replace(data.labels, weights=weights))
        parts.append(scoring_of(some).tested(some, forecasts(some)))
    scoring = scoring_of(some)
    found = scoring.figures(module.Tested.together(parts))
    assert found["log_loss"] == pytest.approx(2.0 * scored(data)[1]["log_loss"])


def test_an_impossible_event_has_a_finite_loss(kinds: dict[str, WindowedData]) -> None:
    data = kinds["two"]
    scoring = scoring_of(data)
    actual = np.array([1.0, 0.0])
    np.testing.assert_allclose(scoring.losses(actual, np.array([0.0, 1.0])), -math.log(1e-7))
    assert (scoring.losses(actual, np.array([1.0, 0.0])) == 0.0).all()


def test_volatility_is_compared_with_har(kinds: dict[str, WindowedData]) -> None:
    data = kinds["volatility"]
    tested, found = scored(data)
    assert isinstance(data.output, LogSigma)
    actual = data.targets(data.test)
    assert scoring_of(data).reference(tested) == "har"
    losses = (data.base(data.test) - actual) ** 2 - (tested.forecasts - actual) ** 2
    assert found["diebold_mariano"] == pytest.approx(t_statistic(losses), rel=1e-9)
    assert found["r2"] == pytest.approx(metrics.r2_score(actual, tested.forecasts))
    assert found["mse"] == pytest.approx(found["rmse"] ** 2)
    assert found["har_mse_ratio"] == pytest.approx(found["har_ratio"] ** 2)
    sigma = np.exp(tested.forecasts) * np.sqrt(1.2)
    assert found["qlike"] == pytest.approx(qlike(actual, np.log(sigma)).mean())
    har = baselines(data)["HAR"]
    assert found["har_qlike"] == pytest.approx(qlike(actual, har.scaled).mean())
    assert found["qlike_ratio"] == found["qlike"] / found["har_qlike"]
    closes = np.log(data.prepared.close)
    rows = data.test + data.length - 1
    returns = closes[rows + 1] - closes[rows]
    inside = (returns >= -1.3 * sigma) & (returns <= 1.4 * sigma)
    known = ~np.isnan(tested.further["rolling"]).any(axis=1)
    assert found["coverage"] == inside[known].mean()
    assert found["band"] == pytest.approx(0.8)


def test_a_model_that_is_har_but_for_rounding_is_har(kinds: dict[str, WindowedData]) -> None:
    data = kinds["volatility"]
    factor = baselines(data)["HAR"].variance_factor
    assert isinstance(data.output, LogSigma)
    output = replace(data.output, variance_factor=factor * (1 + 1e-7))
    data = replace(data, labels=replace(data.labels, output=output))
    scoring = scoring_of(data)
    rounded = data.base(data.test).astype(np.float32).astype(np.float64)
    found = scoring.figures(scoring.tested(data, rounded))
    assert found["rmse"] == found["har_rmse"]
    assert found["diebold_mariano"] == found["qlike_diebold_mariano"] == 0.0


def test_what_is_not_finite_is_left_out(kinds: dict[str, WindowedData]) -> None:
    data = kinds["volatility"]
    scoring = scoring_of(data)
    found = scoring.figures(scoring.tested(data, np.full(len(data.test), -1e4)))
    json.dumps(found, allow_nan=False)
    assert "qlike" not in found
    assert {"har_qlike", "rmse", "ratio"} <= found.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_folds_together_are_one_test_part(kinds: dict[str, WindowedData], kind: str) -> None:
    data = kinds[kind]
    scoring = scoring_of(data)
    whole = scoring.tested(data, forecasts(data))
    half = len(data.test) // 2
    parts = [
        scoring.tested(replace(data, parts=replace(data.parts, test=part)), whole.forecasts[at])
        for part, at in (
            (data.test[:half], slice(None, half)),
            (data.test[half:], slice(half, None)),
        )
    ]
    assert scoring.figures(module.Tested.together(parts)) == scoring.figures(whole)
