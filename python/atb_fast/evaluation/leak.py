"""A test for look-ahead bias: does anything in the past change when the future is removed?

The recipe runs on the whole market, and again on what was known at many cuts in time. Before a cut,
features, targets and the split must be identical. Whatever differs depends on the future.
"""

from __future__ import annotations

import copy
import logging
from bisect import bisect_left
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast._core import FeatureMatrix
from atb_fast.errors import DataError
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market, check_bar_length
from atb_fast.options import check_count, check_type
from atb_fast.recipes.base import BaseRecipe, Context, prepared_by
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.extras import with_record
from atb_fast.recipes.recipe import Recipe

log = logging.getLogger(__name__)

#: The index of a day is published during that day and may be revised. A day later, it is final.
_INDEX_KNOWN_AFTER = timedelta(days=1)
#: Largest difference that rounding can cause, relative to a value or to the typical size of its
#: column: eight steps of float32. Recursions add nothing to it: the core computes each value from
#: its lookback alone, and other recipes run over the same candles from the first on.
_ROUNDING = 2.0**-20

#: Reasons for a leak; the placeholder is for its size.
_DIFFERS = "differs by up to {:.2g}"
_NOT_FINITE = "values that change to or from NaN or infinity: {:.0f}"
_GONE = "rows that lose their features: {:.0f}"
_REACHES = "windows that overlap a later part: {:.0f}"
_CHOSEN = "windows that later data selects: {:.0f}"
_TWICE = "test windows that also select the epoch: {:.0f}"


@dataclass(frozen=True)
class Leak:
    """Something that depends on the future.

    Attributes:
        what: Name of a feature, `target`, `candles` or `split`.
        reason: What differs, with its largest size over all cuts.
        cuts: Number of cuts at which it differs.
        first_cut: The earliest of these cuts, ISO 8601, UTC: candles from then on were removed.
    """

    what: str
    reason: str
    cuts: int
    first_cut: str


