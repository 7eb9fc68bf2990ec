"""A trial: one set of options, evaluated on all symbols and folds of a study, as data.

Its document contains everything that the result depends on, so the same trial gives the same result
in any process. What may differ, such as the duration, is in a separate part, `run`.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atb_fast.callbacks import SILENT, Listener
from atb_fast.config import (
    OPTIONS,
    FitOptions,
    NetworkOptions,
    RecipeOptions,
    TargetOptions,
    names,
)
from atb_fast.errors import (
    ArgumentError,
    AtbFastError,
    DataError,
    MissingExtraError,
    message_and_code,
)
from atb_fast.evaluation.walk_forward import Fold, WalkForward, planned, walk_forward
from atb_fast.experiments.executors import Task
from atb_fast.features.hashing import content_hash
from atb_fast.ingestion.extras import Extra
from atb_fast.ingestion.market import Market
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.config import TrainingConfig, from_plain
from atb_fast.recipes.documents import to_document
from atb_fast.recipes.split import TooFewCandlesError
from atb_fast.runs import interrupts
from atb_fast.training.device import import_tensorflow
from atb_fast.training.environment import INTRA_OP, environment, versions

#: Default number of threads per operation. Trials in parallel use all cores with one each; with
#: more, they would only wait for each other.
THREADS = 1

#: The options that results depend on. The document identifies the market by its content.
_OPTIONS = tuple(
    name
    for name in (
        *("timeframe", "force_price_only"),
        *names(RecipeOptions, TargetOptions, NetworkOptions, FitOptions),
    )
    if not OPTIONS[name].machine
)
#: Packages that results of an evaluation do not depend on.
_UNUSED = ("onnx", "tf2onnx", "onnxruntime")
#: The columns of losses by bar: int64 (times in milliseconds since 1970) and float64.
_LOSSES = {"timestamp": "<i8", "fold": "<i8", "model": "<f8", "reference": "<f8"}


class _PrunedError(Exception):
    """Stops a trial that is worse than the best one."""


def pack(market: Market) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the description of a market for `document`, and its contents by their sha256."""
    contents: dict[str, bytes] = {}

    def packed(frame: pl.DataFrame) -> str:
        key, file = content_hash(frame), io.BytesIO()
        frame.write_ipc(file, compression="zstd")
        contents[key] = file.getvalue()
        return key

    described = {
        "candles": packed(market.candles),
        "sentiment": None if market.sentiment is None else packed(market.sentiment),
        "extras": [
            {"name": extra.name, "lag_ms": extra.lag_ms, "sha256": packed(extra.values)}
            for extra in market.extras
        ],
    }
    return described, contents


def _unpacked(described: Mapping[str, Any], contents: Mapping[str, bytes]) -> Market:
    def frame(key: str) -> pl.DataFrame:
        return pl.read_ipc(io.BytesIO(contents[key]))

    sentiment = described["sentiment"]
    return Market(
        frame(described["candles"]),
        None if sentiment is None else frame(sentiment),
        tuple(
            Extra(each["name"], frame(each["sha256"]), each["lag_ms"])
            for each in described["extras"]
        ),
    )


