"""Keys of targets and networks: the type, default and limits of each, declared at its field."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from atb_fast.errors import ArgumentError

#: The largest integer that every library accepts.
_LARGEST = 2**31 - 1


def key(
    default: Any, *, minimum: float | None = None, maximum: float | None = None, most: int = 20
) -> Any:
    """Return a dataclass field that is a key of a recipe file.

    The type of the key is that of the field: `int`, `float`, `bool`, `str`, a `Literal` of strings,
    or a tuple of any of these, for example `tuple[float, ...]`, which is a list in a recipe file.

    Args:
        default: The default.
        minimum: Smallest allowed number; for a tuple, of each item.
        maximum: Largest allowed number; by default, for integers, 2**31 - 1.
        most: Largest allowed number of items, for tuples.
    """
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum, "most": most})


@dataclass(frozen=True)
class Key:
    """A key of a target or a network.

    Attributes:
        name: The name in a recipe file. The option of a network is `--network-` and the name.
        kind: `int`, `float`, `bool` or `str`; of a list, the type of its items.
        default: The default.
        listed: Whether it is a list.
        choices: Allowed texts; empty if any is.
        minimum: Smallest allowed number; None if any is.
        maximum: Largest allowed number; None if any is.
        most: Largest allowed number of items of a list.
    """

    name: str
    kind: type
    default: Any = None
    listed: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    most: int = 20

    @property
    def expected(self) -> str:
        """The values of one item in words, for example `an integer from 1 to 512`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
        low, high = self.minimum, self.maximum
        if self.kind is int and high is None:
            high = _LARGEST
        if low is not None and high is not None and high != _LARGEST:
            return f"{words[self.kind]} from {low:,} to {high:,}"
        if low is not None:
            return f"{words[self.kind]} of at least {low:,}"
        return words[self.kind] + (f" of at most {high:,}" if high is not None else "")

    def check(self, where: str, value: Any) -> Any:
        """Return `value`, with an integer converted to a float if due, and a list to a tuple.

        Args:
            where: Name of the key in messages, for example `tcn.filters`.
            value: What a recipe file, an option or Python gives.

        Raises:
            ArgumentError: The type is wrong, or the value is out of range.
        """
        if not self.listed:
            return self._item(where, value)
        if not isinstance(value, list | tuple):
            raise ArgumentError(
                f"{where}: found {value!r:.80}, expected a list of items, each {self.expected}"
            )
        if len(value) > self.most:
            raise ArgumentError(
                f"{where}: found {len(value):,} items, expected at most {self.most}; remove some"
            )
        return tuple(self._item(where, item) for item in value)

    def _item(self, where: str, value: Any) -> Any:
        # bool is a subclass of int.
        kinds = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}[self.kind]
        right = type(value) in kinds and (not self.choices or value in self.choices)
        if right and type(value) in (int, float):
            high = _LARGEST if self.kind is int and self.maximum is None else self.maximum
            right = math.isfinite(value) if type(value) is float else abs(value) <= 2**53
            right &= self.minimum is None or value >= self.minimum
            right &= high is None or value <= high
        if not right:
            raise ArgumentError(f"{where}: found {_shown(value)}, expected {self.expected}")
        return float(value) if self.kind is float else value


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge integer"


def keys(part: Part | type[Part]) -> tuple[Key, ...]:
    """Return the keys of a target or a network, in order.

    Fields that are not declared with `key` are keys too, without limits, if their type is allowed.
    """
    return _keys(type(part) if isinstance(part, Part) else part)


@cache  # a study checks thousands of configurations
def _keys(part: type[Part]) -> tuple[Key, ...]:
    found = []
    hints = get_type_hints(part)
    for item in dataclasses.fields(part):
        kind, choices = hints[item.name], ()
        if listed := get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        if get_origin(kind) is Literal:
            kind, choices = str, get_args(kind)
        if kind in (int, float, bool, str):
            found.append(Key(item.name, kind, item.default, listed, choices, **item.metadata))
    return tuple(found)


@dataclass(frozen=True)
class Part(ABC):
    """A part of a recipe that has a kind and keys: a target or a network.

    Its fields are its keys in a recipe file; declare them with `key`. They are checked on
    construction, so a part is always valid. A class with further conditions checks them in
    `__post_init__`, after calling this one.

    Attributes:
        kind: Its name in a recipe file.

    Raises:
        ArgumentError: A value is invalid.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the keys, and convert integers to floats and lists to tuples where due."""
        for each in keys(self):
            value = each.check(f"{self.kind}.{each.name}", getattr(self, each.name))
            object.__setattr__(self, each.name, value)

    @property
    def values(self) -> dict[str, Any]:
        """The values of the keys by name, as JSON values."""
        found = {each.name: getattr(self, each.name) for each in keys(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