@dataclass(frozen=True)
class LeakReport:
    """The result of `find_leaks`.

    Attributes:
        cuts: Number of cuts that were compared.
        leaks: Everything that depends on the future; empty if nothing does.
    """

    cuts: int
    leaks: tuple[Leak, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


#: What differs, the reason (one of those above), and by how much.
_Change = tuple[str, str, float]


def find_leaks(
    market: Market, config: TrainingConfig, *, recipe: BaseRecipe | None = None, cuts: int = 20
) -> LeakReport:
    """Return what changes in the past when the future of `market` is removed, at many cuts.

    The recipe runs on a fresh copy each time, so that it cannot remember an earlier market.
    Features are compared at every cut. A declared recipe whose features depend on nothing but their
    lookback is evaluated on the newest candles before a cut; any other recipe on all of them.
    Scalers and targets are compared at cuts after the training
    part, because a scaler may be fitted on all of that part. The split is compared where the
    validation and test parts begin.

    Args:
        market: Candles, the whole sentiment history and extra series.
        config: The options of a training run.
        recipe: The recipe to test. Default: that of `config`.
        cuts: Number of evenly spaced cuts, at least 1. The cuts where a part begins are added.

    Raises:
        ArgumentError: `cuts` is out of range, an argument has the wrong type, or an extra is not
            used.
        DataError: The market has another timeframe, or too few candles for the recipe.
    """
    check_type("market", market, Market)
    check_type("config", config, TrainingConfig)
    check_bar_length(market.candles, config)
    cuts = check_count("cuts", cuts)
    untouched = recipe or config.definition
    recipe = _fresh(untouched)
    times = market.candles["timestamp"]
    prepared = prepared_by(recipe, market, config, Context(config, now=times[-1]))
    prepared = with_record(prepared, market)
    parts = recipe.parts(prepared, config)
    rows = prepared.matrix.rows
    begins = {int(rows[part[0]]) for part in (parts.validation, parts.test)}
    data = recipe.windows(prepared, config, parts)
    starts = recipe.starts(prepared, config)
    run = _Run(market, config, untouched, prepared, data, starts, begins)
    # There is nothing to compare before the target of the first window.
    least = int(rows[0]) + config.sequence_length + config.definition.reach(config)
    # Without this, the recipe would log the same lines at each cut.
    with _quiet():
        first = bisect_left(range(least, len(times)), 1, key=lambda cut: _usable(run, cut)) + least
        cuts = min(cuts, len(times))
        every = sorted({*np.linspace(first, len(times) - 1, cuts).astype(int).tolist(), *begins})
        every = [cut for cut in every if cut >= first and cut < len(times)]
        seen: dict[tuple[str, str], list[tuple[float, int]]] = {}
        for cut in every:
            for what, how, size in _changes(run, cut):
                seen.setdefault((what, how), []).append((size, cut))
    if not every:
        raise DataError(
            f"the {config.recipe} recipe has too few candles at every cut; use a longer range"
        )
    twice = np.intersect1d(parts.validation, parts.test)
    if len(twice):
        seen["split", _TWICE] = [(float(len(twice)), max(begins))]
    leaks = (
        Leak(what, how.format(max(at)[0]), len(at), times[at[0][1]].isoformat())
        for (what, how), at in seen.items()
    )
    return LeakReport(len(every), tuple(leaks))


def _fresh(recipe: BaseRecipe) -> BaseRecipe:
    """Return a copy of a recipe that has not run."""
    try:
        return copy.deepcopy(recipe)
    except Exception as error:  # an attribute of a user's class can raise anything
        log.warning(
            "the recipe cannot be copied (%s), so what it remembers from an earlier run is not "
            "checked",
            error,
        )
        return recipe


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("atb_fast")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class _Run:
    """The results of the recipe for the whole market.

    Attributes:
        market: Candles and the whole sentiment history.
        config: The options of a training run.
        recipe: The recipe under test, which has not run; see `_fresh`.
        prepared: Its features.
        data: Its windows.
        starts: Starts of all its windows.
        begins: Candles at which the validation and test parts begin.
    """

    market: Market
    config: TrainingConfig
    recipe: BaseRecipe
    prepared: PreparedData
    data: WindowedData
    starts: NDArray[np.int64]
    begins: set[int]

    @property
    def local(self) -> bool:
        """Whether only the newest candles before a cut must be evaluated."""
        # A subclass may override any method, so nothing can be assumed about it.
        return type(self.recipe) is Recipe and self.recipe.local


def _known_market(run: _Run, cut: int, first: int) -> Market:
    """Return what was known at `cut`, with the candles from `first` on."""
    candles, index = run.market.candles.slice(first, cut - first), run.market.sentiment
    opened = candles["timestamp"][-1]
    if index is not None:
        index = index.filter(pl.col("timestamp") <= opened - _INDEX_KNOWN_AFTER)
    return Market(candles, index, tuple(extra.known_at(opened) for extra in run.market.extras))


def _known(run: _Run, recipe: BaseRecipe, cut: int) -> PreparedData:
    """Return the features that `recipe` computes from only what was known at `cut`."""
    times = run.market.candles["timestamp"]
    known = _known_market(run, cut, 0)
    # The clock stays the same, so that only the market differs.
    return prepared_by(recipe, known, run.config, Context(run.config, now=times[-1]))


def _usable(run: _Run, cut: int) -> bool:
    """Return whether the recipe has enough candles and sentiment before `cut`."""
    if run.local:
        return True  # the newest rows include everything that they depend on
    try:
        _known(run, _fresh(run.recipe), cut)
    except DataError:
        return False
    return True


def _changes(run: _Run, cut: int) -> Iterator[_Change]:
    """Yield what differs before `cut` if everything from `cut` on is removed."""
    config, data, rows = run.config, run.data, run.prepared.matrix.rows
    recipe = _fresh(run.recipe)
    if run.local:
        gone = yield from _local_changes(run, cut)
        prepared = _without_future(run.prepared, cut)
    else:
        prepared = _known(run, recipe, cut)
        gone = len(np.setdiff1d(rows[rows < cut], prepared.matrix.rows))
        if gone:
            yield "candles", _GONE, gone

    reach = recipe.reach(config)

    def before(part: NDArray[np.int64]) -> NDArray[np.int64]:
        return part[rows[part + data.length - 1 + reach] < cut]

    # Windows are identified by their first candle.
    chosen = prepared.matrix.rows[recipe.starts(prepared, config)]
    other = np.setxor1d(rows[before(run.starts)], chosen)
    if len(other) and not gone:
        yield "split", _CHOSEN, len(other)
    parts = Parts(before(data.train), before(data.validation), before(data.test))
    whole = len(parts.train) == len(data.train)
    if cut in run.begins:
        earlier = [part for part in (data.train, data.validation) if rows[part[0]] < cut]
        missing = sum(len(part) - len(before(part)) for part in earlier)
        if missing:
            yield "split", _REACHES, missing
    if not whole or gone:
        # Scalers may differ without the whole training part, and windows if rows are missing.
        if not run.local:
            yield from _differences(run.prepared, prepared, cut)
        return
    if run.local:
        # The rows that scalers are fitted on do not change, or `_local_changes` finds that they do.
        if data.labels.base is not None:  # it depends on features
            prepared = _without_future(data.prepared, cut, features=len(data.prepared.matrix.names))
        again = replace(data, prepared=prepared, parts=parts)
        again = replace(again, labels=recipe.target.labels(prepared, config, parts, recipe.lag))
    else:
        again = recipe.windows(prepared, config, parts)
        yield from _differences(data.prepared, again.prepared, cut)
    for of_data, of_again in zip(*(_labels(each, parts) for each in (data, again)), strict=True):
        yield from _difference("target", of_data, of_again)


def _labels(data: WindowedData, parts: Parts) -> Iterator[NDArray[np.float64]]:
    """Yield everything that models are fitted to and compared with, for the windows of `parts`."""
    starts = parts.every
    yield data.fitted(starts)
    yield data.targets(starts)
    yield data.persistence(starts)
    yield data.base(starts)
    # The conversion of outputs to forecasts may depend on the future too.
    yield data.forecasts(starts, np.ones(len(starts)))
    weights = data.labels.weights
    if weights is not None:
        yield weights[starts + data.length]


def _local_changes(run: _Run, cut: int) -> Generator[_Change, None, int]:
    """Yield what differs on the newest rows before `cut`, and return how many of them are missing.

    Only the candles that these rows depend on are evaluated. Older rows are the newest at an
    earlier cut, or do not differ because they do not reach the cut either.
    """
    assert isinstance(run.recipe, Recipe)  # see `_Run.local`
    full = run.data.prepared
    assert full.pipeline is not None  # local recipes have one
    first = max(0, cut - full.lookback - run.data.length - run.recipe.reach(run.config))
    columns = run.recipe.columns(_known_market(run, cut, first), full, run.config)
    matrix = full.pipeline.transform(columns)
    # The first rows of the slice may lack candles before them.
    newest = first + (full.lookback if first else 0)
    known = matrix.rows + first
    seen = full.matrix.rows
    inside = seen[(seen >= newest) & (seen < cut)]
    rows, at, again = np.intersect1d(inside, known, assume_unique=True, return_indices=True)
    gone = len(inside) - len(rows)
    if gone:
        yield "candles", _GONE, gone
    at += np.searchsorted(seen, newest)
    end = np.searchsorted(seen, cut)
    for i, name in enumerate(full.matrix.names):
        column = full.matrix.values[:end, i]
        yield from _difference(name, column[at], matrix.values[again, i], column)
    return gone


def _without_future(full: PreparedData, cut: int, features: int = 1) -> PreparedData:
    """Return what was prepared for the whole market without the rows from `cut` on.

    By default with one feature only, because most targets and splits do not depend on features.
    """
    rows = full.matrix.rows[full.matrix.rows < cut]
    values = full.matrix.values[: len(rows), :features].astype(np.float32)
    return replace(
        full,
        matrix=FeatureMatrix(values, full.matrix.names[:features], rows=rows),
        close=full.close[: len(rows)],
        timestamps=full.timestamps.head(len(rows)),
        frame=full.frame.head(cut),
    )


def _differences(full: PreparedData, known: PreparedData, cut: int) -> Iterator[_Change]:
    """Yield the features that differ on the rows before `cut` that both have."""
    rows = np.intersect1d(full.matrix.rows[full.matrix.rows < cut], known.matrix.rows)
    values = [each.matrix.values[np.searchsorted(each.matrix.rows, rows)] for each in (full, known)]
    names = known.matrix.names
    for i, name in enumerate(full.matrix.names):
        if name in names:
            yield from _difference(name, values[0][:, i], values[1][:, names.index(name)])


def _difference(
    what: str, full: NDArray[Any], known: NDArray[Any], column: NDArray[Any] | None = None
) -> Iterator[_Change]:
    """Yield how two arrays differ by more than rounding.

    Args:
        what: Name of the values.
        full: Those of the whole market.
        known: Those of what was known at a cut.
        column: All values before the cut, if `full` has only the newest of them.
    """
    full, known = full.astype(np.float64), known.astype(np.float64)
    finite = np.isfinite(full) & np.isfinite(known)
    changed = ~finite & (full != known) & ~(np.isnan(full) & np.isnan(known))
    if changed.any():
        yield what, _NOT_FINITE, float(np.count_nonzero(changed))
    # One huge value must not hide differences of the others, so the tolerance has the typical size.
    sizes = np.abs(full if column is None else column)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    typical = float(np.median(sizes)) if len(sizes) else 0.0
    full, known = full[finite], known[finite]
    differences = np.abs(full - known)
    if (differences > _ROUNDING * np.maximum(np.abs(full), typical)).any():
        yield what, _DIFFERS, float(np.max(differences))
