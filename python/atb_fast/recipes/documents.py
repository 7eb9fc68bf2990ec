"""Recipes as documents: TOML files, and the JSON in a bundle, which has the same keys."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from atb_fast.config import LONGEST_LAG_DAYS, TIMEFRAMES
from atb_fast.errors import ArgumentError
from atb_fast.features.specs import SCALERS, FeatureSpec
from atb_fast.recipes import checks
from atb_fast.recipes.base import BaseRecipe
from atb_fast.recipes.joining import JOINS
from atb_fast.recipes.keys import Key, Part, keys
from atb_fast.recipes.meta_label import MetaLabelRecipe
from atb_fast.recipes.networks import NETWORKS, OwnNetwork
from atb_fast.recipes.recipe import FIT_SCALERS_ON, Recipe
from atb_fast.recipes.split import SPLITS
from atb_fast.recipes.targets import TARGETS

Kind = TypeVar("Kind", bound=Part)

#: Largest recipe file that is read, in bytes.
_MOST_BYTES = 1 << 20
_KEYS = tuple(item.name for item in fields(Recipe))
#: The built-in recipes that compute columns themselves. Their names are reserved.
_CLASSES: dict[str, type[Recipe]] = {"meta_label": MetaLabelRecipe}
#: Keys whose value is stored as it is in `Recipe`.
_PLAIN = tuple(key for key in _KEYS if key not in ("features", "target", "network"))


def read_file(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        ArgumentError: The file cannot be read, or is not a recipe. The message names the key, and
            the place in an expression.
    """
    document = read_toml(path, "recipe")
    try:
        return from_document(document)
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}", error.options) from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Return the contents of a small TOML file.

    Args:
        path: The file.
        what: What the file is, in messages, for example `recipe`.

    Raises:
        ArgumentError: It cannot be read, is too large, or is not TOML.
    """
    try:
        # A pipe would block, and a device can be endless.
        if path.exists() and not path.is_file():
            raise ArgumentError(f"{what} {path} is not a file; pass the path of a {what} file")
        if path.stat().st_size > _MOST_BYTES:
            raise ArgumentError(
                f"{path} has {path.stat().st_size:,} bytes, expected at most {_MOST_BYTES:,}"
            )
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ArgumentError(
            f"{what} {path} cannot be read: {error.strerror or error}; pass the path of a {what} "
            "file"
        ) from error
    except (ValueError, RecursionError) as error:  # also a file that is not UTF-8
        if isinstance(error, ArgumentError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ArgumentError(f"{path} is not valid TOML: {reason}; correct the file") from error


def from_document(document: Any) -> Recipe:
    """Return the recipe that a document describes.

    Raises:
        ArgumentError: It is not a recipe. The message begins with the key.
    """
    checks.check_table("recipe", document, _KEYS)
    for key in ("name", "features", "target"):
        if key not in document:
            raise ArgumentError(f"{key} is missing; expected at least name, features and target")
    return _CLASSES.get(str(document["name"]), Recipe)(
        **{key: document[key] for key in _PLAIN if key in document},
        features=document["features"],
        target=_part("target", document["target"], TARGETS),
        network=_part("network", document.get("network", {"kind": "cnn_lstm"}), NETWORKS),
    )


def _part(key: str, given: Any, kinds: Mapping[str, type[Kind]]) -> Kind:
    if not isinstance(given, Mapping):
        raise checks.wrong(key, given, f"a table [{key}] with the key kind")
    if "kind" not in given:
        raise ArgumentError(f"{key}.kind is missing; expected one of {', '.join(kinds)}")
    checks.check_choice(f"{key}.kind", given["kind"], kinds)
    kind = kinds[given["kind"]]
    names = [each.name for each in keys(kind)]
    checks.check_table(f"{key} {given['kind']}", given, ("kind", *names))
    return kind(**{name: value for name, value in given.items() if name != "kind"})


def to_document(recipe: BaseRecipe) -> dict[str, Any]:
    """Return the document of a recipe, as JSON values; only what differs from the defaults.

    A class of a user has none; instead, the document says where it is, and whether it builds its
    own network.
    """
    if not isinstance(recipe, Recipe) or type(recipe) not in (Recipe, *_CLASSES.values()):
        own = {"network": {"kind": "own"}} if isinstance(recipe.trained_network, OwnNetwork) else {}
        return {"python": f"{type(recipe).__module__}:{type(recipe).__qualname__}", **own}
    defaults = {item.name: item.default for item in fields(Recipe)}
    plain: dict[str, Any] = {}
    for key in _PLAIN:
        value = getattr(recipe, key)
        if value != defaults[key]:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain | {
        "features": {
            name: _feature_document(spec, recipe.scaler) for name, spec in recipe.specs.items()
        },
        "target": {"kind": recipe.target.kind, **recipe.target.values},
        "network": {"kind": recipe.network.kind, **recipe.network.values},
    }


def _feature_document(spec: FeatureSpec, scaler: str) -> Any:
    rest: dict[str, Any] = {} if spec.scaler == scaler else {"scaler": spec.scaler}
    if spec.null_as is not None:
        rest["null_as"] = spec.null_as
    if spec.timeframes:
        rest["timeframes"] = list(spec.timeframes)
    return {"expression": str(spec.expression), **rest} if rest else str(spec.expression)


def to_toml(document: Mapping[str, Any]) -> str:
    """Return the text of a recipe file with the contents of `document`."""
    lines = [f"{key} = {_value(value)}" for key, value in document.items() if key in _PLAIN]
    for key in ("features", "target", "network"):
        lines += ["", f"[{key}]"]
        lines += [f"{name} = {_value(value)}" for name, value in document[key].items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_value(item)}' for name, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and lists are the same in TOML


def schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, for editors."""
    text = {"type": "string"}
    name = {"type": "string", "pattern": f"^{checks.NAME}$"}
    column = {"type": "string", "pattern": f"^{checks.COLUMN_NAME}$"}
    feature = {
        "type": "object",
        "properties": {
            "expression": text,
            "scaler": {"enum": list(SCALERS)},
            "null_as": {"type": "number"},
            "timeframes": {"type": "array", "items": {"enum": list(TIMEFRAMES)}},
        },
        "required": ["expression"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of atb-fast",
        "type": "object",
        "properties": {
            "name": name,
            "description": text,
            "timeframe": {"enum": list(TIMEFRAMES)},
            "sequence_length": {"type": "integer", "minimum": 10},
            "sentiment_lag_days": {
                "type": "integer",
                "minimum": 0,
                "maximum": LONGEST_LAG_DAYS,
            },
            "scaler": {"enum": list(SCALERS)},
            "fit_scalers_on": {"enum": list(FIT_SCALERS_ON)},
            "split": {"enum": list(SPLITS)},
            "sentiment_join": {"enum": list(JOINS)},
            "lag": {"enum": [0, 1]},
            "extra": {"type": "array", "items": column},
            "features": {
                "type": "object",
                "propertyNames": column,
                "additionalProperties": {"anyOf": [text, feature]},
                "minProperties": 1,
                "maxProperties": checks.MOST_FEATURES,
            },
            "target": {"oneOf": [_part_schema(name, kind) for name, kind in TARGETS.items()]},
            "network": {"oneOf": [_part_schema(name, kind) for name, kind in NETWORKS.items()]},
        },
        "required": ["name", "features", "target"],
        "additionalProperties": False,
    }


def _part_schema(name: str, kind: type[Part]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "kind": {"const": name},
            **{each.name: _key_schema(each) for each in keys(kind)},
        },
        "required": ["kind"],
        "additionalProperties": False,
    }


def _key_schema(each: Key) -> dict[str, Any]:
    types = {int: "integer", float: "number", bool: "boolean", str: "string"}
    limits = {"minimum": each.minimum, "maximum": each.maximum}
    item: dict[str, Any] = {"type": types[each.kind]}
    item |= {name: limit for name, limit in limits.items() if limit is not None}
    if each.choices:
        item = {"enum": list(each.choices)}
    if each.listed:
        item = {"type": "array", "items": item, "maxItems": each.most}
    default = list(each.default) if each.listed else each.default
    return item | {"default": default}
