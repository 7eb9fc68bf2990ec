from __future__ import annotations

import io

from rich.console import Console

from atb_fast.cli.progress import Bars, bars
from atb_fast.config import TrainingConfig
from atb_fast.runs.progress import training_callbacks

CONFIG = TrainingConfig(symbol="BTCUSDT", source="sample")


def test_epochs_loss_and_time_left_fit_a_narrow_terminal() -> None:
    clock = 0.0
    shown = Bars(Console(force_terminal=True, width=80))
    shown.progress.get_time = lambda: clock
    report = training_callbacks(CONFIG, lambda _, *step: shown.update("1000SHIBUSDT", *step))[
        "on_epoch"
    ]
    for epoch in (1, 2, 3):
        clock += 420.0  # an epoch of minute candles
        report(epoch, {"rmse": 23_456.7, "val_rmse": 34_567.8})
    plain = Console(file=io.StringIO(), width=80)
    plain.print(shown.progress.make_tasks_table(shown.progress.tasks))
    assert isinstance(plain.file, io.StringIO)
    (line,) = plain.file.getvalue().splitlines()
    assert line.rstrip().endswith("3/300 epochs 34:39:00 RMSE 23,457, val. 34,568")
    assert "1000SHIBUSDT" in line


def test_windows_are_shown_in_long_epochs_only() -> None:
    seen: list[tuple[str, int, int, str]] = []
    calls = training_callbacks(CONFIG, lambda *step: seen.append(step[:4]))
    calls["on_windows"](32, 1_600)
    calls["on_windows"](40_000, 1_000_000)
    calls["on_fetch"]("BTCUSDT 1m", 5, 10)
    assert seen == [
        ("training", 0, 300, "epochs"),
        ("epoch", 40_000, 1_000_000, "windows"),
        ("BTCUSDT 1m", 5, 10, "candles"),
    ]


def test_what_comes_after_the_training_is_shown() -> None:
    seen: list[tuple[str, int, int]] = []
    calls = training_callbacks(CONFIG, lambda *step: seen.append(step[:3]))
    del seen[:]
    # Artifacts are written twice: the model at once, the rest at the end.
    for stage in ("training", "artifacts", "evaluation", "diagnostics", "onnx", "artifacts"):
        calls["on_stage"](stage)
    steps = [("finishing", n, 4) for n in range(4)]
    assert seen == [("training", 300, 300), *steps]


def test_nothing_is_written_without_a_terminal() -> None:
    console = Console(file=io.StringIO())
    with bars(console) as shown:
        training_callbacks(CONFIG, shown.update)["on_epoch"](1, {"rmse": 1.0, "val_rmse": 2.0})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
