"""The trials of a study, and the sentences about them; `luck` has the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atb_fast.errors import counted
from atb_fast.experiments import luck, trial
from atb_fast.recipes.config import TrainingConfig
from atb_fast.runs import ledger, records


@dataclass(frozen=True)
class Trial:
    """A candidate of a study and its result.

    Attributes:
        number: Place in the study, counted from 0. Trial 0 is the defaults.
        params: The value of each key of the space, as JSON values.
        result: See `experiments.trial.run_trial`, but without the losses by bar. If the values
            contradict each other, nothing was trained, and there is no document.
        losses: Losses by bar; None unless the trial is complete.
        configs: The configuration for each symbol; empty if the values contradict each other.
    """

    number: int
    params: Mapping[str, Any]
    result: Mapping[str, Any]
    losses: pl.DataFrame | None = None
    configs: tuple[TrainingConfig, ...] = ()

    @property
    def trial_id(self) -> str:
        """The id, 16 hexadecimal digits."""
        found: str = self.result["trial_id"]
        return found

    @property
    def complete(self) -> bool:
        """Whether all folds were evaluated."""
        return bool(self.result["state"] == "complete")

    @property
    def value(self) -> float | None:
        """Mean ratio of the error to that of the reference, if the trial is complete."""
        found: float | None = self.result["value"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as JSON values."""
        shown = ("trial_id", "state", "value", "error", "exit_code", "folds")
        return {
            "number": self.number,
            "params": dict(self.params),
            **{key: self.result[key] for key in shown},
        }


def lowest(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the lowest value; of equal ones, the first."""
    complete = [each for each in trials if each.value is not None]
    return min(complete, key=lambda each: each.value or 0.0, default=None)


def judged(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the verdict on trials, at least one of which is complete."""
    complete = [each for each in trials if each.complete]
    if complete[0] is not trials[0]:
        return {
            "keep": "best",
            "trial": getattr(lowest(trials), "trial_id", None),
            "sentence": "The defaults failed, so the best trial cannot be compared with them: "
            f"{trials[0].result['error']}.",
            **dict.fromkeys(("pbo", "spa_defaults", "spa_baseline")),
            "confidence_set": [],
        }
    horizon = max(each.configs[0].horizon for each in complete)
    return luck.judge(
        _together(complete),
        defaults=trials[0].trial_id,
        horizon=horizon,
        baseline=scoring_names(trials[0])["reference"],
    ).to_dict()


def _together(trials: Sequence[Trial]) -> pl.DataFrame:
    """Return the losses of complete trials by bar, next to those of the first trial's baseline.

    Trials can have different folds or targets, and then their baselines differ. So the losses of
    each trial are scaled by symbol and fold, as if its baseline had the same mean loss as that of
    the first trial: what counts is how much better a trial is than its own baseline, as in its
    value. Only bars for which all trials have losses remain.
    """
    key, parts = ["symbol", "timestamp"], ["symbol", "fold"]
    losses = {each.trial_id: each.losses for each in trials if each.losses is not None}
    first, *others = losses.values()
    for own in others:
        first = first.join(own, on=key, how="semi", maintain_order="left")
    mean = first.select(pl.col("reference").mean().over(parts)).to_series()
    columns = {}
    for name, own in losses.items():  # one at a time: all in one join would take far more memory
        same = first.select(*key, "fold").join(own.drop("fold"), on=key, maintain_order="left")
        scale = mean / pl.col("reference").mean().over(parts)
        columns[name] = same.select(pl.col("model") * scale).to_series()
    return first.select("symbol", "timestamp", "fold", baseline="reference").with_columns(**columns)


def scoring_names(made: Trial) -> dict[str, str]:
    """Return the names of the error of a complete trial and of its baseline."""
    figures = next(iter(made.result["pooled"].values()))
    found = ledger.headline(records.renamed(figures))
    error = "log loss" if found.name == "test_log_loss" else "RMSE"
    return {"error": error, "reference": found.reference or "the baseline"}


def left_out(states: Mapping[str, int]) -> str | None:
    """Return a sentence about the trials that the verdict leaves out."""
    found = " and ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if not found:
        return None
    return (
        f"Left out of the verdict: {found} {'trial' if sum(states.values()) == 1 else 'trials'} "
        "without losses for all folds."
    )


def on_targets(trials: Sequence[Trial]) -> str | None:
    """Return in words that trials forecast different things; None if they do not."""
    targets = [each.configs[0].definition.target for each in trials if each.complete]
    if len({trial.canonical({"kind": each.kind, **each.values}) for each in targets}) < 2:
        return None
    return (
        "The trials have different targets, and each is compared with its own baseline: a lower "
        "ratio can also mean that a target is easier."
    )


def on_holdout(found: Mapping[str, Any], baseline: str) -> str:
    """Return a sentence about the defaults and the best trial on the holdout."""
    looks = counted(found["looks"], "look")
    since = f"On the holdout from {found['first'][:10]} on ({looks} so far)"
    ratios = [found[name]["value"] for name in ("best", "defaults")]
    errors = [found[name]["error"] for name in ("best", "defaults") if found[name]["error"]]
    if errors:
        return f"{since}, a trial failed: {errors[0]}."
    if found["best"]["trial_id"] == found["defaults"]["trial_id"]:
        return f"{since}, the error of the defaults is {ratios[1]:.4f} times that of {baseline}."
    return (
        f"{since}, the error of the best trial is {ratios[0]:.4f} times that of {baseline}; for "
        f"the defaults, it is {ratios[1]:.4f} times."
    )