def document(
    configs: Sequence[TrainingConfig],
    markets: Sequence[Mapping[str, Any]],
    *,
    folds: Mapping[str, Any],
    threads: int = THREADS,
    prune: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the document of a trial, as JSON values.

    Args:
        configs: What to train; one for each symbol. They may differ only in the symbol.
        markets: The description of the market of each; see `pack`.
        folds: `number`, `window`, `embargo` and `until` of the folds; or `holdout` and `embargo`.
            Times are ISO 8601, UTC. See `walk_forward`.
        threads: Threads per operation, on which the exact results depend.
        prune: Stop the trial as soon as it is significantly worse than the best one: `p_threshold`,
            `startup`, the number of folds before that, and `losses`, the `reference_ratio` of the
            best trial for each symbol and fold; None to never stop. See `is_worse`.

    Raises:
        ArgumentError: The configurations differ, a time is invalid, or the recipe is a class whose
            constructor takes arguments.
    """
    options = [config.to_dict() for config in configs]
    differ = sorted(
        {name for each in options for name in _OPTIONS if each[name] != options[0][name]}
    )
    if differ:
        raise ArgumentError(f"the configurations of one trial differ in {', '.join(differ)}")
    for name in ("until", "holdout"):
        _time(folds.get(name))
    return {
        "markets": [
            {"symbol": config.symbol, "timeframe": config.timeframe, **market}
            for config, market in zip(configs, markets, strict=True)
        ],
        "options": {name: options[0][name] for name in _OPTIONS},
        "recipe": _recipe(configs[0].definition),
        "folds": dict(folds),
        "threads": threads,
        "versions": _versions(),
        "prune": None if prune is None else dict(prune),
    }


def _recipe(recipe: BaseRecipe) -> dict[str, Any]:
    """Return the document of a recipe; that of a class also has the hash of its module.

    Raises:
        ArgumentError: The class takes arguments, with which other processes cannot create it.
    """
    made = to_document(recipe)
    if "python" not in made:
        return made
    if takes := ", ".join(inspect.signature(type(recipe)).parameters):
        raise ArgumentError(
            f"the constructor of the recipe {made['python']} takes arguments ({takes:.200}), which "
            "other processes do not know; expected none, for example in a subclass for each variant"
        )
    try:
        source = Path(inspect.getfile(type(recipe))).read_bytes()
    except (OSError, TypeError):  # not from a file
        return made
    return made | {"sha256": hashlib.sha256(source).hexdigest()}


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of a document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def identity(document: Mapping[str, Any]) -> str:
    """Return the id of a document: the first 16 hexadecimal digits of its sha256."""
    return hashlib.sha256(canonical(document)).hexdigest()[:16]


def task(document: Mapping[str, Any], machine: Mapping[str, Any] | None = None) -> Task:
    """Return the task that runs a trial; see `run_trial`. `pack` returns the contents to share."""
    keys: dict[str, None] = {}
    for market in document["markets"]:
        named = [market["candles"], market["sentiment"]]
        named += [extra["sha256"] for extra in market["extras"]]
        keys |= {key: None for key in named if key is not None}
    return Task(identity(document), run_trial, (document, machine), tuple(keys))


def check_candles(
    configs: Sequence[TrainingConfig], document: Mapping[str, Any], shared: Mapping[str, bytes]
) -> None:
    """Raise DataError if there are too few candles for a trial. This trains nothing.

    Whatever else is wrong is left to the trial, because other candidates may not have it.

    Args:
        configs: Those of the document.
        document: See `document`.
        shared: The contents of the markets by their sha256.
    """
    for config, described in zip(configs, document["markets"], strict=True):
        market = _unpacked(described, shared)
        try:
            with _quiet():
                planned(market, config, now=market.candles["timestamp"][-1], **_plan(document))
        except TooFewCandlesError as error:
            if len(configs) == 1:
                raise
            raise DataError(f"{config.symbol}: {error}") from error
        except AtbFastError:
            pass


def run_trial(
    document: Mapping[str, Any],
    machine: Mapping[str, Any] | None = None,
    *,
    shared: Mapping[str, bytes],
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Return the result of a trial, as JSON values.

    If the trial fails, the result has the state `failed`. It has these keys:

    - `trial_id` and `trial`, the document;
    - `state`: `complete`, `pruned` or `failed`;
    - `value`: the mean of `reference_ratio` over symbols and folds, lower is better; None unless
      the state is `complete`;
    - `folds`: `symbol` and `Fold.to_dict` of each fold; of a pruned trial, those before it stopped;
    - `pooled`: figures of all folds together by symbol, see `WalkForward.pooled`;
    - `losses`: losses by bar by symbol, see `losses`;
    - `error` and `exit_code`: None unless the state is `failed`;
    - `run`: everything that may differ between two runs of the same trial.

    Args:
        document: See `document`.
        machine: Options of `TrainingConfig` that concern this machine, such as `cache_dir`.
        shared: The contents of the markets by their sha256.
        listener: Receives the progress of epochs and folds.
    """
    began, created = time.perf_counter(), datetime.now(UTC)
    steps = _Steps(document["prune"], listener)
    result: dict[str, Any] = {
        "trial_id": identity(document),
        "trial": document,
        "state": "complete",
        "value": None,
        "folds": steps.folds,
        "pooled": {},
        "losses": {},
        "error": None,
        "exit_code": None,
    }
    trace = None
    try:
        with _quiet():
            evaluated = _evaluated(document, machine or {}, shared, steps)
        result["value"] = float(np.mean(steps.values))
        result["pooled"] = {symbol: made.pooled for symbol, made in evaluated.items()}
        result["losses"] = {symbol: _encoded(made.losses) for symbol, made in evaluated.items()}
    except _PrunedError:
        result["state"] = "pruned"
    except Exception as error:
        if interrupts.requested(error):
            raise
        unexpected = (f"{type(error).__name__}: {error}", AtbFastError.exit_code)
        result["state"], result["folds"] = "failed", []
        result["error"], result["exit_code"] = message_and_code(error) or unexpected
        trace = traceback.format_exc()
    run: dict[str, Any] = {
        "created": created.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - began,
        "fold_seconds": steps.seconds,
        "machine": {},
        "traceback": trace,
    }
    with suppress(Exception):  # without TensorFlow, the trial has already failed
        import_tensorflow()
        run["machine"] = environment() | {"onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS")}
    return result | {"run": run}


def losses(result: Mapping[str, Any]) -> pl.DataFrame:
    """Return the losses of a complete trial by bar.

    Returns:
        `symbol`; `timestamp`, UTC; `fold`, int64; `model` and `reference`, float64. See
        `WalkForward.losses`.
    """
    frames = []
    for symbol, columns in result["losses"].items():
        arrays = {
            name: np.frombuffer(base64.b64decode(columns[name]), kind)
            for name, kind in _LOSSES.items()
        }
        times = pl.col("timestamp").cast(pl.Datetime("ms", "UTC"))
        frames.append(pl.DataFrame({"symbol": [symbol] * len(arrays["fold"]), **arrays}))
    return pl.concat(frames).with_columns(times)


