"""Keys of targets and networks: in Python, in a recipe file, in its JSON schema, and as options."""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atb_fast import TrainingConfig
from atb_fast import config as declared
from atb_fast.config import OPTIONS
from atb_fast.errors import ArgumentError
from atb_fast.recipes import library
from atb_fast.recipes.documents import from_document, schema, to_document, to_toml
from atb_fast.recipes.keys import Key, Part, key, keys
from atb_fast.recipes.networks import NETWORKS
from atb_fast.recipes.targets import TARGETS

KINDS: dict[str, dict[str, type[Part]]] = {"target": {**TARGETS}, "network": {**NETWORKS}}
PARTS = [
    (name, kind, made)
    for name, kinds in KINDS.items()
    for kind, made in kinds.items()
    if kind != "meta_label"  # only the recipe of this name can have it
]
EVERY_KEY = [(name, kind, each) for name, kind, made in PARTS for each in keys(made)]
#: The keys of the target that is no option.
FURTHER = [
    ("target", kind, each)
    for kind, made in TARGETS.items()
    if kind == "meta_label"
    for each in keys(made)
]


@dataclass(frozen=True)
class Sized(Part):
    """A part with a key of each type."""

    kind = "sized"

    count: int = key(3, minimum=1, maximum=9)
    share: float = key(0.5, minimum=0, maximum=0.9)
    style: Literal["plain", "dotted"] = key("plain")
    bold: bool = key(False)
    levels: tuple[float, ...] = key((), minimum=0.01, maximum=0.99, most=3)
    free: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.levels) != sorted(self.levels):
            raise ArgumentError(f"sized.levels: found {self.levels}, expected an ascending list")


def test_values_are_converted() -> None:
    made = Sized(share=0, levels=[0.1, 0.5], free=-2)  # type: ignore[arg-type]
    assert (type(made.share), made.levels, made.free) == (float, (0.1, 0.5), -2)
    assert hash(made) == hash(Sized(share=0.0, levels=(0.1, 0.5), free=-2))
    assert list(made.values) == [item.name for item in fields(Sized)]
    assert json.loads(json.dumps(made.values))["levels"] == [0.1, 0.5]
    assert [each.kind for each in keys(Sized)] == [int, float, str, bool, float, int]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "sized.count: found 0, expected an integer from 1 to 9"),
        ({"count": 10}, "sized.count: found 10, expected an integer from 1 to 9"),
        ({"count": 10**5000}, "sized.count: found a huge integer, expected an integer from 1 to 9"),
        ({"count": True}, "sized.count: found True, expected an integer from 1 to 9"),
        ({"count": 2.0}, "sized.count: found 2.0, expected an integer from 1 to 9"),
        ({"count": "3"}, "sized.count: found '3', expected an integer from 1 to 9"),
        ({"count": None}, "sized.count: found None, expected an integer from 1 to 9"),
        ({"share": 0.91}, "sized.share: found 0.91, expected a number from 0 to 0.9"),
        ({"share": math.nan}, "sized.share: found nan, expected a number from 0 to 0.9"),
        ({"share": -math.inf}, "sized.share: found -inf, expected a number from 0 to 0.9"),
        ({"share": False}, "sized.share: found False, expected a number from 0 to 0.9"),
        ({"style": "dashed"}, "sized.style: found 'dashed', expected one of plain, dotted"),
        ({"style": ["plain"]}, "sized.style: found ['plain'], expected one of plain, dotted"),
        ({"bold": 1}, "sized.bold: found 1, expected true or false"),
        (
            {"levels": 0.5},
            "sized.levels: found 0.5, expected a list of items, each a number from 0.01 to",
        ),
        ({"levels": "0.5"}, "sized.levels: found '0.5', expected a list of items, each a number"),
        ({"levels": [0.5, 1]}, "sized.levels: found 1, expected a number from 0.01 to 0.99"),
        ({"levels": [0.1] * 4}, "sized.levels: found 4 items, expected at most 3"),
        ({"levels": [0.5, 0.1]}, "sized.levels: found (0.5, 0.1), expected an ascending list"),
        ({"free": 2**31}, "sized.free: found 2147483648, expected an integer of at most 2,147,483"),
    ],
)
def test_invalid_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Sized(**given)


@pytest.mark.parametrize(("name", "kind", "each"), EVERY_KEY + FURTHER)
def test_every_key_is_an_option_with_the_same_type(name: str, kind: str, each: Key) -> None:
    """Help is printed without importing these classes, so options are declared apart from them."""
    item = OPTIONS[each.name if each.name == "horizon" else f"{name}_{each.name}"]
    assert (item.kind, item.choices) == (tuple if each.listed else each.kind, each.choices)
    if each.kind in (int, float):
        assert each.minimum is not None, f"{kind}.{each.name}"
        assert each.maximum is not None, f"{kind}.{each.name}"


def test_options_name_the_kinds_that_have_them() -> None:
    assert set(declared.TARGETS) == {kind for kind in TARGETS if kind != "meta_label"}
    assert set(declared.NETWORKS) == set(NETWORKS)
    for name, kinds in KINDS.items():
        for option, item in OPTIONS.items():
            if not option.startswith(f"{name}_"):
                continue
            have = {
                kind
                for kind, made in kinds.items()
                if option in {f"{name}_{each.name}" for each in keys(made)}
            }
            named = re.findall(r"\(([a-z_, ]+)\)", item.help)
            assert {kind for text in named for kind in text.split(", ")} == have, option


