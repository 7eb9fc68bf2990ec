"""report.html: one self-contained page for each training run.

This module collects the values; template.html turns them into HTML and escapes each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atb_fast.bundles import onnx_export
from atb_fast.config import TIMEFRAMES
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.reports.charts import ZOOM, target_times
from atb_fast.reports.style import LIGHT
from atb_fast.serving.verification import SKEW, prediction_limit
from atb_fast.storage import write_atomic

#: The publisher of the index requires this attribution.
_ATTRIBUTION = "Fear & Greed index: Source: alternative.me"
#: Color and headline of each verdict.
_HEADLINES = {
    "better than no change": ("good", "The model beats persistence."),
    "worse than no change": ("bad", "The model is worse than persistence."),
    "as good as no change": ("note", "The model is exactly as good as persistence."),
}
_UNDECIDED = ("note", "The model is statistically indistinguishable from persistence.")
#: Color and sign of each state. A step that ran says nothing about the model, so it has neither.
_STATES = {
    "passed": ("good", "✓"),
    "failed": ("bad", "✗"),
    "skipped": ("note", "–"),
    "written": ("", ""),
    "measured": ("", ""),
}


class Pair(NamedTuple):
    """A row of a table with two columns."""

    name: str
    value: Any


class Bar(NamedTuple):
    """A row of a bar chart. `share` is its length relative to the longest bar, 0..1."""

    name: str
    text: str
    share: float


class Banner(NamedTuple):
    """A statement at the top of the page. `tone` is `good`, `bad` or `note`."""

    tone: str
    title: str
    text: str


class Check(NamedTuple):
    """The outcome of a check or of an optional step. `state` is one of `_STATES`."""

    name: str
    state: str
    text: str

    @property
    def tone(self) -> str:
        """CSS class that colors the state."""
        return _STATES[self.state][0]

    @property
    def sign(self) -> str:
        """Character that marks the state without color."""
        return _STATES[self.state][1]


def write_report(
    path: Path,
    record: RunRecord,
    document: Mapping[str, Any],
    *,
    stages: Mapping[str, float],
    total: float,
) -> None:
    """Write the report of a run.

    Args:
        path: The file.
        record: The run, with its charts drawn.
        document: The complete metadata.json, which most figures come from.
        stages: Seconds of each stage so far.
        total: Seconds of the whole run so far.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    from jinja2 import Environment, StrictUndefined

    template = files("atb_fast.reports").joinpath("template.html").read_text(encoding="utf-8")
    # Everything but the charts, which are Markup, is escaped. An unknown name is an error.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(_values(record, document, stages, total))
    write_atomic(path, page.encode())


def _values(
    record: RunRecord, document: Mapping[str, Any], stages: Mapping[str, float], total: float
) -> dict[str, Any]:
    """Return the values that template.html shows."""
    results, data = document["evaluation_results"], record.data
    return {
        **{name: document[name] for name in ("symbol", "timeframe", "model_type")},
        "recipe": record.config.recipe,
        "fitted_on_all": record.config.definition.fit_scalers_on == "all",
        "purged": "purge" in record.config.definition.traits,
        "smallest_is_zero": data.prepared.join == {"method": "resampled"},
        "version": document["version_id"],
        "created": document["created_at"],
        "created_text": f"{datetime.fromisoformat(document['created_at']):%Y-%m-%d %H:%M} UTC",
        "atb_fast": document["versions"].get("atb-fast", ""),
        "palette": LIGHT,
        "charts": record.charts,
        "zoom": min(ZOOM, len(data.test)),
        "horizon": data.horizon,
        "validated_on_test": _validated_on_test(record),
        "shrinkage": f"{record.fitted.shrinkage:.0%}",
        "shrunk": record.fitted.shrinkage != 1.0,
        "shrunk_to_nothing": bool(record.unshrunk) and record.fitted.shrinkage == 0.0,
        "unshrunk": _unshrunk(record),
        "synthetic": document["dataset"]["synthetic"],
        "banners": list(_banners(record, document)),
        "test_rmse": _number(results["test_rmse"]),
        "persistence_rmse": _number(results["persistence_rmse"]),
        "mape": f"{results['mape']:.2f}%",
        "persistence_mape": f"{results['persistence_mape']:.2f}%",
        "ratio": _ratio(results),
        "tone": _headline(record)[0],
        "direction": _direction(results, record.data),
        "data": list(_data(record, document)),
        "columns": [Pair("columns", ", ".join(data.prepared.matrix.names))],
        "fit": list(_fit(record, document)),
        "stages": _stages(stages, total),
        "total": f"{total:.1f}",
        "robustness_measured": bool(document["robustness_results"]),
        "robustness": _robustness(document),
        "has_sentiment": document["has_sentiment"],
        "checks": list(_checks(record, document)),
        "steps": list(_steps(record, document)),
        "metadata": _metadata(document),
    }


