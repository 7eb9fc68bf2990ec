"""Options: type, default, help text and limits, each declared once at a dataclass field.

The command line, the settings file, the environment variables and the checks of `TrainingConfig`
are all derived from these declarations. `--help` imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from atb_fast.errors import ArgumentError


@dataclass(frozen=True)
class Option:
    """One option of a training run.

    Attributes:
        name: Name of the Python attribute, for example `batch_size`.
        kind: `bool`, `int`, `float`, `str`, `date`, `Path`, `tuple` for numbers, or `dict` for a
            value by name.
        values: Type of the values of a `dict`: `str` or `Path`.
        optional: Whether None is allowed.
        choices: Allowed values; empty if every value of `kind` is.
        minimum: Smallest allowed value.
        metavar: What help and messages call the value of a `dict`, for example `NAME=FILE`.
        maximum: Largest allowed value, by default the largest integer that every library accepts.
        default: The default; None if `factory` computes it, or if there is none.
        factory: Computes the default.
        help: One or two sentences for `--help`.
        needs: The capability that a recipe must have for the option to apply; empty if it always
            applies. `index`: features of the Fear & Greed index; `lag`: a join of the index that
            takes a lag; `length`: windows of any length; `horizon`: a target that takes a horizon;
            `purge`: purged parts; `extra`: features of any columns; `candle graph`: features that
            an ONNX graph can compute. With any other recipe, a value other than the default is an
            error.
        ignored: Whether other recipes ignore a value instead.
        from_recipe: Whether a recipe may have its own default.
        machine: Whether it concerns only this machine and this run, not the model.
        input_file: Whether it is a data file, which may have been moved since a recorded run.
        variable: An environment variable that is read in addition to `ATB_FAST_<NAME>`.
    """

    name: str
    kind: type
    optional: bool = False
    values: type = str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int = 2**31 - 1
    default: Any = None
    factory: Callable[[], Any] | None = None
    help: str = ""
    needs: str = ""
    ignored: bool = False
    from_recipe: bool = False
    machine: bool = False
    input_file: bool = False
    variable: str | None = None

    @property
    def flag(self) -> str:
        """The option as written on the command line and in messages, for example `--batch-size`."""
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> Any:
        """Return `value`, converted to a date or a path where one is expected.

        For a `dict`, texts such as `name=value` are accepted too. It is None if it is empty. For a
        `tuple`, a text such as `0.05,0.95` is accepted too.

        Raises:
            ArgumentError: The type is wrong, or the value is out of range.
        """
        if value is None and self.optional:
            return None
        if self.kind is dict:
            return self._by_name(value) or None
        if self.kind is Path and not str(value).strip():
            raise ArgumentError(
                f"{self.flag} is empty; pass a path, or leave it out", options=(self.name,)
            )
        convert, expected = _CONVERTERS.get(self.kind, (None, ""))
        if convert:
            try:
                value = convert(value)
            except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: ~nobody
                raise self._wrong(value, expected) from None
        if self.choices and value not in self.choices:
            raise self._wrong(value, f"one of {', '.join(self.choices)}")
        if self.minimum is not None and value < self.minimum:
            raise self._wrong(value, f"at least {self.minimum}")
        if self.kind is int and value > self.maximum:
            raise self._wrong(value, f"at most {self.maximum}")
        return value

    def _by_name(self, value: Any) -> dict[str, Any]:
        """Return a mapping, or texts such as `name=value`, as a dictionary of checked values."""
        pairs: list[tuple[Any, Any]]
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
            wrong = next((text for text in value if "=" not in text), None)
            if wrong is not None:
                raise self._wrong(wrong, str(self.metavar))
            pairs = [(text.partition("=")[0], text.partition("=")[2]) for text in value]
        else:
            raise self._wrong(value, f"a mapping, or a list of {self.metavar}")
        found: dict[str, Any] = {}
        for key, given in pairs:
            if not isinstance(key, str) or not isinstance(given, str | self.values):
                raise self._wrong(value, f"{self.metavar}, both as strings")
            name, text = key.strip(), str(given).strip()
            if not name or not text:
                raise self._wrong(f"{key}={given}", str(self.metavar))
            if name in found:
                raise ArgumentError(
                    f"{self.flag} {name:.80} is given twice; remove one", options=(self.name,)
                )
            try:
                found[name] = _to_path(text) if self.values is Path else text
            except (ValueError, RuntimeError):  # RuntimeError: ~nobody
                raise self._wrong(f"{key}={given}", str(self.metavar)) from None
        return found

    def _wrong(self, value: Any, expected: str) -> ArgumentError:
        received = str(value) if isinstance(value, Path) else value
        message = f"{self.flag} is {_shown(received)}, expected {expected}"
        return ArgumentError(message, options=(self.name,))


def option(default: Any, help_text: str, **declared: Any) -> Any:
    """Return a dataclass field that declares an option.

    Args:
        default: A value, or a function that computes it.
        help_text: See `Option.help`.
        declared: Further attributes of `Option`.
    """
    metadata = {"help": help_text, **declared}
    if declared.get("from_recipe"):
        return field(default=None, metadata=metadata | {"default": default})
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(group: type) -> Iterator[Option]:
    """Yield the options that the fields of a dataclass declare, in order."""
    hints = get_type_hints(group)
    for item in dataclasses.fields(group):
        if not item.metadata:
            continue
        factory = None if item.default_factory is dataclasses.MISSING else item.default_factory
        choices: tuple[str, ...] = ()
        # `Literal["a", "b"] | None`, or any part of that.
        kinds = get_args(hints[item.name]) or (hints[item.name],)
        if get_origin(hints[item.name]) is Literal:
            kinds = (hints[item.name],)
        kind, optional = kinds[0], NoneType in kinds
        values = str
        if get_origin(kind) is dict:
            kind, values = dict, get_args(kind)[1]
        if get_origin(kind) is tuple:
            kind = tuple
        if get_origin(kind) is Literal:
            kind, choices = str, get_args(kind)
        yield Option(
            item.name,
            kind,
            optional,
            factory=factory,
            values=values,
            **{
                "default": None if factory else item.default,
                "choices": choices,
                **item.metadata,
            },
        )


def check_type(name: str, value: object, kind: type, public: str = "") -> None:
    """Raise ArgumentError unless `value`, which the argument `name` received, is a `kind`.

    `public` is the type that users pass, if `kind` is a base class of it that is not public.
    """
    if not isinstance(value, kind):
        expected = public or _public_name(kind)
        message = f"{name} has type {_public_name(type(value))}, expected {expected}"
        raise ArgumentError(message, [name])


def check_count(name: str, value: Any) -> int:
    """Return `value`, which the argument `name` received, as an integer.

    Raises:
        ArgumentError: It is not an integer of at least 1.
    """
    with suppress(TypeError):
        count = _to_int(value)
        if count >= 1:
            return count
    raise ArgumentError(f"{name} is {_shown(value)}, expected an integer of at least 1", [name])


def _shown(value: object) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a huge integer"


def _public_name(kind: type) -> str:
    """Return the name of a type with its package, for example polars.Series."""
    package = kind.__module__.split(".")[0]
    return kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"


def _to_date(value: date | str) -> date:
    if isinstance(value, str):
        return date.fromisoformat(value)
    # A datetime is also a date, but its time of day would be lost.
    if type(value) is not date:
        raise TypeError
    return value


def _to_path(value: Path | str) -> Path:
    if "\0" in str(value):
        raise ValueError
    return Path(value).expanduser()


def _to_float(value: float) -> float:
    # A text is a mistake in a settings file. The command line has converted it.
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _to_numbers(value: str | list[Any] | tuple[Any, ...]) -> tuple[float, ...]:
    if isinstance(value, str):
        value = [] if value == "none" else [float(text) for text in value.split(",")]
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(map(_to_float, value))


def _to_int(value: int) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _to_bool(value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


#: For each type, the function that converts a value to it, and its name in error messages.
_CONVERTERS: dict[type, tuple[Callable[[Any], Any], str]] = {
    date: (_to_date, "a date such as 2024-01-31"),
    Path: (_to_path, "a path"),
    int: (_to_int, "an integer"),
    float: (_to_float, "a number"),
    tuple: (_to_numbers, "numbers such as 0.05,0.95, or none"),
    bool: (_to_bool, "True or False"),
}
