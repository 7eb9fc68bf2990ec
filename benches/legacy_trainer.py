"""The trainer that atb-fast replaces, as a program for comparisons of whole runs.

It reproduces the behavior of that trainer stage by stage: pandas and scikit-learn, windows from a
Python loop in float64, `fit` on NumPy arrays, plots at 300 dpi, ONNX from a second Python process.
Logging and file names are left out, because no figure depends on them.

    python benches/legacy_trainer.py --candles C --sentiment S --seed 1 --out DIR
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
import pandas as pd
from incumbents import legacy_frame
from keras import callbacks, layers

mpl.use("Agg")
from matplotlib import pyplot as plt

PATIENCE = 15


def windows(frame: pd.DataFrame, length: int) -> tuple[Any, Any]:
    """Return the windows, float64 (windows, length, features), and the close after each."""
    features = frame[[name for name in frame.columns if name.endswith("_scaled")]].to_numpy()
    close = frame["close"].to_numpy()
    x, y = [], []
    for i in range(length, len(frame)):
        x.append(features[i - length : i])
        y.append(close[i])
    return np.array(x), np.array(y)


def build(length: int, features: int) -> Any:
    """Return the compiled network."""
    model = keras.Sequential(
        [
            layers.Input((length, features)),
            layers.Conv1D(64, 3, activation="relu"),
            layers.MaxPooling1D(2),
            layers.Conv1D(128, 3, activation="relu"),
            layers.MaxPooling1D(2),
            layers.LSTM(100, return_sequences=True),
            layers.Dropout(0.2),
            layers.LSTM(50),
            layers.Dropout(0.2),
            layers.Dense(50, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )
    model.compile("adam", loss="mse", metrics=[keras.metrics.RootMeanSquaredError(name="rmse")])
    return model


def plot(path: Path, history: dict[str, list[float]], actual: Any, got: Any, count: int) -> None:
    """Draw the four panels. As in the original, feature importances are random numbers."""
    figure, axes = plt.subplots(2, 2, figsize=(15, 10))
    for axis, name in ((axes[0, 0], "loss"), (axes[0, 1], "rmse")):
        axis.plot(history[name], label=name)
        axis.plot(history[f"val_{name}"], label=f"val_{name}")
        axis.legend()
    axes[1, 0].bar(range(count), np.random.default_rng(0).random(count))
    axes[1, 1].plot(actual[:100], label="actual")
    axes[1, 1].plot(got[:100], label="predicted")
    axes[1, 1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=300)
    plt.close(figure)


def export(model: Any, out: Path) -> None:
    """Write a SavedModel, and convert it to ONNX in a second Python process."""
    model.export(out / "saved", verbose=False)
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(out / "saved")]
    command += ["--output", str(out / "model.onnx"), "--opset", "13"]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Train once, and print the seconds by stage and the errors as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candles", type=Path, required=True)
    parser.add_argument("--sentiment", type=Path, help="Default: train on prices only.")
    parser.add_argument("--timeframe", default="1d")
    parser.add_argument("--start-date")
    parser.add_argument("--end-date")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sequence-length", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    stages: dict[str, float] = {}

    def stage(name: str, since: float) -> float:
        now = time.perf_counter()
        stages[name] = now - since
        return now

    clock = time.perf_counter()
    candles = pd.read_parquet(given.candles).set_index("timestamp")
    sentiment = pd.read_parquet(given.sentiment).set_index("timestamp") if given.sentiment else None
    candles = candles[given.start_date : given.end_date]
    clock = stage("ingestion", clock)
    # Candles end with the last second of the day, sentiment with the first.
    end = pd.Timestamp(given.end_date, tz="UTC") if given.end_date else None
    frame = legacy_frame(candles, sentiment, given.timeframe, end)
    clock = stage("features", clock)
    x, y = windows(frame, given.sequence_length)
    split = int(len(x) * 0.8)
    clock = stage("dataset", clock)

    keras.utils.set_random_seed(given.seed)
    model = build(given.sequence_length, x.shape[2])
    ends = [time.perf_counter()]
    fitted = model.fit(
        x[:split],
        y[:split],
        validation_data=(x[split:], y[split:]),
        epochs=given.epochs,
        batch_size=given.batch_size,
        verbose=0,
        callbacks=[
            callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True),
            callbacks.ModelCheckpoint(str(given.out / "best.h5"), save_best_only=True),
            callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter())),
        ],
    )
    clock = stage("training", clock)

    test, actual = x[split:], y[split:]
    predicted = model.predict(test, verbose=0)[:, 0]
    rmse = float(np.sqrt(np.mean((predicted - actual) ** 2)))
    names = [name for name in frame.columns if name.endswith("_scaled")]
    hidden = [i for i, name in enumerate(names) if name.startswith("sentiment")]
    if hidden:
        without = test.copy()
        without[:, :, hidden] = 0.0
        model.predict(without, verbose=0)
    plot(given.out / "training.png", fitted.history, actual, predicted, len(names))
    train_loss, _ = model.evaluate(x[:split], y[:split], verbose=0)
    model.evaluate(test, actual, verbose=0)
    clock = stage("diagnostics", clock)
    model.save(given.out / "model.keras")
    export(model, given.out)
    stage("onnx", clock)
    result = {
        "seed": given.seed,
        "epochs": len(fitted.epoch),
        "first_epoch_seconds": ends[1] - ends[0],
        "seconds_per_epoch": float(np.median(np.diff(ends)[1:])),
        "test_rmse": rmse,
        "train_rmse": float(np.sqrt(train_loss)),
        "persistence_rmse": float(
            np.sqrt(np.mean(np.square(np.diff(frame["close"].to_numpy()[-len(actual) - 1 :]))))
        ),
        "stages": stages,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
