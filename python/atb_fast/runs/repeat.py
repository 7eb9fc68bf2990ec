"""Repeating a run from its metadata."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from atb_fast.config import OPTIONS
from atb_fast.errors import ArgumentError, AtbFastError, BundleError, DataError
from atb_fast.features.prepared import PreparedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes.config import TrainingConfig, from_plain
from atb_fast.serving.references import find
from atb_fast.serving.registry import read_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedRun:
    """A run to repeat, as recorded in its metadata.

    Attributes:
        path: The metadata.json.
        config: The options, with the engine and the batch size that were used.
        data: The `dataset` of the metadata: hashes and range of the training data.
        versions: Versions of Python and the packages.
        environment: See `training.environment`; empty in metadata of early versions.
        assessed_at: When the quality of the sentiment was assessed; None if it was not.
        onnx_sha256: Hash of the model.onnx next to the metadata; None if there is none.
    """

    path: Path
    config: TrainingConfig
    data: dict[str, Any]
    versions: dict[str, Any]
    environment: dict[str, Any]
    assessed_at: datetime | None
    onnx_sha256: str | None

    @property
    def threads(self) -> int | None:
        """Number of threads per TensorFlow operation; None if it was not recorded."""
        found = self.environment.get("intra_op_threads")
        return found if type(found) is int and 0 < found <= 4096 else None

    def cut(self, market: Market) -> Market:
        """Return `market` without candles after the last one of the run."""
        last = self.data.get("candles_last")
        if last is None:
            return market
        candles = market.candles.filter(pl.col("timestamp") <= _time(self.path, last))
        return Market(candles, market.sentiment, market.extras)

    def check(self, prepared: PreparedData) -> None:
        """Check that `prepared` has the same data as the run.

        Raises:
            DataError: A hash differs.
        """
        expected, received = self.data["sha256"], prepared.sha256
        if expected == received:
            return
        other = [name for name in expected | received if expected.get(name) != received.get(name)]
        hashes = [[found.get(name) for name in other] for found in (received, expected)]
        times = prepared.frame["timestamp"]
        ends = [self.data.get(name) for name in ("candles_first", "candles_last")]
        raise DataError(
            f"the input differs from that of {self.path} in {' and '.join(other)}: received "
            f"{prepared.candles} candles from {times[0]} to {times[-1]}, expected "
            f"{self.data.get('candles')!r:.80} from {ends[0]!r:.80} to {ends[1]!r:.80}; sha256 "
            f"received {hashes[0]}, expected {hashes[1]}. Pass the files of that run as --candles, "
            "--sentiment and --extra, or run atb-fast data verify to check the store"
        )

    def warn_of_differences(self, versions: dict[str, str], environment: dict[str, Any]) -> None:
        """Log differences from the run that can change the weights."""
        machine = {name: environment[name] for name in ("cpu", "intra_op_threads", "gpus")}
        for kind, then, now in (
            ("versions", self.versions, versions),
            (
                "machine",
                {n: self.environment[n] for n in machine if n in self.environment},
                machine,
            ),
        ):
            changed = {name: value for name, value in then.items() if now.get(name) != value}
            if changed:
                log.warning(
                    "%s differ from %s, so the weights may differ: recorded %s, now %s",
                    kind,
                    self.path,
                    changed,
                    {name: now.get(name) for name in changed},
                )

    def compare(self, path: Path) -> bool | None:
        """Return whether a model.onnx is identical to the recorded one; None if one is missing."""
        if self.onnx_sha256 is None or not path.is_file():
            log.info("model.onnx cannot be compared with that of %s: one is missing", self.path)
            return None
        same = _sha256(path) == self.onnx_sha256
        if same:
            log.info("model.onnx is identical to the one next to %s", self.path)
        else:
            log.warning("model.onnx differs from the one next to %s", self.path)
        return same


def read_run(reference: str | Path, *, recipe: str | None = None, **options: Any) -> RecordedRun:
    """Return the run that a metadata.json records, to repeat it.

    Metadata is not trusted: the module of a Python recipe is imported only if `recipe` names it.

    Args:
        reference: A metadata.json, the directory of a bundle, or SYMBOL:TIMEFRAME:TYPE[:VERSION].
        recipe: The Python recipe of the run, `package.module:Class`, as the metadata records it.
            None for other recipes.
        options: Options of TrainingConfig that replace those recorded, or the defaults.

    Raises:
        ArgumentError: The options contradict those recorded, or `recipe` is not the one recorded.
        BundleError: There is no metadata, or it cannot be used.
        DataError: A recorded file does not exist, and no other is given.
    """
    named = isinstance(reference, str | Path) and Path(reference).is_file()
    path = Path(reference) if named else find(reference, options.get("registry")) / "metadata.json"
    metadata = read_json(path)
    config = _config(path, metadata, recipe)
    given = OPTIONS["extra"].check(options.pop("extra", None)) or {}
    if given:  # the others have not moved
        options["extra"] = (config.extra or {}) | given
    onnx = path.parent / "model.onnx"
    data = _part(path, metadata, "dataset")
    hashes = data.get("sha256")
    if not isinstance(hashes, dict) or "candles" not in hashes:
        raise BundleError(
            f"{path}: dataset.sha256 is {hashes!r:.80}, expected the hash of the candles"
        )
    assessed_at = _part(path, metadata, "sentiment_assessment").get("assessed_at")
    for name in ("candles",) if config.force_price_only else ("candles", "sentiment"):
        moved = getattr(config, name)
        if moved and name not in options and not moved.exists():
            raise DataError(
                f"{path} names {moved} as --{name}, which does not exist; metadata records paths "
                f"only inside the working directory of the run, so pass --{name} FILE"
            )
    for name, moved in (config.extra or {}).items():
        if name not in given and not moved.exists():
            raise DataError(
                f"{path} names {moved} as --extra {name}, which does not exist; metadata records "
                f"paths only inside the working directory of the run, so pass --extra {name}=FILE"
            )
    last = data.get("candles_last")
    if last is not None and config.end_date is None:
        # Download no more than needed.
        config = dataclasses.replace(config, end_date=_time(path, last).date())
    return RecordedRun(
        path=path,
        config=dataclasses.replace(config, **options),
        data=data,
        versions=_part(path, metadata, "versions"),
        environment=_part(path, metadata, "environment"),
        assessed_at=None if assessed_at is None else _time(path, assessed_at),
        onnx_sha256=_sha256(onnx) if onnx.is_file() else None,
    )


def _config(path: Path, metadata: dict[str, Any], confirmed: str | None) -> TrainingConfig:
    recorded = _part(path, metadata, "config")
    if not recorded:
        raise BundleError(
            f"{path}: has no config, so the run cannot be repeated; pass metadata of a run "
            "of atb-fast"
        )
    known = {"symbol", *OPTIONS}
    unknown = sorted(set(recorded) - known)
    if unknown:
        raise BundleError(
            f"{path}: config has options unknown to this version of atb-fast: {unknown!r:.200}; "
            "install the version that wrote it"
        )
    trained = _part(path, metadata, "training_params")
    # Versions without this option trained on such candles too. Their hash is checked.
    recorded.setdefault("allow_bad_candles", True)
    recorded |= {name: trained[name] for name in ("engine", "batch_size") if name in trained}
    document = metadata.get("recipe_document")
    _check_confirmed(path, document, confirmed)
    try:
        return from_plain(recorded, document)
    except (AtbFastError, TypeError) as error:
        raise BundleError(f"{path}: config cannot be used: {error}") from error


def _check_confirmed(path: Path, document: Any, confirmed: str | None) -> None:
    """Raise ArgumentError unless `confirmed` is the Python recipe of `document`.

    To import a module is to run its code, so the user must name it.
    """
    recorded = document.get("python") if isinstance(document, dict) else None
    if confirmed == recorded:
        return
    if recorded is None:
        raise ArgumentError(
            f"--recipe is {confirmed!r:.80}, but {path} records no Python recipe to confirm; leave "
            "out --recipe",
            options=["recipe"],
        )
    if not isinstance(recorded, str) or not re.fullmatch(r"[\w.]+:[\w.]+", recorded):
        raise BundleError(
            f"{path}: recipe_document.python is {recorded!r:.80}, expected package.module:Class"
        )
    found = "" if confirmed is None else f" --recipe is {confirmed!r:.80}."
    raise ArgumentError(
        f"{path} was trained with the Python recipe {recorded}, which --from does not import "
        f"unless you confirm it.{found} If you trust that module, pass --recipe {recorded}",
        options=["recipe"],
    )


def _part(path: Path, metadata: dict[str, Any], name: str) -> dict[str, Any]:
    found = metadata.get(name, {})
    if not isinstance(found, dict):
        raise BundleError(f"{path}: {name} is {type(found).__name__}, expected an object")
    return found


def _time(path: Path, text: Any) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        raise BundleError(f"{path}: found {text!r:.80}, expected an ISO time with a time zone")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
