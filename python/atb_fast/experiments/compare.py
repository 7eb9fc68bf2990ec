"""Compares runs of the ledger: what they share, how they differ, and how good each is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from atb_fast.bundles import curves
from atb_fast.errors import ArgumentError, BundleError
from atb_fast.runs import ledger
from atb_fast.runs.facts import WEIGHTED, error_name, facts, seed_of, split

#: Number of newest bars whose forecasts are compared.
_MOST_BARS = 500
#: The figure with the number of bars of an accuracy; for classes, with that of its interval.
_COUNTS = {"directional_accuracy": "directional_bars", "accuracy": "accuracy_bars"}
#: Figures in addition to the error and its ratio: label, whether lower is better, the level to beat
#: and its name.
_FIGURES: dict[str, tuple[str, bool, float | None, str]] = {
    "mape": ("MAPE, percent", True, None, ""),
    "qlike_ratio": ("QLIKE, ratio to HAR", True, 1.0, "HAR"),
    "r2": ("R²", False, 0.0, "the mean"),
    "directional_accuracy": ("directional accuracy", False, 0.5, "a coin"),
    "accuracy": ("accuracy", False, None, ""),
}


def compare(registry: Path, identities: Sequence[str]) -> dict[str, Any]:
    """Return what differs between runs, and their figures, losses and forecasts.

    Runs that differ only in the seed share one entry. Entries are in the order of `identities`.

    Args:
        registry: The registry whose ledger has the runs.
        identities: Ids of runs, or their beginnings.

    Returns:
        `runs`: for each entry the `id` of its first run, its `label`, and facts about it. `same`:
        facts that all entries share, by name. `options`: facts that differ, by name, a value for
        each entry, None for an unknown default. `metrics`: figures with `values` for each entry:
        the `mean` over its seeds; with more than one seed, `low` and `high`, the ends of the 95%
        interval of the mean; for accuracies, `bars`, the smallest number of bars that a seed
        counts. `losses`: those of the first run of each entry by epoch, None if unknown.
        `predictions`: for runs that forecast the same values, a `frame` with the columns
        `timestamp`, `actual` and a forecast for each id. If `class` is not empty, the forecasts are
        its probabilities, and `actual` is 1 if it occurred, else 0. `notes`: what limits the
        comparison.

    Raises:
        ArgumentError: An id is unknown, ambiguous or given twice, or there is only one.
        StorageError: The ledger cannot be read.
    """
    records = ledger.read(registry).records
    chosen = [ledger.find(records, identity) for identity in identities]
    found = [record["id"] for record in chosen]
    twice = next((each for each in found if found.count(each) > 1), None)
    if twice:
        raise ArgumentError(f"run {twice} is given twice; pass each run once", options=["id"])
    if len(chosen) < 2:
        raise ArgumentError("one run is given; pass at least two to compare", options=["id"])
    notes: list[str] = []
    groups = _groups(chosen, notes)
    named = [facts(group[0]) for group in groups]
    same, options = split(named)
    notes += _incomparable(options)
    notes += _differently_weighted(groups)
    histories, predictions = _curves(registry, groups, notes)
    return {
        "runs": [
            _entry(registry, group, label)
            for group, label in zip(groups, _labels(groups), strict=True)
        ],
        "same": same,
        "options": options,
        "metrics": _metrics(groups),
        "losses": histories,
        "predictions": predictions,
        "notes": notes,
    }


def value_of(record: Mapping[str, Any], name: str) -> float | None:
    """Return a figure of a run by name; also its `ratio` to the baseline, and its `seconds`."""
    if name == "ratio":
        return ledger.headline(record["metrics"]).ratio
    value: float | None = record["seconds"] if name == "seconds" else record["metrics"].get(name)
    return value


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% confidence interval of the mean of `values`; None if there is only one.

    It assumes independent values of a normal distribution (Student, The Probable Error of a Mean,
    1908).
    """
    if len(values) < 2:
        return None
    half = _quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _quantile(freedom: int) -> float:
    """Return the quantile 0.975 of the t distribution, with an error below 0.005.

    The expansion is 26.7.5 of M. Abramowitz and I. Stegun, Handbook of Mathematical Functions,
    1964. It is imprecise for 1 and 2 degrees of freedom, which have a closed form.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2.0 / (4.0 * 0.975 * 0.025))
    x = NormalDist().inv_cdf(0.975)
    terms: tuple[float, ...] = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _groups(chosen: list[dict[str, Any]], notes: list[str]) -> list[list[dict[str, Any]]]:
    """Return the runs in groups that differ only in the seed."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    repeated = 0
    for record in chosen:
        what = {key: record[key] for key in ("kind", "symbols", "timeframe", "recipe", "data")}
        what |= {key: record[key] for key in ("recipe_sha256", "target", "network")}
        what["options"] = {k: v for k, v in record["options"].items() if k != "seed"}
        of_seeds = groups.setdefault(json.dumps(what, sort_keys=True), {})
        seed = json.dumps(seed_of(record))  # the ledger is not trusted: it may be a list
        repeated += seed in of_seeds
        of_seeds.setdefault(seed, record)
    if repeated:
        notes.append(
            f"Left out: {repeated} of the runs, with the same options and seed as another one."
        )
    return [list(of_seeds.values()) for of_seeds in groups.values()]