def _number(value: float) -> str:
    """Format a price with cents if it is large, and with five significant digits if it is small."""
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.5g}"


def _validated_on_test(record: RunRecord) -> bool:
    return np.array_equal(record.data.validation, record.data.test)


def _headline(record: RunRecord) -> tuple[str, str]:
    return _HEADLINES.get(record.evaluation.verdict, _UNDECIDED)


def _banners(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Banner]:
    found = record.evaluation
    tone, title = _headline(record)
    text = (
        f"Test RMSE {_number(found.test_rmse)}, persistence RMSE {_number(found.persistence_rmse)}."
    )
    if found.test_rmse == found.persistence_rmse:
        if record.fitted.shrinkage == 0.0:
            text += (
                " The shrinkage factor estimated on the validation windows is 0, so the model "
                "always predicts no change."
            )
    else:
        errors = abs(found.diebold_mariano)
        text += f" The squared errors differ by {errors:.1f} standard errors"
        chance = ", which can be due to chance" * (title == _UNDECIDED[1])
        text += f" (Diebold-Mariano test){chance}."
    yield Banner(tone, title, text)
    promotion = document.get("promotion")
    if promotion and document["diagnostics"]["onnx"]:
        reason = promotion["reason"].removesuffix(".")
        reason = f"{reason[:1].upper()}{reason[1:]} (promotion policy: {promotion['policy']})."
        if promotion["promoted"]:
            yield Banner("bad" if tone == "bad" else "note", "This version went live.", reason)
        else:
            yield Banner("note", "This version did not go live.", reason)
    if document["dataset"]["synthetic"]:
        yield Banner(
            "note",
            "Synthetic sample market.",
            "Prices are simulated. No figure on this page says anything about a real market.",
        )
    if not document["diagnostics"]["onnx"]:
        yield Banner(
            "note",
            "Not published.",
            "The bundle has no verified model.onnx, so engines do not load it.",
        )


def _ratio(results: Mapping[str, float]) -> str:
    error, unchanged = results["test_rmse"], results["persistence_rmse"]
    if not unchanged:  # the price never moves
        return "undefined"
    ratio = error / unchanged
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:,.1f}"


def _direction(results: Mapping[str, float], data: WindowedData) -> dict[str, Any]:
    """Return the directional accuracy, its interval, and a comparison with a constant forecast."""
    if not results["directional_bars"]:
        moved = np.any(data.targets(data.test) != data.persistence(data.test))
        why = "the model predicts no move" if moved else "the price never moves"
        return {"share": "undefined", "text": why, "interval": None}
    low, high, up = (
        100 * results[f"directional_{name}"]
        for name in ("accuracy_low", "accuracy_high", "up_share")
    )
    # Prices drift, so always predicting the same direction beats a coin toss.
    always, base = ("up", up) if up >= 50 else ("down", 100 - up)
    than = "better than" if low > base else "worse than" if high < base else "no better than"
    comparison = f"{than} always predicting {always} ({base:.1f}%)"
    return {
        "share": f"{100 * results['directional_accuracy']:.1f}%",
        "text": f"95% interval {low:.1f}% to {high:.1f}%, {results['directional_bars']:,} bars; "
        + comparison,
        "comparison": comparison,
        "interval": {"low": low, "width": high - low, "base": base},
    }


def _unshrunk(record: RunRecord) -> dict[str, Any] | None:
    """Return the figures of the network before shrinkage; None if the model is not shrunk."""
    results = record.unshrunk
    if results is None:
        return None
    gain = results["diebold_mariano"]
    than = "better than" if gain > 0 else "worse than" if gain < 0 else "from"
    return {
        "test_rmse": _number(results["test_rmse"]),
        "ratio": _ratio(results),
        "statistic": f"{abs(gain):.1f} standard errors {than} persistence",
        "direction": _direction(results, record.data),
    }


def _data(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Pair]:
    dataset, data, config = document["dataset"], record.data, record.config
    sources = {"binance": "Binance", "sample": "synthetic sample market", "files": config.candles}
    yield Pair("candles", f"{dataset['candles']:,} ({config.timeframe})")
    yield Pair("source", sources[config.source or ""])
    yield Pair("rows with all features", f"{dataset['rows']:,}")
    yield Pair("gaps", f"{dataset['gaps']:,} (steps longer than one bar)")
    yield Pair("windows", f"{data.length} bars × {len(data.prepared.matrix.names)} columns")
    whole_days = config.bar_ms % TIMEFRAMES["1d"] == 0
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, starts in parts.items():
        if name == "validation" and _validated_on_test(record):
            yield Pair(name, "the test windows")
            continue
        times = target_times(data, starts[[0, -1]])
        text = " to ".join(np.datetime_as_string(times, unit="D" if whole_days else "m"))
        yield Pair(name, f"{len(starts):,} windows, {text.replace('T', ' ')} UTC")
    if not document["has_sentiment"]:
        yield Pair("sentiment", "not used")
    elif dataset["synthetic"]:
        yield Pair("sentiment", "synthetic index")
    elif config.sentiment:
        yield Pair("sentiment", f"{config.sentiment} ({_ATTRIBUTION})")
    else:
        yield Pair("sentiment", _ATTRIBUTION)
    for name, path in (config.extra or {}).items():
        lag = (config.extra_lag or {}).get(name)
        yield Pair(f"extra {name}", f"{path}, lag {lag}" if lag else path)


