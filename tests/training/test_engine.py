"""The fit and the steps of a run around it, with tiny models in this process."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from atb_fast import TrainingConfig
from atb_fast.bundles import onnx_export
from atb_fast.callbacks import Listener
from atb_fast.config import FitOptions
from atb_fast.errors import ExportError, MissingExtraError, StorageError, TrainingError
from atb_fast.evaluation.diagnostics import permutation_importance
from atb_fast.evaluation.metrics import rmse
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.networks import CnnLstm
from atb_fast.runs import assessment
from atb_fast.runs import pipeline as runner
from atb_fast.serving.registry import work_folder
from atb_fast.training import train as training
from atb_fast.training.device import decide
from atb_fast.training.engine import FitResult, fit
from atb_fast.training.predict import predict

LENGTH = 12


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", force_price_only=True, sequence_length=LENGTH
    )
    return split(prepare(Market(market.candles.head(200), None), config), config)


class Seen(Listener):
    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.done: list[tuple[int, int]] = []

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self.epochs.append(number)

    def windows(self, done: int, total: int) -> None:
        self.done.append((done, total))


def quick_fit(model: Any, data: WindowedData, *, around: Any = None, **options: Any) -> Any:
    # Compilation takes seconds. The compiled engine is tested in tests/parity/test_engine.py.
    given = {"epochs": 3, "batch_size": 32, "seed": 1, "engine": "keras", **options}
    return fit(model, data, FitOptions(**given), **(around or {}))


@pytest.mark.parametrize("recipe", ["legacy", "causal", "basic"])
def test_epochs_report_the_error_of_persistence(market: Market, recipe: str) -> None:
    import keras

    class Logs(Listener):
        def epoch(self, number: int, logs: dict[str, float]) -> None:
            seen.append(logs)

    seen: list[dict[str, float]] = []
    config = TrainingConfig(symbol="BTCUSDT", source="sample", recipe=recipe)
    data = split(prepare(Market(market.candles.head(1000), market.sentiment), config), config)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.build((None, data.length, data.prepared.matrix.shape[1]))
    quick_fit(model, data, epochs=1, around={"listener": Logs()})
    starts = data.validation
    if recipe == "causal":  # the labels are returns
        errors = data.labels.values[starts + data.length]
    else:
        zero, one = (data.forecasts(starts, np.full(len(starts), output)) for output in (0.0, 1.0))
        errors = (data.targets(starts) - data.persistence(starts)) / (one - zero)
    expected = np.sqrt(np.mean(np.square(errors)))
    assert seen[0]["val_persistence_rmse"] == pytest.approx(expected, rel=1e-6)


def test_the_model_is_the_legacy_one() -> None:
    model = CnnLstm().build(120, 10)
    # Conv1D 3*10*64+64, 3*64*128+128; LSTM 4*((in+n)*n+n) for 128 to 100 and 100 to 50;
    # Dense 50*50+50 and 50+1.
    expected = 1984 + 24704 + 4 * (228 * 100 + 100) + 4 * (150 * 50 + 50) + 2550 + 51
    assert model.count_params() == expected
    assert CnnLstm().build(10, 3).output_shape == (None, 1)


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_fit_keeps_the_best_epoch(data: WindowedData, engine: str) -> None:
    import keras

    keras.utils.set_random_seed(0)
    model = CnnLstm().build(LENGTH, 9)
    seen = Seen()
    fitted = quick_fit(model, data, epochs=9, patience=2, engine=engine, around={"listener": seen})
    assert seen.epochs == list(range(1, fitted.epochs + 1))
    assert {total for _, total in seen.done} == {len(data.train)}
    assert [done for done, _ in seen.done].count(len(data.train)) == fitted.epochs
    best = int(np.argmin(fitted.history["val_loss"])) + 1
    assert fitted.best_epoch == best
    kept = rmse(data.targets(data.test), predict(model, data, data.test))
    assert kept == pytest.approx(fitted.history["val_rmse"][best - 1], rel=1e-4)


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_patience_ends_the_fit(data: WindowedData, engine: str) -> None:
    from keras.callbacks import LearningRateScheduler

    # A learning rate of 0 never improves on the first epoch.
    around = {"callbacks": [LearningRateScheduler(lambda _: 0.0)]}
    model = CnnLstm().build(LENGTH, 9)
    fitted = quick_fit(model, data, epochs=9, patience=2, engine=engine, around=around)
    assert (fitted.epochs, fitted.best_epoch) == (3, 1)


def test_a_nan_loss_stops_the_fit(data: WindowedData) -> None:
    model = CnnLstm().build(LENGTH, 9)
    model.layers[-1].set_weights([np.full((50, 1), np.nan), np.zeros(1)])
    with pytest.raises(TrainingError, match="the loss is not a finite number in epoch 1"):
        quick_fit(model, data)


def test_mixed_float16(data: WindowedData, tmp_path: Path) -> None:
    from keras import optimizers

    policy = decide(["/gpu:0"], engine="auto", mixed_precision=True, batch_size=32)
    model = CnnLstm().build(LENGTH, 9, dtype_policy=policy.dtype_policy)
    assert {layer.compute_dtype for layer in model.layers[:-1]} == {"float16"}
    assert model.layers[-1].compute_dtype == "float32"
    before = model.get_weights()
    fitted = quick_fit(model, data, epochs=4)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    assert np.isfinite([fitted.history["loss"], fitted.history["val_loss"]]).all()
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert predict(model, data, data.test).shape == (len(data.test),)

    twin = CnnLstm().build(LENGTH, 9)
    twin.set_weights(model.get_weights())
    assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
    (tmp_path / "model.onnx").write_bytes(onnx_export.convert(twin, properties={}))
    assert max(gate(twin, tmp_path / "model.onnx", data).values()) <= onnx_export.TOLERANCE


def gate(model: Any, path: Path, data: WindowedData) -> dict[str, float]:
    inputs = data.windows(data.test)
    expected = model.predict_on_batch(inputs)
    return onnx_export.check(path, inputs, expected, scale=data.prepared.close.max())


def test_the_check_rejects_another_model(data: WindowedData, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = CnnLstm().build(LENGTH, 9)
    path.write_bytes(onnx_export.convert(model, properties={}))
    gate(model, path, data)
    weights = model.get_weights()
    # Twice the tolerance: 2e-5 of a price of about ten thousand.
    off = 2e-5 * data.prepared.close.max()
    model.set_weights([*weights[:-1], weights[-1] + np.float32(off)])
    with pytest.raises(ExportError, match=r"differs from Keras by .* of the largest target"):
        gate(model, path, data)
    model.set_weights([*weights[:-1], weights[-1] * np.nan])
    with pytest.raises(ExportError, match="differs from Keras by nan"):
        gate(model, path, data)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ExportError, match=r"onnxruntime cannot load model.onnx"):
        gate(model, path, data)
    other = CnnLstm().build(LENGTH, 8)
    other(np.zeros((1, LENGTH, 8), np.float32))
    other.export(path, format="onnx", opset_version=17, verbose=False)
    with pytest.raises(ExportError, match=r"expected tensor\(float\) \[batch, 12, 9\]"):
        gate(model, path, data)


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_one_seed_gives_one_model(
    config: TrainingConfig, engine: Literal["compiled", "keras"]
) -> None:
    import keras

    def weights(seed: int) -> Any:
        given = replace(config, seed=seed, skip_onnx=True, engine=engine)
        result = runner.run_training_pipeline(given)
        return keras.models.load_model(result.paths["model.keras"]).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.allclose(a, b, atol=1e-3) for a, b in zip(first, other, strict=True))


def test_missing_export_packages_are_named_before_training(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "tf2onnx" else name)
    with pytest.raises(MissingExtraError, match="the ONNX export needs tf2onnx; install with"):
        runner.run_training_pipeline(config)


def test_importance_finds_the_feature_that_is_used(data: WindowedData) -> None:
    class LastClose:
        """Predicts from one column alone."""

        def predict_on_batch(self, windows: Any) -> Any:
            return windows[:, -1, data.prepared.matrix.names.index("close_scaled")][:, None] * 1e4

    importance, deviation = permutation_importance(LastClose(), data, seed=1)
    assert importance.pop("close_scaled") > 100
    assert deviation.pop("close_scaled") > 0
    assert set(importance.values()) == set(deviation.values()) == {0.0}


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        symbol="BTCUSDT",
        source="sample",
        start_date=date(2024, 1, 1),
        epochs=1,
        sequence_length=LENGTH,
        registry=tmp_path,
        skip_plots=True,
        engine="keras",
    )


def test_a_failed_export_keeps_the_model_and_fails_the_run(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ExportError("no such operator")

    monkeypatch.setattr(runner, "export_onnx", fail)
    with pytest.raises(ExportError, match=r"no such operator; the trained model was kept in"):
        runner.run_training_pipeline(config)
    (kept,) = (work_folder(config.registry) / "unpublished").iterdir()
    assert (kept / "model.keras").is_file()
    assert (kept / "metadata.json").is_file()
    assert not (config.registry / "BTCUSDT").exists()


def test_a_fit_that_diverges_keeps_the_best_and_fails_the_run(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(model: Any, *_: Any, **__: Any) -> FitResult:
        return FitResult("keras", {"loss": [1.0, math.nan]}, 2, 1, [0.1, 0.1], diverged=2)

    monkeypatch.setattr(training, "fit", diverging)
    with pytest.raises(TrainingError, match=r"became NaN in epoch 2 .best epoch: 1"):
        runner.run_training_pipeline(config)
    (kept,) = (work_folder(config.registry) / "unpublished").iterdir()
    assert (kept / "model.keras").is_file()
    assert not (config.registry / "BTCUSDT").exists()


def test_an_interrupt_after_training_says_how_to_resume(config: TrainingConfig) -> None:
    class Interrupts(Listener):
        def stage(self, name: str) -> None:
            if name == "onnx":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as interrupted:
        runner.run_training_pipeline(config, listener=Interrupts())
    assert interrupted.value.__notes__ == [
        "the same command with --resume repeats only the steps after training"
    ]
    (kept,) = (work_folder(config.registry) / "unpublished").iterdir()
    assert (kept / "model.keras").is_file()

    class NoEpoch(Listener):
        def epoch(self, number: int, logs: dict[str, float]) -> None:
            raise AssertionError(f"epoch {number} was trained again")

    result = runner.run_training_pipeline(replace(config, resume=True), listener=NoEpoch())
    assert result.published


def test_a_crash_after_training_keeps_the_model(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(assessment, "evaluate", crash)
    with pytest.raises(MemoryError):
        runner.run_training_pipeline(config)
    (kept,) = (work_folder(config.registry) / "unpublished").iterdir()
    assert (kept / "model.keras").is_file()
    assert f"the trained model was kept in {kept}" in caplog.text


@pytest.mark.parametrize("step", ["export_onnx", "write_json"])
def test_a_disk_that_fills_up_after_training_keeps_the_model(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, step, fail)
    said = r"\(No space left on device: .*free some disk space, .* with --resume$"
    with pytest.raises(StorageError, match=said):
        runner.run_training_pipeline(config)
    (kept,) = (work_folder(config.registry) / "unpublished").iterdir()
    assert (kept / "model.keras").is_file()
    assert not (config.registry / "BTCUSDT").exists()


def test_a_failed_diagnostic_does_not_fail_the_run(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    def crash(*_: Any) -> None:
        raise ZeroDivisionError("in the diagnostic")

    monkeypatch.setattr(assessment, "robustness", crash)
    result = runner.run_training_pipeline(config)
    assert result.published
    assert result.diagnostics == {"plots": False, "robustness": False, "onnx": True}
    document = json.loads(Path(result.paths["metadata.json"]).read_text())
    assert document["diagnostic_failures"] == {"robustness": "ZeroDivisionError: in the diagnostic"}


def test_a_failed_report_does_not_fail_the_run(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    def crash(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in the report")

    monkeypatch.setattr(runner, "write_report", crash)
    result = runner.run_training_pipeline(replace(config, skip_plots=False))
    assert result.published
    assert result.diagnostics == {"plots": True, "robustness": True, "onnx": True}
    assert "training.png" in result.paths
    assert "report.html" not in result.paths
    document = json.loads(Path(result.paths["metadata.json"]).read_text())
    assert document["diagnostic_failures"] == {"report": "ZeroDivisionError: in the report"}
    assert document["verification"]["feature_skew"] <= 1e-6
