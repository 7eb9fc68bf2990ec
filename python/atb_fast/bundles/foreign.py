"""Bundles of other trainers: whether engines can load them, and what cannot be verified.

The check reads only what engines read. Train/serve skew cannot be verified, because only atb-fast
records the samples for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.errors import BundleError
from atb_fast.features import outputs
from atb_fast.serving import checksums, registry
from atb_fast.serving.model import load_session
from atb_fast.serving.verification import Report, collected, expected_keys

_NOT_RUN = f"whether engines can load it, because the files differ from {checksums.NAME}"


def check(path: Path) -> Report:
    """Return whether engines can load the bundle in `path`, and what could not be checked.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    problems: list[str] = []
    unchecked: tuple[str, ...] = ()
    with collected(problems):
        # A damaged bundle of atb-fast may look like that of another trainer.
        hashes = checksums.read(path)
        problems += checksums.differences(path, hashes) if hashes else ()
        if problems:
            return Report(str(path), tuple(problems), (_NOT_RUN,))
        metadata = registry.read_json(path / "metadata.json")
        registry.check_timeframe(metadata, path)
        unchecked = not_verifiable(metadata)
        schema = registry.read_json(path / "feature_schema.json")
        problems += _model(path, schema, _units(metadata))
    return Report(str(path), tuple(problems), unchecked)


def not_verifiable(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Return what cannot be verified about a bundle of another trainer."""
    found = ["train/serve skew, because another trainer made it"]
    missing = [key for key in expected_keys(metadata) if key not in metadata]
    if missing:
        found.append(f"missing in metadata.json: {', '.join(missing)}")
    return tuple(found)


def _units(metadata: dict[str, Any]) -> int:
    """Return the number of outputs for each window; 1 if the metadata does not describe them."""
    with suppress(BundleError):
        return outputs.read(metadata).head.units
    return 1


def _model(path: Path, schema: dict[str, Any], units: int) -> Iterator[str]:
    """Run model.onnx as engines do."""
    models = sorted(path.glob("*.onnx"))
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "none"
        raise BundleError(f"{path}: found {names}, expected one *.onnx")
    session = load_session(registry.regular_file(models[0]).read_bytes(), models[0])
    shape = (3, int(schema["sequence_length"]), len(schema["features"]))
    window = np.random.default_rng(0).random(shape, dtype=np.float32)
    output = session.run(None, {session.get_inputs()[0].name: window})[0]
    if output.shape != (3, units) or not np.isfinite(output).all():
        count = "one finite number" if units == 1 else f"{units} finite numbers"
        yield f"{models[0].name} does not return {count} per window"
