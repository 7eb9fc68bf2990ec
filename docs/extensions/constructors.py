"""Lets the API reference show the constructors of the classes that are written in Rust.

Their stubs declare `__new__`, but Griffe takes the arguments of a class from `__init__` only.
"""

from __future__ import annotations

from typing import Any

import griffe


class Constructors(griffe.Extension):
    """Makes `__new__` the `__init__` of a class that has none."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Change `cls`, which Griffe has just read."""
        made = cls.members.get("__new__")
        if made is not None and "__init__" not in cls.members:
            cls.set_member("__init__", made)
