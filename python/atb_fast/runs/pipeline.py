"""The training run: every stage in order, each timed, and the bundle at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_fast import recipes
from atb_fast.bundles import onnx_export
from atb_fast.bundles.contents import export_onnx, feature_schema, metadata, write_json
from atb_fast.bundles.samples import write_samples
from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import TrainingConfig
from atb_fast.errors import ExportError, StorageError, TrainingError
from atb_fast.evaluation.diagnostics import evaluate, permutation_importance, robustness
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import load_market
from atb_fast.reports.charts import draw_charts
from atb_fast.reports.page import write_report
from atb_fast.reports.picture import plot_training
from atb_fast.runs.repeat import RecordedRun
from atb_fast.runs.timing import StageTimer
from atb_fast.serving import registry
from atb_fast.serving.verification import verify
from atb_fast.training import tensorboard
from atb_fast.training.device import configure, import_tensorflow
from atb_fast.training.environment import environment, versions
from atb_fast.training.predict import predict
from atb_fast.training.train import train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a run made.

    Attributes:
        symbol: For example BTCUSDT.
        timeframe: Length of a bar.
        model_type: `sentiment`, `price`, `basic` or `causal`.
        recipe: `legacy`, `causal` or `basic`.
        horizon: Bars from the last close to the predicted one.
        version_id: The version of the bundle.
        published: Whether engines see the bundle: not without a checked model.onnx.
        stages: Seconds per stage.
        total_seconds: Seconds of the whole run, with what lies between the stages (mostly
            TensorFlow's import).
        engine: `compiled` or `keras`.
        epochs: Epochs that were run.
        best_epoch: The epoch whose weights were kept, from 1.
        seconds_per_epoch: Median of the epochs after the first.
        first_epoch_seconds: What the first took, with what was compiled for all of them.
        test_rmse: Quote currency.
        persistence_rmse: Error of "no change" on the same windows, quote currency.
        mape: Per cent, test windows.
        shrinkage: What the recipe multiplied predicted returns with; at 0 the model says "no
            change".
        verdict: How the model compares with "no change", beyond chance or not.
        diagnostics: Which optional steps ran.
        paths: `bundle`, and each file in it by name.
        same_onnx: Whether model.onnx has the same bytes as that of the run that was repeated; None
            if there is nothing to compare.
    """

    symbol: str
    timeframe: str
    model_type: str
    recipe: str
    horizon: int
    version_id: str
    published: bool
    stages: dict[str, float]
    total_seconds: float
    engine: str
    epochs: int
    best_epoch: int
    seconds_per_epoch: float
    first_epoch_seconds: float
    test_rmse: float
    persistence_rmse: float
    mape: float
    shrinkage: float
    verdict: str
    diagnostics: dict[str, bool]
    paths: dict[str, str]
    same_onnx: bool | None = None


