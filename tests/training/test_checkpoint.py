"""Checkpoints of tiny trainings in this process."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executed import Executed
from relabelling import relabelled

from atb_fast import TrainingConfig
from atb_fast.callbacks import Listener
from atb_fast.config import Engine, FitOptions
from atb_fast.features.price import PriceScale
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes import prepare, split
from atb_fast.recipes.networks import CnnLstm
from atb_fast.training import checkpoint
from atb_fast.training.engine import fit

LENGTH = 12
SHORT = FitOptions(engine="keras", epochs=1, batch_size=32, seed=1)
RESUMED = replace(SHORT, resume=True)


class NoEpoch(Listener):
    def epoch(self, number: int, logs: dict[str, float]) -> None:
        pytest.fail(f"epoch {number} was trained again")


@pytest.fixture(scope="module")
def data(market: Market) -> WindowedData:
    config = TrainingConfig(
        symbol="BTCUSDT", source="sample", force_price_only=True, sequence_length=LENGTH
    )
    return split(prepare(Market(market.candles.head(200), None), config), config)


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE", 0)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "atb_fast")
    return caplog


def made(dtype_policy: str = "float32", seed: int = 1) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return CnnLstm().build(LENGTH, 9, dtype_policy=dtype_policy)


@pytest.mark.parametrize(
    ("engine", "dtype_policy"),
    [("compiled", "float32"), ("keras", "float32"), ("keras", "mixed_float16")],
)
def test_a_resumed_run_has_the_same_bits(
    data: WindowedData,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    engine: Engine,
    dtype_policy: str,
) -> None:
    """The best epoch is before the interruption, and early stopping after it."""
    from keras import callbacks

    def keep(epoch: int, _: Any = None) -> None:
        if epoch == 5:
            shutil.copytree(tmp_path / "running", tmp_path / "killed")

    def run(directory: str, *extra: Any, resume: bool = False) -> Any:
        model = made(dtype_policy)
        # From the fourth epoch on, the loss rises, so that early stopping ends the fit.
        turn = callbacks.LearningRateScheduler(lambda epoch, _: 1e-3 if epoch < 3 else -1e-3)
        options = FitOptions(
            engine=engine, epochs=12, patience=4, batch_size=8, seed=1, resume=resume
        )
        fitted = fit(
            model, data, options, callbacks=[turn, *extra], checkpoints=tmp_path / directory
        )
        optimizer = [np.asarray(v) for v in model.optimizer.variables]
        return fitted, model.get_weights(), optimizer

    straight, weights, optimizer = run("running", callbacks.LambdaCallback(on_epoch_begin=keep))
    again, resumed, resumed_optimizer = run("killed", resume=True)
    assert "resuming after epoch 5" in log.messages
    assert (straight.best_epoch, straight.epochs) == (3, 7)
    assert (again.best_epoch, again.epochs) == (3, 7)
    assert again.history == straight.history
    assert len(again.epoch_seconds) == 7
    assert again.epoch_seconds[:5] == straight.epoch_seconds[:5]
    for a, b in zip([*weights, *optimizer], [*resumed, *resumed_optimizer], strict=True):
        np.testing.assert_array_equal(a, b)


def test_finished_epochs_are_not_trained_again(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    first = made()
    straight = fit(first, data, SHORT, checkpoints=tmp_path)
    assert straight.checkpoint is not None
    assert straight.checkpoint.is_file()
    again = made()
    fitted = fit(again, data, RESUMED, listener=NoEpoch(), checkpoints=tmp_path)
    assert (fitted.epochs, fitted.history) == (1, straight.history)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ["compiled", "keras"])
def test_an_interrupted_training_says_how_to_resume(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture, engine: Engine
) -> None:
    class Interrupts(Listener):
        def epoch(self, number: int, logs: dict[str, float]) -> None:
            if number == 2:
                raise KeyboardInterrupt

    options = replace(SHORT, engine=engine, epochs=3)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        fit(made(), data, options, checkpoints=tmp_path, listener=Interrupts())
    notes = ["the same command with --resume continues after epoch 1"]
    assert interrupted.value.__notes__ == notes
    fit(made(), data, replace(options, resume=True), checkpoints=tmp_path)
    assert "resuming after epoch 1" in log.messages


def test_without_resume_it_is_replaced(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    options = replace(SHORT, epochs=2)
    fitted = fit(made(), data, options, checkpoints=tmp_path)
    path = fitted.checkpoint
    assert path is not None
    # As if another machine had written it; a new one would be of this machine.
    with np.load(path) as stored:
        arrays = dict(stored)
    document = json.loads(str(arrays["document"]))
    arrays["document"] = np.array(json.dumps({**document, "machine": {"cpu": "another"}}))
    np.savez(path, **arrays)
    again = fit(made(), data, options, checkpoints=tmp_path)
    assert "--resume would continue after epoch 2" in log.text
    assert again.history == fitted.history
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path) as stored:
        assert json.loads(str(stored["document"]))["machine"] == document["machine"]


def test_other_trainings_have_other_keys(data: WindowedData) -> None:
    other_data = replace(data, parts=replace(data.parts, train=data.train[1:]))
    other_labels = relabelled(data, PriceScale.linear(), data.labels.values + 1)
    keys = [
        checkpoint.key(made(), data, epochs=1),
        checkpoint.key(made(), data, epochs=2),
        checkpoint.key(made(seed=2), data, epochs=1),
        checkpoint.key(made("mixed_float16"), data, epochs=1),
        checkpoint.key(made(), other_data, epochs=1),
        checkpoint.key(made(), other_labels, epochs=1),
    ]
    assert len(set(keys)) == len(keys)
    assert checkpoint.key(made(), data, epochs=1) == keys[0]


def test_nothing_to_resume(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    fit(made(), data, SHORT, checkpoints=tmp_path)
    fitted = fit(made(), data, replace(RESUMED, batch_size=16), checkpoints=tmp_path)
    assert "nothing to resume" in log.text
    assert fitted.epochs == 1


def test_a_damaged_checkpoint_is_not_used(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    fitted = fit(made(), data, SHORT, checkpoints=tmp_path)
    path = fitted.checkpoint
    assert path is not None
    sound = path.read_bytes()
    np.savez(path, document=np.array([Executed(tmp_path / "executed")], dtype=object))
    again = fit(made(), data, RESUMED, checkpoints=tmp_path)
    assert f"checkpoint {path} is damaged (ValueError: Object arrays cannot be" in log.text
    assert not (tmp_path / "executed").exists()
    assert "starting over" in log.text
    assert again.history == fitted.history

    model = made()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(sound)
        if rng.random() < 0.3:
            del damaged[rng.integers(len(damaged)) :]
        else:
            # Half of the time in the part where zip stores names, sizes and checksums.
            place = rng.integers(len(damaged)) if rng.random() < 0.5 else -rng.integers(1, 4000)
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        found = checkpoint.Checkpoint(path, None, None, [])
        if not found.find(model, resume=True):
            refused += 1
            continue
        # A bit that has no effect, such as the date of a file.
        state = found.state
        path.write_bytes(sound)
        expected = checkpoint.load_state(path, model)
        assert state is not None
        assert state.history == expected.history
        for a, b in zip(state.variables, expected.variables, strict=True):
            np.testing.assert_array_equal(a, b)
    assert refused > 30


def test_another_machine_is_logged(
    data: WindowedData,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit(made(), data, SHORT, checkpoints=tmp_path)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "77")
    fit(made(), data, RESUMED, checkpoints=tmp_path)
    assert "'intra_op_threads': 77" in log.text
    assert "will differ" in log.text


def test_training_continues_if_nothing_can_be_written(
    data: WindowedData, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    fitted = fit(made(), data, replace(SHORT, epochs=3), checkpoints=tmp_path / "file")
    assert fitted.epochs == 3
    assert log.text.count("no checkpoints from epoch 1 on") == 1


def test_a_training_that_diverges_leaves_no_checkpoint(data: WindowedData, tmp_path: Path) -> None:
    from keras import callbacks

    model = made()

    def break_it(epoch: int, _: Any = None) -> None:
        if epoch == 1:
            assert list(tmp_path.glob("*.npz"))
            model.layers[-1].bias.assign([np.nan])

    breaking = callbacks.LambdaCallback(on_epoch_begin=break_it)
    options = replace(SHORT, epochs=4)
    assert fit(model, data, options, callbacks=[breaking], checkpoints=tmp_path).diverged == 2
    assert list(tmp_path.iterdir()) == []
