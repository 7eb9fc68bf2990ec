"""The figures at the top of a page, by what the model predicts: the verdict and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from atb_fast.evaluation.periods import FEW, Groups, by_group, losses_by_name, regimes
from atb_fast.evaluation.ranks import comparable, rank_correlation
from atb_fast.evaluation.record import RunRecord
from atb_fast.evaluation.scoring import (
    NAMES,
    ClassProbabilities,
    LogVolatility,
    Scoring,
    Tested,
    WeightedClasses,
)
from atb_fast.evaluation.significance import LEVEL, diebold_mariano, equal, p_value
from atb_fast.reports.rows import (
    N_OF_CLASSES,
    N_OF_DIRECTIONS,
    Banner,
    Comparison,
    Interval,
    Pair,
    Row,
    Tile,
    accuracy_text,
    fewer_text,
    number,
    over,
    percent,
    ratio_text,
)

_Results = Mapping[str, Any]
#: A column of a table: its name, the name of its figure, and its format.
Column = tuple[str, str, Callable[[Any], str]]

#: Rows of a comparison, by the prefix of their figures, in order.
_FORECASTS = {
    "": "model",
    "class_shares": "class shares",
    "persistence": "persistence",
    "majority": "majority class",
    "contrarian": "contrarian",
    "ewma": "EWMA",
    "har": "HAR",
    "linear": "linear model",
}
_CONTRARIAN = "Contrarian: the opposite of the last return."
_LINEAR = "Linear model: {}, fitted to the last bar of each training window."
#: The simple forecasts of classes in sentences.
_SIMPLE = {"majority": "the majority class", "contrarian": "contrarian"}


@dataclass(frozen=True)
class Scored:
    """The forecasts of a model and their figures.

    Attributes:
        scoring: How they are scored.
        tested: The forecasts.
        results: Their figures, as `Scoring.figures` names them.
        part: What they are figures of, as the first word of a title: `Test` or `Pooled`.
    """

    scoring: Scoring
    tested: Tested
    results: _Results
    part: str = "Test"

    @classmethod
    def of(cls, record: RunRecord) -> Self:
        """Return the forecasts of a run for its test windows."""
        found = record.evaluation
        key = found.scoring.key
        results = found.to_dict() | {key: found.results[f"test_{key}"]}
        return cls(found.scoring, found.tested, results)

    @property
    def kind(self) -> str:
        """What is predicted; see `Scoring.kind`."""
        return self.scoring.kind

    @property
    def error(self) -> float:
        """The error of the model."""
        return float(self.results[self.scoring.key])

    @property
    def reference_error(self) -> float:
        """The error of the forecast that the model has to beat."""
        return float(self.results[f"{self.scoring.reference(self.tested)}_{self.scoring.key}"])

    @property
    def reference(self) -> str:
        """The name of the forecast that the model has to beat, without an article."""
        return NAMES[self.scoring.reference(self.tested)]

    @property
    def verdict(self) -> str:
        """How the model compares with its reference; see `Scoring.verdict`."""
        return self.scoring.verdict(self.tested, self.error, self.results)

    @property
    def word(self) -> str:
        """The first word of the verdict."""
        return self.verdict.partition(" ")[0]

    @cached_property
    def caveat(self) -> str:
        """Which figures contradict the verdict; see `Scoring.caveat`."""
        return self.scoring.caveat(self.tested, self.error, self.results)

    @property
    def count_notes(self) -> list[str]:
        """What `n` counts in accuracies; empty if that is every window, or there are none."""
        if self.kind == "classes":
            independent: int = self.results["accuracy_bars"]
            return [N_OF_CLASSES] if independent < len(self.tested.times) else []
        overlap = self.kind != "volatility" and self.tested.horizon > 1
        return [N_OF_DIRECTIONS] if overlap else []

    @property
    def tone(self) -> str:
        """The color of the verdict: `good` if nothing contradicts it, `bad` or `note`."""
        better = "note" if self.caveat else "good"
        return {"better": better, "worse": "bad"}.get(self.word, "note")

    def text(self, error: float) -> str:
        """Format an error: a return in percent, without the unit of other errors."""
        return _return_text(error) if self.kind == "returns" else number(error)


def verdict_banner(scored: Scored, *, shrunk_to_nothing: str = "") -> Banner:
    """Return how the model compares with its reference, in words and in figures.

    Args:
        scored: The forecasts.
        shrunk_to_nothing: What follows if the model is equal to the reference.
    """
    scoring, name, word = scored.scoring, scored.reference, scored.word
    text = (
        f"{scored.part} {scoring.name} {scored.text(scored.error)}, {name.removeprefix('the ')} "
        f"{scoring.name} {scored.text(scored.reference_error)}."
    )
    if word == "equal":
        text += shrunk_to_nothing
    else:
        losses = f"{scoring.name}es" if scored.kind == "classes" else "squared errors"
        errors = abs(scored.results["diebold_mariano"])
        text += f" The {losses} differ by {errors:.1f} standard errors"
        chance = "" if word in ("better", "worse") else ", which can be due to chance"
        text += f" (Diebold-Mariano test){chance}."
    text += f" {scored.caveat}" if scored.caveat else ""
    return Banner(scored.tone, f"The model is {scored.verdict}.", text)


def _return_text(value: float) -> str:
    return f"{number(100 * value, 4)}%"


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def summary(scored: Scored) -> dict[str, Any]:
    """Return the values that the templates show for each kind: `tiles`, `table` and others."""
    tested = scored.tested
    return {
        **_SUMMARIES[scored.kind](scored),
        "tests": _tests(scored),
        "lags": min(tested.horizon, len(tested.times)) - 1,
        "ranks": _ranks(scored),
        "equal": losses_by_name(scored.scoring, tested)[scored.scoring.name].equal,
    }


def _tests(scored: Scored) -> list[Pair]:
    """Return the Diebold-Mariano test of the model against each simple forecast."""
    scoring, tested = scored.scoring, scored.tested
    own, rows = scoring.losses_of(tested, tested.forecasts), {}
    for prefix, name in _FORECASTS.items():
        if prefix in tested.baselines:
            losses = scoring.losses_of(tested, tested.baselines[prefix])
            statistic = diebold_mariano(own, losses, tested.horizon)
            rows[name] = "equal losses" if equal(own, losses) else _statistic(statistic)
    if "qlike_diebold_mariano" in scored.results:
        rows[f"{scored.reference}, QLIKE"] = _statistic(scored.results["qlike_diebold_mariano"])
    return [Pair(name, text) for name, text in rows.items()]


def _statistic(statistic: float) -> str:
    if statistic == 0.0:
        return "undefined: the loss differences have no variance"
    errors = f"{abs(statistic):.1f} standard errors {'better' if statistic > 0 else 'worse'}"
    chance = p_value(statistic)
    return f"{errors}, {f'p = {chance:.2g}' if chance >= 1e-4 else 'p < 0.0001'}"


def _ranks(scored: Scored) -> list[Pair]:
    """Return how predicted and actual values agree: rank correlation and standard deviations."""
    scoring, tested = scored.scoring, scored.tested
    pair = comparable(scoring, tested, tested.forecasts)
    known = ~np.isnan(pair[0] + pair[1])
    count = int(known.sum())
    if count < FEW:
        return [Pair("rank correlation", f"too few windows ({count}, needs {FEW})")]
    found = rank_correlation(*pair, tested.horizon)
    if found is None:
        same = "the model predicts" if np.ptp(pair[0][known]) == 0.0 else "the actual value is"
        rows = [Pair("rank correlation", f"undefined: {same} the same for all windows")]
    else:
        ends = " to ".join(_three(end) for end in (found.low, found.high))
        rows = [Pair("rank correlation", f"{_three(found.value)}, 95% interval {ends}")]
        if scored.kind == "volatility":
            other = tested.baselines[scoring.reference(tested)]
            beside = rank_correlation(*comparable(scoring, tested, other), tested.horizon)
            if beside:
                rows.append(Pair(f"rank correlation of {scored.reference}", _three(beside.value)))
    deviations = [float(np.std(each[known])) for each in pair]
    if scored.kind != "classes" and deviations[1] > 0.0:
        share = ratio_text(deviations[0] / deviations[1])
        what = "realized volatility" if scored.kind == "volatility" else "the actual returns"
        rows.append(Pair("standard deviation", f"{share} times that of {what}"))
    return rows


def regime_table(record: RunRecord) -> Comparison | None:
    """Return the table of the test windows by level of volatility before them; None if unknown."""
    scored, found = Scored.of(record), regimes(record.data)
    if found is None:
        return None
    groups = by_group(scored.scoring, scored.tested, found.level, 3)
    low, high = (f"{100 * limit:.2g}%" for limit in found.limits)
    names = f"low, up to {low}", f"medium, up to {high}", f"high, above {high}"
    shares = "accuracy" if scored.kind == "classes" else "directional accuracy"
    of_errors = [f"{name} {over(scored.reference)}" for name in groups.ratios]
    accurate = scored.kind != "volatility"
    rows = [
        Row(name, [f"{groups.windows[i]:,}", *_cells(groups, i, accurate)])
        for i, name in enumerate(names)
    ]
    columns = ["windows", *of_errors, *([f"{shares} (95%)"] if accurate else [])]
    notes = [
        f"Volatility is the root mean square of the log returns over the {found.bars:,} bars "
        "before the forecast. The limits are the terciles of the training windows, so the test "
        "windows are not spread evenly.",
    ]
    notes += scored.count_notes
    few = [
        f"{name.partition(',')[0]} has {groups.windows[i]}"
        for i, name in enumerate(names)
        if groups.windows[i] < FEW
    ]
    if few:
        notes.append(f"Groups of fewer than {FEW} windows are not reliable: {', '.join(few)}.")
    return Comparison("By volatility before the forecast", columns, rows, notes)


def _cells(groups: Groups, i: int, accurate: bool) -> Iterator[str]:
    """Yield the ratios and, if `accurate`, the accuracy of a group; a missing one is a dash."""
    for values in groups.ratios.values():
        yield ratio_text(float(values[i])) if np.isfinite(values[i]) else "–"
    if accurate and groups.bars[i]:
        yield accuracy_text(groups.share[i], groups.low[i], groups.high[i], groups.bars[i])
    elif accurate:
        yield "–"


def unshrunk_tiles(record: RunRecord) -> list[Tile]:
    """Return the figures of the network before shrinkage; none if the model is not shrunk."""
    results = record.unshrunk
    if results is None:
        return []
    scored = Scored.of(record)
    beside = _beside(results["diebold_mariano"], scored.reference)
    tiles = [
        Tile("Unshrunk test RMSE", scored.text(results["test_rmse"]), _unit(scored)),
        _ratio(scored, results, beside, "Unshrunk "),
    ]
    if scored.kind != "volatility":
        tiles.append(_direction("Unshrunk directional accuracy", results, scored.tested))
    return tiles


def _ratio(scored: Scored, results: _Results, note: str, prefix: str = "") -> Tile:
    """Return `ratio`, which is not always the ratio to the forecast that the model has to beat."""
    scoring, other = scored.scoring, scored.scoring.unchanged
    title = f"{prefix}{scoring.name} ratio to {NAMES[other].removeprefix('the ')}"
    tone = scored.tone if not prefix and other == scoring.reference(scored.tested) else ""
    return Tile(f"{title[:1].upper()}{title[1:]}", ratio_text(results.get("ratio")), note, tone)


def _unit(scored: Scored) -> str:
    return "of the return" if scored.kind == "returns" else scored.scoring.unit


def _compared(
    scored: Scored, results: _Results, columns: list[Column], notes: list[str]
) -> Comparison:
    """Return the table of the forecasts that have a figure; a missing figure is a dash."""
    scoring, rows = scored.scoring, []
    part = "Test windows" if scored.part == "Test" else "All folds"
    caption = f"{part}, next to simple forecasts"
    if scored.kind in ("prices", "volatility"):
        caption += f" ({scoring.name} in {scoring.unit})"
    for prefix, name in _FORECASTS.items():
        keys = [f"{prefix}_{end}" if prefix else end for _, end, _ in columns]
        if any(key in results for key in keys):
            formats = (write for _, _, write in columns)
            texts = [
                write(results[key]) if key in results else "–"
                for key, write in zip(keys, formats, strict=True)
            ]
            rows.append(Row(name, texts))
    return Comparison(caption, [name for name, _, _ in columns], rows, notes)


def _levels(scored: Scored) -> dict[str, Any]:
    """Return the values of a model that predicts a price or a return."""
    results, priced = scored.results, scored.kind == "prices"
    figures = dict(results)
    if "ratio" in results:
        figures["persistence_ratio"] = 1.0
    if "contrarian_accuracy" in results:
        figures["contrarian_directional_accuracy"] = results["contrarian_accuracy"]
    columns: list[Column] = [
        ("RMSE", "rmse", scored.text),
        (over("persistence"), "ratio", ratio_text),
        ("directional accuracy", "directional_accuracy", percent),
    ]
    name = scored.reference
    note = "the forecast of the last close" if priced else "the forecast of a return of 0"
    tiles = [
        Tile(f"{scored.part} RMSE", scored.text(results["rmse"]), _unit(scored)),
        Tile(f"RMSE of {name}", scored.text(results["persistence_rmse"]), note),
        _ratio(scored, results, "below 1 is better"),
    ]
    if priced:
        beside = f"persistence {results['persistence_mape']:.2f}%"
        tiles.append(Tile("MAPE", f"{results['mape']:.2f}%", beside))
    tiles.append(_direction("Directional accuracy", results, scored.tested))
    apart = "" if scored.tested.horizon == 1 else ", and whose horizons do not overlap"
    notes = [
        _LINEAR.format("least squares"),
        _CONTRARIAN,
        f"Directional accuracies count bars on which both forecast and market move{apart}: "
        f"{results['directional_bars']:,} bars for the model.",
    ]
    return {"tiles": tiles, "table": _compared(scored, figures, columns, notes)}


def _direction(title: str, results: _Results, tested: Tested) -> Tile:
    """Return the directional accuracy, its interval, and a comparison with a constant forecast."""
    if not results["directional_bars"]:
        moved = np.any(tested.actual != tested.baselines["persistence"])
        why = "the model predicts no move" if moved else "the price never moves"
        return Tile(title, "undefined", why, wide=True)
    up = results["directional_up_share"]
    # Prices drift, so always predicting the same direction beats a coin toss.
    same, base = ("up", up) if up >= 0.5 else ("down", 1 - up)
    name, bars = f"always predicting {same}", results["directional_bars"]
    return _accuracy(title, results, "directional_", name, base, windows=bars)


def _accuracy(
    title: str,
    results: _Results,
    prefix: str,
    name: str,
    base: float,
    *,
    windows: int,
    than: str | None = None,
) -> Tile:
    """Return an accuracy, its interval, and a comparison with that of a simple forecast.

    Args:
        title: Name of the tile.
        results: The figures.
        prefix: That of the names of the accuracy.
        name: Name of the simple forecast.
        base: Its accuracy, 0..1.
        windows: Number of windows that the accuracy is measured on.
        than: `better than`, `worse than` or `no better than`; by default, whether `base` is inside
            the interval decides.
    """
    share, low, high = (100 * results[f"{prefix}accuracy{end}"] for end in ("", "_low", "_high"))
    base *= 100
    if than is None:
        than = "better than" if low > base else "worse than" if high < base else "no better than"
    comparison = f"{than} {name} ({base:.1f}%)"
    fewer = fewer_text(results["directional_bars" if prefix else "accuracy_bars"], windows)
    return Tile(
        title,
        f"{share:.1f}%",
        f"of {windows:,} bars; 95% interval {low:.1f}% to {high:.1f}%{fewer}; {comparison}",
        wide=True,
        interval=Interval(low, high - low, base, comparison),
    )


def _beside(statistic: float, name: str) -> str:
    """Return the distance of a network from a reference, in standard errors."""
    than = "better than" if statistic > 0 else "worse than" if statistic < 0 else "from"
    return f"{abs(statistic):.1f} standard errors {than} {name}"


def _classes(scored: Scored) -> dict[str, Any]:
    """Return the values of a model that predicts the probabilities of classes."""
    results, scoring, horizon = scored.results, scored.scoring, scored.tested.horizon
    count = len(scored.tested.times)
    assert isinstance(scoring, ClassProbabilities)
    figures = dict(results)
    if "ratio" in results:
        figures["class_shares_ratio"] = 1.0
    columns: list[Column] = [
        ("log loss", "log_loss", number),
        (over(scored.reference), "ratio", ratio_text),
        ("Brier", "brier_score", number),
        ("accuracy", "accuracy", percent),
        ("balanced", "balanced_accuracy", percent),
    ]
    notes = [
        "Class shares: the probability of each class is its share of the training windows. "
        "Majority class: the one with the largest share.",
        _LINEAR.format("logistic regression"),
        f"Accuracies are shares of {count:,} bars.",
    ]
    if isinstance(scoring, WeightedClasses):
        notes.append(
            "Log losses, ratios and the constant forecast that they refer to are weighted by class "
            "as in training; Brier scores and accuracies are not."
        )
    if "contrarian_accuracy" in results:
        notes[1:1] = [_CONTRARIAN]
    # The table quotes this test, so the tile must not judge by the interval of the accuracy.
    test = results["mcnemar"]
    best, than = test["other"], "no better than"
    base = results[f"{best}_accuracy"]
    if test["p_value"] < LEVEL:
        than = "better than" if test["better"] > test["worse"] else "worse than"
    weighted = "weighted by class; " if isinstance(scoring, WeightedClasses) else ""
    named = scoring.names
    counts = zip(named, results["confusion_matrix"], strict=True)
    tiles = [
        Tile(
            f"{scored.part} log loss", number(results["log_loss"]), f"{weighted}smaller is better"
        ),
        Tile(
            "Log loss of the class shares",
            number(results["class_shares_log_loss"]),
            "the forecast to beat",
        ),
        _ratio(scored, results, "below 1 is better"),
        Tile(
            "Brier score",
            number(results["brier_score"]),
            f"class shares {number(results['class_shares_brier_score'])}",
        ),
        _accuracy("Accuracy", results, "", _SIMPLE[best], base, windows=count, than=than),
    ]
    return {
        "tiles": tiles,
        "names": named,
        "weighted": bool(weighted),
        "later": "one bar" if horizon == 1 else f"at most {horizon:,} bars",
        "missing": " or ".join(name for name, row in counts if not any(row)),
        "mcnemar": _mcnemar(results, horizon),
        "table": _compared(scored, figures, columns, notes),
    }


def _mcnemar(results: _Results, horizon: int) -> str:
    """Return what the test of McNemar says, in one sentence."""
    test, name = results["mcnemar"], _SIMPLE[results["mcnemar"]["other"]]
    chance = "can be due to chance" if test["p_value"] >= LEVEL else "is significant"
    bars = "Bars"
    if horizon > 1:
        bars = f"Of the {results['accuracy_bars']:,} bars whose horizons do not overlap, those"
    return (
        f"{bars} that only the model gets right: {test['better']:,}, only {name}: "
        f"{test['worse']:,}. "
        f"The difference {chance} (McNemar test, p = {test['p_value']:.2g})."
    )


def _volatility(scored: Scored) -> dict[str, Any]:
    """Return the values of a model that predicts volatility."""
    results, scoring, name = scored.results, scored.scoring, scored.reference
    assert isinstance(scoring, LogVolatility)
    figures = dict(results)
    if "ratio" in results:
        figures["persistence_ratio"] = 1.0
    columns: list[Column] = [
        ("RMSE", "rmse", number),
        (over("persistence"), "ratio", ratio_text),
        ("R²", "r2", _three),
        ("QLIKE", "qlike", _three),
    ]
    notes = [
        "/ persistence: RMSE divided by that of persistence. QLIKE: a loss of variances that does "
        "not favor forecasts that are too low; smaller is better.",
        "Persistence: the volatility of the last bars. EWMA: that of RiskMetrics. HAR: least "
        "squares on means of past volatility over short and long periods.",
        _LINEAR.format("least squares"),
    ]
    other = scoring.reference(scored.tested)
    tiles = [
        Tile(f"{scored.part} RMSE", number(results["rmse"]), scoring.unit),
        Tile(f"RMSE of {name}", number(results[f"{other}_rmse"]), "the forecast to beat"),
        _ratio(scored, results, "below 1 is better"),
        *(
            Tile(title, _three(results[key]), f"{name} {_three(results[f'{other}_{key}'])}")
            for title, key in (("R²", "r2"), ("QLIKE", "qlike"))
            if key in results and f"{other}_{key}" in results
        ),
    ]
    if "coverage" in results:
        wide = f"expected {percent(results['band'])}"
        if "rolling_coverage" in results:
            wide += f"; quantiles of the past 30 days {percent(results['rolling_coverage'])}"
        tiles.append(Tile("Returns inside the band", percent(results["coverage"]), wide))
    return {
        "tiles": tiles,
        "banded": bool(scoring.levels),
        "table": _compared(scored, figures, columns, notes),
    }


_SUMMARIES: dict[str, Callable[[Scored], dict[str, Any]]] = {
    "prices": _levels,
    "returns": _levels,
    "classes": _classes,
    "volatility": _volatility,
}
