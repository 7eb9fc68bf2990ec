"""The options of a training run, with the recipe that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atb_fast.config import (
    LARGEST_WINDOW,
    MIN_SEQUENCE_LENGTH,
    OPTIONS,
    RECIPES,
    TIMEFRAMES,
    FitOptions,
    MarketOptions,
    NetworkOptions,
    OutputOptions,
    RecipeOptions,
    TargetOptions,
)
from atb_fast.errors import ArgumentError
from atb_fast.recipes import library
from atb_fast.recipes.applied import applied
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.documents import from_document
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import TARGETS


# A dataclass takes the fields of its last base first, so the constructor begins with the symbol.
@dataclass(frozen=True, kw_only=True)
class TrainingConfig(
    OutputOptions, FitOptions, NetworkOptions, TargetOptions, RecipeOptions, MarketOptions
):
    """The options of a training run. Immutable; checked on construction.

    Each stage takes only the group of options that it uses. A recipe may have its own defaults for
    some options; they are used where the option is None.

    Attributes:
        recipe: The name of the recipe. The constructor also accepts a recipe object, and
            everything that `library.find` accepts.
        definition: The recipe with these options applied: its target and network, and only the
            features that exist for the timeframe. The constructor accepts a recipe object.

    Raises:
        ArgumentError: An invalid option, options that contradict each other, or an invalid recipe.
    """

    # Never None once constructed.
    definition: BaseRecipe = field(default=None, hash=False, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Find the recipe, take its defaults, and check options across groups."""
        made = self.definition
        if isinstance(self.recipe, BaseRecipe):
            made = self.recipe
            library.check_own(made)
        elif made is None or made.name != self.recipe:
            made = library.find(str(OPTIONS["recipe"].check(self.recipe)))
        else:  # `dataclasses.replace` passes the definition, and the horizon of its target
            before, made = made.target, made.original or made
            own = (library.get(made.name) if made.name in RECIPES else made).target
            other = own.kind != before.kind and before.kind in TARGETS
            default = TARGETS[before.kind]() if other else own
            asked = made.target.kind if self.target is None else self.target
            if asked != before.kind and self.horizon == default.horizon:
                self._set("horizon", None)
        made = applied(made, {name: getattr(self, name) for name in OPTIONS})
        self._set("definition", made)
        self._set("recipe", made.name)
        for name, value in made.defaults.items():
            if getattr(self, name) is None:
                self._set(name, value)
        if "index" not in made.traits:
            self._set("force_price_only", True)
        super().__post_init__()
        self._check_recipe(made)
        if self.force_price_only and self.force_sentiment:
            raise ArgumentError(
                "--force-price-only and --force-sentiment contradict each other; pass only one",
                options=("force_price_only", "force_sentiment"),
            )
        resampled = "index" in made.traits and "lag" not in made.traits
        if self.bar_ms > TIMEFRAMES["1d"] and resampled and not self.force_price_only:
            raise ArgumentError(
                f"--timeframe {self.timeframe} is longer than a day and sentiment is daily; use "
                "--timeframe 1d or shorter, or --force-price-only",
                options=("timeframe", "force_price_only"),
            )

    def _check_recipe(self, made: BaseRecipe) -> None:
        """Raise ArgumentError if an option does not apply to the recipe."""
        traits = made.traits  # computed from the expressions of all features
        for item in OPTIONS.values():
            value, default = getattr(self, item.name), made.defaults.get(item.name, item.default)
            if not item.needs or item.needs in traits or item.ignored or value == default:
                continue
            shown = "" if value is True or item.kind is dict else f" {value}"
            given = f"{item.flag}{shown}"
            others = [name for name in RECIPES if item.needs in library.get(name).traits]
            owner, instead = f"the {self.recipe} recipe", f"--recipe {' or '.join(others)}"
            if self.recipe in others:  # it would apply to the recipe's own target
                owner, instead = f"the target {made.target.kind}", "another --target"
            elif item.needs == "horizon":
                instead += " or another --target, such as log_return"
            elif item.needs == "extra":  # no built-in recipe reads one
                instead = "a recipe file that lists the column under `extra` and reads it"
            raise ArgumentError(
                f"{given} does not apply to {owner}; remove it, or use {instead}",
                options=(item.name, "target" if self.recipe in others else "recipe"),
            )
        network = made.trained_network
        if self.engine == "exact" and network.kind != "linear":
            raise ArgumentError(
                f"--engine exact does not fit the network {network.kind}; use --network linear, or "
                "another --engine",
                options=("engine", "network"),
            )
        if self.network_l2 is not None and self.engine in ("compiled", "keras"):
            raise ArgumentError(
                f"--network-l2 has no effect with --engine {self.engine}, which stops "
                "early instead; remove it, or use --engine exact",
                options=("network_l2", "engine"),
            )
        self._check_length(made)

    def _check_length(self, made: BaseRecipe) -> None:
        """Raise ArgumentError if windows are too short for the network, or too large."""
        if "length" in made.traits and self.sequence_length < MIN_SEQUENCE_LENGTH:
            raise ArgumentError(
                f"--sequence-length is {self.sequence_length}, expected at least "
                f"{MIN_SEQUENCE_LENGTH}",
                options=["sequence_length"],
            )
        bars = made.trained_network.values.get("bars", 1)
        if bars > self.sequence_length:
            raise ArgumentError(
                f"--network-bars is {bars}, but a window has --sequence-length "
                f"{self.sequence_length} bars; use fewer bars, or longer windows",
                options=("network_bars", "sequence_length"),
            )
        features = len(made.specs) if isinstance(made, Recipe) else 1
        values = features * self.sequence_length
        if values > LARGEST_WINDOW:
            raise ArgumentError(
                f"--sequence-length {self.sequence_length} with the {features} features of the "
                f"{self.recipe} recipe gives {values:,} values per window, expected at most "
                f"{LARGEST_WINDOW:,}; use a shorter --sequence-length",
                options=("sequence_length", "recipe"),
            )

    @property
    def title(self) -> str:
        """The recipe, and its target and horizon if options change them."""
        made = self.definition
        own = (made.original or made).target
        changed = f", target {made.target.kind}" if made.target.kind != own.kind else ""
        changed += f", horizon {self.horizon}" if self.horizon != own.horizon else ""
        return f"{self.recipe} recipe{changed}"

    def to_dict(self) -> dict[str, Any]:
        """Return every option as a JSON value."""
        values = {name: getattr(self, name) for name in ("symbol", *OPTIONS)}
        return {name: _plain(value) for name, value in values.items()}


