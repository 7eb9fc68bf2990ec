"""The command that trains a trial."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atb_fast.config import OPTIONS, RECIPES, default_registry
from atb_fast.experiments import folder as folders
from atb_fast.recipes import library
from atb_fast.recipes.config import TrainingConfig
from atb_fast.recipes.documents import to_document, to_toml


def training_command(
    configs: Sequence[TrainingConfig], *, embargo: int | None, folder: Path
) -> str:
    """Return the command that trains a trial; writes its recipe if it is not a built-in one.

    Args:
        configs: The configuration for each symbol.
        embargo: That of the study, which can be an argument of it.
        folder: The folder of the study, for the recipe.
    """
    config = configs[0]
    recipe = config.definition.original or config.definition
    words = ["atb-fast", "train", "price" if recipe.name == "basic" else "model"]
    words += [each.symbol for each in configs]
    document = to_document(recipe)
    if recipe.name not in RECIPES or document != to_document(library.get(recipe.name)):
        words += ["--recipe", document.get("python") or _written(document, folder)]
    elif recipe.name not in ("basic", OPTIONS["recipe"].default):
        words += ["--recipe", recipe.name]
    for name, item in OPTIONS.items():
        value, default = getattr(config, name), recipe.defaults.get(name, item.default)
        if name == "embargo" and item.needs in recipe.traits:
            value = embargo
        ignored = item.ignored and item.needs not in recipe.traits
        if not (item.machine or ignored or name == "recipe" or value in (default, None)):
            words += _flags(name, value, [each.symbol for each in configs])
    if config.registry != default_registry():
        words += ["--registry", str(config.registry)]
    return shlex.join(words)


def _flags(name: str, value: Any, symbols: Sequence[str]) -> list[str]:
    """Return an option of a training as words of the command line."""
    flag = OPTIONS[name].flag
    if name == "source" and value != "sample":  # follows from the files
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, tuple):
        return [flag, ",".join(map(str, value)) or "none"]
    texts = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
    if OPTIONS[name].input_file and len(symbols) > 1:
        texts = [text.replace(symbols[0], "{symbol}") for text in texts]
    return [word for text in texts for word in (flag, text)]


def _written(document: Mapping[str, Any], folder: Path) -> str:
    """Write a recipe file next to the results, and return its path."""
    name = document["name"]
    if name in RECIPES:
        name += "_of_study"
    path = folder / f"{name}.toml"
    folders.write(path, to_toml({**document, "name": name}).encode())
    return str(path)
