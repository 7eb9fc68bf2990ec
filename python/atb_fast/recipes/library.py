"""Finds a recipe: by its name, in a file, or in a Python module."""

from __future__ import annotations

import difflib
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from atb_fast.config import MODEL_TYPES, RECIPES
from atb_fast.errors import ArgumentError
from atb_fast.recipes import checks
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.documents import read_file
from atb_fast.recipes.recipe import Recipe

#: The entry point group of recipes in other packages.
GROUP = "atb_fast.recipes"


@cache
def get(name: str) -> Recipe:
    """Return the built-in recipe called `name`, one of `config.RECIPES`."""
    return read_file(Path(__file__).with_name(f"{name}.toml"))


def builtin() -> dict[str, Recipe]:
    """Return the built-in recipes by name."""
    return {name: get(name) for name in RECIPES}


def installed() -> dict[str, str]:
    """Return the recipes of other installed packages: their names, and where each is defined."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def find(given: str) -> BaseRecipe:
    """Return the recipe that `given` refers to.

    Args:
        given: The name of a built-in recipe or of an entry point; the path of a recipe file, which
            ends with `.toml`; or `package.module:Name`, a class or an object.

    Raises:
        ArgumentError: There is no such recipe, or it is invalid.
    """
    if given in RECIPES:
        return get(given)
    try:
        if given.lower().endswith(".toml"):
            recipe: BaseRecipe = read_file(Path(given).expanduser())
        elif ":" in given:
            recipe = _made(given, _import(given))
        else:
            recipe = _made(given, _entry_point(given))
    except ArgumentError as error:
        raise ArgumentError(str(error), ["recipe"]) from error
    try:
        check_own(recipe)
    except ArgumentError as error:
        raise ArgumentError(f"{given:.200}: {error}", ["recipe"]) from error
    return recipe


def check_own(recipe: BaseRecipe) -> None:
    """Raise ArgumentError if the name of a user's recipe is invalid or reserved."""
    name = getattr(recipe, "name", None)
    checks.check_name(name)
    if name in (*MODEL_TYPES, *RECIPES, "latest"):
        raise ArgumentError(f"name: {name} is reserved by atb-fast; choose another name")


def _entry_point(name: str) -> Any:
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        near = difflib.get_close_matches(name, [*RECIPES, *found], n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ArgumentError(
            f"--recipe: no recipe is named {name!r:.80}{hint} Expected one of "
            f"{', '.join([*RECIPES, *found])}, a recipe file (NAME.toml), or package.module:Recipe"
        )
    try:
        return found[name].load()
    except (Exception, SystemExit) as error:  # the module of a user can raise anything
        raise _failed(name, error) from error


def _import(given: str) -> Any:
    """Return the object that `package.module:Name` names. The working directory is searched too."""
    module, _, name = given.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # the module of a user can raise anything
        raise _failed(given, error) from error


def _failed(given: str, error: BaseException) -> ArgumentError:
    return ArgumentError(
        f"--recipe {given:.200} cannot be imported ({type(error).__name__}: {error}); fix that "
        "error, or pass package.module:Recipe with a module that Python can import (the working "
        "directory counts)"
    )


def _made(given: str, found: Any) -> BaseRecipe:
    """Return the imported recipe: an instance, or a class that needs no arguments."""
    if isinstance(found, type) and issubclass(found, BaseRecipe):
        try:
            return found()
        except ArgumentError:
            raise
        except (Exception, SystemExit) as error:  # so can its constructor
            raise ArgumentError(
                f"--recipe {given:.200} cannot be created: {error!r}; expected a class whose "
                "constructor needs no arguments"
            ) from error
    if not isinstance(found, BaseRecipe):
        expected = "an instance or a subclass of atb_fast.BaseRecipe"
        raise checks.wrong(f"--recipe {given:.200}", found, expected)
    return found