def is_worse(values: Sequence[float], prune: Mapping[str, Any]) -> bool:
    """Return whether a trial is significantly worse than the best one, so that it can stop.

    This is the rule of Optuna's `WilcoxonPruner`: a signed-rank test of the folds so far. A trial
    never stops while its mean is not above that of the best trial.

    Args:
        values: The `reference_ratio` of each fold so far.
        prune: See `document`.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    best = prune["losses"]
    if len(values) < max(2, prune["startup"]) or sum(best) / len(best) >= np.mean(values):
        return False
    try:
        from scipy.stats import wilcoxon
    except ImportError as error:
        raise MissingExtraError(
            f"pruning needs SciPy, which cannot be imported ({error}); install it with "
            "pip install 'atb-fast[sweep]'"
        ) from error
    differences = np.subtract(values, best[: len(values)])
    found = wilcoxon(differences, alternative="greater", zero_method="zsplit")
    return bool(found.pvalue < prune["p_threshold"])


class _Steps(Listener):
    """Collects the folds, and stops the trial when it is worse than the best one."""

    def __init__(self, prune: Mapping[str, Any] | None, listener: Listener) -> None:
        self.symbol = ""
        self.folds: list[dict[str, Any]] = []
        self.values: list[float] = []
        self.seconds: list[float] = []
        self._prune, self._listener = prune, listener

    def stage(self, name: str) -> None:
        self._listener.stage(name)

    def windows(self, done: int, total: int) -> None:
        self._listener.windows(done, total)

    def epoch(self, number: int, logs: dict[str, float]) -> None:
        self._listener.epoch(number, logs)

    def fold(self, fold: Fold) -> None:
        self._listener.fold(fold)
        if not np.isfinite(fold.reference_ratio):
            raise DataError(
                f"fold {fold.number}: the error of the baseline is 0, so there is no ratio"
            )
        figures = fold.to_dict()
        self.seconds.append(figures.pop("seconds"))
        self.folds.append({"symbol": self.symbol, **figures})
        self.values.append(fold.reference_ratio)
        if self._prune is not None and is_worse(self.values, self._prune):
            raise _PrunedError


def _evaluated(
    document: Mapping[str, Any],
    machine: Mapping[str, Any],
    shared: Mapping[str, bytes],
    steps: _Steps,
) -> dict[str, WalkForward]:
    """Return the evaluation of each symbol."""
    _use_threads(document["threads"])
    found = _versions()
    if document["versions"] != found:
        raise ArgumentError(
            f"the trial needs the versions {document['versions']}, but this process has {found}; "
            "install the same versions"
        )
    plan = _plan(document)
    made = {}
    for market in document["markets"]:
        steps.symbol = market["symbol"]
        options = {**document["options"], "symbol": steps.symbol}
        config = replace(from_plain(options, document["recipe"]), **machine)
        own = _recipe(config.definition).get("sha256")
        if document["recipe"].get("sha256", own) != own:
            raise ArgumentError(
                f"the file of the recipe {document['recipe']['python']} is not the one that the "
                "trial is for; use the same file on all machines, and do not edit it meanwhile"
            )
        made[steps.symbol] = walk_forward(
            config, market=_unpacked(market, shared), listener=steps, **plan
        )
    return made


def _plan(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `walk_forward` that say what is tested."""
    plan = document["folds"]
    if "holdout" in plan:
        return {"folds": 1, "embargo": plan["embargo"], "holdout": _time(plan["holdout"])}
    found = {"folds": plan["number"], "embargo": plan["embargo"], "window": plan["window"]}
    return found | {"until": _time(plan["until"])}


def _use_threads(threads: int) -> None:
    """Set the number of threads per operation, which TensorFlow reads before its first operation.

    Raises:
        ArgumentError: This process has imported TensorFlow with another number.
    """
    if "tensorflow" in sys.modules:
        import_tensorflow()  # a trial that failed early may have left a thread that imports it
        found = environment()["intra_op_threads"]
        if found != threads:
            raise ArgumentError(
                f"the trial needs {threads} threads per operation, but this process has {found}; "
                f"run it in another process, or set {INTRA_OP}={threads}"
            )
    os.environ[INTRA_OP] = str(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Log errors only: the same lines for each fold of each trial would hide the important ones."""
    logger = logging.getLogger("atb_fast")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _encoded(frame: pl.DataFrame) -> dict[str, str]:
    """Return the losses by bar as base64."""
    frame = frame.with_columns(pl.col("timestamp").dt.epoch("ms"))
    return {
        name: base64.b64encode(frame[name].to_numpy().astype(kind).tobytes()).decode()
        for name, kind in _LOSSES.items()
    }


def _versions() -> dict[str, str]:
    return {name: found for name, found in versions().items() if name not in _UNUSED}


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        raise ArgumentError(
            f"a trial has the time {text!r:.80}, expected ISO 8601 with a time zone"
        )
    return found