def _fit(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Pair]:
    fitted, params = record.fitted, document["training_params"]
    results = document["evaluation_results"]
    epochs = f"{params['epochs']} of at most {params['max_epochs']}; best: {params['best_epoch']}"
    yield Pair("epochs", epochs)
    if params["shrinkage"] != 1:
        factor = f"{params['shrinkage']:.0%}, estimated on the validation windows"
        yield Pair("shrinkage factor", factor)
    yield Pair("patience", f"{params['patience']} epochs")
    yield Pair("batch size", f"{params['batch_size']} windows")
    yield Pair("seed", params["seed"])
    yield Pair("engine", f"{params['engine']}, {record.policy.reason}")
    seconds = f"{fitted.seconds_per_epoch:.2f} s (first: {fitted.epoch_seconds[0]:.2f} s)"
    yield Pair("time per epoch", seconds)
    for name, what in (
        ("train_rmse", "RMSE, training windows"),
        ("test_rmse", "RMSE, test windows"),
        ("test_rmse_from_candles", "RMSE, test windows, from raw candles"),
    ):
        if name in results:
            yield Pair(what, f"{_number(results[name])} quote currency")


def _bars(rows: Mapping[str, float], texts: Iterator[str]) -> list[Bar]:
    most = max(rows.values()) or 1.0
    return [
        Bar(name, text, max(value, 0.0) / most)
        for (name, value), text in zip(rows.items(), texts, strict=True)
    ]


def _stages(stages: Mapping[str, float], total: float) -> list[Bar]:
    rows = {**stages, "imports, checks, this page": total - sum(stages.values())}
    return _bars(rows, (f"{seconds:.2f}" for seconds in rows.values()))


def _robustness(document: Mapping[str, Any]) -> list[Bar]:
    results = document["robustness_results"]
    if not results or not document["has_sentiment"]:
        return []
    rows = {
        "as trained": results["test_rmse"],
        "neutral sentiment": results["test_rmse_neutral_sentiment"],
        "scaled sentiment set to 0": results["test_rmse_without_sentiment"],
        "persistence": document["evaluation_results"]["persistence_rmse"],
    }
    return _bars(rows, map(_number, rows.values()))


def _checks(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Check]:
    config = record.config
    verified = document.get("verification", {})

    def compared(name: str, difference: float | None, limit: float) -> Check:
        if difference is None:
            return Check(name, "skipped" if config.skip_onnx else "failed", "")
        state, sign = ("passed", "≤") if difference <= limit else ("failed", ">")
        text = f"{difference:.1e} {sign} {limit:.0e}" if difference else "no difference"
        return Check(name, state, text)

    from_candles = config.onnx_input == "ohlcv"
    tolerance = onnx_export.CANDLES_TOLERANCE if from_candles else onnx_export.TOLERANCE
    for size in onnx_export.GATE_BATCHES:
        difference = document["onnx_difference"].get(str(size))
        yield compared(f"ONNX matches Keras, batch of {size}", difference, tolerance)
    skew = verified.get("feature_skew")
    yield compared("serving features match training features", skew, SKEW)
    difference, limit = verified.get("prediction_difference"), prediction_limit(config.onnx_input)
    yield compared("served predictions match Keras", difference, limit)


def _steps(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Check]:
    """Return what became of the optional steps."""
    config, failures = record.config, dict(document["diagnostic_failures"])
    for name, done, wanted in (
        ("robustness", "measured", not config.skip_robustness),
        ("plots", "written", True),
    ):
        state = done if document["diagnostics"][name] else "failed" if wanted else "skipped"
        yield Check(name, state, failures.pop(name, ""))
    for name, text in failures.items():
        yield Check(name, "failed", text)


def _metadata(document: Mapping[str, Any]) -> dict[str, list[Pair]]:
    parts = {
        "Options": document["config"],
        "Versions": document["versions"],
        "Data, SHA-256": document["dataset"]["sha256"],
        "Sentiment": document["sentiment_assessment"],
    }
    return {
        title: [Pair(name, "–" if value is None else value) for name, value in part.items()]
        for title, part in parts.items()
        if part
    }
