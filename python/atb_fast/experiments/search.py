"""Searches: how the candidates of a study are chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from atb_fast.errors import ArgumentError, MissingExtraError
from atb_fast.experiments.space import Choices, Space

if TYPE_CHECKING:
    import optuna

Kind = Literal["tpe", "random", "grid"]
#: With fewer complete trials, a random forest cannot tell which key matters.
_FEWEST_TRIALS = 10


class Search:
    """Proposes candidates. What it proposes depends only on the space, the seed and the results."""

    def ask(self) -> dict[str, Any] | None:
        """Return the params of the next candidate; None if there is none."""
        raise NotImplementedError

    def tell(self, result: Mapping[str, Any]) -> None:
        """Learn from the result of the oldest candidate without one; see `trial.run_trial`."""

    def start(self, params: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Learn from the result of the defaults, which were not asked for."""


class Grid(Search):
    """Every combination, in order: the last dimension changes first."""

    def __init__(self, space: Space) -> None:
        """Raise ArgumentError if a range has no step."""
        keys = [each.key for each in space.dimensions]
        values = [each.grid() for each in space.dimensions]
        self._left = (dict(zip(keys, each, strict=True)) for each in itertools.product(*values))

    def ask(self) -> dict[str, Any] | None:
        """Return the next combination."""
        return next(self._left, None)


class Random(Search):
    """Independent random values."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._random = space, np.random.default_rng(seed)

    def ask(self) -> dict[str, Any]:
        """Return a random candidate."""
        return {each.key: each.draw(self._random) for each in self._space.dimensions}


class Tpe(Search):
    """Tree-structured Parzen estimators of Optuna (J. Bergstra et al., 2011), in memory."""

    def __init__(self, space: Space, seed: int) -> None:
        """Raise MissingExtraError if Optuna, or scikit-learn for `importance`, is missing."""
        for package in ("optuna", "sklearn"):
            if find_spec(package) is None:
                raise MissingExtraError(
                    f"--search tpe needs {package}; run pip install 'atb-fast[sweep]', or use "
                    "--search random"
                )
        import optuna

        self._space, self.distributions = space, _distributions(space)
        self.study = _study(optuna.samplers.TPESampler(seed=seed))
        self._asked: list[optuna.trial.Trial] = []
        #: Each candidate in the space as Optuna's params, with the id of its trial.
        self.told: list[tuple[Mapping[str, Any], str]] = []

    def ask(self) -> dict[str, Any]:
        """Return the candidate that promises the lowest value; the first few are random."""
        asked = self.study.ask(self.distributions)
        self._asked.append(asked)
        return {
            each.key: each.values[asked.params[each.key]]
            if isinstance(each, Choices)
            else each.nearest(asked.params[each.key])
            for each in self._space.dimensions
        }

    def tell(self, result: Mapping[str, Any]) -> None:
        """Tell Optuna the result; for a pruned candidate, that is its last fold."""
        from optuna.trial import TrialState

        asked, state = self._asked.pop(0), result["state"]
        self.told.append((asked.params, result["trial_id"]))
        for step, value in enumerate(steps_of(result)):
            asked.report(value, step)
        if state == "complete":
            self.study.tell(asked, result["value"])
            return
        pruned = state == "pruned"
        self.study.tell(asked, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def start(self, params: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Add the defaults, unless they are outside the space, which Optuna does not allow."""
        from optuna.trial import create_trial

        found: dict[str, Any] = {}
        for each in self._space.dimensions:
            value = params.get(each.key)
            if isinstance(each, Choices):
                value = tuple(value) if isinstance(value, list) else value
                if value in each.values:
                    found[each.key] = each.values.index(value)
            elif value is not None and self.distributions[each.key]._contains(value):
                found[each.key] = value
        if len(found) < len(self.distributions):
            return
        self.told.append((found, result["trial_id"]))
        if result["state"] == "complete":
            self.study.add_trial(
                create_trial(
                    params=found,
                    distributions=self.distributions,
                    value=result["value"],
                    intermediate_values=dict(enumerate(steps_of(result))),
                )
            )


def _study(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Return an empty study, in memory."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise, it announces the study
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)


def _distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for each in space.dimensions:
        if isinstance(each, Choices):  # by place, because Optuna takes no lists
            found[each.key] = CategoricalDistribution(range(len(each.values)))
        elif isinstance(each.low, int):
            step = 1 if each.step is None else int(each.step)
            found[each.key] = IntDistribution(int(each.low), int(each.high), each.log, step)
        else:
            found[each.key] = FloatDistribution(each.low, each.high, each.log, each.step)
    return found


def search_of(kind: Kind, space: Space, seed: int) -> Search:
    """Return a search.

    Raises:
        ArgumentError: The kind is unknown, or a grid has a range without a step.
        MissingExtraError: Optuna is not installed.
    """
    if kind == "grid":
        return Grid(space)
    if kind == "random":
        return Random(space, seed)
    if kind == "tpe":
        return Tpe(space, seed)
    raise ArgumentError(
        f"search is {kind!r:.80}, expected one of {', '.join(get_args(Kind))}", ["search"]
    )


def importance(search: Search, values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the share of the variance of the values that each key explains by itself.

    This is fANOVA (F. Hutter, H. Hoos and K. Leyton-Brown, An Efficient Approach for Assessing
    Hyperparameter Importance, 2014), as in Optuna: a random forest learns the values of the
    complete trials, and predicts them for the whole space. Ranges with `log = true` are uniform on
    a logarithmic scale. The rest of the variance is due to combinations of keys.

    The result is empty for searches other than `tpe`, for fewer than 10 complete trials in the
    space, and if all of them have the same value.

    Args:
        search: The search.
        values: The value of each trial by the id that the search was told; None unless the trial
            is complete. A trial that was pruned during the search may be complete now.
    """
    if not isinstance(search, Tpe):
        return {}
    from optuna.importance import FanovaImportanceEvaluator

    complete = [
        (params, value) for params, name in search.told if (value := values[name]) is not None
    ]
    if len(complete) < _FEWEST_TRIALS or len({value for _, value in complete}) < 2:
        return {}
    found = FanovaImportanceEvaluator(seed=0).evaluate(_linear(search.distributions, complete))
    return {key: float(value) for key, value in found.items()}


def _linear(
    ranges: Mapping[str, optuna.distributions.BaseDistribution],
    trials: Sequence[tuple[Mapping[str, Any], float]],
) -> optuna.Study:
    """Return a study of these trials in which logarithms replace the values of log ranges.

    The fANOVA of Optuna takes every range as linear.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import create_trial

    logs = {
        key: FloatDistribution(math.log(each.low), math.log(each.high))
        for key, each in ranges.items()
        if not isinstance(each, CategoricalDistribution) and each.log
    }
    made = _study()
    for given, value in trials:
        params = {key: math.log(each) if key in logs else each for key, each in given.items()}
        made.add_trial(create_trial(params=params, distributions={**ranges, **logs}, value=value))
    return made


def steps_of(result: Mapping[str, Any]) -> list[float]:
    """Return the ratio of each fold to the reference, in the order of `run_trial`."""
    return [float(fold["reference_ratio"]) for fold in result["folds"]]