def run_training_pipeline(
    config: TrainingConfig,
    *,
    recorded: RecordedRun | None = None,
    listener: Listener = SILENT,
) -> TrainingResult:
    """Train a model and put its bundle into the registry.

    Args:
        config: What to train, on what, and how.
        recorded: The run that is repeated, `config` being its own.
        listener: Hears about downloads, stages, epochs and windows.

    Raises:
        DataError: Candles or sentiment that cannot be used, or not those of the recorded run.
        FetchError: Candles or sentiment that are not stored and cannot be fetched.
        TrainingError: The loss became NaN, or the compiled engine was asked for and cannot train
            the model. What was best before a NaN was kept: the log says where.
        ExportError: ONNX failed, or does not agree with Keras. The model was kept: the message
            says where.
        StorageError: The registry cannot be written.
        MissingExtraError: TensorFlow or another part is not installed.
        OSError: The directory for TensorBoard cannot be written.
    """
    timer = StageTimer(listener)
    # TensorFlow takes seconds to import: it comes while inputs are read or fetched.
    _ahead(import_tensorflow)
    with timer.stage("ingestion"):
        market = load_market(config, listener=listener)
    with timer.stage("features"):
        now = None
        if recorded:
            # The sentiment is judged as of then: its age may decide about the kind of the model.
            market, now = recorded.cut(market), recorded.assessed_at
        prepared = recipes.prepare(market, config, now=now, cache=config.cache_dir / "features")
        if recorded:
            recorded.check(prepared)
    with timer.stage("dataset"):
        data = recipes.split(prepared, config)
    _describe(data, config)

    if not config.skip_onnx:
        onnx_export.check_packages()
    with registry.staging(config.registry) as staged:
        policy = configure(config, threads=recorded.threads if recorded else None)
        log.info("%s", policy.reason)
        if recorded:
            recorded.warn_of_differences(versions(), environment())
        _ahead(lambda: _import_late_packages(config))
        with timer.stage("training"):
            model, fitted = train(
                recipes.get(config.recipe),
                config,
                data,
                policy,
                listener=listener,
                callbacks=tensorboard.callbacks(
                    config.tensorboard, f"{config.symbol}_{config.timeframe}"
                ),
                checkpoints=config.cache_dir / "checkpoints",
            )
        with timer.stage("artifacts"), _storage_errors(config.registry, fitted.checkpoint):
            model.save(staged / "model.keras")

        with _kept_on_failure(staged, data, config):
            if fitted.diverged:
                raise TrainingError(
                    f"the loss stopped being a number in epoch {fitted.diverged}; try another "
                    f"--seed, or fewer --epochs (the best was {fitted.best_epoch})"
                )
            with timer.stage("evaluation"):
                predictions = predict(model, data, data.test)
                record = RunRecord(config, data, policy, fitted, evaluate(model, data, predictions))
            with timer.stage("diagnostics"):
                _diagnose(model, record, predictions, staged / "training.png")
            with timer.stage("onnx"), _storage_errors(config.registry, fitted.checkpoint):
                export_error = _export(model, record, staged / "model.onnx")
            with timer.stage("artifacts"), _storage_errors(config.registry, fitted.checkpoint):
                write_samples(model, record, staged / "samples.npz")
                bundle, version = _publish(record, staged, timer)
    if export_error is not None:
        raise ExportError(f"{export_error}; the trained model was kept in {bundle}")
    if fitted.checkpoint:
        with suppress(OSError):
            fitted.checkpoint.unlink(missing_ok=True)
    return TrainingResult(
        symbol=config.symbol,
        timeframe=config.timeframe,
        model_type=prepared.model_type,
        recipe=config.recipe,
        horizon=config.horizon,
        version_id=version,
        published=record.diagnostics["onnx"],
        stages=timer.seconds,
        total_seconds=timer.total,
        engine=fitted.engine,
        epochs=fitted.epochs,
        best_epoch=fitted.best_epoch,
        seconds_per_epoch=fitted.seconds_per_epoch,
        first_epoch_seconds=fitted.epoch_seconds[0],
        test_rmse=record.evaluation.test_rmse,
        persistence_rmse=record.evaluation.persistence_rmse,
        mape=record.evaluation.mape,
        shrinkage=fitted.shrinkage,
        verdict=record.evaluation.verdict,
        diagnostics=record.diagnostics,
        paths={"bundle": str(bundle)} | {p.name: str(p) for p in sorted(bundle.iterdir())},
        same_onnx=recorded.compare(bundle / "model.onnx") if recorded else None,
    )


def _ahead(work: Callable[[], object]) -> None:
    """Do `work` beside what follows; whoever needs its result does it again and sees what fails."""

    def run() -> None:
        with suppress(Exception):
            work()

    Thread(target=run, daemon=True).start()


def _import_late_packages(config: TrainingConfig) -> None:
    """Import what the steps behind the training need, while the training does not need Python."""
    if not config.skip_plots:
        import_module("jinja2")
        import_module("matplotlib.figure")
        import_module("matplotlib.backends.backend_agg")
        import_module("matplotlib.backends.backend_svg")
    if not config.skip_onnx:
        import_module("onnxruntime")
        import_module("tf2onnx")


def _describe(data: WindowedData, config: TrainingConfig) -> None:
    prepared = data.prepared
    log.info(
        "%s %s, %s model%s: %d candles, windows of %d bars x %d features, %d to train, %s%d to "
        "test",
        config.symbol,
        config.timeframe,
        prepared.model_type,
        "" if config.horizon == 1 else f", {config.horizon} bars ahead",
        prepared.candles,
        data.length,
        prepared.matrix.shape[1],
        len(data.train),
        "" if data.validation is data.test else f"{len(data.validation)} to validate, ",
        len(data.test),
    )