def from_plain(options: Mapping[str, Any], document: Any) -> TrainingConfig:
    """Return the configuration that `TrainingConfig.to_dict` and a recipe document describe.

    The recipe is not looked up by its name. If a document names a Python class, it is imported,
    which runs its code. So the user must confirm documents from other people first.

    Args:
        options: The symbol and options by name. Options of the machine are ignored.
        document: See `documents.to_document`; None for a built-in recipe.

    Raises:
        ArgumentError: An option or the recipe is invalid, or its class cannot be imported.
        TypeError: There is no such option.
    """
    given = {
        name: value
        for name, value in options.items()
        if not (name in OPTIONS and OPTIONS[name].machine)
    }
    return TrainingConfig(**given | {"definition": _recipe(given, document)})


def _recipe(options: Mapping[str, Any], document: Any) -> BaseRecipe:
    name = options.get("recipe", "legacy")
    if document is None:  # in bundles of early versions, which had no other recipes
        if not isinstance(name, str) or name not in RECIPES:
            raise ArgumentError(
                f"recipe is {name!r:.80} without a recipe_document, expected one of "
                f"{', '.join(RECIPES)}"
            )
        return library.get(name)
    python = document.get("python") if isinstance(document, dict) else None
    made = library.find(python) if isinstance(python, str) else from_document(document)
    if made.name != name:
        raise ArgumentError(
            f"recipe is {name!r:.80}, but the name in recipe_document is {made.name!r:.80}; "
            "expected the same name"
        )
    return made


def _plain(value: Any) -> Any:
    """Return the value of an option as a JSON value."""
    if isinstance(value, dict):
        return {name: str(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
