"""Managing the bundles of a registry: listing, checking, promotion, rollback, pruning."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atb_fast.bundles import foreign, publishing
from atb_fast.errors import ArgumentError, BundleError
from atb_fast.features import outputs
from atb_fast.serving import registry as layout
from atb_fast.serving.references import Reference, follow, home_of
from atb_fast.serving.verification import Report, verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """A version in a registry, as described by its metadata.

    Attributes:
        path: Its directory.
        live: Whether `latest` points to it.
        foreign: Whether it is a bundle of another trainer.
        timeframe: None if the metadata has no valid one.
        metadata: Contents of metadata.json; empty if it cannot be read.
        problem: Why engines cannot find it; None if they can.
    """

    path: Path
    live: bool
    foreign: bool
    timeframe: str | None
    metadata: dict[str, Any]
    problem: str | None

    @property
    def reference(self) -> str:
        """SYMBOL:TIMEFRAME:TYPE:VERSION, with ? for an unknown timeframe."""
        symbol, model_type, version = self.path.parts[-3:]
        return f"{symbol}:{self.timeframe or '?'}:{model_type}:{version}"

    @property
    def unverified(self) -> tuple[str, ...]:
        """What cannot be verified because it is a bundle of another trainer."""
        return foreign.not_verifiable(self.metadata) if self.foreign else ()

    @property
    def forecast(self) -> str | None:
        """What it predicts, see `outputs.describe`; None if unknown.

        Bundles of other trainers do not record the horizon, so theirs is unknown.
        """
        if self.metadata and not self.foreign:
            with suppress(BundleError):
                return outputs.describe(outputs.read(self.metadata))
        return None


def releases(registry: Path) -> list[Release]:
    """Return all versions in `registry`, by symbol and type, oldest first.

    Logs a warning for each `latest` that is not a link to one of them.

    Raises:
        StorageError: The registry cannot be read.
    """
    found = [_release(path) for path in layout.versions(registry)]
    for home in sorted({release.path.parent for release in found}):
        if (home / "latest").is_symlink():
            try:
                follow(home / "latest")
            except BundleError as error:
                log.warning("%s", error)
    return found


def _release(path: Path) -> Release:
    live = layout.live_version(path.parent) == path.name
    metadata: dict[str, Any] = {}
    timeframe = problem = None
    try:
        metadata = layout.read_json(path / "metadata.json")
        timeframe = layout.check_timeframe(metadata, path)
    except BundleError as error:
        problem = str(error)
    # Without metadata, its trainer is unknown.
    by_other = bool(metadata) and layout.is_foreign(metadata)
    return Release(path, live, by_other, timeframe, metadata, problem)


def check(path: Path) -> Report:
    """Return whether a bundle may go live. Less can be checked for bundles of other trainers."""
    return _check(_release(path))


def _check(release: Release) -> Report:
    return foreign.check(release.path) if release.foreign else verify(release.path)


def other_live_forecast(home: Path, forecast: str | None) -> str | None:
    """Return what the live model in `home` predicts; None if it may be replaced by `forecast`."""
    live = layout.live_version(home)
    other = _release(home / live).forecast if live else None
    return other if forecast and other != forecast else None


def promote(path: Path, registry: Path, *, force: bool) -> tuple[Path, str | None]:
    """Make the version in `path` live; return its directory and the version that was live before.

    Args:
        path: A version in `registry`.
        registry: The registry.
        force: Do so even if it was not fully checked, or if `latest` has another timeframe or
            predicts something else. A model trained on the sample market never replaces a real one.

    Raises:
        ArgumentError: `path` is not a version in `registry`.
        BundleError: The bundle must not go live.
        StorageError: The registry cannot be written.
    """
    path = _inside(path, registry)
    report = check(path)
    if report.problems:
        raise BundleError(f"{path} must not go live: {'; '.join(report.problems)}")
    if report.incomplete and not force:
        raise BundleError(
            f"{path} could not be fully checked: {'; '.join(report.incomplete)}; pass --force to "
            "promote it anyway"
        )
    timeframe = layout.timeframe(path)
    other = layout.other_live_timeframe(path.parent, timeframe)
    if other and not force:
        raise BundleError(
            f"{path} has the timeframe {timeframe}, but engines expect {other} in "
            f"{path.parent / 'latest'}; pass --force to promote it anyway"
        )
    forecast = _release(path).forecast
    predicted = other_live_forecast(path.parent, forecast)
    if predicted and not force:
        raise BundleError(
            f"{path} predicts {forecast}, but the live model {layout.live_version(path.parent)} "
            f"predicts {predicted}; pass --force to promote it anyway"
        )
    return path, publishing.promote(path)


def _inside(path: Path, registry: Path) -> Path:
    """Return `path` with links resolved if it is a version in `registry`."""
    resolved, registry = layout.resolved(path), layout.resolved(registry)
    if resolved in layout.unpublished(registry):
        raise BundleError(
            f"{path} was not published, because it has no checked model.onnx; train the model again"
        )
    if resolved.parent.parent.parent != registry or not layout.is_bundle(resolved):
        raise ArgumentError(
            f"{path} is not a version in the registry {registry}; pass its registry as --registry"
        )
    return resolved


def rollback(bundle: str, registry: Path, *, force: bool) -> tuple[Path, str | None]:
    """Make the newest older version that passes its checks live; return it and the one before.

    Bundles of other trainers are accepted if engines can load them, so that it is possible to
    return to a model from before atb-fast. Models trained on the sample market are skipped unless
    the live one is known to be one of them, and so are models that predict something else.

    Args:
        bundle: SYMBOL:TIMEFRAME:TYPE.
        registry: The registry.
        force: Also accept a version of atb-fast that could not be fully checked.

    Raises:
        ArgumentError: `bundle` names a version.
        BundleError: Nothing is live, or there is no earlier version.
        StorageError: The registry cannot be read or written.
    """
    wanted = Reference.parse(bundle)
    if wanted.version:
        raise ArgumentError(
            f"{bundle} names a version; leave it out, or use models promote for that version"
        )
    registry = layout.resolved(registry)
    home = home_of(wanted, registry)
    latest = home / "latest"
    if not latest.is_symlink():
        raise BundleError(
            f"no bundle {bundle} is live: {latest} does not exist; use models promote"
        )
    other = layout.other_live_timeframe(home, wanted.timeframe)
    if other:
        raise BundleError(
            f"{latest} has the timeframe {other}, not {wanted.timeframe}; roll back that one, or "
            "promote a version with models promote --force"
        )
    live = home / (latest.readlink().name or latest.name)  # a link to / has no name
    others = []
    for release in reversed(_before(live, registry, wanted.timeframe)):
        path = release.path
        if layout.is_sample(path) and not layout.is_sample(live):
            log.warning("%s must not go live: it was trained on the sample market", path)
            continue
        if predicted := other_live_forecast(home, release.forecast):
            log.warning(
                "skipped %s: it predicts %s, but the live model %s predicts %s",
                *(path, release.forecast, live.name, predicted),
            )
            others.append(release.reference)
            continue
        report = _check(release)
        if report.problems:
            log.warning("%s must not go live: %s", path, "; ".join(report.problems))
            continue
        if report.incomplete:
            log.warning("%s could not be fully checked: %s", path, "; ".join(report.incomplete))
        if force or not report.incomplete or release.foreign:
            return path, publishing.promote(path)
    if others:
        raise BundleError(
            f"no version of {bundle} before {live.name} that predicts the same may go live; to "
            f"return to one that predicts something else, use models promote {others[0]} --force"
        )
    raise BundleError(
        f"no version of {bundle} before {live.name} may go live; see atb-fast models ls, or train "
        "the model again"
    )


def _before(live: Path, registry: Path, timeframe: str) -> list[Release]:
    """Return the versions older than `live`; all of them if its age is unknown."""
    found = [_release(path) for path in layout.versions(registry) if path.parent == live.parent]
    known = layout.is_version(live) or any(release.path == live for release in found)
    return [
        release
        for release in found
        if release.path != live
        and (not known or layout.age(release.path) < layout.age(live))
        and release.timeframe == timeframe
    ]


def prune(registry: Path, keep: int, *, dry_run: bool) -> list[Path]:
    """Delete old bundles of atb-fast; return their directories.

    For each symbol, type and timeframe, the newest `keep` versions and the live one stay. Bundles
    of other trainers, and bundles without readable metadata, always stay.

    Raises:
        StorageError: The registry cannot be read or written.
    """
    groups: dict[tuple[Path, str | None], list[Release]] = {}
    for release in releases(registry):
        # A broken link may have pointed to any version.
        if release.metadata and not release.foreign and not layout.is_broken(release.path.parent):
            groups.setdefault((release.path.parent, release.timeframe), []).append(release)
    old = [release for group in groups.values() for release in group[:-keep] if not release.live]
    return [r.path for r in old if dry_run or publishing.remove(r.path)]
