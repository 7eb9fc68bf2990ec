"""Recipes with the options of a run applied: other targets and networks, and one timeframe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atb_fast.config import OPTIONS, TARGETS_OF_THE_BOT, TIMEFRAMES, NetworkOptions, names
from atb_fast.errors import ArgumentError
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.checks import check_choice
from atb_fast.recipes.keys import Part, keys
from atb_fast.recipes.networks import NETWORKS, OwnNetwork
from atb_fast.recipes.recipe import Recipe
from atb_fast.recipes.targets import TARGETS

#: The parts of a recipe that options replace, with the kinds of each.
_PARTS: dict[str, Mapping[str, type[Part]]] = {"target": TARGETS, "network": NETWORKS}


def applied(recipe: BaseRecipe, options: Mapping[str, Any]) -> BaseRecipe:
    """Return `recipe` with the target, network and timeframe of a run.

    Args:
        recipe: The recipe before options changed it.
        options: Options by name, None for the recipe's own, not checked yet.

    Returns:
        A copy whose `original` is `recipe`, or `recipe` itself if nothing changes.

    Raises:
        ArgumentError: An option is invalid or does not apply, or the recipe is not for the
            timeframe.
    """
    changes: dict[str, Any] = {}
    if isinstance(recipe.trained_network, OwnNetwork):
        _check_no_network(recipe, options)
    for name, kinds in _PARTS.items():
        own = getattr(recipe, name)
        part = _part(name, own, kinds, options)
        if type(part) is not type(own) or part != own:
            changes[name] = part
    if "target" in changes:
        _check_target(recipe, changes["target"].kind)
    if isinstance(recipe, Recipe):
        timeframe = options["timeframe"] or recipe.timeframe or OPTIONS["timeframe"].default
        changes |= _at(recipe, OPTIONS["timeframe"].check(timeframe))
    if not changes:
        return recipe
    made = copy.copy(recipe)  # a class of a user can have any constructor
    for name, value in {"original": recipe, **changes}.items():
        object.__setattr__(made, name, value)
    if isinstance(made, Recipe):
        try:
            Recipe.__post_init__(made)
        except ArgumentError as error:
            raise ArgumentError(str(error), [name for name in _PARTS if options[name]]) from error
    return made


def values(recipe: BaseRecipe) -> dict[str, Any]:
    """Return the target, the network and their keys, by name of the option."""
    found: dict[str, Any] = {}
    for name in _PARTS:
        part = recipe.trained_network if name == "network" else recipe.target
        found[name] = part.kind
        found |= {f"{name}_{key}": value for key, value in part.values.items()}
    return {name: value for name, value in found.items() if name in OPTIONS}


def _part(
    name: str, own: Part, kinds: Mapping[str, type[Part]], options: Mapping[str, Any]
) -> Part:
    """Return the part that `options` ask for. Without another kind, it keeps its other keys."""
    kind = OPTIONS[name].check(options[name])
    made = own
    if kind not in (None, own.kind):
        check_choice(OPTIONS[name].flag, kind, kinds)
        made = kinds[kind]()
    known = {_option(name, each.name): each for each in keys(made)}
    given: dict[str, Any] = {}
    for option, item in OPTIONS.items():
        # --horizon is also an option of recipes that have no such key; see `Option.needs`.
        if not option.startswith(f"{name}_") and option not in known:
            continue
        if options[option] is None:
            continue
        if option not in known:
            raise _not_applicable(name, made.kind, option, list(known), kinds)
        try:
            value = item.check(options[option])
            given[option] = known[option].check(item.flag, value)
        except ArgumentError as error:
            raise ArgumentError(str(error), [option]) from error
    if not given:
        return made
    try:
        return replace(made, **{known[option].name: value for option, value in given.items()})
    except ArgumentError as error:  # the keys contradict each other
        message = str(error)
        for option in given:
            key = f"{made.kind}.{known[option].name}:"
            message = message.replace(key, f"{OPTIONS[option].flag}:")
        raise ArgumentError(message, list(given)) from error


def _option(name: str, key: str) -> str:
    """Return the option for a key of a target or a network."""
    return key if key == "horizon" else f"{name}_{key}"


def _not_applicable(
    name: str, kind: str, option: str, known: list[str], kinds: Mapping[str, type[Part]]
) -> ArgumentError:
    flags = [OPTIONS[each].flag for each in known if each in OPTIONS]
    has = f"which has {', '.join(flags)}" if flags else "which has no options"
    key = option.removeprefix(f"{name}_")
    others = [each for each, made in kinds.items() if key in {item.name for item in keys(made)}]
    # The target meta_label belongs to the recipe of that name, and is no value of --target.
    named = [each for each in others if each in (OPTIONS[name].choices or kinds)]
    instead = f"pass --{name} {' or '.join(named)}" if named else f"use --recipe {others[0]}"
    return ArgumentError(
        f"{OPTIONS[option].flag} does not apply to the {name} {kind}, {has}; remove it, or "
        f"{instead}",
        options=(option, name),
    )


def _check_no_network(recipe: BaseRecipe, options: Mapping[str, Any]) -> None:
    """Raise ArgumentError for options of the network, because the class builds its own."""
    for name in names(NetworkOptions):
        if options[name] is not None:
            raise ArgumentError(
                f"{OPTIONS[name].flag} does not apply to the {recipe.name} recipe, whose class "
                f"builds its own network in `build`; remove it, and change "
                f"{type(recipe).__qualname__}.build instead",
                options=(name, "recipe"),
            )


def _check_target(recipe: BaseRecipe, kind: str) -> None:
    """Raise ArgumentError if the trading bot would misread the bundle of a built-in recipe."""
    allowed = TARGETS_OF_THE_BOT.get(recipe.name, TARGETS)
    if kind not in allowed:
        named = [each for each in allowed if each in (OPTIONS["target"].choices or allowed)]
        instead = f"use --target {' or '.join(named)}, or" if named else "remove it, or use"
        raise ArgumentError(
            f"--target {kind} does not apply to the {recipe.name} recipe, because the trading bot "
            f"loads its bundles; {instead} another recipe, such as --recipe causal or a "
            "recipe file",
            options=("target", "recipe"),
        )


def _at(recipe: Recipe, timeframe: str) -> dict[str, Any]:
    """Return what changes if only the features that exist for `timeframe` are used.

    Raises:
        ArgumentError: The recipe has features for some timeframes, but none for this one.
    """
    named = {each for spec in recipe.specs.values() for each in spec.timeframes}
    if named and timeframe not in named:
        known = [each for each in TIMEFRAMES if each in named]
        raise ArgumentError(
            f"--timeframe is {timeframe}, expected one of {', '.join(known)}, because the "
            f"{recipe.name} recipe has features for no others; use one of these, or a recipe file "
            f"with features for {timeframe}",
            options=("timeframe", "recipe"),
        )
    kept = {
        name: spec
        for name, spec in recipe.specs.items()
        if not spec.timeframes or timeframe in spec.timeframes
    }
    if len(kept) == len(recipe.specs):
        return {}
    if type(recipe) is not Recipe:  # another class may use an extra in `prepare`
        return {"features": kept}
    read = {name for spec in kept.values() for name in spec.expression.columns}
    return {"features": kept, "extra": tuple(name for name in recipe.extra if name in read)}
