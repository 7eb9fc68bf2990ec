"""The training run: all stages in order, from the market to the published bundle."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from atb_fast import recipes
from atb_fast.bundles import curves, onnx_export, publishing
from atb_fast.bundles.contents import feature_schema, metadata, write_json
from atb_fast.bundles.curves import write_curves
from atb_fast.bundles.export import export_onnx
from atb_fast.bundles.publishing import Draft
from atb_fast.bundles.samples import write_samples
from atb_fast.bundles.workspace import open_workspace
from atb_fast.callbacks import SILENT, Listener
from atb_fast.errors import BundleError, ExportError, StorageError, TrainingError, counted, remedy
from atb_fast.evaluation.record import RunRecord
from atb_fast.features.windows import WindowedData
from atb_fast.ingestion.market import load_market
from atb_fast.options import check_type
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.networks import OwnNetwork
from atb_fast.reports.page import write_report
from atb_fast.runs import ledger, records
from atb_fast.runs.assessment import Trained, assess, optional
from atb_fast.runs.previous import run_before
from atb_fast.runs.promotion import Promotion, decide, policy_of, unpublished
from atb_fast.runs.repeat import RecordedRun
from atb_fast.runs.result import TrainingResult, result_of
from atb_fast.runs.timing import StageTimer
from atb_fast.serving.skew import relative_to
from atb_fast.serving.verification import verify
from atb_fast.training import tensorboard
from atb_fast.training.compile_cache import open_cache
from atb_fast.training.device import configure, import_ahead
from atb_fast.training.engine import FitResult
from atb_fast.training.environment import environment, versions
from atb_fast.training.predict import predict_outputs
from atb_fast.training.startup import ahead
from atb_fast.training.train import build, save, train

log = logging.getLogger(__name__)


def run_training_pipeline(
    config: TrainingConfig,
    *,
    recorded: RecordedRun | None = None,
    listener: Listener = SILENT,
) -> TrainingResult:
    """Train a model, publish its bundle, and return the result.

    Args:
        config: What to train, and how.
        recorded: The run to repeat. `config` must be its configuration.
        listener: Receives the progress of downloads, stages, epochs and windows.

    Raises:
        ArgumentError: An argument has the wrong type.
        DataError: Candles or sentiment cannot be used, or differ from those of the recorded run.
        FetchError: Candles or sentiment are not stored and cannot be downloaded.
        TrainingError: The loss became NaN, or the compiled engine was requested and cannot train
            the model. If the loss became NaN, the best model was kept; the log says where.
        ExportError: The ONNX export failed, or the bundle did not pass verification. The model was
            kept; the message says where.
        StorageError: The registry cannot be written.
        MissingExtraError: TensorFlow or another optional package is not installed.
        OSError: The TensorBoard directory cannot be written.
    """
    check_type("config", config, TrainingConfig)
    check_type("listener", listener, Listener)
    timer = StageTimer(listener)
    threads = recorded.threads if recorded else None
    if config.compile_cache:
        open_cache(config.cache_dir, threads=threads)
    import_ahead()  # while the input is read or downloaded
    if not config.skip_onnx:
        onnx_export.check_packages()
    data = _load(config, recorded, timer, listener)
    model_type = data.prepared.model_type
    # An unusable registry is reported before training, not after it.
    open_workspace(config.registry, config.registry / config.symbol / model_type)
    trained = _train(config, data, recorded, timer=timer, listener=listener)
    fitted = trained.fitted
    # A version is named after the end of its training, so the newest model sorts last.
    with publishing.reserve(config.registry, config.symbol, model_type, _now()) as draft:
        with timer.stage("artifacts"), _storage_errors(draft, fitted):
            save(trained.model, draft.directory / "model.keras")
        with _kept_on_failure(draft, fitted):
            if fitted.diverged:
                raise TrainingError(
                    f"the loss became NaN in epoch {fitted.diverged} (best epoch: "
                    f"{fitted.best_epoch}); try another --seed or fewer --epochs"
                )
            record, predictions = assess(trained, draft.directory, timer)
            record, error = _export(trained.model, record, draft, timer)
            with timer.stage("artifacts"), _storage_errors(draft, fitted):
                write_samples(trained.model, record, draft.directory / "samples.npz")
                write_curves(record, draft.directory / curves.NAME)
                document, error = _describe(record, draft, error)
            policy = policy_of(config, repeated=recorded is not None)
            if error or config.skip_onnx:
                promotion = unpublished(policy, skipped=config.skip_onnx)
            else:
                with timer.stage("evaluation"):
                    promotion = decide(record, predictions, draft.home, policy)
            with timer.stage("artifacts"), _storage_errors(draft, fitted):
                bundle, promotion = _write(record, document, promotion, draft, timer)
    # Later failures are not those of the run, so it is recorded first.
    name = f"{config.symbol}/{model_type}/{draft.version}"
    made = records.of_bundle(
        document, name=name, published=promotion.published, seconds=timer.total
    )
    ledger.append(config.registry, made)
    if error:
        raise ExportError(f"{error}; the trained model was kept in {bundle}")
    if fitted.checkpoint:
        with suppress(OSError):
            fitted.checkpoint.unlink(missing_ok=True)
    same_onnx = recorded.compare(bundle / "model.onnx") if recorded else None
    return result_of(record, bundle, draft.version, promotion, timer=timer, same_onnx=same_onnx)


def _import_late_packages(config: TrainingConfig) -> None:
    """Import what later steps need; while the model is trained, Python is idle."""
    if not config.skip_plots:
        import_module("jinja2")
        import_module("matplotlib.figure")
        import_module("matplotlib.backends.backend_agg")
        import_module("matplotlib.backends.backend_svg")
    if not config.skip_onnx:
        import_module("onnxruntime")
        import_module("tf2onnx")


def _load(
    config: TrainingConfig, recorded: RecordedRun | None, timer: StageTimer, listener: Listener
) -> WindowedData:
    """Return the windows to train and test on."""
    with timer.stage("ingestion"):
        market = load_market(config, listener=listener)
    with timer.stage("features"):
        now = None
        if recorded:
            # The age of the sentiment can decide the type of the model, so it is measured at the
            # time of the recorded run.
            market, now = recorded.cut(market), recorded.assessed_at
        prepared = recipes.prepare(market, config, now=now, cache=config.cache_dir / "features")
        if recorded:
            recorded.check(prepared)
    with timer.stage("dataset"):
        data = recipes.split(prepared, config)
    log.info(
        "%s %s, %s model%s: %s, windows of %s x %s, %s to train, %s%s to test",
        config.symbol,
        config.timeframe,
        prepared.model_type,
        "" if config.horizon == 1 else f", {config.horizon:,} bars ahead",
        counted(prepared.candles, "candle"),
        counted(data.length, "bar"),
        counted(prepared.matrix.shape[1], "feature"),
        f"{len(data.train):,}",
        "" if data.validation is data.test else f"{len(data.validation):,} to validate, ",
        f"{len(data.test):,}",
    )
    return data


def _train(
    config: TrainingConfig,
    data: WindowedData,
    recorded: RecordedRun | None,
    *,
    timer: StageTimer,
    listener: Listener,
) -> Trained:
    """Set up TensorFlow and train the model."""
    policy = configure(config, threads=recorded.threads if recorded else None, listener=listener)
    log.info("%s", policy.reason)
    if recorded:
        recorded.warn_of_differences(versions(), environment())
    if isinstance(config.definition.trained_network, OwnNetwork) and not config.skip_onnx:
        with timer.stage("onnx"):  # hours of training would be lost if this failed afterwards
            onnx_export.convert(build(config.definition, data), properties={})
    ahead(lambda: _import_late_packages(config))
    with timer.stage("training"):
        model, fitted = train(
            config.definition,
            config,
            data,
            policy,
            listener=listener,
            callbacks=tensorboard.callbacks(
                config.tensorboard, f"{config.symbol}_{config.timeframe}"
            ),
            checkpoints=config.cache_dir / "checkpoints",
        )
    data = config.definition.calibrated(data, partial(predict_outputs, model, data))
    return Trained(model, config, data, policy, fitted)


def _export(
    model: Any, record: RunRecord, draft: Draft, timer: StageTimer
) -> tuple[RunRecord, ExportError | None]:
    """Write and check model.onnx; return the record with the differences found, and any error."""
    path = draft.directory / "model.onnx"
    with timer.stage("onnx"), _storage_errors(draft, record.fitted):
        if record.config.skip_onnx:
            log.info("onnx: skipped; the model will not be published")
            return record, None
        try:
            found = export_onnx(model, record, path)
        except ExportError as error:
            path.unlink(missing_ok=True)
            return record, error
    record = replace(
        record,
        onnx_difference=found.difference,
        candles_rmse=found.candles_rmse,
        target_distribution=found.target_distribution,
    )
    return record, None


def _describe(
    record: RunRecord, draft: Draft, error: ExportError | None
) -> tuple[dict[str, Any], ExportError | None]:
    """Write feature_schema.json, verify the bundle, and return metadata.json.

    Also returns why the bundle must not be published: what verification found, else `error`.
    """
    write_json(draft.directory / "feature_schema.json", feature_schema(record))
    document = metadata(record, version=draft.version, created=draft.created)
    if record.diagnostics["onnx"]:
        identity = (draft.symbol, draft.model_type, draft.version)
        checked = verify(draft.directory, identity=identity, metadata=document)
        if checked.problems:
            error = ExportError(f"the bundle must not go live: {'; '.join(checked.problems)}")
        else:
            document["verification"] = {
                "feature_skew": checked.skew,
                "prediction_difference": checked.prediction_difference,
            }
            log.info(
                "verified: serving features differ from training features by at most %.1e, "
                "predictions from those of Keras by at most %.1e%s",
                checked.skew,
                checked.prediction_difference,
                relative_to(record.data.output),
            )
    return document, error


def _write(
    record: RunRecord,
    document: dict[str, Any],
    promotion: Promotion,
    draft: Draft,
    timer: StageTimer,
) -> tuple[Path, Promotion]:
    """Write report.html and metadata.json, and publish or keep the bundle.

    Returns:
        Its directory, and whether it is live after all.
    """
    _write_pages(record, document | {"promotion": promotion.to_dict()}, draft, timer)
    if not promotion.published:
        return draft.keep(), promotion
    try:
        bundle = draft.publish(live=promotion.promoted, replacing=promotion.replacing)
    except BundleError as error:  # another process has moved `latest` since the decision
        promotion = promotion.held(str(error))
        _write_pages(record, document | {"promotion": promotion.to_dict()}, draft, timer)
        bundle = draft.publish(live=False)
    _log(promotion, bundle, record.config)
    return bundle, promotion


def _write_pages(
    record: RunRecord, document: dict[str, Any], draft: Draft, timer: StageTimer
) -> None:
    """Write report.html and metadata.json."""
    if not record.config.skip_plots:
        failures = dict(record.failures)
        with optional("report", failures, draft.directory):
            path, before = draft.directory / "report.html", run_before(draft.home, document)
            seconds = timer.seconds
            write_report(path, record, document, before, stages=seconds, total=timer.total)
        document["diagnostic_failures"] = failures
    write_json(draft.directory / "metadata.json", document)


def _log(promotion: Promotion, bundle: Path, config: TrainingConfig) -> None:
    """Log whether `latest` was moved, and why."""
    latest, reason = bundle.parent / "latest", promotion.reason
    if promotion.promoted:
        moved = f"{latest} -> {bundle.name} (before: {promotion.live or 'none'}): {reason}"
        if promotion.refused:
            log.warning("%s; pass --promote gate to keep such models from going live", moved)
        else:
            log.info("%s", moved)
        return
    command = promotion.command(bundle, config.timeframe)
    log.log(
        logging.INFO if promotion.policy == "never" else logging.WARNING,
        "%s was not moved: %s%s",
        latest,
        reason,
        f"; to make the model live anyway, run {command}" if command else "",
    )


@contextmanager
def _kept_on_failure(draft: Draft, fitted: FitResult) -> Iterator[None]:
    """Keep the trained model if a step after training fails or is interrupted."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and fitted.checkpoint:
            error.add_note("the same command with --resume repeats only the steps after training")
        # A rename needs no space, so this works even on a full disk. If it fails, report only the
        # original error.
        with suppress(StorageError):
            log.warning("the trained model was kept in %s", draft.keep())
        raise


@contextmanager
def _storage_errors(draft: Draft, fitted: FitResult) -> Iterator[None]:
    """Convert an OSError to a StorageError that says what cannot be written and what to do."""
    try:
        yield
    except OSError as error:  # StorageError is a subclass
        text = str(error)
        if not isinstance(error, StorageError):
            text = (
                f"registry {draft.registry} cannot be written ({error.strerror or error}: "
                f"{error.filename or draft.directory}); {remedy(error)}, or pass another --registry"
            )
        if fitted.checkpoint and fitted.checkpoint.exists():
            text += "; a checkpoint was saved, so continue with --resume"
        raise StorageError(text) from error


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
