"""The figures at the top of the page, by what the model predicts: the verdict and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from atb_fast.evaluation.record import RunRecord
from atb_fast.features.outputs import Classes, LogSigma
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts.classes import names_of
from atb_fast.reports.rows import Banner, Comparison, Row, Tile, number, percent, ratio_text

_Results = Mapping[str, Any]
#: A column of a comparison: its name, the end of the names of its figures, and their format.
_Column = tuple[str, str, Callable[[Any], str]]

#: Rows of a comparison, by the prefix of their figures, in order.
_FORECASTS = {
    "": "model",
    "class_shares": "class shares",
    "persistence": "no change",
    "majority": "majority class",
    "contrarian": "contrarian",
    "ewma": "EWMA",
    "har": "HAR",
    "linear": "linear model",
}
_CONTRARIAN = "Contrarian: the opposite of the last return."
_LINEAR = "Linear model: {}, fitted to the last bar of each training window."


def reference_name(record: RunRecord) -> str:
    """Return the name of the forecast that the model has to beat, without an article."""
    scoring = record.evaluation.scoring
    return "persistence" if scoring.kind == "prices" else record.evaluation.reference


def tone_of(record: RunRecord) -> str:
    """Return the color of the verdict: `good`, `bad` or `note`."""
    word = record.evaluation.verdict.partition(" ")[0]
    return {"better": "good", "worse": "bad"}.get(word, "note")


def verdict_banner(record: RunRecord) -> Banner:
    """Return how the model compares with its reference, in words and in figures."""
    found, scoring, name = record.evaluation, record.evaluation.scoring, reference_name(record)
    word = found.verdict.partition(" ")[0]
    title = {
        "better": f"The model beats {name}.",
        "worse": f"The model is worse than {name}.",
        "as": f"The model is exactly as good as {name}.",
    }.get(word, f"The model is statistically indistinguishable from {name}.")
    own, other = found.error, found.reference_error
    text = (
        f"Test {scoring.name} {error_text(record, own)}, {name.removeprefix('the ')} "
        f"{scoring.name} {error_text(record, other)}."
    )
    if word == "as":
        if record.fitted.shrinkage == 0.0:
            unchanged = name in ("persistence", "no change")
            always = "no change" if unchanged else f"the same as {name}"
            text += (
                " The shrinkage factor estimated on the validation windows is 0, so the model "
                f"always predicts {always}."
            )
    else:
        losses = "log losses" if scoring.kind == "classes" else "squared errors"
        errors = abs(found.diebold_mariano)
        text += f" The {losses} differ by {errors:.1f} standard errors"
        chance = "" if word in ("better", "worse") else ", which can be due to chance"
        text += f" (Diebold-Mariano test){chance}."
    return Banner(tone_of(record), title, text)


def error_text(record: RunRecord, error: float) -> str:
    """Format an error of a model: a return in percent, without the unit of other errors."""
    return _return_text(error) if record.evaluation.scoring.kind == "returns" else number(error)


def _return_text(value: float) -> str:
    return f"{100 * value:.4g}%"


def summary(record: RunRecord) -> dict[str, Any]:
    """Return the values that the template of the kind of model shows at the top."""
    kinds = {"classes": _classes, "volatility": _volatility}
    return kinds.get(record.evaluation.scoring.kind, _prices)(record)


def _compared(
    record: RunRecord, results: _Results, columns: Sequence[_Column], notes: list[str]
) -> Comparison:
    """Return the table of the forecasts that have a figure; a missing figure is a dash."""
    scoring, rows = record.evaluation.scoring, []
    caption = "Test windows, next to simple forecasts"
    if scoring.kind in ("prices", "volatility"):
        caption += f" ({scoring.name} in {scoring.unit})"
    own = {"persistence": "persistence"} if scoring.kind == "prices" else {}
    for prefix, name in (_FORECASTS | own).items():
        keys = [f"{prefix}_{end}" if prefix else end for _, end, _ in columns]
        if any(key in results for key in keys):
            formats = (write for _, _, write in columns)
            texts = [
                write(results[key]) if key in results else "–"
                for key, write in zip(keys, formats, strict=True)
            ]
            rows.append(Row(name, texts))
    return Comparison(caption, [name for name, _, _ in columns], rows, notes)


def _prices(record: RunRecord) -> dict[str, Any]:
    """Return the values of a model that predicts a price or a return."""
    results, scoring = record.evaluation.to_dict(), record.evaluation.scoring
    write: Callable[[float], str] = number if scoring.kind == "prices" else _return_text
    figures = results | {"rmse": results["test_rmse"]}
    if "ratio" in results:
        figures["persistence_ratio"] = 1.0
    if "contrarian_accuracy" in results:
        figures["contrarian_directional_accuracy"] = results["contrarian_accuracy"]
    columns = [
        ("RMSE", "rmse", write),
        ("ratio", "ratio", ratio_text),
        ("right direction", "directional_accuracy", percent),
    ]
    if not results["directional_bars"]:
        figures.pop("directional_accuracy", None)
    of_baselines = record.evaluation.tested.baselines
    if np.array_equal(of_baselines["linear"], of_baselines["persistence"]):
        figures.pop("linear_directional_accuracy", None)  # it predicts no move
    found = {
        "test_rmse": write(results["test_rmse"]),
        "persistence_rmse": write(results["persistence_rmse"]),
        "ratio": ratio_text(results.get("ratio")),
        "direction": _direction(results, record.data),
        "unshrunk": _unshrunk_prices(record, write),
        "shrunk_to_nothing": bool(record.unshrunk) and record.fitted.shrinkage == 0.0,
        "table": _compared(
            record, figures, columns, [_LINEAR.format("least squares"), _CONTRARIAN]
        ),
    }
    if scoring.kind == "prices":
        for name in ("mape", "persistence_mape"):
            found[name] = f"{results[name]:.2f}%"
    return found


def _direction(results: _Results, data: WindowedData) -> dict[str, Any]:
    """Return the directional accuracy, its interval, and a comparison with a constant forecast."""
    if not results["directional_bars"]:
        moved = np.any(data.targets(data.test) != data.persistence(data.test))
        why = "the model predicts no move" if moved else "the price never moves"
        return {"share": "undefined", "text": why, "interval": None}
    up = results["directional_up_share"]
    # Prices drift, so always predicting the same direction beats a coin toss.
    always, base = ("up", up) if up >= 0.5 else ("down", 1 - up)
    return _accuracy(results, "directional_", f"always predicting {always}", base)


def _accuracy(results: _Results, prefix: str, name: str, base: float) -> dict[str, Any]:
    """Return an accuracy, its interval, and a comparison with that of a simple forecast.

    Args:
        results: The figures.
        prefix: That of the names of the accuracy.
        name: Name of the simple forecast.
        base: Its accuracy, 0..1.
    """
    share, low, high = (100 * results[f"{prefix}accuracy{end}"] for end in ("", "_low", "_high"))
    base *= 100
    than = "better than" if low > base else "worse than" if high < base else "no better than"
    comparison = f"{than} {name} ({base:.1f}%)"
    bars = results["directional_bars" if prefix else "accuracy_bars"]
    return {
        "share": f"{share:.1f}%",
        "text": f"95% interval {low:.1f}% to {high:.1f}%, {bars:,} bars; {comparison}",
        "comparison": comparison,
        "interval": {"low": low, "width": high - low, "base": base},
    }


def _beside(statistic: float, name: str) -> str:
    """Return the distance of a network from a reference, in standard errors."""
    than = "better than" if statistic > 0 else "worse than" if statistic < 0 else "from"
    return f"{abs(statistic):.1f} standard errors {than} {name}"


def _unshrunk_prices(record: RunRecord, write: Callable[[float], str]) -> dict[str, Any] | None:
    """Return the figures of the network before shrinkage; None if the model is not shrunk."""
    results = record.unshrunk
    if results is None:
        return None
    return {
        "test_rmse": write(results["test_rmse"]),
        "ratio": ratio_text(results.get("ratio")),
        "statistic": _beside(results["diebold_mariano"], reference_name(record)),
        "direction": _direction(results, record.data),
    }


def _classes(record: RunRecord) -> dict[str, Any]:
    """Return the values of a model that predicts the probabilities of classes."""
    results, output = record.evaluation.to_dict(), record.data.output
    assert isinstance(output, Classes)
    figures = results | {"log_loss": results["test_log_loss"]}
    if "ratio" in results:
        figures["class_shares_ratio"] = 1.0
    columns = [
        ("log loss", "log_loss", number),
        ("ratio", "ratio", ratio_text),
        ("Brier", "brier_score", number),
        ("accuracy", "accuracy", percent),
        ("balanced", "balanced_accuracy", percent),
    ]
    notes = [
        "Class shares: the probability of each class is its share of the training windows. "
        "Majority class: the one with the largest share.",
        _LINEAR.format("logistic regression"),
    ]
    if record.data.labels.weights is not None:
        notes.append(
            "Log losses, ratios and the constant forecast that they refer to are weighted by class "
            "as in training; Brier scores and accuracies are not."
        )
    if "contrarian_accuracy" in results:
        notes[1:1] = [_CONTRARIAN]
    names = {"majority": "the majority class", "contrarian": "contrarian"}
    best = max(
        (name for name in names if f"{name}_accuracy" in results),
        key=lambda name: results[f"{name}_accuracy"],
    )
    named = names_of(output)
    counts = zip(named, results["confusion_matrix"], strict=True)
    later = "one bar" if output.horizon == 1 else f"at most {output.horizon:,} bars"
    return {
        "names": named,
        "later": later,
        "missing": " or ".join(name for name, row in counts if not any(row)),
        "log_loss": number(results["test_log_loss"]),
        "shares_log_loss": number(results["class_shares_log_loss"]),
        "ratio": ratio_text(results.get("ratio")),
        "brier": number(results["brier_score"]),
        "shares_brier": number(results["class_shares_brier_score"]),
        "balanced": percent(results["balanced_accuracy"]) if "balanced_accuracy" in results else "",
        "accuracy_tile": _accuracy(results, "", names[best], results[f"{best}_accuracy"]),
        "mcnemar": _mcnemar(results, names, output.horizon),
        "table": _compared(record, figures, columns, notes),
    }


def _mcnemar(results: _Results, names: Mapping[str, str], horizon: int) -> str:
    """Return what the test of McNemar says, in one sentence."""
    test, name = results["mcnemar"], names[results["mcnemar"]["other"]]
    chance = "can be due to chance" if test["p_value"] >= 0.05 else "is significant"
    bars = "Bars"
    if horizon > 1:
        bars = f"Of the {results['accuracy_bars']:,} bars whose horizons do not overlap, those"
    return (
        f"{bars} that only the model gets right: {test['better']:,}, only {name}: "
        f"{test['worse']:,}. "
        f"The difference {chance} (McNemar test, p = {test['p_value']:.2g})."
    )


def _volatility(record: RunRecord) -> dict[str, Any]:
    """Return the values of a model that predicts volatility."""
    results, output = record.evaluation.to_dict(), record.data.output
    assert isinstance(output, LogSigma)
    figures = results | {"rmse": results["test_rmse"]}
    if "ratio" in results:
        figures |= {"persistence_ratio": 1.0, "persistence_mse_ratio": 1.0}
    columns = [
        ("RMSE", "rmse", number),
        ("ratio", "ratio", ratio_text),
        ("MSE ratio", "mse_ratio", ratio_text),
        ("R²", "r2", _three),
        ("QLIKE", "qlike", _three),
    ]
    notes = [
        "Ratios: divided by the error of no change. QLIKE: a loss of variances that does not favor "
        "forecasts that are too low; smaller is better.",
        "No change: the volatility of the last bars. EWMA: that of RiskMetrics. HAR: least squares "
        "on means of past volatility over short and long periods.",
        _LINEAR.format("least squares"),
    ]
    name = reference_name(record)
    if "qlike_diebold_mariano" in results:
        beside = _beside(results["qlike_diebold_mariano"], name)
        notes.insert(1, f"The QLIKE of the model is {beside} (Diebold-Mariano test).")
    other = "har" if name == "HAR" else "persistence"
    found: dict[str, Any] = {
        "reference": name,
        "banded": bool(output.quantiles),
        "tiles": [
            Tile("Test RMSE", number(results["test_rmse"]), "log sigma"),
            Tile(f"RMSE of {name}", number(results[f"{other}_rmse"]), "the forecast to beat"),
            Tile("RMSE ratio", ratio_text(results.get("ratio")), "to no change; below 1 is better"),
            *(
                Tile(title, _three(results[key]), f"{name} {_three(results[f'{other}_{key}'])}")
                for title, key in (("R²", "r2"), ("QLIKE", "qlike"))
                if key in results and f"{other}_{key}" in results
            ),
        ],
        "unshrunk": None,
        "table": _compared(record, figures, columns, notes),
    }
    if "coverage" in results:
        wide = f"expected {percent(results['band'])}"
        if "rolling_coverage" in results:
            wide += f"; quantiles of the past 30 days {percent(results['rolling_coverage'])}"
        found["tiles"].append(Tile("Returns inside the band", percent(results["coverage"]), wide))
    if record.unshrunk is not None:
        own = record.unshrunk
        found["unshrunk"] = [
            Tile("Unshrunk test RMSE", number(own["test_rmse"]), "log sigma"),
            Tile(
                "Unshrunk RMSE ratio",
                ratio_text(own.get("ratio")),
                _beside(own["diebold_mariano"], name),
            ),
        ]
    return found


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
