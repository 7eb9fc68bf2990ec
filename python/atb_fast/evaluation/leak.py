"""Whether anything that a model is made from changes when the future is taken away.

A recipe is run on the whole market, and again on what was known at many cuts in time. Whatever it
says of the time before a cut must be the same both times: features, targets, and which windows are
fitted. What differs had seen the future.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atb_fast import recipes
from atb_fast.config import TrainingConfig
from atb_fast.errors import DataError
from atb_fast.features.prepared import PreparedData
from atb_fast.features.windows import Parts, WindowedData
from atb_fast.ingestion.market import Market
from atb_fast.recipes.base import Context, Recipe

#: A day's index is published during that day, and may be revised: a day later it is known.
_INDEX_KNOWN_AFTER = timedelta(days=1)
#: Largest difference of a feature or a target that rounding can make. They are about 1.
_TOLERANCE = 1e-5


#: What was seen, with room for how much.
_DIFFERS = "differs by up to {:.2g}"
_GONE = "{:.0f} lose their features"
_REACHES = "{:.0f} windows reach into a later part"
_CHOSEN = "{:.0f} windows are used or not for what comes later"
_TWICE = "{:.0f} windows choose the epoch and are tested"


@dataclass(frozen=True)
class Leak:
    """Something that depends on the future.

    Attributes:
        what: Name of a feature, `target`, `candles` or `split`.
        reason: What was seen, with the largest figure of all cuts.
        cuts: How many cuts showed it.
        first_cut: The earliest of these, ISO, UTC: what came from then on was taken away.
    """

    what: str
    reason: str
    cuts: int
    first_cut: str


@dataclass(frozen=True)
class LeakReport:
    """What `find_leaks` found.

    Attributes:
        cuts: How many cuts were tried.
        leaks: What changed, in the order in which it was seen.
    """

    cuts: int
    leaks: tuple[Leak, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as something JSON can hold."""
        return asdict(self)


#: What changed, how (one of the texts above), and by how much.
_Change = tuple[str, str, float]


def find_leaks(
    market: Market, config: TrainingConfig, *, recipe: Recipe | None = None, cuts: int = 20
) -> LeakReport:
    """Take the future of `market` away at many cuts and compare what `recipe` makes of the past.

    Features are compared at every cut; scalers, targets and parts at cuts behind the training part,
    because what is fitted may know all of that, and where each later part begins.

    Args:
        market: Candles and the whole sentiment history.
        config: As for training.
        recipe: Default that of `config`.
        cuts: How many, evenly spaced, beside those where parts begin; from 1 to one for each bar.

    Raises:
        DataError: Too few candles for the recipe, on the whole or at every cut.
    """
    recipe = recipe or recipes.get(config.recipe)
    times = market.candles["timestamp"]
    prepared = recipe.prepare(market, config, Context(config, now=times[-1]))
    parts = recipe.parts(prepared, config)
    rows = prepared.matrix.rows
    begins = {int(rows[part[0]]) for part in (parts.validation, parts.test)}
    data = recipe.windows(prepared, config, parts)
    run = _Run(market, config, recipe, prepared, data, recipe.starts(prepared, config), begins)
    # Before the target of the first window there is nothing to compare.
    least = int(rows[0]) + config.sequence_length + config.horizon
    # A recipe says about each cut what it said about the whole.
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
            f"the {config.recipe} recipe can make nothing of what was known before the last "
            "candle; give a longer range"
        )
    twice = np.intersect1d(parts.validation, parts.test)
    if len(twice):
        seen["split", _TWICE] = [(float(len(twice)), max(begins))]
    leaks = (
        Leak(what, how.format(max(at)[0]), len(at), times[at[0][1]].isoformat())
        for (what, how), at in seen.items()
    )
    return LeakReport(len(every), tuple(leaks))


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
    """What the recipe made of all that is known today.

    `starts` are those of all its windows; `begins` the rows of the candles with which the later
    parts begin.
    """

    market: Market
    config: TrainingConfig
    recipe: Recipe
    prepared: PreparedData
    data: WindowedData
    starts: NDArray[np.int64]
    begins: set[int]


def _known(run: _Run, cut: int) -> PreparedData:
    """Return what the recipe makes without candles from `cut` on, and their sentiment."""
    times, index = run.market.candles["timestamp"], run.market.sentiment
    if index is not None:
        index = index.filter(pl.col("timestamp") <= times[cut - 1] - _INDEX_KNOWN_AFTER)
    known = Market(run.market.candles.head(cut), index)
    # With the same clock: only what is known of the market differs.
    return run.recipe.prepare(known, run.config, Context(run.config, now=times[-1]))


def _usable(run: _Run, cut: int) -> bool:
    """Return whether enough was known before `cut`, candles and perhaps sentiment."""
    try:
        _known(run, cut)
    except DataError:
        return False
    return True


def _changes(run: _Run, cut: int) -> Iterator[_Change]:
    """Give what differs before `cut` if what came from there on is unknown."""
    config, data, rows = run.config, run.data, run.prepared.matrix.rows
    prepared = _known(run, cut)
    gone = np.setdiff1d(rows[rows < cut], prepared.matrix.rows)
    if len(gone):
        yield "candles", _GONE, len(gone)

    def before(part: NDArray[np.int64]) -> NDArray[np.int64]:
        return part[rows[part + data.length - 1 + data.horizon] < cut]

    # Windows are the same if they begin at the same candle.
    chosen = prepared.matrix.rows[run.recipe.starts(prepared, config)]
    other = np.setxor1d(rows[before(run.starts)], chosen)
    if len(other) and not len(gone):
        yield "split", _CHOSEN, len(other)
    parts = Parts(before(data.train), before(data.validation), before(data.test))
    whole = len(parts.train) == len(data.train)
    if cut in run.begins:
        earlier = [part for part in (data.train, data.validation) if rows[part[0]] < cut]
        missing = sum(len(part) - len(before(part)) for part in earlier)
        if missing:
            yield "split", _REACHES, missing
    if not whole or len(gone):
        # Scalers may know all of the training part; and windows begin at other rows.
        yield from _differences(run.prepared, prepared, cut)
        return
    again = run.recipe.windows(prepared, config, parts)
    yield from _differences(data.prepared, again.prepared, cut)
    # What a label stands for, as a price, may depend on the future, too.
    for values in (
        [each.labels[parts.every + data.length] for each in (data, again)],
        [each.prices(parts.every, np.ones(len(parts.every))) for each in (data, again)],
    ):
        yield from _difference("target", *values)


def _differences(full: PreparedData, known: PreparedData, cut: int) -> Iterator[_Change]:
    """Give the features whose values differ on the rows that both have before `cut`."""
    rows = np.intersect1d(full.matrix.rows[full.matrix.rows < cut], known.matrix.rows)
    values = [each.matrix.values[np.searchsorted(each.matrix.rows, rows)] for each in (full, known)]
    names = known.matrix.names
    for i, name in enumerate(full.matrix.names):
        if name in names:
            yield from _difference(name, values[0][:, i], values[1][:, names.index(name)])


def _difference(what: str, full: NDArray[Any], known: NDArray[Any]) -> Iterator[_Change]:
    size = float(np.max(np.abs(full - known), initial=0.0))
    # Raw candles are not about 1, and the same to the last bit.
    if not size <= _TOLERANCE * max(1.0, float(np.max(np.abs(full), initial=0.0))):
        yield what, _DIFFERS, size
