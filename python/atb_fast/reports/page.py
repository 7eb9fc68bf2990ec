"""report.html: one self-contained page for each training run.

This module and `summary` collect the values; the templates turn them into HTML and escape each of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.bundles import onnx_export
from atb_fast.config import TIMEFRAMES
from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.before import Before, section
from atb_fast.reports.charts.drawing import ZOOM, target_times
from atb_fast.reports.rendering import SYNTHETIC, render
from atb_fast.reports.rows import Banner, Bar, Check, Pair, part_text
from atb_fast.reports.summary import (
    Scored,
    regime_table,
    summary,
    unshrunk_tiles,
    verdict_banner,
)
from atb_fast.serving.skew import SKEW, prediction_limit
from atb_fast.storage import write_atomic

#: The publisher of the index requires this attribution.
_ATTRIBUTION = "Fear & Greed index: Source: alternative.me"


def write_report(
    path: Path,
    record: RunRecord,
    document: Mapping[str, Any],
    before: Before | None = None,
    *,
    stages: Mapping[str, float],
    total: float,
) -> None:
    """Write the report of a run.

    Args:
        path: The file.
        record: The run, with its charts drawn.
        document: The complete metadata.json, which most figures come from.
        before: The previous run, to compare with; None if there is none.
        stages: Seconds of each stage so far.
        total: Seconds of the whole run so far.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    values = _values(record, document, stages, total)
    page = render("page.html", {**values, "before": section(before, Scored.of(record).text)})
    write_atomic(path, page.encode(errors="replace"))  # paths may not be UTF-8


def _values(
    record: RunRecord, document: Mapping[str, Any], stages: Mapping[str, float], total: float
) -> dict[str, Any]:
    """Return the values that the templates show."""
    data, scored = record.data, Scored.of(record)
    scoring, fitted = scored.scoring, record.fitted
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
        "charts": record.charts,
        "zoom": min(ZOOM, len(data.test)),
        "horizon": data.horizon,
        "kind": scoring.kind,
        "error": scoring.name,
        "unit": scoring.unit,
        "reference": scored.reference,
        "exact": fitted.engine == "exact",
        "weighted": data.labels.weights is not None,
        "validated_on_test": _validated_on_test(record),
        "shrinkage": f"{fitted.shrinkage:.0%}",
        "shrunk": fitted.shrinkage != 1.0,
        "unshrunk": unshrunk_tiles(record),
        "shrunk_to_nothing": bool(record.unshrunk) and fitted.shrinkage == 0.0,
        "synthetic": document["dataset"]["synthetic"],
        "banners": list(_banners(record, document)),
        **summary(scored),
        "regimes": regime_table(record),
        "data": list(_data(record, document)),
        "columns": [Pair("columns", ", ".join(data.prepared.matrix.names))],
        "fit": list(_fit(record, document)),
        "stages": _stages(stages, total),
        "total": f"{total:.1f}",
        "robustness": _robustness(record, document),
        "has_sentiment": document["has_sentiment"],
        "checks": list(_checks(record, document)),
        "steps": list(_steps(record, document)),
        "metadata": _metadata(document),
    }


def _validated_on_test(record: RunRecord) -> bool:
    return np.array_equal(record.data.validation, record.data.test)


def _banners(record: RunRecord, document: Mapping[str, Any]) -> Iterator[Banner]:
    scored, why = Scored.of(record), ""
    if record.fitted.shrinkage == 0.0:
        why = (
            " The shrinkage factor estimated on the validation windows is 0, so the model always "
            f"predicts the same as {scored.reference}."
        )
    verdict = verdict_banner(scored, shrunk_to_nothing=why)
    yield verdict
    promotion = document.get("promotion")
    if promotion and document["diagnostics"]["onnx"]:
        reason = promotion["reason"].removesuffix(".")
        reason = f"{reason[:1].upper()}{reason[1:]} (promotion policy: {promotion['policy']})."
        if promotion["promoted"]:
            yield Banner(
                "bad" if verdict.tone == "bad" else "note", "This version went live.", reason
            )
        else:
            yield Banner("note", "This version did not go live.", reason)
    if document["dataset"]["synthetic"]:
        yield SYNTHETIC
    if not document["diagnostics"]["onnx"]:
        yield Banner(
            "note",
            "Not published.",
            "The bundle has no verified model.onnx, so engines do not load it.",
        )


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
    results, scoring = document["evaluation_results"], record.evaluation.scoring
    exact = fitted.engine == "exact"
    for name in ("target", "network"):
        # A recipe that is a class has no document.
        if text := part_text(document["recipe_document"].get(name)):
            yield Pair(name, text)
    if not exact:
        most, best = params["max_epochs"], params["best_epoch"]
        yield Pair("epochs", f"{params['epochs']} of at most {most}; best: {best}")
    if params["shrinkage"] != 1:
        factor = f"{params['shrinkage']:.0%}, estimated on the validation windows"
        yield Pair("shrinkage factor", factor)
    if not exact:
        yield Pair("patience", f"{params['patience']} epochs")
        yield Pair("batch size", f"{params['batch_size']} windows")
    yield Pair("seed", params["seed"])
    yield Pair("engine", f"{params['engine']}, {record.policy.reason}")
    if exact:
        yield Pair("time to solve", f"{fitted.seconds_per_epoch:.2f} s")
    else:
        seconds = f"{fitted.seconds_per_epoch:.2f} s (first: {fitted.epoch_seconds[0]:.2f} s)"
        yield Pair("time per epoch", seconds)
    for name, what in (
        (f"train_{scoring.key}", f"{scoring.name}, training windows"),
        (f"test_{scoring.key}", f"{scoring.name}, test windows"),
        ("test_rmse_from_candles", "RMSE, test windows, from raw candles"),
    ):
        if name in results:
            unit = "" if scoring.kind == "returns" else f" {scoring.unit}"
            yield Pair(what, f"{Scored.of(record).text(results[name])}{unit}".strip())


def _bars(rows: Mapping[str, float], texts: Iterator[str]) -> list[Bar]:
    most = max(rows.values()) or 1.0
    return [
        Bar(name, text, max(value, 0.0) / most)
        for (name, value), text in zip(rows.items(), texts, strict=True)
    ]


def _stages(stages: Mapping[str, float], total: float) -> list[Bar]:
    rows = {**stages, "imports, checks, this page": total - sum(stages.values())}
    return _bars(rows, (f"{seconds:.2f}" for seconds in rows.values()))


def _robustness(record: RunRecord, document: Mapping[str, Any]) -> list[Bar]:
    results = document["robustness_results"]
    if not results or not document["has_sentiment"]:
        return []
    scored = Scored.of(record)
    error = f"test_{scored.scoring.key}"
    rows = {
        "as trained": results[error],
        "neutral sentiment": results[f"{error}_neutral_sentiment"],
        "scaled sentiment set to 0": results[f"{error}_without_sentiment"],
        scored.reference.removeprefix("the "): scored.reference_error,
    }
    return _bars(rows, (scored.text(value) for value in rows.values()))


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
    done, failures = document["diagnostics"], dict(document["diagnostic_failures"])
    skipped = record.config.skip_robustness
    state = "measured" if done["robustness"] else "skipped" if skipped else "failed"
    if state == "measured" and not document["has_sentiment"]:
        yield Check("robustness", "skipped", "no sentiment")
    else:
        yield Check("robustness", state, failures.pop("robustness", ""))
    yield Check("plots", "written" if done["plots"] else "failed", failures.pop("plots", ""))
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
        title: [Pair(name, value) for name, value in part.items() if value is not None]
        for title, part in parts.items()
        if part
    }