def _labels(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    return [
        group[0]["id"][:6] + (f", {len(group)} seeds" if len(group) > 1 else "") for group in groups
    ]


def _entry(registry: Path, group: Sequence[Mapping[str, Any]], label: str) -> dict[str, Any]:
    first = group[0]
    return {
        "id": first["id"],
        "label": label,
        "ids": [record["id"] for record in group],
        "kind": first["kind"],
        "symbol": ", ".join(first["symbols"]),
        "timeframe": first["timeframe"],
        "recipe": first["recipe"],
        "created": first["created"],
        "seeds": len(group),
        "seed_values": [seed_of(record) for record in group],
        "bundle": first["bundle"],
        "state": ledger.state(registry, first),
    }


def _incomparable(options: Mapping[str, Any]) -> list[str]:
    """Return why the errors of the runs cannot be compared."""
    found = [name for name in ("symbol", "timeframe", "target", "horizon") if name in options]
    found += ["data"] * any(name.endswith("candles sha256") for name in options)
    found += ["kind of run"] * ("kind" in options)
    if not found:
        return []
    return [
        f"The runs differ in {', '.join(found)}, so they were tested on different values: "
        "compare the ratios to the baseline, not the errors."
    ]


def _differently_weighted(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return that only some log losses are weighted; empty if all or none are."""
    names = {name for (name, _), *_ in map(_errors, groups)}
    if not {"log loss", WEIGHTED} <= names:
        return []
    return [
        "The runs differ in class weights, so neither their log losses nor the ratios of these can "
        "be compared: only some are weighted. The accuracies can be compared."
    ]


def _errors(group: Iterable[Mapping[str, Any]]) -> list[tuple[str, ledger.Headline]]:
    """Return the error of each run, with its name in sentences."""
    lines = [(record, ledger.headline(record["metrics"])) for record in group]
    return [(error_name(line.name, record["target"]), line) for record, line in lines]


def _metrics(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    lines = [_errors(group) for group in groups]
    references = {line.reference for group in lines for _, line in group}
    found = []
    for error in ("RMSE", "log loss", WEIGHTED):
        values = [[line.error for name, line in group if name == error] for group in lines]
        found.append(_metric(f"test {error}", values, lower=True))
    other = references.pop() if len(references) == 1 else None
    name = (other or "the baseline").removeprefix("the ")
    for label, of in ((f"ratio to {name}", False), (f"weighted ratio to {name}", True)):
        values = [[line.ratio for error, line in g if (error == WEIGHTED) is of] for g in lines]
        found.append(_metric(label, values, lower=True, level=1.0, level_name=name))
    for key, (label, lower, level, level_name) in _FIGURES.items():
        values = [[record["metrics"].get(key) for record in group] for group in groups]
        made = _metric(label, values, lower=lower, level=level, level_name=level_name)
        for value, group in zip(made["values"], groups, strict=True):
            known = [record["metrics"] for record in group if key in record["metrics"]]
            bars = [metrics.get(_COUNTS.get(key)) for metrics in known]
            if value and None not in bars:
                value["bars"] = int(min(bars))
        found.append(made)
    seconds = _metric("seconds", [[r["seconds"] for r in group] for group in groups], lower=True)
    for value in filter(None, seconds["values"]):  # they depend on the machine, not only the seed
        for end in ("low", "high"):
            value.pop(end, None)
    found.append(seconds)
    return [each for each in found if any(each["values"])]


def _metric(
    name: str,
    values: Iterable[Iterable[float | None]],
    *,
    lower: bool,
    level: float | None = None,
    level_name: str = "",
) -> dict[str, Any]:
    known = [[value for value in group if value is not None] for group in values]
    made: dict[str, Any] = {"name": name, "lower_is_better": lower}
    if level is not None:
        made |= {"level": level, "level_name": level_name}
    return made | {"values": [_mean(group) if group else None for group in known]}


def _mean(values: Sequence[float]) -> dict[str, Any]:
    made: dict[str, Any] = {"mean": fmean(values), "seeds": len(values)}
    if ends := interval(values):
        made |= {"low": ends[0], "high": ends[1]}
    return made


def _curves(
    registry: Path, groups: Sequence[Sequence[Mapping[str, Any]]], notes: list[str]
) -> tuple[list[dict[str, Any] | None], list[dict[str, Any]]]:
    """Return the losses by epoch and the forecasts of the first run of each group."""
    histories: list[dict[str, Any] | None] = []
    panels: list[dict[str, Any]] = []
    unknown = []
    for record, *_ in groups:
        losses = tested = None
        with suppress(BundleError):
            if record["bundle"]:
                losses, tested = curves.read_curves(registry / record["bundle"])
        best = record["metrics"].get("best_epoch")
        histories.append(
            losses and {**losses, "best_epoch": int(best) if best else len(losses["training"])}
        )
        if tested is None:
            unknown.append(record["id"][:6])
        else:
            title = f"{', '.join(record['symbols'])} {record['timeframe']}"
            _add_panel(panels, record["id"], {"title": title, **tested})
    if unknown:
        notes.append(
            f"Losses and forecasts are unknown for {', '.join(unknown)}: only published bundles "
            "contain them."
        )
    if len(unknown) < len(groups) and any(len(group) > 1 for group in groups):
        notes.append("Losses and forecasts are those of the first run of each group of seeds.")
    for panel in panels:
        panel["frame"] = panel["frame"].sort("timestamp").tail(_MOST_BARS)
    return histories, panels


def _add_panel(panels: list[dict[str, Any]], identity: str, tested: Mapping[str, Any]) -> None:
    """Add forecasts to the panel of the runs that forecast the same values, or to a new one."""
    frame = tested["frame"].rename({"forecast": identity})
    for panel in panels:
        if any(panel[name] != tested[name] for name in ("title", "unit", "class")):
            continue
        joined = panel["frame"].join(frame, on="timestamp", suffix=" of the other")
        other = joined["actual of the other"]
        tolerance = 1e-5 * other.abs().max() if len(joined) else 0.0
        if len(joined) and (joined["actual"] - other).abs().max() <= tolerance:
            panel["frame"] = joined.drop("actual of the other")
            return
    panels.append({**tested, "frame": frame})
