from __future__ import annotations

import io

from rich.console import Console

from atb_fast.cli.progress import Bars, bars
from atb_fast.config import TrainingConfig

CONFIG = TrainingConfig(symbol="1000SHIBUSDT", source="sample")


def shown() -> tuple[Bars, Console]:
    """Return bars as on a terminal, with a stopped clock."""
    made = Bars(Console(force_terminal=True, width=80))
    made.progress.get_time = lambda: 0.0
    return made, Console(file=io.StringIO(), width=80)


def lines(made: Bars, plain: Console) -> list[str]:
    """Return the bars that are visible, without their spinners and times."""
    plain.print(made.progress.make_tasks_table(made.progress.tasks))
    assert isinstance(plain.file, io.StringIO)
    text = plain.file.getvalue()
    plain.file.truncate(0)
    plain.file.seek(0)
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.strip()]


def test_epochs_loss_and_time_left_fit_a_narrow_terminal() -> None:
    clock = 0.0
    made, plain = shown()
    made.progress.get_time = lambda: clock
    listener = made.for_training(CONFIG, several=True)
    for epoch in (1, 2, 3):
        clock += 420.0  # an epoch of minute candles
        listener.epoch(epoch, {"rmse": 23_456.7, "val_rmse": 34_567.8})
    (line,) = lines(made, plain)
    assert line.endswith("3/300 epochs 34:39:00 RMSE 23,457, val. 34,568")
    assert line.startswith("1000SHIBUSDT")


def test_windows_are_shown_in_long_epochs_only() -> None:
    made, plain = shown()
    listener = made.for_training(CONFIG)
    listener.windows(32, 1_600)
    (training,) = lines(made, plain)
    assert training.startswith("training")
    listener.windows(40_000, 1_000_000)
    listener.fetched("1000SHIBUSDT 1m", 5, 10)
    _, epoch, fetched = lines(made, plain)
    assert epoch.startswith("epoch")
    assert "40000/1000000 windows" in epoch
    assert "5/10 candles" in fetched


def test_stages_after_training_are_shown() -> None:
    made, plain = shown()
    listener = made.for_training(CONFIG)
    # The stage artifacts runs twice: first for the model, and at the end for the rest.
    listener.stage("artifacts")
    assert "finishing" not in "".join(lines(made, plain))
    for step, stage in enumerate(("evaluation", "diagnostics", "onnx", "artifacts")):
        listener.stage(stage)
        (line,) = lines(made, plain)
        assert f"{step}/4 steps" in line
        assert line.endswith(stage)


def test_bars_of_a_symbol_disappear_at_its_end() -> None:
    made, plain = shown()
    listeners = [
        made.for_training(TrainingConfig(symbol=symbol, source="sample"), several=True)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    listeners[0].windows(40_000, 1_000_000)
    listeners[0].finished()
    (line,) = lines(made, plain)
    assert line.startswith("ETHUSDT")


def test_folds_and_their_epochs_are_shown() -> None:
    made, plain = shown()
    listener = made.for_folds(CONFIG, 5)
    listener.epoch(1, {"loss": 0.5, "val_loss": 0.25})
    (line,) = lines(made, plain)
    assert line.startswith("fold 1")
    assert line.endswith("loss 0.5, val. 0.25")


def test_nothing_is_written_without_a_terminal() -> None:
    console = Console(file=io.StringIO())
    with bars(console) as made:
        made.for_training(CONFIG).epoch(1, {"rmse": 1.0, "val_rmse": 2.0})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