def _diagnose(
    model: Any, record: RunRecord, predictions: NDArray[np.float64], picture: Path
) -> None:
    """Run the diagnostics that were not skipped; one that fails is reported and recorded."""
    config, data = record.config, record.data
    if config.skip_robustness:
        log.info("robustness: skipped")
    else:
        with _optional("robustness", record):
            record.robustness = robustness(model, data, predictions)
    if config.skip_plots:
        log.info("plots: skipped")
    else:
        with _optional("plots", record):
            importance, deviation = permutation_importance(model, data, config.seed)
            synthetic = ", synthetic sample market" if config.source == "sample" else ""
            plot_training(
                picture,
                title=f"{config.symbol} {config.timeframe}, {data.prepared.model_type} model"
                + synthetic,
                fitted=record.fitted,
                data=data,
                test_predictions=predictions,
                importance=importance,
                deviation=deviation,
            )
            record.importance, record.importance_deviation = importance, deviation
        with _optional("report", record):
            record.charts = draw_charts(record, predictions)


@contextmanager
def _optional(step: str, record: RunRecord) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        record.failures[step] = f"{type(error).__name__}: {error}"
        log.warning("%s failed, the model is not affected: %s", step, error)


def _export(model: Any, record: RunRecord, path: Path) -> ExportError | None:
    """Write the checked ONNX model; what failed is returned, to be raised when all is stored."""
    if record.config.skip_onnx:
        log.info("onnx: skipped, engines will not see this model")
        return None
    try:
        record.onnx_difference = export_onnx(model, record, path)
    except ExportError as error:
        path.unlink(missing_ok=True)
        return error
    return None


def _publish(record: RunRecord, staged: Path, timer: StageTimer) -> tuple[Path, str]:
    data, config = record.data, record.config
    created, live = _now(), record.diagnostics["onnx"]
    model_type = data.prepared.model_type
    write_json(staged / "feature_schema.json", feature_schema(record))

    def finish(version: str) -> None:
        document = metadata(record, version=version, created=created)
        write_json(staged / "metadata.json", document)
        if live:
            report = verify(staged, identity=(config.symbol, model_type, version))
            if report.problems:
                raise ExportError(f"the bundle must not be live: {'; '.join(report.problems)}")
            document["verification"] = {
                "feature_skew": report.skew,
                "prediction_difference": report.prediction_difference,
            }
            log.info(
                "verified: features as scored differ by %.1e from those trained on, predictions "
                "by %.1e of the price from Keras'",
                report.skew,
                report.prediction_difference,
            )
        if not config.skip_plots:
            with _optional("report", record):
                write_report(
                    staged / "report.html",
                    record,
                    document,
                    stages=timer.seconds,
                    total=timer.total,
                )
        # Again, with the verification and what failed.
        write_json(staged / "metadata.json", document)

    home = config.registry / config.symbol / model_type
    other = registry.other_live_timeframe(home, config.timeframe)
    if live and other:
        log.warning(
            "%s is not moved: engines expect %s there, and this is %s; atb-fast models promote "
            "--force does it",
            home / "latest",
            other,
            config.timeframe,
        )
    before = registry.live_version(home)
    bundle, version = registry.publish(
        staged,
        config.registry,
        symbol=config.symbol,
        model_type=model_type,
        created=created,
        finish=finish,
        live=live,
        latest=other is None,
    )
    if live and not other:
        log.info("%s -> %s (before: %s)", home / "latest", version, before or "none")
    return bundle, version


@contextmanager
def _kept_on_failure(staged: Path, data: WindowedData, config: TrainingConfig) -> Iterator[None]:
    """Keep the trained model when something after the training fails or is interrupted."""
    try:
        yield
    except BaseException:
        # A rename needs no room, so this works on a full disk too; if not, the first error counts.
        with suppress(StorageError):
            kept, _ = registry.publish(
                staged,
                config.registry,
                symbol=config.symbol,
                model_type=data.prepared.model_type,
                created=_now(),
                finish=lambda _: None,
                live=False,
            )
            log.warning("the trained model was kept in %s", kept)
        raise


@contextmanager
def _storage_errors(root: Path, checkpoint: Path | None) -> Iterator[None]:
    """Say what cannot be written, and how the training is not lost."""
    try:
        yield
    except OSError as error:  # StorageError is one
        text = str(error)
        if not isinstance(error, StorageError):
            text = f"registry {root} cannot be written: {error.strerror or error}"
        if checkpoint and checkpoint.exists():
            text += "; the training is kept: make room or give another --registry, with --resume"
        raise StorageError(text) from error


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