def values(each: Key) -> st.SearchStrategy[Any]:
    """Return the valid values of a key."""
    low, high = each.minimum, each.maximum
    kinds: dict[type, Any] = {
        int: lambda: st.integers(int(low or 0), int(high or 100)),
        float: lambda: st.floats(low, high),
        bool: st.booleans,
        str: lambda: st.sampled_from(each.choices),
    }
    if not each.listed:
        return kinds[each.kind]()  # type: ignore[no-any-return]
    return st.lists(kinds[each.kind](), max_size=each.most, unique=True).map(sorted)


def documents(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return documents of a target or a network, with some of its keys."""
    return st.sampled_from([part for part in PARTS if part[0] == name]).flatmap(
        lambda part: st.fixed_dictionaries(
            {"kind": st.just(part[1])}, optional={each.name: values(each) for each in keys(part[2])}
        )
    )


@settings(deadline=None, max_examples=200)
@given(target=documents("target"), network=documents("network"))
def test_documents_give_the_recipe_again(target: dict[str, Any], network: dict[str, Any]) -> None:
    window = target["kind"] == "window_close"
    recipe = from_document(
        {
            "name": "made",
            "scaler": "window" if window else "none",
            "features": {"har_x": "close" if window else "log(close / open)"},
            "target": target,
            "network": network,
        }
    )
    document = to_document(recipe)
    for name, given_part in (("target", target), ("network", network)):
        assert document[name] | given_part == document[name]
        kinds = schema()["properties"][name]["oneOf"]
        (own,) = [
            each for each in kinds if each["properties"]["kind"] == {"const": given_part["kind"]}
        ]
        assert all(fits(value, own["properties"][key]) for key, value in document[name].items())
    assert from_document(json.loads(json.dumps(document))) == recipe
    assert from_document(tomllib.loads(to_toml(document))) == recipe


def fits(value: Any, described: dict[str, Any]) -> bool:
    """Return whether a value fits a JSON schema, as far as recipes use it."""
    if "const" in described or "enum" in described:
        return value in described.get("enum", [described.get("const")])
    types = {"integer": int, "number": int | float, "boolean": bool, "array": list, "string": str}
    if described["type"] == "array":
        right = len(value) <= described["maxItems"]
        return right and all(fits(item, described["items"]) for item in value)
    least, most = described.get("minimum", -math.inf), described.get("maximum", math.inf)
    return isinstance(value, types[described["type"]]) and (
        not isinstance(value, int | float) or least <= value <= most
    )


def wrong(each: Key) -> list[Any]:
    """Return values that a key cannot have, as a recipe file gives them."""
    if each.listed:
        return [0.5, "x", [each.minimum - 1], ["x"], [[]], [0.5] * (each.most + 1)]  # type: ignore[operator]
    if each.kind in (int, float):
        assert each.minimum is not None
        assert each.maximum is not None
        outside = [each.minimum - 1, each.maximum + 1, each.maximum * 2 + 1]
        return [*outside, math.nan, math.inf, "1", True, [1], {}]
    return ["x", 3, [], {}, not each.default if each.kind is str else 1]


@pytest.mark.parametrize(("name", "kind", "each"), EVERY_KEY)
def test_every_key_rejects_what_it_cannot_be(name: str, kind: str, each: Key) -> None:
    window = kind == "window_close"
    document: dict[str, Any] = {
        "name": "made",
        "scaler": "window" if window else "none",
        "features": {"har_x": "close" if window else "log(close / open)"},
        "target": {"kind": "log_return"},
    }
    (described,) = [
        made["properties"][each.name]
        for made in schema()["properties"][name]["oneOf"]
        if made["properties"]["kind"] == {"const": kind}
    ]
    for value in wrong(each):
        with pytest.raises(ArgumentError, match=r"found .*expected") as caught:
            from_document(document | {name: {"kind": kind, each.name: value}})
        assert str(caught.value).startswith(f"{kind}.{each.name}: ")
        assert "\n" not in str(caught.value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            assert each.listed or not fits(value, described)


@pytest.mark.parametrize(("name", "kind", "each"), EVERY_KEY)
def test_every_option_rejects_what_its_key_cannot_be(name: str, kind: str, each: Key) -> None:
    option = each.name if each.name == "horizon" else f"{name}_{each.name}"
    recipe = "engine" if kind in declared.TARGETS_OF_THE_BOT["engine"] else "causal"
    for value in wrong(each):
        with pytest.raises(ArgumentError) as caught:
            TrainingConfig(
                symbol="BTCUSDT", source="sample", recipe=recipe, **{name: kind, option: value}
            )
        assert str(caught.value).startswith(OPTIONS[option].flag)
        assert "expected" in str(caught.value)
        assert caught.value.options == (option,)


def test_the_default_networks_of_the_recipes_have_not_changed() -> None:
    assert [library.get(name).network.kind for name in ("legacy", "causal", "basic", "engine")] == [
        *("cnn_lstm", "cnn_lstm", "lstm", "lstm"),
    ]
