"""The page of a training run: one file, no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from atb_fast.bundles import onnx_export
from atb_fast.config import TIMEFRAMES
from atb_fast.evaluation.record import RunRecord
from atb_fast.reports.charts import CHARTS, ZOOM, target_times
from atb_fast.serving.verification import SKEW, prediction_limit
from atb_fast.storage import write_atomic

#: As its licence asks for.
_ATTRIBUTION = "Fear & Greed index: Source: alternative.me"
#: Of a verdict that chance does not explain.
_TONES = {"better than no change": "good", "worse than no change": "bad"}


def write_report(
    path: Path,
    record: RunRecord,
    document: Mapping[str, Any],
    *,
    stages: Mapping[str, float],
    total: float,
) -> None:
    """Write the page of a run.

    Args:
        path: The file.
        record: The run, with its charts drawn.
        document: metadata.json, complete: figures are taken from it.
        stages: Seconds of each stage so far.
        total: Seconds of the whole run so far.
    """
    results = document["evaluation_results"]
    created = datetime.fromisoformat(document["created_at"])
    texts = {
        **{name: document[name] for name in ("symbol", "timeframe", "model_type")},
        "recipe": record.config.recipe,
        "version": document["version_id"],
        "created": document["created_at"],
        "created_text": f"{created:%Y-%m-%d %H:%M} UTC",
        "test_rmse": _number(results["test_rmse"]),
        "persistence_rmse": _number(results["persistence_rmse"]),
        "mape": f"{results['mape']:.2f}",
        "persistence_mape": f"{results['persistence_mape']:.2f}",
        "validation_note": "Validation windows are the test windows." * _tests_choose(record),
        "shrinkage_note": "Before predicted returns were shrunk."
        * (record.fitted.shrinkage != 1.0),
        "ahead": "one bar" if record.data.horizon == 1 else f"{record.data.horizon} bars",
        "independence": "Intervals take the windows for independent."
        if record.data.horizon == 1
        else f"Intervals allow for {record.data.horizon} bars that neighbours share.",
        "zoom": min(ZOOM, len(record.data.test)),
        "atb_fast": document["versions"].get("atb-fast", ""),
    }
    html = {
        "banners": "\n".join(_banners(record, document)),
        "caveats": "\n".join(f'<p class="muted">{text}</p>' for text in _caveats(record)),
        **_ratio(record),
        **_direction(record),
        "facts": _pairs("Data", _facts(record, document)),
        "stages": _stages(stages, total),
        "fit": _pairs("Fit", _fit(record, document)),
        "robustness": _robustness(document),
        "checks": _checks(record, document),
        "metadata": _metadata(document),
    }
    no_chart = '<p class="muted">Not drawn, see the checks.</p>'
    html |= {f"chart_{name}": record.charts.get(name, no_chart) for name in CHARTS}
    html |= {name: escape(str(text)) for name, text in texts.items()}
    template = files("atb_fast.reports").joinpath("template.html").read_text(encoding="utf-8")
    write_atomic(path, Template(template).substitute(html).encode())


def _number(value: float) -> str:
    """Return a price: cents where they matter, five digits of a small one."""
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.5g}"


def _tests_choose(record: RunRecord) -> bool:
    return np.array_equal(record.data.validation, record.data.test)


def _banners(record: RunRecord, document: Mapping[str, Any]) -> Iterator[str]:
    """Give what must be read before any figure."""

    def banner(tone: str, title: str, text: str) -> str:
        title, text = escape(title), escape(text)
        return f'<p class="banner {tone}"><strong>{title}</strong> <span>{text}</span></p>'

    found = record.evaluation
    figures = (
        f"Test RMSE {_number(found.test_rmse)}, persistence {_number(found.persistence_rmse)}."
    )
    tone = _TONES.get(found.verdict, "note")
    if found.test_rmse == found.persistence_rmse:
        if record.fitted.shrinkage == 0.0:
            figures += " It was no better on the validation windows, and was shrunk to it."
    elif tone == "note":
        errors = abs(found.diebold_mariano)
        figures += f" The difference is {errors:.1f} standard errors, which chance explains."
    yield banner(tone, f"The model is {found.verdict}.", figures)
    if document["dataset"]["synthetic"]:
        yield banner(
            "note",
            "Synthetic sample market.",
            "The prices are made up: no figure here says anything about a real market.",
        )
    if not document["diagnostics"]["onnx"]:
        yield banner(
            "note",
            "Not published.",
            "There is no checked model.onnx; engines do not see the model.",
        )


def _caveats(record: RunRecord) -> Iterator[str]:
    if _tests_choose(record):
        yield "The test windows also chose the epoch, so their error is a little flattering."
    if record.config.recipe == "legacy":
        yield "The scalers have seen the test rows, too: the recipe is that of the old trainer."


def _ratio(record: RunRecord) -> dict[str, str]:
    error, unchanged = record.evaluation.test_rmse, record.evaluation.persistence_rmse
    if not unchanged:  # prices that stand still
        return {"ratio": "undefined", "tone": ""}
    ratio = error / unchanged
    tone = _TONES.get(record.evaluation.verdict, "")
    return {"ratio": f"{ratio:.3f}" if ratio < 10 else f"{ratio:,.1f}", "tone": tone}


def _direction(record: RunRecord) -> dict[str, str]:
    found, data = record.evaluation, record.data
    if not found.directional_bars:
        moved = np.any(data.targets(data.test) != data.persistence(data.test))
        why = "the model foresees no move" if moved else "no price moved"
        return {"direction": "undefined", "direction_interval": why, "direction_range": ""}
    low, high, up = (
        100 * share
        for share in (
            found.directional_accuracy_low,
            found.directional_accuracy_high,
            found.directional_up_share,
        )
    )
    # Prices drift, so a coin is easily beaten by always saying the same.
    always, base = ("up", up) if up >= 50 else ("down", 100 - up)
    than = "better than" if low > base else "worse than" if high < base else "no better than"
    text = f"{than} always saying {always}, {base:.1f}&nbsp;%"
    return {
        "direction": f"{100 * found.directional_accuracy:.1f}&nbsp;%",
        "direction_interval": f"95&nbsp;% interval {low:.1f} to {high:.1f}&nbsp;%, "
        f"{found.directional_bars:,} bars: {text}",
        "direction_range": f'<div class="range" role="img" aria-label="{text}">'
        f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{base:.1f}%"></b></div>',
    }


def _facts(record: RunRecord, document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    dataset, data, config = document["dataset"], record.data, record.config
    sources = {"binance": "Binance", "sample": "synthetic sample market", "files": config.candles}
    yield "candles", f"{dataset['candles']:,} of {config.timeframe}"
    yield "source", sources[config.source or ""]
    yield "rows with every feature", f"{dataset['rows']:,}"
    yield "gaps", f"{dataset['gaps']:,} (steps longer than a bar)"
    yield "windows", f"{data.length} bars × {len(data.prepared.matrix.names)} columns"
    whole_days = config.bar_ms % TIMEFRAMES["1d"] == 0
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, starts in parts.items():
        if name == "validation" and _tests_choose(record):
            yield name, "the test windows"
            continue
        times = target_times(data, starts[[0, -1]])
        text = " to ".join(np.datetime_as_string(times, unit="D" if whole_days else "m"))
        yield name, f"{len(starts):,} windows, {text.replace('T', ' ')} UTC"
    if not document["has_sentiment"]:
        yield "sentiment", "not used"
    else:
        made_up, file = dataset["synthetic"], config.sentiment
        source = f"{file}, as the " * bool(file) + _ATTRIBUTION
        yield "sentiment", "synthetic index" if made_up else source
    yield "columns", ", ".join(data.prepared.matrix.names)


def _fit(record: RunRecord, document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    fitted, params = record.fitted, document["training_params"]
    results = document["evaluation_results"]
    yield (
        "epochs",
        f"{params['epochs']} of at most {params['max_epochs']}, kept: {params['best_epoch']}",
    )
    if params["shrinkage"] != 1:
        yield "kept of predicted returns", f"{params['shrinkage']:.0%}, as validation bears out"
    yield "patience", f"{params['patience']} epochs"
    yield "batch, seed", f"{params['batch_size']} windows, {params['seed']}"
    yield "engine", f"{params['engine']}, {record.policy.reason}"
    first = f"{fitted.seconds_per_epoch:.2f} s, the first {fitted.epoch_seconds[0]:.2f} s"
    yield "an epoch", first
    yield "RMSE, training windows", f"{_number(results['train_rmse'])} quote currency"
    yield "RMSE, test windows", f"{_number(results['test_rmse'])} quote currency"
    if "test_rmse_from_candles" in results:
        yield "... from raw candles", f"{_number(results['test_rmse_from_candles'])} quote currency"


def _stages(stages: Mapping[str, float], total: float) -> str:
    rows = dict(stages)
    rows["imports, checks, this page"] = total - sum(rows.values())
    bars = [(name, seconds, f"{seconds:.2f}") for name, seconds in rows.items()]
    return _bars("Seconds by stage, until this page was written", "seconds", bars) + (
        f'<p class="muted">{total:.1f} s in all</p>'
    )


def _robustness(document: Mapping[str, Any]) -> str:
    results = document["robustness_results"]
    title = "Robustness: test RMSE without sentiment"
    if not results:
        return f'<h3>{title}</h3><p class="muted">Not measured, see the checks.</p>'
    if not document["has_sentiment"]:
        return f'<h3>{title}</h3><p class="muted">The model has no sentiment.</p>'
    rows = {
        "as trained": results["test_rmse"],
        "sentiment neutral": results["test_rmse_neutral_sentiment"],
        "scaled sentiment 0": results["test_rmse_without_sentiment"],
        "persistence": document["evaluation_results"]["persistence_rmse"],
    }
    bars = [(name, value, _number(value)) for name, value in rows.items()]
    return _bars(title, "quote currency", bars) + (
        '<p class="muted">Neutral is an index of 50 that never changes. Scaled 0 is '
        + (
            "its mean."
            if document["recipe"] == "causal"
            else "its largest fall, as measured before."
        )
        + "</p>"
    )


def _checks(record: RunRecord, document: Mapping[str, Any]) -> str:
    config, failures = record.config, dict(document["diagnostic_failures"])
    steps = document["diagnostics"]
    verified = document.get("verification", {})
    rows: list[tuple[str, str, str]] = []

    def compared(what: str, value: float | None, limit: float) -> None:
        if value is None:
            rows.append((what, "skipped" if config.skip_onnx else "failed", ""))
        else:
            state = "passed" if value <= limit else "failed"
            rows.append((what, state, f"{value:.1e} ≤ {limit:.0e}" if value else "no difference"))

    from_candles = config.onnx_input == "ohlcv"
    tolerance = onnx_export.CANDLES_TOLERANCE if from_candles else onnx_export.TOLERANCE
    for size in onnx_export.GATE_BATCHES:
        difference = document["onnx_difference"].get(str(size))
        compared(f"model.onnx is as Keras, batch of {size}", difference, tolerance)
    compared("features as scored are those trained on", verified.get("feature_skew"), SKEW)
    difference, limit = verified.get("prediction_difference"), prediction_limit(config.onnx_input)
    compared("predictions as scored are Keras'", difference, limit)
    for name, wanted in (("robustness", not config.skip_robustness), ("plots", True)):
        state = "passed" if steps[name] else "failed" if wanted else "skipped"
        rows.append((f"{name} ran", state, failures.pop(name, "")))
    rows += [(name, "failed", text) for name, text in failures.items()]
    tones = {"passed": ("good", "✓"), "failed": ("bad", "✗"), "skipped": ("note", "–")}
    body = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td class="state {tones[state][0]}">'
        f'{tones[state][1]}&nbsp;{state}</td><td class="long">{escape(text)}</td></tr>'
        for what, state, text in rows
    )
    caption = (
        "Checks: largest differences, relative to the largest price; features are about 0 to 1"
    )
    return f"<table><caption>{caption}</caption><tbody>{body}</tbody></table>"


def _metadata(document: Mapping[str, Any]) -> str:
    parts = {
        "Options": document["config"],
        "Versions": document["versions"],
        "Data, sha256": document["dataset"]["sha256"],
        "Sentiment": document["sentiment_assessment"],
    }
    return "".join(
        f"<div>{_pairs(title, part.items())}</div>" for title, part in parts.items() if part
    )


def _pairs(caption: str, rows: Iterable[tuple[str, Any]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="long">{escape("–" if value is None else str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tbody>{body}</tbody></table>"


def _bars(caption: str, unit: str, rows: list[tuple[str, float, str]]) -> str:
    most = max(value for _, value, _ in rows) or 1.0
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(text)}</td>'
        f'<td class="bar" aria-hidden="true"><i style="width:{100 * value / most:.1f}%"></i></td>'
        "</tr>"
        for name, value, text in rows
    )
    head = f'<tr><th></th><th class="number" scope="col">{escape(unit)}</th><td></td></tr>'
    return (
        f"<table><caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{body}</tbody>"
        "</table>"
    )
