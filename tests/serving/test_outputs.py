"""Bundles that predict classes, returns and volatility, scored beside a plain reading of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import plain_reader
import polars as pl
import pytest
import strategy_bundles
from onnx import helper, numpy_helper

from atb_fast import load_bundle
from atb_fast.errors import BundleError, DataError

LENGTH = 120
KINDS = ("binary", "ternary", "smoothed return")
COLUMNS = {
    "binary": ["probability"],
    "ternary": ["probability_down", "probability_flat", "probability_up"],
    "smoothed return": ["predicted_return"],
}
Truth = Callable[[str, str], pl.DataFrame]


@pytest.fixture(scope="module")
def hourly(truth: Truth) -> pl.DataFrame:
    return truth("BTCUSDT", "1h").tail(LENGTH + 500)


def changed(bundle: Path, **changes: Any) -> Path:
    """Change keys of metadata.json; ... deletes one."""
    document = json.loads((bundle / "metadata.json").read_text()) | changes
    document = {key: value for key, value in document.items() if value is not ...}
    (bundle / "metadata.json").write_text(json.dumps(document))
    return bundle


def plainly(bundle: Path, candles: pl.DataFrame) -> Any:
    """Outputs of the bars from the 121st on, by NumPy and onnxruntime."""
    columns = {name: candles[name].to_numpy() for name in candles.columns[1:]}
    return plain_reader.outputs(bundle, columns, range(LENGTH, len(candles)))


@pytest.mark.parametrize("kind", KINDS)
def test_forecasts_equal_a_plain_reading(tmp_path: Path, hourly: pl.DataFrame, kind: str) -> None:
    bundle = load_bundle(strategy_bundles.write(tmp_path, kind))
    expected = plainly(bundle.path, hourly)
    assert expected.shape == (500, len(COLUMNS[kind]))
    got = bundle.predict(hourly)
    assert got["timestamp"].equals(hourly["timestamp"])
    assert got.columns[1:] == [*COLUMNS[kind], *(["direction"] if len(got.columns) > 2 else [])]
    assert all(got[:LENGTH][name].null_count() == LENGTH for name in got.columns[1:])
    np.testing.assert_allclose(got[LENGTH:].select(COLUMNS[kind]), expected, rtol=1e-6)
    forecasts = bundle.forecasts(hourly)
    assert np.isnan(forecasts[:LENGTH]).all()
    np.testing.assert_array_equal(
        forecasts[LENGTH:].reshape(expected.shape), got[LENGTH:].select(COLUMNS[kind])
    )
    # The bar itself is not seen: with other prices, its forecast is the same.
    for bar in (LENGTH, 333, len(hourly) - 1):
        last = bundle.predict_last(hourly[:bar])
        assert list(last) == got.columns[1:]
        assert [*last.values()] == pytest.approx(got.row(bar)[1:], rel=1e-6)


def test_directions(tmp_path: Path, hourly: pl.DataFrame) -> None:
    two = load_bundle(strategy_bundles.write(tmp_path / "two", "binary")).predict(hourly)
    up = two["probability"] > 0.5
    assert 0 < up.sum() < 500
    assert (two["direction"] == pl.Series(np.where(up, 1.0, -1.0)))[LENGTH:].all()
    three = load_bundle(strategy_bundles.write(tmp_path / "three", "ternary")).predict(hourly)
    chances = three[LENGTH:].select(COLUMNS["ternary"]).to_numpy()
    np.testing.assert_array_equal(three["direction"][LENGTH:], chances.argmax(axis=1) - 1)
    assert set(three["direction"][LENGTH:]) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-6)


def test_bad_values_are_rejected_as_by_engines(tmp_path: Path, hourly: pl.DataFrame) -> None:
    volume = hourly["volume"].to_numpy().copy()
    volume[200] = 0.0
    candles = hourly.with_columns(volume=pl.Series(volume))
    bundle = load_bundle(strategy_bundles.write(tmp_path, "ternary"))
    expected = plainly(bundle.path, candles)
    assert np.isnan(expected).any(axis=1).sum() == LENGTH
    got = bundle.predict(candles)
    rejected = got[LENGTH:]["direction"].is_null().to_numpy()
    np.testing.assert_array_equal(rejected, np.isnan(expected[:, 0]))
    np.testing.assert_allclose(
        got[LENGTH:].filter(~rejected)["probability_up"], expected[~rejected, 2], rtol=1e-6
    )
    with pytest.raises(DataError):
        bundle.predict_last(candles[:250])


@pytest.mark.parametrize("kind", KINDS)
def test_pandas_threads_and_copies(tmp_path: Path, hourly: pl.DataFrame, kind: str) -> None:
    bundle = load_bundle(strategy_bundles.write(tmp_path, kind), threads=2)
    expected = bundle.predict(hourly)
    assert pickle.loads(pickle.dumps(bundle)).predict(hourly).equals(expected)
    got = bundle.predict(hourly.to_pandas().set_index("timestamp"))
    assert list(got.columns) == expected.columns[1:]
    np.testing.assert_array_equal(got.to_numpy(), expected[:, 1:].to_numpy())


def test_a_bundle_says_what_it_predicts(tmp_path: Path) -> None:
    known = {
        "binary": ("binary_classification", (-1, 1)),
        "ternary": ("ternary_classification", (-1, 0, 1)),
        "smoothed return": ("regression", None),
    }
    for kind, (task, labels) in known.items():
        path = strategy_bundles.write(tmp_path / kind, kind)
        # Bundles of other trainers have no `output`, but strategies read them all alike.
        bundle = load_bundle(path)
        assert (bundle.task_type, bundle.class_labels) == (task, labels)
        assert (bundle.horizon, bundle.lag) == (1, 1)
        name = "return" if labels is None else "classes"
        output = {"kind": name, "horizon": 24, "lag": 1}
        bundle = load_bundle(changed(path, output=output))
        assert (bundle.horizon, bundle.lag, bundle.task_type) == (24, 1, task)
    # A meta-label belongs to the signal that is its window.
    path = strategy_bundles.write(tmp_path / "meta", "binary")
    meta = load_bundle(changed(path, class_labels=[0, 1]))
    assert (meta.class_labels, meta.horizon, meta.lag) == ((0, 1), 1, 0)


def volatility(root: Path, **changes: Any) -> Path:
    """Write a bundle of log sigma near -5, from the five columns of candles."""
    path = strategy_bundles.write(root, "smoothed return")
    model = onnx.load(path / "model.onnx")
    for constant in model.graph.initializer:
        if constant.name == "bias":
            constant.CopyFrom(numpy_helper.from_array(np.array([-5.0], np.float32), "bias"))
    onnx.save(model, path / "model.onnx")
    output = {"kind": "log_sigma", "horizon": 3, "lag": 0, "variance_factor": 4.0}
    output["quantiles"] = {"0.05": -2.0, "0.5": 0.1, "0.95": 1.5}
    return changed(path, output=output | changes, target_distribution=...)


def test_volatility_and_its_bands(tmp_path: Path, hourly: pl.DataFrame) -> None:
    bundle = load_bundle(volatility(tmp_path))
    assert (bundle.task_type, bundle.horizon, bundle.lag) == ("regression", 3, 0)
    outputs = plainly(bundle.path, hourly)[:, 0].astype(np.float64)
    sigma = np.exp(outputs) * 2.0
    got = bundle.predict(hourly)
    np.testing.assert_allclose(got["sigma"][LENGTH:], sigma, rtol=1e-5)
    np.testing.assert_allclose(bundle.forecasts(hourly)[LENGTH:], outputs, rtol=1e-5)
    last = hourly["close"].to_numpy()[LENGTH - 1 : -1]
    bands = got[LENGTH:].select(pl.exclude("timestamp", "sigma"))
    assert bands.width == 3
    for band, quantile in zip(bands, (-2.0, 0.1, 1.5), strict=True):
        np.testing.assert_allclose(band, last * np.exp(quantile * sigma), rtol=1e-5)
    found = bundle.predict_last(hourly[:-1])
    assert [*found.values()] == pytest.approx(got.row(-1)[1:], rel=1e-6)


def test_each_level_has_a_column(tmp_path: Path, hourly: pl.DataFrame) -> None:
    levels = ["0.001", "0.005", "0.02", "0.025", "0.07", "0.1", "0.5", "0.5000001", "0.95", "0.999"]
    quantiles = {level: float(level) - 0.5 for level in levels}
    got = load_bundle(volatility(tmp_path, quantiles=quantiles)).predict(hourly)
    names = ["00.1", "00.5", "02", "02.5", "07", "10", "50", "50.00001", "95", "99.9"]
    assert got.columns[2:] == [f"price_q{name}" for name in names]
    assert (got["price_q02.5"] > got["price_q02"])[LENGTH:].all()


#: Values that are not the labels of two classes.
LABELS: list[Any] = [
    *([], [1, -1], [-1, 2], [-1, 0, 1], ["-1", "1"], "down", {"a": 1}, True, 1, ...),
    *([-1.0, 1.0], [False, True], [None, 1], [float("nan"), 1], [[-1], [1]]),
]
KINDS_OF_OUTPUT: list[Any] = ["return", "log_sigma", "logits", None, [], {}]
NO_OUTPUTS: list[Any] = [[], "classes", 1, True, {}]
TASKS: list[Any] = ["regression", None, [], 3, ...]
#: Keys of an output that cannot be read.
OUTPUTS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in KINDS_OF_OUTPUT),
    *({"horizon": n} for n in (0, -1, 1.0, True, "1", None, 10**9, float("nan"))),
    *({"lag": n} for n in (-1, 0.5, False, "0", None, 10**400, float("inf"))),
]
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    *(("binary", {"class_labels": labels}) for labels in LABELS),
    ("ternary", {"class_labels": [-1, 1]}),
    ("ternary", {"class_labels": [-1, 1], "task_type": "binary_classification"}),
    ("binary", {"class_labels": [-1, 0, 1], "task_type": "ternary_classification"}),
    *(("ternary", {"task_type": task}) for task in TASKS),
    ("binary", {"price_normalization": {"mean": 0.0, "std": 1.0}}),
    ("smoothed return", {"class_labels": [-1, 1]}),
    ("smoothed return", {"target_distribution": ...}),
    *(("binary", {"output": output}) for output in NO_OUTPUTS),
    *(("binary", {"output": {"kind": "classes", "horizon": 1, "lag": 1} | o}) for o in OUTPUTS),
]


@pytest.mark.parametrize(("kind", "changes"), HOSTILE)
def test_hostile_metadata(tmp_path: Path, kind: str, changes: Any) -> None:
    path = changed(strategy_bundles.write(tmp_path, kind), **changes)
    with pytest.raises(BundleError, match=str(path)):
        load_bundle(path)


@pytest.mark.parametrize(
    "changes",
    [
        *({"variance_factor": n} for n in (0.0, -1.0, float("nan"), float("inf"), "1", None, 1e9)),
        *({"variance_factor": n} for n in (True, [1.0], 10**400)),
        *({"quantiles": wrong} for wrong in ([], [0.1], "x", 0.5, True)),
        *({"quantiles": {level: 0.0}} for level in ("0", "1", "-0.1", "1.5", "nan", "inf", "x")),
        *({"quantiles": {"0.5": z}} for z in (float("nan"), float("inf"), "0", None, 1e9, 10**400)),
        {"quantiles": {"0.9": 1.0, "0.1": -1.0}},
        {"quantiles": {"0.1": 1.0, "0.9": -1.0}},
        {"horizon": 0},
        {"lag": -1},
    ],
)
def test_hostile_metadata_of_volatility(tmp_path: Path, changes: Any) -> None:
    path = volatility(tmp_path, **changes)
    with pytest.raises(BundleError, match=str(path)):
        load_bundle(path)


def with_last(bundle: Path, operator: str, constant: Any) -> Path:
    """Append an operator with a constant to model.onnx."""
    model = onnx.load(bundle / "model.onnx")
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "inner"
    array = np.asarray(constant, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(array, "constant"))
    model.graph.node.append(helper.make_node(operator, ["inner", "constant"], [output]))
    onnx.save(model, bundle / "model.onnx")
    return bundle


@pytest.mark.parametrize(
    ("kind", "operator", "constant", "message"),
    [
        ("binary", "Mul", 3.0, "expected probabilities from 0 to 1"),
        ("binary", "Sub", 1.0, "expected probabilities from 0 to 1"),
        ("binary", "Mul", np.nan, "NaN or infinite values"),
        ("ternary", "Mul", 0.98, "probabilities that sum to 0.98 up to 0.98, expected 1"),
        ("ternary", "Add", [[0.0, 0.0, 2.0]], "expected probabilities from 0 to 1"),
        ("ternary", "Mul", [[1.0, np.inf, 1.0]], "NaN or infinite values"),
        ("smoothed return", "Mul", np.inf, "NaN or infinite values"),
    ],
)
def test_outputs_that_engines_ignore(
    tmp_path: Path, hourly: pl.DataFrame, kind: str, operator: str, constant: Any, message: str
) -> None:
    bundle = load_bundle(with_last(strategy_bundles.write(tmp_path, kind), operator, constant))
    for predict in (bundle.predict, bundle.predict_last, bundle.forecasts):
        with pytest.raises(BundleError, match=message):
            predict(hourly)


def test_a_volatility_too_large_for_a_price(tmp_path: Path, hourly: pl.DataFrame) -> None:
    bundle = load_bundle(with_last(volatility(tmp_path), "Add", 30.0))
    with pytest.raises(BundleError, match="too large for a forecast"):
        bundle.predict(hourly)
