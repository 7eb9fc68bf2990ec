"""The space of a study: the options that candidates differ in, and the values of each."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from atb_fast.config import (
    OPTIONS,
    FitOptions,
    MarketOptions,
    NetworkOptions,
    OutputOptions,
    RecipeOptions,
    TargetOptions,
    names,
)
from atb_fast.errors import ArgumentError
from atb_fast.recipes import documents
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.keys import keys
from atb_fast.recipes.recipe import Recipe

#: Keys of a recipe that are not options. Those of its target and its network are options.
_OF_THE_RECIPE = ("scaler", "sentiment_join", "lag")
#: Options that are the same for all candidates, because losses are compared bar by bar.
_OF_THE_STUDY = (*(name for name in names(MarketOptions) if name != "force_price_only"), "embargo")
#: The options that candidates may differ in.
_OPTIONS = tuple(
    name
    for name in names(
        MarketOptions, RecipeOptions, TargetOptions, NetworkOptions, FitOptions, OutputOptions
    )
    if name not in (*_OF_THE_STUDY, *names(OutputOptions)) and not OPTIONS[name].machine
)
#: The parts of a recipe, whose keys are written as `network.units` or as a table `[network]`.
_PARTS = ("target", "network")
_RANGE = ("low", "high", "step", "log")
_MOST_KEYS, _MOST_CHOICES = 100, 1000
_LARGEST = 2**53


@dataclass(frozen=True)
class Choices:
    """A list of values.

    Attributes:
        key: The key, as in the space.
        name: The option, or the key of a recipe.
        values: The values, at least one, all different.
    """

    key: str
    name: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before anything is trained: all of them."""
        return self.values

    def grid(self) -> tuple[Any, ...]:
        """Return all values, in order."""
        return self.values

    def draw(self, random: np.random.Generator) -> Any:
        """Return a random value; each has the same probability."""
        return self.values[int(random.integers(len(self.values)))]

    def to_dict(self) -> Any:
        """Return the values as JSON values."""
        return [list(value) if isinstance(value, tuple) else value for value in self.values]


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included.

    Attributes:
        key: The key, as in the space.
        name: The option.
        low: Smallest value; an `int` if the option is an integer, else a `float`.
        high: Largest value, of the same type. It is a whole number of steps above `low`.
        step: Difference between two values; None for any value.
        log: Whether the logarithm of the values is uniform.
    """

    key: str
    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The values that are checked before anything is trained: the smallest and the largest."""
        return self.low, self.high

    def grid(self) -> tuple[float, ...]:
        """Return all values, ascending.

        Raises:
            ArgumentError: There is no step, or there are too many values.
        """
        if self.step is None:
            raise ArgumentError(
                f"{self.key} is a range without step, which a grid needs; add step, list the "
                "values, or use --search random"
            )
        if self._steps >= _MOST_CHOICES:
            raise ArgumentError(
                f"{self.key} has {self._steps + 1:,} values, expected at most {_MOST_CHOICES:,} in "
                "a grid; use a larger step, or --search random"
            )
        return tuple(self._at(place) for place in range(self._steps + 1))

    def draw(self, random: np.random.Generator) -> float:
        """Return a random value."""
        whole = isinstance(self.low, int)
        if self.step is not None:
            return self._at(int(random.integers(self._steps + 1)))
        if not self.log:
            if whole:
                return int(random.integers(int(self.low), int(self.high) + 1))
            return float(random.uniform(self.low, self.high))
        # Each integer represents the interval from 0.5 below to 0.5 above it.
        half = 0.5 if whole else 0.0
        found = math.exp(random.uniform(math.log(self.low - half), math.log(self.high + half)))
        found = min(max(found, self.low), self.high)
        return round(found) if whole else found

    def nearest(self, value: float) -> float:
        """Return the value that is nearest to `value`, which has rounding errors."""
        return value if self.step is None else self._at(round((value - self.low) / self.step))

    @property
    def _steps(self) -> int:
        assert self.step is not None
        return _steps(self.low, self.high, self.step)

    def _at(self, place: int) -> float:
        """Return a value by its place; decimal, because 3 * 0.1 in binary is not 0.3."""
        assert self.step is not None
        found = Decimal(str(self.low)) + place * Decimal(str(self.step))
        return int(found) if isinstance(self.low, int) else float(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the range as in a space file."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.step is not None:
            found["step"] = self.step
        return found | ({"log": True} if self.log else {})


Dimension = Choices | Range


@dataclass(frozen=True)
class Space:
    """The candidates that a study can have.

    Attributes:
        dimensions: The options that differ, in the order of the file.
    """

    dimensions: tuple[Dimension, ...]

    def config(self, base: TrainingConfig, params: Mapping[str, Any]) -> TrainingConfig:
        """Return the configuration of a candidate.

        Args:
            base: The defaults.
            params: Values by key; a key that is missing has its default.

        Raises:
            ArgumentError: The values contradict each other, or the defaults.
        """
        return candidate(base, self._changes(params))

    def applicable(self, base: TrainingConfig, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return `params` without the keys that the network or target of the candidate lacks.

        Raises:
            ArgumentError: As `config`.
        """
        changes = self._changes(params)
        of_parts = [name for name in changes if name.startswith(tuple(f"{p}_" for p in _PARTS))]
        if not of_parts:
            return dict(params)
        made = candidate(base, {k: v for k, v in changes.items() if k not in of_parts})
        known = {
            f"{part}_{each.name}"
            for part in _PARTS
            for each in keys(getattr(made.definition, part))
        }
        left_out = {each.key for each in self.dimensions if each.name in {*of_parts} - known}
        return {key: value for key, value in params.items() if key not in left_out}

    def params(self, base: TrainingConfig) -> dict[str, Any]:
        """Return the values of `base` by key, without the keys that it does not have."""
        found = {each.key: _current(base, each.name) for each in self.dimensions}
        return {key: value for key, value in found.items() if value is not None}

    def _changes(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {each.name: params[each.key] for each in self.dimensions if each.key in params}

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return {each.key: each.to_dict() for each in self.dimensions}


def read(given: Path | Mapping[str, Any], base: TrainingConfig) -> Space:
    """Return a space, each value of which is valid on its own.

    Args:
        given: A TOML file, or its contents: values or a range by key; see docs/sweeps.md. Recipe
            files are relative to the folder of the file, else to the working directory.
        base: The configuration that candidates differ from.

    Raises:
        ArgumentError: The file cannot be read, or a key or a value is invalid. The message names
            the key.
    """
    if isinstance(given, Mapping):
        return _read(given, base, Path())
    document = documents.read_toml(given, "space")
    try:
        return _read(document, base, given.parent)
    except ArgumentError as error:
        raise ArgumentError(f"{given}: {error}", error.options) from error


def _read(document: Mapping[str, Any], base: TrainingConfig, folder: Path) -> Space:
    found: dict[str, Dimension] = {}
    for key, value in _flat(document):
        name = _name(key)
        if name in found:
            raise ArgumentError(f"{key} is given twice; remove one")
        found[name] = _dimension(key, name, value, folder)
    if not found:
        raise ArgumentError(
            "the space is empty; expected at least one option, for example epochs = [10, 50]"
        )
    if len(found) > _MOST_KEYS:
        raise ArgumentError(f"the space has {len(found)} keys, expected at most {_MOST_KEYS}")
    space = Space(tuple(found.values()))
    _check(space, base)
    return space


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; those of the table `[network]` as `network.units`."""
    for key, value in document.items():
        if key in _PARTS and isinstance(value, Mapping) and not set(value) & set(_RANGE):
            for inner, item in value.items():
                yield f"{key}.{inner}", item
        else:
            yield str(key), value


def _name(key: str) -> str:
    """Return the option or the key of a recipe that `key` names."""
    name = key.replace("-", "_")
    part, _, inner = name.partition(".")
    if part in _PARTS and inner:
        name = part if inner == "kind" else inner if inner == "horizon" else f"{part}_{inner}"
    if name in _OPTIONS or name in _OF_THE_RECIPE:
        return name
    if name in _OF_THE_STUDY:
        flag = OPTIONS[name].flag
        raise ArgumentError(
            f"{key:.80} must be the same for all candidates, which are compared on the same bars; "
            f"remove it, and pass {flag} to the sweep"
        )
    if name in OPTIONS:
        raise ArgumentError(f"{key:.80} does not change the error of a model; remove it")
    known = [*_OPTIONS, *_OF_THE_RECIPE]
    known += [f"{part}.{each.removeprefix(f'{part}_')}" for part in _PARTS for each in _OPTIONS
              if each.startswith(f"{part}_")]  # fmt: skip
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "docs/sweeps.md lists the keys"
    raise ArgumentError(f"unknown key {key!r:.80}; {hint}")


def _dimension(key: str, name: str, value: Any, folder: Path) -> Dimension:
    if isinstance(value, Mapping):
        return _range(key, name, value)
    if not isinstance(value, list | tuple):
        raise ArgumentError(
            f"{key} is {_shown(value)}, expected a list of values, or a range such as "
            "{low=5, high=50}; pass a value that all candidates share as an option of the sweep"
        )
    if not 1 <= len(value) <= _MOST_CHOICES:
        raise ArgumentError(f"{key} has {len(value):,} values, expected 1 to {_MOST_CHOICES:,}")
    if name == "recipe":
        value = [
            str(folder / Path(each).expanduser())
            if isinstance(each, str) and each.lower().endswith(".toml")
            else each
            for each in value
        ]
    checked = [_checked(key, name, each) for each in value]
    for place, each in enumerate(checked):
        if each in checked[:place]:
            raise ArgumentError(f"{key} has the value {_shown(each)} twice; remove one")
    return Choices(key, name, tuple(checked))


def _range(key: str, name: str, given: Mapping[str, Any]) -> Range:
    wrong = next((each for each in given if each not in _RANGE), None)
    if wrong is not None or not {"low", "high"} <= set(given):
        raise ArgumentError(
            f"{key} is {_shown(dict(given))}, expected low and high, and optionally step or log"
        )
    kind = OPTIONS[name].kind if name in OPTIONS else str
    if kind not in (int, float):
        raise ArgumentError(f"{key} is a range, but {name} is not a number; list its values")
    low, high = (_number(f"{key}.{end}", kind, given[end]) for end in ("low", "high"))
    log, step = given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise ArgumentError(f"{key}.log is {_shown(log)}, expected true or false")
    if low > high:
        raise ArgumentError(f"{key} is empty: low {low} is above high {high}; swap them")
    if log and step is not None:
        raise ArgumentError(f"{key} has both log and step, which exclude each other; remove one")
    if log and low <= 0:
        raise ArgumentError(f"{key}.low is {low}, expected a number above 0 for log = true")
    if step is not None:
        step = _number(f"{key}.step", kind, step)
        if step <= 0:
            raise ArgumentError(f"{key}.step is {step}, expected a number above 0")
        count = _steps(low, high, step)
        if count > _LARGEST:
            raise ArgumentError(f"{key}.step is {step}, which is too small; use a larger one")
        top = Decimal(str(low)) + count * Decimal(str(step))
        high = int(top) if kind is int else float(top)
    return Range(key, name, low, high, step, log)


def _number(where: str, kind: type, value: Any) -> float:
    whole = type(value) is int and abs(value) <= _LARGEST
    if kind is int and whole:
        return int(value)
    if kind is float and (whole or (type(value) is float and math.isfinite(value))):
        return float(value)
    expected = "an integer" if kind is int else "a number"
    raise ArgumentError(f"{where} is {_shown(value)}, expected {expected}")


def _steps(low: float, high: float, step: float) -> int:
    """Return the number of steps from `low` that do not exceed `high`; see `Range._at`."""
    return int((Decimal(str(high)) - Decimal(str(low))) / Decimal(str(step)))


def _checked(key: str, name: str, value: Any) -> Any:
    if name not in OPTIONS:  # a key of a recipe
        if type(value) not in (str, int):
            raise ArgumentError(f"{key} has the value {_shown(value)}, expected a text or a number")
        return value
    item = OPTIONS[name]
    kinds = {int: (int,), float: (int, float), bool: (bool,), tuple: (list, tuple)}
    if type(value) not in kinds.get(item.kind, (str,)):
        words = {int: "integers", float: "numbers", bool: "true and false", tuple: "lists"}
        raise ArgumentError(
            f"{key} has the value {_shown(value)}, expected {words.get(item.kind, 'texts')}"
        )
    try:
        return item.check(value)
    except ArgumentError as error:
        raise ArgumentError(f"{key}: {error}", error.options) from error


def _check(space: Space, base: TrainingConfig) -> None:
    """Raise ArgumentError for a value that is invalid with every recipe, target and network."""
    kinds = [each for each in space.dimensions if each.name in ("recipe", *_PARTS)]
    for dimension in space.dimensions:
        own = [each for each in kinds if each is not dimension]
        for value in dimension.ends:
            errors: list[ArgumentError] = []
            # First with the recipe, target and network of the defaults, then with each combination.
            for chosen in ((), *itertools.product(*(each.ends for each in own))):
                options = dict(zip((each.name for each in own), chosen, strict=False))
                try:
                    candidate(base, options | {dimension.name: value})
                except ArgumentError as error:
                    errors.append(error)
                else:
                    break
            else:
                # An error about the value says more than one about a network that lacks the key.
                first = next((each for each in errors if "expected" in str(each)), errors[-1])
                raise ArgumentError(f"{dimension.key}: {first}", first.options) from first


def candidate(base: TrainingConfig, changes: Mapping[str, Any]) -> TrainingConfig:
    """Return `base` with other options, and with other keys of its recipe.

    Raises:
        ArgumentError: They are invalid, or contradict each other.
    """
    options: dict[str, Any] = {k: v for k, v in changes.items() if k in OPTIONS}
    if "recipe" in options:
        options |= {"definition": None, "timeframe": base.timeframe}
        # Recipes can have different defaults.
        before = base.definition.original or base.definition
        for name, item in OPTIONS.items():
            default = before.defaults.get(name, item.default)
            if item.from_recipe and getattr(base, name) == default:
                options.setdefault(name, None)
        if "index" not in before.traits and (base.source != "files" or base.sentiment):
            options.setdefault("force_price_only", False)
    made = replace(base, **options)
    own = {key: value for key, value in changes.items() if key in _OF_THE_RECIPE}
    if not own:
        return made
    recipe = made.definition.original or made.definition
    if type(recipe) is not Recipe:
        raise ArgumentError(
            f"{', '.join(own)} cannot be changed for the {made.recipe} recipe, which is a Python "
            "class; use a recipe that is a recipe file"
        )
    changed = documents.from_document(documents.to_document(recipe) | own)
    return replace(made, definition=changed)


def _current(config: TrainingConfig, name: str) -> Any:
    """Return the value of an option, or of a key of the recipe, as a JSON value."""
    if name in _OF_THE_RECIPE:
        return getattr(config.definition, name, None)
    value = getattr(config, name)
    if value is None:
        part = next((part for part in _PARTS if name == part or name.startswith(f"{part}_")), None)
        if part is not None:
            made = getattr(config.definition, part)
            value = made.kind if name == part else made.values.get(name.removeprefix(f"{part}_"))
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # Python does not print integers of over 4300 digits
        return "a huge value"
